"""Turns the words of the command line into a command and its checked arguments. Decides only."""

from __future__ import annotations

from getopt import GetoptError, gnu_getopt

from crabctl.table import COMMANDS, OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from crabctl.table import Command


# Between the values of an option that was given several times. None of them has it.
BETWEEN = "\n"


class UsageError(Exception):
    """The command line means nothing to us; the sentence says what would."""


class Args:
    """What a command was given: options by their long name, a switch as an empty text, and words."""

    def __init__(self, options: dict[str, str], words: list[str]) -> None:
        self._options = options
        self.words = words

    def has(self, name: str) -> bool:
        """Tell whether the option was given."""
        return name in self._options

    def get(self, name: str) -> str | None:
        """Look up an option's value; null if it was not given."""
        return self._options.get(name)

    def all(self, name: str) -> list[str]:
        """List the values of an option that may be given several times."""
        value = self._options.get(name)
        return [] if value is None else value.split(BETWEEN)

    def number(self, name: str, *, least: int = 1) -> int | None:
        """Read an option's value as a whole number; null if it was not given.

        Raises:
          UsageError: it is something else.
        """
        value = self._options.get(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and int(value) >= least):
            raise UsageError(f"--{name} {value!r}: give a whole number, at least {least}")
        return int(value)


def split(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Part the options, by their long names, from the words; what follows ``--`` is words.

    Raises:
      UsageError: there is no such option, or its value is missing.
    """
    letters = "".join(option.short + ":" * bool(option.value) for option in OPTIONS.values() if option.short)
    names = [name + "=" * bool(option.value) for name, option in OPTIONS.items()]
    try:
        found, words = gnu_getopt(argv, letters, names)
    except GetoptError as exc:
        raise UsageError(
            f'{exc.msg}: see crabctl help, and put "--" before text that begins with a dash'
        ) from exc
    by_letter = {option.short: name for name, option in OPTIONS.items()}
    options: dict[str, str] = {}
    for key, value in found:
        name = by_letter.get(key[1:]) or key[2:]
        is_more = name in options and OPTIONS[name].repeats
        options[name] = options[name] + BETWEEN + value if is_more else value
    return options, words


def resolve(options: dict[str, str], words: list[str]) -> tuple[Command, Args]:
    """Find the command the first word names, and check the rest against its line of the table.

    Raises:
      UsageError: there is no such command, or it does not take what it was given.
    """
    name, *rest = words
    command = find_command(name)
    for option in options:
        if option not in command.options:
            raise UsageError(f"crabctl {name} takes no --{option}: see crabctl {name} --help")
    least, most = _arity(command.words)
    if len(rest) < least or (most is not None and len(rest) > most):
        raise UsageError(f"usage: crabctl {name} {command.words}".rstrip())
    return command, Args(options, rest)


def find_command(name: str) -> Command:
    """Look a command up.

    Raises:
      UsageError: there is none of that name; the nearest is suggested.
    """
    command = COMMANDS.get(name)
    if command is None:
        # Imported here, because only a typo needs it.
        from difflib import get_close_matches

        near = get_close_matches(name, COMMANDS, n=1)
        advice = f"did you mean {near[0]}?" if near else "crabctl help lists the commands"
        raise UsageError(f"there is no command {name!r}: {advice}")
    return command


def _arity(words: str) -> tuple[int, int | None]:
    each = words.split()
    least = sum(not word.startswith("[") for word in each)
    return least, (None if "…" in words else len(each))
