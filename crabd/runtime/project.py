"""What a directory brings along for the agents that work in it, and which of that counts. Pure.

Besides instructions it is what lies in ``.crab``, in the directory or the nearest one above it: agents and
skills, hooks, MCP servers and permissions. All of it may be a stranger's, so a file counts only as it was
when the person trusted it, by its digest; of the hooks all files, or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

import msgspec
from msgspec import Struct

from crabd.errors import ConfigError
from crabd.events import ProjectFile, ProjectFileKind, ProjectFileState, RuleLists
from crabd.runtime.agents import Agent, parse_agent
from crabd.runtime.hooks import Hook, HookFile, name_of
from crabd.runtime.instructions import NAMES, Found, compose
from crabd.runtime.permissions.rules import Rule, read_rules
from crabd.tools.servers import ServerFile, ToolServer

FOLDER = ".crab"
# What counts in it, by its first name there: single files, and folders with all below.
FILES: dict[str, ProjectFileKind] = {
    "hooks.toml": "hooks",
    "mcp.toml": "mcp",
    "permissions.toml": "permissions",
}
FOLDERS: dict[str, ProjectFileKind] = {"agents": "agent", "skills": "skill", "hooks": "hooks"}
# Of what a file is about, what a person is shown. In characters.
ABOUT_LENGTH = 1000


class Project(Struct, frozen=True):
    """What counts of a directory: ``instructions`` for the model, hooks, agents, permission ``rules``, and
    ``servers`` of tools by name.

    ``untrusted`` is what does not; ``problems`` are trusted files that cannot be taken, a sentence each.
    """

    instructions: str = ""
    hooks: tuple[Hook, ...] = ()
    agents: dict[str, Agent] = {}
    rules: tuple[Rule, ...] = ()
    servers: dict[str, ToolServer] = {}
    untrusted: tuple[ProjectFile, ...] = ()
    problems: tuple[str, ...] = ()


NO_PROJECT = Project()


def kind_of(path: str) -> ProjectFileKind | None:
    """Tell what a file of a project is for; null if it is none that counts."""
    parts = PurePosixPath(path).parts
    if FOLDER not in parts:
        return "instructions" if parts[-1] in NAMES else None
    first, *rest = parts[len(parts) - parts[::-1].index(FOLDER) :] or ("",)
    if not rest:
        return FILES.get(first)
    kind = FOLDERS.get(first)
    is_other = kind == "agent" and (len(rest) > 1 or not rest[0].endswith(".md"))
    return None if is_other else kind


def describe(files: Iterable[Found], trusted: Mapping[str, str]) -> tuple[ProjectFile, ...]:
    """Show files to a person who is to trust them, those that count for nothing left out."""
    return tuple(
        ProjectFile(each.path, kind, each.digest, _state(each, trusted), _about(each, kind))
        for each in files
        if (kind := kind_of(each.path)) is not None
    )


def compose_project(own: Iterable[Found], found: Iterable[Found], trusted: Mapping[str, str]) -> Project:
    """Put together what counts; a person's ``own`` instructions always do."""
    found = tuple(found)
    by_kind: dict[ProjectFileKind, list[Found]] = {}
    for each in found:
        kind = kind_of(each.path)
        if kind is not None:
            by_kind.setdefault(kind, []).append(each)

    def known(kind: ProjectFileKind) -> list[Found]:
        return [each for each in by_kind.get(kind, ()) if trusted.get(each.path) == each.digest]

    problems: list[str] = []
    agents = _read_agents(known("agent"), problems)
    has_all_hooks = len(known("hooks")) == len(by_kind.get("hooks", ()))
    hooks = _read_hooks(known("hooks"), problems) if has_all_hooks else ()
    rules = _read_rules(known("permissions"), problems)
    servers = _read_servers(known("mcp"), problems)
    return Project(
        instructions=compose(own, by_kind.get("instructions", ()), trusted).text,
        hooks=hooks,
        agents=agents,
        rules=rules,
        servers=servers,
        untrusted=tuple(each for each in describe(found, trusted) if each.state != "trusted"),
        problems=tuple(problems),
    )


def _state(file: Found, trusted: Mapping[str, str]) -> ProjectFileState:
    known = trusted.get(file.path)
    return "untrusted" if known is None else "trusted" if known == file.digest else "changed"


def _about(file: Found, kind: ProjectFileKind) -> str:
    """Say what a file would do, in its own words: these are for the person to judge."""
    text = file.data.decode(errors="replace").strip()
    problems: list[str] = []
    if kind == "agent":
        read = _read_agents([file], problems)
        text = "".join(map(_tell, read.values()))
    elif kind == "hooks" and _is_hook_list(file):
        hooks = _read_hooks([file], problems)
        text = "\n".join(f"{hook.on}: {name_of(hook)}" for hook in hooks)
    elif kind in ("instructions", "skill", "hooks"):
        text = text.partition("\n")[0]
    return ("\n".join(problems) or text)[:ABOUT_LENGTH]


def _tell(agent: Agent) -> str:
    """Say what an agent is for, and what it takes upon itself."""
    mode = f"mode {agent.options.mode}" if agent.options.mode else ""
    rules = (f"{rule.decision} {rule.text}" for rule in agent.rules)
    return "\n".join(filter(None, (agent.options.description, mode, *rules)))


def _is_hook_list(file: Found) -> bool:
    return PurePosixPath(file.path).name == "hooks.toml" and PurePosixPath(file.path).parent.name == FOLDER


def _read_rules(files: Iterable[Found], problems: list[str]) -> tuple[Rule, ...]:
    """Read rules; with a wrong one everything is denied, for it may have been meant to deny something."""
    rules: list[Rule] = []
    for file in files:
        try:
            rules += read_rules(msgspec.toml.decode(file.data, type=RuleLists), file.path)
        except (ConfigError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
            problem = str(exc) if isinstance(exc, ConfigError) else f"{file.path}: {exc}"
            problems.append(problem)
            rules.append(Rule("*", "deny", f"{problem}: mend it, then crabctl trust", "*"))
    return tuple(rules)


def _read_servers(files: Iterable[Found], problems: list[str]) -> dict[str, ToolServer]:
    servers: dict[str, ToolServer] = {}
    for file in files:
        try:
            servers |= msgspec.toml.decode(file.data, type=ServerFile).servers
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            problems.append(f"{file.path}: {exc}")
    return servers


def _read_agents(files: Iterable[Found], problems: list[str]) -> dict[str, Agent]:
    agents: dict[str, Agent] = {}
    for file in files:
        name = PurePosixPath(file.path).stem
        try:
            agents[name] = parse_agent(name, file.data.decode(), source=file.path)
        except ConfigError as exc:
            problems.append(str(exc))
        except UnicodeDecodeError as exc:
            problems.append(f"{file.path}: {exc}")
    return agents


def _read_hooks(files: Iterable[Found], problems: list[str]) -> tuple[Hook, ...]:
    try:
        return tuple(
            hook
            for file in files
            if _is_hook_list(file)
            for hook in msgspec.toml.decode(file.data, type=HookFile).hooks
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as exc:
        problems.append(f"hooks.toml: {exc}")
        return ()
