"""A command line as it would be carried out in a directory: what it runs, and which files that names.

Links are followed and globs expanded as they are on the disk now, so this blocks. It knows no rules.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator, Sequence
from glob import iglob
from itertools import islice

from msgspec import Struct

from crabd.runtime.permissions.readers import Reading
from crabd.runtime.permissions.shell import Command, Redirect, Word, read_script
from crabd.runtime.permissions.wrappers import SHELLS, program_of, unwrap

# Each is looked up on the disk, in every directory that the line may be in by then.
MAX_LOOKUPS = 1000
MAX_DIRECTORIES = 8
MAX_EXPANDED = 200
# What is written here goes nowhere, or where the command's own output goes.
HARMLESS_FILES = frozenset(["/dev/null", "/dev/stdout", "/dev/stderr", "/dev/fd/1", "/dev/fd/2"])
# In a word that is no path, a path may follow these: --file=PATH, @PATH, REVISION:PATH.
_PATH_FOLLOWS = re.compile(r"[=@:]")
_GLOBBED = re.compile(r"[*?\[]")
_GIT_VALUED = ("-C", "-c", "--git-dir", "--work-tree", "--namespace", "--exec-path", "--config-env")


class Line(Struct, frozen=True):
    """What a line runs and opens, being in one of the ``directories``; the first is where it begins."""

    directories: tuple[str, ...]
    commands: tuple[Command, ...] = ()
    wrappers: tuple[Command, ...] = ()
    redirects: tuple[Redirect, ...] = ()
    doubts: tuple[str, ...] = ()

    def paths_of(self, word: Word) -> tuple[str, ...]:
        """Find the real paths that a word may stand for."""
        found = (path for directory in self.directories for path in _find_paths(word, directory))
        return tuple(dict.fromkeys(found))

    def paths_read(self, reading: Reading) -> tuple[str, ...] | None:
        """Find the real paths that a command reads; null when it may do more than read after all."""
        if reading.of_place and len(self.directories) > 1:
            return None
        if any(word.kind == "glob" and self._may_be_option(word) for word in reading.paths):
            return None
        named = tuple(
            path for word in reading.paths for each in _pieces(word) for path in self.paths_of(each)
        )
        return named if named or not reading.is_deep else self.directories

    def paths_mentioned(self, command: Command) -> Iterator[str]:
        """Find the real paths that a command's words may stand for."""
        for word in command.words:
            for piece in _pieces(word):
                if piece.kind != "unknown":
                    yield from self.paths_of(piece)

    def _may_be_option(self, word: Word) -> bool:
        """Tell whether a glob may become an option, or more words than are looked at."""
        found = list(islice(_expand(word, self.directories[0]), MAX_EXPANDED + 1))
        starts = not word.text.startswith(("/", "./")) and _GLOBBED.match(word.text)
        return len(found) > MAX_EXPANDED or bool(starts and any(_begins_with_dash(each) for each in found))


def read_line(text: str, cwd: str | None, home: str) -> Line:
    """Read a command line that is given to bash in ``cwd``, a real path, or nowhere in particular."""
    found = unwrap(read_script(text, home), home)
    doubts = list(found.doubts)
    directories = [cwd or "/"]
    for command in found.commands:
        if len(directories) >= MAX_DIRECTORIES:
            doubts.append("it changes its directory too often")
            break
        if program_of(command) in ("cd", "pushd", "popd", "chdir"):
            doubts += _follow_cd(command, directories, home)
    if any(redirect.target.kind != "fixed" for redirect in found.redirects):
        doubts.append("it is not known before it runs which file it writes or reads")
    words = sum(len(command.words) for command in found.commands) + len(found.redirects)
    if words * len(directories) > MAX_LOOKUPS:
        return Line((cwd or "/",), doubts=(*doubts, "it has too many words"))
    redirects = tuple(each for each in found.redirects if each.target.text not in HARMLESS_FILES)
    return Line(tuple(directories), found.commands, found.wrappers, redirects, tuple(doubts))


def spellings_of(command: Command) -> tuple[tuple[Word, ...], ...]:
    """Write a command in the ways that a rule may have meant it: git also without what precedes its verb."""
    words = command.words
    if program_of(command) != "git" or len(words) < 2 or not words[1].text.startswith("-"):
        return (words,)
    at = 1
    while at < len(words) and words[at].text.startswith("-"):
        at += 2 if words[at].text in _GIT_VALUED else 1
    return (words, (words[0], *words[at:]))


def runs_unseen(command: Command) -> bool:
    """Tell whether a shell reads its commands from elsewhere than the line."""
    return program_of(command) in {*SHELLS, "source", ".", "eval", "parallel"}


def _follow_cd(command: Command, directories: list[str], home: str) -> Iterator[str]:
    """Add where ``cd`` may lead from each of the directories; it may also fail, and the line stay there."""
    operands = [word for word in command.words[1:] if not re.fullmatch(r"-[LPe]+|--", word.text)]
    target = operands[0] if operands else Word(home)
    is_plain = program_of(command) == "cd" and len(operands) <= 1 and target.kind == "fixed"
    if not is_plain or target.text.startswith("-") or command.is_repeated:
        yield "it is not known in which directory it runs"
        return
    for directory in tuple(directories):
        spelled = os.path.join(directory, target.text)  # noqa: PTH118  # no path of ours
        # Behind a link, bash's `..` leads back to where the link is, and the kernel's does not.
        for reached in (os.path.realpath(spelled), os.path.normpath(spelled)):
            if reached not in directories:
                directories.append(reached)


def _find_paths(word: Word, directory: str) -> Iterator[str]:
    spelled = os.path.join(directory, word.text)  # noqa: PTH118
    if word.kind == "glob":
        yield os.path.realpath(_GLOBBED.split(spelled)[0].rpartition("/")[0] or "/")
        for each in islice(_expand(word, directory), MAX_EXPANDED):
            yield os.path.realpath(os.path.join(directory, each))  # noqa: PTH118
        return
    yield os.path.realpath(spelled)
    plain = os.path.normpath(spelled)
    # What these lead to is another thing for the process that runs than for us.
    if plain.startswith(("/proc/", "/dev/")):
        yield plain


def _expand(word: Word, directory: str) -> Iterator[str]:
    """Expand a glob as bash would, give or take; names are as the glob is, from the directory or whole."""
    return iglob(word.text, root_dir=directory)  # noqa: PTH207  # pathlib's has hidden files too


def _pieces(word: Word) -> Sequence[Word]:
    """Part what may be a path from an option or a revision before it."""
    if not _PATH_FOLLOWS.search(word.text):
        return (word,)
    parts = _PATH_FOLLOWS.split(word.text)[1:]
    return (word, *(Word(part, word.kind) for part in parts if part))


def _begins_with_dash(name: str) -> bool:
    return name.startswith("-")
