"""The help texts, laid out from the table. Decides only."""

from __future__ import annotations

from crabctl.table import COMMANDS, EVERYWHERE, OPTIONS

OVERVIEW = """\
crabctl talks to crabd, the daemon that hosts your agents and their sessions.

  crabctl send "What does this project do?"     the daemon is started when it is not running
  crabctl ls
"""

EXIT_CODES = """\
Exit codes: 0 done, 1 the run or the request failed, 2 usage, 3 no daemon, 4 not found, 5 refused,
130 interrupted."""


def overview() -> str:
    """Explain crabctl: every command with its summary."""
    wide = max(map(len, COMMANDS))
    commands = [f"  {name:{wide}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            OVERVIEW,
            "Commands:",
            *commands,
            "",
            "Every command takes:",
            *_options(EVERYWHERE),
            "",
            "crabctl COMMAND --help explains a command.",
            EXIT_CODES,
        ]
    )


def manual(name: str) -> str:
    """Explain one command: its words, its options, and what else a person should know."""
    command = COMMANDS[name]
    head = f"usage: crabctl {name} {command.words}".rstrip()
    details = ["", command.details] if command.details else []
    return "\n".join([head, "", f"  {command.summary}", *details, "", "Options:", *_options(command.options)])


def _options(names: tuple[str, ...]) -> list[str]:
    rows = [(_spelling(name), OPTIONS[name].summary) for name in names]
    wide = max(len(spelling) for spelling, _ in rows)
    return [f"  {spelling:{wide}}  {summary}" for spelling, summary in rows]


def _spelling(name: str) -> str:
    option = OPTIONS[name]
    short = f"-{option.short}, " if option.short else "    "
    return f"{short}--{name} {option.value}".rstrip()
