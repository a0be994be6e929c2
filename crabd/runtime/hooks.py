"""Hooks: commands of a person that are asked, or told, at fixed points of a session. Pure.

A hook reads one JSON object, the ``Occasion``, from its standard input, and may print another, its answer::

    {"decision": "block", "reason": "…"}    {"arguments": {…}}    {"context": "…"}

Printing nothing is to go on. Exit code 2 blocks, for the reason on standard error, as with other tools. The
gates block too when their hook fails; at other points a hook that fails, or blocks, has only failed. Several
hooks of a point are asked in order, each with what the former have left, until one blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from crabd.messages import StopReason, ToolStatus

HookPoint: TypeAlias = Literal[
    "session_start",
    "session_end",
    "before_prompt",
    "before_tool",
    "after_tool",
    "before_compact",
    "run_end",
    "notification",
]
GATES: frozenset[HookPoint] = frozenset({"before_prompt", "before_tool", "before_compact"})
OF_TOOLS: frozenset[HookPoint] = frozenset({"before_tool", "after_tool"})
# People wait for hooks.
HOOK_SECONDS = 30.0
# What a hook may print. Its context goes into a request, where it takes a few thousand tokens.
MAX_BYTES = 64 * 1024
# Of what a failed hook has printed, what is told. In characters.
TOLD_LENGTH = 2000
BLOCKED = 2
# What a command may know of the daemon's environment: never a key.
VARIABLES = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM"),
    # To show something on the person's screen.
    *("DISPLAY", "WAYLAND_DISPLAY", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"),
    *("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"),
)


class Hook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command for a shell, and the point at which it ``run``s; with ``tools`` only for those, as globs.

    It may take ``seconds``.
    """

    on: HookPoint
    run: Annotated[str, Meta(min_length=1)]
    tools: tuple[str, ...] = ()
    seconds: Annotated[float, Meta(gt=0, le=600)] = HOOK_SECONDS

    def __post_init__(self) -> None:
        if self.tools and self.on not in OF_TOOLS:
            raise ValueError(f"`tools` means nothing on {self.on}: leave it out")

    def is_for(self, occasion: Occasion) -> bool:
        """Tell whether it is to run then."""
        is_of_tool = not self.tools or any(fnmatchcase(occasion.tool or "", name) for name in self.tools)
        return self.on == occasion.hook and is_of_tool


class HookFile(Struct, frozen=True, forbid_unknown_fields=True):
    """What the ``hooks.toml`` of a project may say."""

    hooks: tuple[Hook, ...] = ()


class Occasion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a hook reads: which point it is, in which session, and what is there at that point.

    ``prompt`` is a person's message; ``status`` and ``output`` are a tool's result; ``instructions`` are for
    the summary; ``text`` is the last answer of a run; ``reason`` is why a session ends; what a
    ``notification`` says is its ``message``.
    """

    hook: HookPoint
    session: str
    agent: str
    sender: str
    cwd: str | None = None
    run: str | None = None
    prompt: str | None = None
    call: str | None = None
    tool: str | None = None
    arguments: dict[str, Any] | None = None
    status: ToolStatus | None = None
    output: str | None = None
    instructions: str | None = None
    stop_reason: StopReason | None = None
    text: str | None = None
    reason: str | None = None
    message: str | None = None


class Answer(Struct, frozen=True, forbid_unknown_fields=True):
    """What a hook may print. ``context`` is for the model to read, once."""

    decision: Literal["continue", "block"] = "continue"
    reason: str = ""
    arguments: dict[str, Any] | UnsetType = UNSET
    context: str = ""


class HookRan(Protocol):
    """How a hook's command ended: by a signal if ``exit_code`` is negative. ``errors`` is its stderr.

    Of its output ``dropped`` bytes are left out between ``head`` and ``tail``.
    """

    @property
    def exit_code(self) -> int | None: ...

    @property
    def head(self) -> bytes: ...

    @property
    def tail(self) -> bytes: ...

    @property
    def dropped(self) -> int: ...

    @property
    def errors(self) -> bytes: ...

    @property
    def timed_out(self) -> bool: ...


class HookedCall(Struct, frozen=True, kw_only=True):
    """A call as hooks see it."""

    session: str
    run: str
    call: str
    tool: str
    arguments: dict[str, Any]
    cwd: str | None


class HookVerdict(Struct, frozen=True, kw_only=True):
    """What the hooks of a point have come to.

    With a ``block`` it is not to go on, for that reason. ``arguments`` take the place of those that a call
    had. ``context`` is for the model to read.
    """

    block: str | None = None
    arguments: dict[str, Any] | None = None
    context: str = ""


class HookFailed(ValueError):
    """A hook has not answered. It says why, and what to do."""


_decode = msgspec.json.Decoder(Answer).decode
encode = msgspec.json.Encoder().encode


def choose(hooks: Iterable[Hook], occasion: Occasion) -> tuple[Hook, ...]:
    """List the hooks that are to run, in order."""
    return tuple(hook for hook in hooks if hook.is_for(occasion))


def read_answer(hook: Hook, ran: HookRan) -> Answer:
    """Understand what a hook has answered.

    Raises:
      HookFailed: nothing that can be understood, or not in time.
    """
    said, output = _told(ran.errors), ran.head + ran.tail
    if ran.timed_out:
        raise HookFailed(f"it was not done in {hook.seconds:g} s: mend it, or give it more `seconds`")
    if ran.exit_code == BLOCKED:
        return Answer("block", said)
    if ran.exit_code != 0:
        raise HookFailed(f"it ended with exit code {ran.exit_code}: {said or 'it said nothing'}")
    if ran.dropped:
        raise HookFailed(f"it printed more than {MAX_BYTES} bytes: have it print its answer alone")
    if not output.strip():
        return Answer()
    try:
        answer = _decode(output)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise HookFailed(
            f"what it printed is no answer ({exc}): have it print one JSON object, or nothing"
        ) from exc
    if answer.arguments is not UNSET and hook.on != "before_tool":
        raise HookFailed(f"there are no arguments to change on {hook.on}: leave them out")
    return answer


def follow(verdict: HookVerdict, hook: Hook, answer: Answer) -> HookVerdict:
    """Add what the next hook has answered to what the former have."""
    reason = answer.reason.strip() or "it gave no reason"
    return HookVerdict(
        block=f"{reason} (`{name_of(hook)}`)" if answer.decision == "block" else None,
        arguments=verdict.arguments if answer.arguments is UNSET else answer.arguments,
        context="\n".join(filter(None, (verdict.context, answer.context.strip()))),
    )


def fail(verdict: HookVerdict, hook: Hook, problem: str) -> HookVerdict:
    """Add that a hook has failed, by which a gate is closed."""
    if hook.on not in GATES:
        return verdict
    return structs.replace(verdict, block=f"`{name_of(hook)}` has failed: {problem}")


def name_of(hook: Hook) -> str:
    """Call a hook by its command, as far as that goes on a line."""
    line = " ".join(hook.run.split())
    return line if len(line) <= 80 else f"{line[:79]}…"


def frame(context: str) -> str:
    """Put what hooks say for the model into words of its own; empty if they say nothing."""
    return f"\n\n<hooks>\n{context}\n</hooks>" if context else ""


def environment_of(env: Mapping[str, str], hook: Hook, session: str) -> dict[str, str]:
    """Make the environment of a hook's command."""
    known = {name: value for name, value in env.items() if name in VARIABLES or name.startswith("LC_")}
    return known | {"CRABD_HOOK": hook.on, "CRABD_SESSION": session}


def _told(output: bytes) -> str:
    return output.decode(errors="replace").strip()[:TOLD_LENGTH]
