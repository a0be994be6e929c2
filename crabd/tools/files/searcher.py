"""A program that finds files and lines where there is no ripgrep, and prints what that would.

It is a process of its own because an expression may take for ever, which a thread could not be stopped in. It
searches the directory that it is started in, or its standard input. It must start fast, so it loads little.

Files that a ``.gitignore`` names are left out, and so is ``.git``; links are not followed; what has a zero in
its first part is no text.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any, NamedTuple

from crabd.tools.files.globs import translate

HEAD = 64 * 1024
FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# A longer line is searched in parts.
MAX_LINE = 1024 * 1024


def main(argument: str) -> int:
    """Print what the argument wants, a ``Search`` in JSON. Returns an exit code."""
    wanted: dict[str, Any] = json.loads(argument)
    out = sys.stdout.buffer
    only = re.compile(wanted["only"], re.DOTALL) if wanted["only"] else None
    names = (name for name in walk(wanted["is_ignored_too"]) if only is None or only.fullmatch(name))
    if wanted["mode"] == "names":
        for name in names:
            out.write(os.fsencode(name) + b"\0")
        return 0
    try:
        pattern = re.compile(wanted["pattern"], re.IGNORECASE if wanted["ignores_case"] else 0)
    except (re.error, OverflowError, RecursionError) as exc:
        print(f"regex parse error: {exc}", file=sys.stderr)  # noqa: T201
        return 2
    if wanted["is_input"]:
        with open_buffered(sys.stdin.fileno()) as file:
            search(file, b"<stdin>", pattern, wanted, out)
        return 0
    for name in names:
        try:
            with open_buffered(os.open(name, FLAGS)) as file:
                search(file, os.fsencode(name), pattern, wanted, out)
        except OSError:
            continue
    return 0


def search(
    file: io.BufferedReader, name: bytes, pattern: re.Pattern[str], wanted: dict[str, Any], out: IO[bytes]
) -> None:
    """Print the lines of one file that match, with those around them, or its name."""
    around: int = wanted["context"]
    before: deque[tuple[int, bytes]] = deque(maxlen=around)
    after = 0
    for number, line in enumerate(lines_of(file), 1):
        is_match = pattern.search(line.rstrip(b"\r\n").decode("utf-8", "replace"))
        if is_match and wanted["mode"] == "files":
            out.write(name + b"\0")
            return
        if is_match:
            for each in before:
                write_line(out, name, *each, b"-")
            write_line(out, name, number, line, b":")
            before.clear()
            after = around
        elif after:
            write_line(out, name, number, line, b"-")
            after -= 1
        else:
            before.append((number, line))


def lines_of(file: io.BufferedReader) -> Iterator[bytes]:
    """Give the lines of a file; none if it is no text."""
    if b"\0" not in file.peek(HEAD):
        while line := file.readline(MAX_LINE):
            yield line


def open_buffered(descriptor: int) -> io.BufferedReader:
    return io.BufferedReader(io.FileIO(descriptor), HEAD)


def write_line(out: IO[bytes], name: bytes, number: int, line: bytes, mark: bytes) -> None:
    out.write(b"%s\0%d%s%s\n" % (name, number, mark, line.rstrip(b"\n")))


class Rule(NamedTuple):
    """A line of a ``.gitignore``: what it matches, below which directory, or no longer does."""

    base: str
    expression: re.Pattern[str]
    is_taking_back: bool
    is_for_directories: bool


Rules = tuple[Rule, ...]


def walk(is_ignored_too: bool) -> Iterator[str]:
    """Give the paths of the files here and below, without what is ignored, links and ``.git``."""
    here = os.fsencode(os.getcwd()).decode("utf-8", "surrogateescape")  # noqa: PTH109
    waiting = [("", () if is_ignored_too else rules_above(here))]
    while waiting:
        directory, rules = waiting.pop()
        try:
            with os.scandir(directory or ".") as listed:
                entries = list(listed)
        except OSError:
            continue
        if not is_ignored_too:
            rules = rules_of(f"{here}/{directory}".rstrip("/"), {entry.name for entry in entries}, rules)
        for entry in entries:
            path = f"{directory}/{entry.name}" if directory else entry.name
            is_directory = entry.is_dir(follow_symlinks=False)
            if entry.name == ".git" or is_ignored(f"{here}/{path}", is_directory, rules):
                continue
            if is_directory:
                waiting.append((path, rules))
            elif entry.is_file(follow_symlinks=False):
                yield path


def rules_above(directory: str) -> Rules:
    """Read the rules of the directories above, as far as the repository goes."""
    above: list[str] = []
    while directory != "/" and not os.path.lexists(f"{directory}/.git"):
        directory = os.path.dirname(directory)  # noqa: PTH120
        above.append(directory)
    rules: Rules = ()
    for each in reversed(above):
        rules = (*rules, *read_rules(each))
    return rules


def rules_of(directory: str, names: set[str], rules: Rules) -> Rules:
    """Add the rules of a directory to those above it, which a repository of its own does not have."""
    if ".git" in names:
        rules = ()
    return (*rules, *read_rules(directory)) if ".gitignore" in names else rules


def read_rules(directory: str) -> Iterator[Rule]:
    try:
        with open_buffered(os.open(f"{directory}/.gitignore", FLAGS)) as file:
            lines = file.read(MAX_LINE).decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        glob = line.rstrip()
        if glob and not glob.startswith("#"):
            with suppress(ValueError):
                yield read_rule(directory, glob)


def read_rule(directory: str, glob: str) -> Rule:
    is_taking_back = glob.startswith("!")
    glob = glob[is_taking_back:]
    is_for_directories = glob.endswith("/")
    glob = glob.rstrip("/")
    # A name alone is meant at any depth.
    glob = glob.removeprefix("/") if "/" in glob else f"**/{glob}"
    return Rule(directory, re.compile(translate(glob), re.DOTALL), is_taking_back, is_for_directories)


def is_ignored(path: str, is_directory: bool, rules: Rules) -> bool:
    """Ask the rules for a path, the last one first."""
    for rule in reversed(rules):
        if (is_directory or not rule.is_for_directories) and rule.expression.fullmatch(
            path[len(rule.base.rstrip("/")) + 1 :]
        ):
            return not rule.is_taking_back
    return False
