"""What a client may choose for a session: mode, model, thinking, and commands that a prompt may begin with.

Pure. Modes are told twice, as modes and as an option, because clients know one or the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from crabd.errors import BadRequest
from crabd.events import Mode
from crabd.server.acp import schema as acp

DEFAULT = "default"
MODES: dict[Mode, acp.SessionMode] = {
    "ask": acp.SessionMode(id="ask", name="Ask", description="Asks before it changes files or runs commands"),
    "accept-edits": acp.SessionMode(
        id="accept-edits", name="Accept edits", description="Changes files here without asking"
    ),
    "plan": acp.SessionMode(id="plan", name="Plan", description="Reads only, and ends with a plan"),
    "read-only": acp.SessionMode(id="read-only", name="Read only", description="Changes nothing"),
    "full": acp.SessionMode(id="full", name="Full", description="Does without asking what no rule forbids"),
}
THINKING: dict[str, bool | None] = {DEFAULT: None, "on": True, "off": False}
COMMANDS = (
    acp.Command(
        name="compact",
        description="Replace older history by a summary, to make room in the context",
        input=acp.CommandInput(hint="what the summary should keep"),
    ),
    acp.Command(name="clear", description="Have the model forget what came before"),
)


class Settings(Struct, frozen=True):
    """A session's settings as they are; a null model or thinking is the default."""

    mode: Mode
    model: str | None
    thinking: bool | None


class Models(Struct, frozen=True):
    """The models that there are, and the one that is the default."""

    ids: tuple[str, ...]
    default: str


def list_modes(settings: Settings) -> acp.SessionModes:
    """List the modes, and tell which is in force."""
    return acp.SessionModes(current_mode_id=settings.mode, available_modes=tuple(MODES.values()))


def list_options(settings: Settings, models: Models) -> tuple[acp.ConfigOption, ...]:
    """List all options with their values as they are."""
    # One that is chosen is there, whatever its server says.
    ids = dict.fromkeys((*models.ids, settings.model) if settings.model else models.ids)
    thinking = next(name for name, value in THINKING.items() if value is settings.thinking)
    return (
        acp.ConfigOption(
            id="mode",
            name="Mode",
            category="mode",
            current_value=settings.mode,
            options=tuple(
                acp.Choice(value=mode.id, name=mode.name, description=mode.description)
                for mode in MODES.values()
            ),
        ),
        acp.ConfigOption(
            id="model",
            name="Model",
            category="model",
            current_value=settings.model or DEFAULT,
            options=(
                acp.Choice(value=DEFAULT, name=f"Default ({models.default})"),
                *(acp.Choice(value=id_, name=id_) for id_ in ids),
            ),
        ),
        acp.ConfigOption(
            id="thinking",
            name="Thinking",
            category="thought_level",
            current_value=thinking,
            options=tuple(acp.Choice(value=name, name=name.capitalize()) for name in THINKING),
        ),
    )


def read_mode(value: object, path: str) -> Mode:
    """Read the id of a mode.

    Raises:
      BadRequest: there is no such mode.
    """
    for mode in MODES:
        if mode == value:
            return mode
    raise BadRequest(path, f"{value!r} is no mode: there are {', '.join(MODES)}")


def read_model(value: object, path: str) -> str | None:
    """Read a model's id.

    Raises:
      BadRequest: it is no text.
    """
    if not isinstance(value, str):
        raise BadRequest(path, f"{value!r} is no model's name")
    return None if value == DEFAULT else value


def read_thinking(value: object, path: str) -> bool | None:
    """Read whether the model is to think.

    Raises:
      BadRequest: it is none of the values.
    """
    if not isinstance(value, str) or value not in THINKING:
        raise BadRequest(path, f"{value!r} is none of {', '.join(THINKING)}")
    return THINKING[value]


def find_command(commands: Sequence[acp.Command], text: str) -> tuple[str, str] | None:
    """Find the command that a prompt begins with, and what follows it; null if it begins with none."""
    name, _, rest = text.partition(" ")
    is_command = any(name.strip() == f"/{command.name}" for command in commands)
    return (name.strip()[1:], rest.strip()) if is_command else None
