"""Commands that only read, as long as their options are known, and which files they read. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from msgspec import Struct

from crabd.runtime.permissions.reader_options import GIT, READERS, Options
from crabd.runtime.permissions.shell import Command, Word
from crabd.runtime.permissions.wrappers import program_of


class Reading(Struct, frozen=True):
    """What a command reads. A glob among the ``paths`` must become nothing that begins with a dash.

    One that ``is_deep`` reads what is below a directory, too. One that is ``of_place`` is harmless in the
    session's directory alone: elsewhere the files around it may decide what it does.
    """

    paths: tuple[Word, ...] = ()
    is_deep: bool = False
    of_place: bool = False


# What date may be told: a format to print in, never a time to set.
_DATE = re.compile(r"\+.*", re.DOTALL)
# sed's commands can write files and run programs, so these alone: print or leave out lines, or stop.
_SED_ADDRESS = r"(?:[0-9]+|\$|/[^/\\\n]*/)"
_SED = re.compile(rf"(?:(?:{_SED_ADDRESS}(?:,(?:{_SED_ADDRESS}|\+[0-9]+))?)?[pdq=]\s*(?:;\s*|$))+")
# With these a search has its pattern already, or needs none.
_NO_PATTERN = re.compile(r"-[A-Za-z0-9]*e|--regexp|--files$|--type-list")
_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_FIND_TESTS = [
    "-name",
    "-iname",
    "-path",
    "-ipath",
    "-wholename",
    "-iwholename",
    "-regex",
    "-iregex",
    "-type",
    "-xtype",
    "-size",
    "-mtime",
    "-mmin",
    "-atime",
    "-amin",
    "-ctime",
    "-cmin",
    "-maxdepth",
    "-mindepth",
    "-perm",
    "-user",
    "-group",
    "-links",
    "-inum",
    "-printf",
    "-regextype",
    "-newermt",
    "-fstype",
    "-uid",
    "-gid",
]
_FIND_FLAGS = [
    "-print",
    "-print0",
    "-prune",
    "-o",
    "-or",
    "-a",
    "-and",
    "-not",
    "!",
    "(",
    ")",
    ",",
    "-empty",
    "-depth",
    "-d",
    "-mount",
    "-xdev",
    "-readable",
    "-writable",
    "-executable",
    "-true",
    "-false",
    "-quit",
    "-ls",
    "-daystart",
    "-nouser",
    "-nogroup",
    "-H",
    "-P",
]
_FIND_PATHS = ("-newer", "-anewer", "-cnewer", "-samefile")


def find_reading(command: Command) -> Reading | None:
    """Find what a command reads; null for one that is not known to do no more than that."""
    name = program_of(command)
    options = READERS.get(name) if name is not None else None
    if options is None:
        return None
    words = command.words[1:]
    match name:
        case "find":
            return _read_find(words)
        case "git":
            return _read_git(words)
        case _:
            operands = _operands(words, options)
            is_usual = operands is not None and _SPECIAL.get(name or "", _any)(operands)
            return _reading(options, operands) if operands is not None and is_usual else None


def _reading(options: Options, operands: Sequence[Word]) -> Reading | None:
    """Tell which of the operands are paths; null where there are too many, or they are not known."""
    match options.operands:
        case "free" | "any":
            return Reading()
        case "none":
            return None if operands else Reading()
        case "one" if len(operands) > 1:
            return None
        case "pattern":
            has_pattern = bool(operands) and operands[0].kind == "fixed"
            operands = operands[1:] if has_pattern else operands
        case _:
            pass
    if any(word.kind == "unknown" for word in operands):
        return None
    return Reading(tuple(operands), options.is_deep)


def _operands(words: Sequence[Word], options: Options) -> Sequence[Word] | None:
    """Get the words that are no options; null with an option that is not in the table.

    Where a word that is not known might become an option, there is none to be told.
    """
    if options.operands == "any":
        return words
    found: list[Word] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word.kind == "fixed" and word.text == "--":
            return [*found, *words[at + 1 :]]
        if word.kind == "unknown" and options.operands != "free":
            return None
        if word.kind == "fixed" and word.text.startswith("-") and word.text != "-":
            step = _measure(word.text, options)
            if step is None:
                return None
            if step == 2 and (at + 1 >= len(words) or words[at + 1].kind != "fixed"):
                return None
            if options.operands == "pattern" and "e" in options.valued and _NO_PATTERN.match(word.text):
                # The pattern came as an option, so every operand is a path.
                found.insert(0, Word(""))
            at += step
            continue
        found.append(word)
        at += 1
    return found


def _measure(text: str, options: Options) -> int | None:
    """Tell how many words an option takes; null for one that is not in the table."""
    if text.startswith("--"):
        name, equals, _ = text[2:].partition("=")
        if equals:
            return 1 if name in options.long_valued.split() else None
        if name in options.long.split():
            return 1
        return 2 if name in options.long_valued.split() else None
    for place, letter in enumerate(text[1:], 2):
        if letter in options.valued:
            return 2 if place == len(text) else 1
        if letter not in options.letters:
            return None
    return 1


def _read_find(words: Sequence[Word]) -> Reading | None:
    paths: list[Word] = []
    expression = iter(words)
    for word in expression:
        if word.kind == "unknown":
            return None
        if word.text in _FIND_TESTS:
            if next(expression, None) is None:
                return None
        elif word.text in _FIND_PATHS:
            paths += [each for each in [next(expression, None)] if each is not None]
        elif word.text.startswith("-") or word.text in ("(", ")", "!", ","):
            if word.text not in _FIND_FLAGS:
                return None
        else:
            paths.append(word)
    return Reading(tuple(paths))


def _read_git(words: Sequence[Word]) -> Reading | None:
    while words and words[0].text == "--no-pager":
        words = words[1:]
    if not words or words[0].kind != "fixed":
        return None
    if [word.text for word in words] in (["stash", "list"], ["worktree", "list"], ["--version"]):
        return Reading(of_place=True)
    options = GIT.get(words[0].text)
    operands = None if options is None else _operands(words[1:], options)
    if options is None or operands is None:
        return None
    if words[0].text == "reflog" and operands and operands[0].text in ("expire", "delete", "drop"):
        return None
    reading = _reading(options, operands)
    return None if reading is None else Reading(reading.paths, of_place=True)


def _is_ps(operands: Sequence[Word]) -> bool:
    """Tell whether ps shows no environments: `ps e` does, and unlike an option it has no dash."""
    return all(word.kind == "fixed" and "e" not in word.text for word in operands)


def _is_test(operands: Sequence[Word]) -> bool:
    """Tell whether test compares what is known: `test -v 'a[$(id)]'` runs id."""
    return all(word.kind == "fixed" and word.text not in ("-v", "-R") for word in operands)


def _any(operands: Sequence[Word]) -> bool:
    return True


def _is_sed(operands: Sequence[Word]) -> bool:
    return bool(operands) and operands[0].kind == "fixed" and bool(_SED.fullmatch(operands[0].text))


def _is_date(operands: Sequence[Word]) -> bool:
    return all(word.kind == "fixed" and _DATE.fullmatch(word.text) for word in operands)


def _is_format(operands: Sequence[Word]) -> bool:
    """Tell whether printf has a format that is known; what is not could be an option that sets a variable."""
    return bool(operands) and operands[0].kind == "fixed"


def _are_names(operands: Sequence[Word]) -> bool:
    return all(word.kind == "fixed" and _NAME.fullmatch(word.text) for word in operands)


_SPECIAL: dict[str, Callable[[Sequence[Word]], bool]] = {
    "sed": _is_sed,
    "date": _is_date,
    "printf": _is_format,
    "ps": _is_ps,
    "test": _is_test,
    "read": _are_names,
}
