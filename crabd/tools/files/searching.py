"""Searches, done by a process: ripgrep where there is one, else a program of ours that prints the same.

What it prints is taken as it comes, in pieces that hold the event loop for well below a millisecond each.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from heapq import nsmallest
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Literal

import msgspec
import trio
from msgspec import Struct

import crabd
from crabd.tools.files.globs import expand
from crabd.tools.files.paths import Refusal, open_directory, open_file
from crabd.tools.threads import look

# A tree of a million files takes a few seconds; this ends an expression that never does.
SECONDS = 60
# What is taken at a time: some hundred paths.
PIECE = 16 * 1024
# Lines that are kept to be sorted. Beyond, a search is too wide to be of use.
MAX_HITS = 5000
# What is kept of a line; more is cut as it comes, so that a file of one long line takes no memory.
MAX_LINE = 4096
NICENESS = 10
# A killed process is gone at once, but for one that waits for a disk.
KILL_SECONDS = 2
# How much of a complaint is read.
MAX_COMPLAINT = 2000
# Without what a machine has installed, so that it starts fast and runs nothing of others.
_PROGRAM = """\
import sys
sys.path.insert(0, {!r})
from crabd.tools.files.searcher import main
sys.exit(main(sys.argv[1]))
"""
_OWN = (sys.executable, "-I", "-S", "-c", _PROGRAM.format(str(Path(crabd.__file__).parent.parent)))
_PLAIN_NAME = re.compile(r"[\w.*-]*[\w.-][\w.*-]*", re.ASCII)
_NUMBER = re.compile(rb"(\d+)([:-])")
# Between hits are lines of dashes, and words about files that turned out to be binary.
_ASIDE = re.compile(rb"--\r?|.*(stopped searching b|B|b)inary file.*")


class Search(Struct, frozen=True, kw_only=True):
    """What to look for: the names of files, the names of those with a line that matches, or the lines.

    ``only`` is an expression of the paths that count, and ``globs`` what it was made of; null takes all.
    """

    mode: Literal["names", "files", "lines"]
    pattern: str = ""
    only: str | None = None
    glob: str | None = None
    ignores_case: bool = False
    is_ignored_too: bool = False
    context: int = 0


class Hit(Struct, frozen=True, order=True):
    """A line of a file, which matches or is near one that does."""

    path: str
    number: int
    is_match: bool
    text: str


class Searcher:
    """Searches below a directory, or in a file, both real paths. ``ripgrep`` is the program, if there is one.

    A search ends after so many ``seconds``; when cancelled, it leaves no process.
    """

    def __init__(self, ripgrep: str | None, *, seconds: float = SECONDS) -> None:
        self._ripgrep = ripgrep
        self._seconds = seconds

    async def find_names(self, root: str, search: Search, limit: int) -> tuple[list[str], int]:
        """Find files: the first of them by their paths from ``root``, and how many there are.

        Raises:
          OSError.
          Refusal: the pattern cannot be read, or takes too long.
        """
        async with _open_place(root) as place:
            names = _Names(search.only if place.is_directory else None, limit)
            await self._run(place, search, names.feed)
        return names.first(), names.count

    async def find_lines(self, root: str, search: Search) -> tuple[list[Hit], bool]:
        """Find lines, by path and number, and whether these are all that there are.

        Raises:
          OSError, Refusal: as ``find_names``.
        """
        async with _open_place(root) as place:
            hits = _Hits(search.only if place.is_directory else None)
            is_whole = await self._run(place, search, hits.feed)
        return sorted(hits.found), is_whole

    async def _run(self, place: _Place, search: Search, feed: Callable[[bytes], bool]) -> bool:
        """Run a search until it ends or has given enough; says whether it gave all."""
        complaint = os.memfd_create("complaint", os.MFD_CLOEXEC)
        is_whole = False
        try:
            process = await trio.lowlevel.open_process(
                self._command(search, is_input=not place.is_directory),
                stdin=DEVNULL if place.is_directory else place.descriptor,
                stdout=PIPE,
                stderr=complaint,
                cwd=f"/proc/self/fd/{place.descriptor}" if place.is_directory else "/",
                env={"LANG": "C.UTF-8"},
            )
            # It takes all cores, and the event loop goes first.
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
            with trio.move_on_after(self._seconds) as time:
                is_whole = await _take(process, feed)
            if time.cancelled_caught:
                problem = f"the search took more than {self._seconds:g} s"
                raise Refusal(f"{problem}: name a smaller place or a simpler pattern")
            # 1 is for nothing found, and 2 too for something found beside files that could not be read.
            if (
                is_whole
                and process.returncode not in (0, 1)
                and (text := os.pread(complaint, MAX_COMPLAINT, 0))
            ):
                raise Refusal(f"the search failed: {text.decode('utf-8', 'replace').strip()}")
        finally:
            os.close(complaint)
        return is_whole

    def _command(self, search: Search, *, is_input: bool) -> list[str]:
        if self._ripgrep is None:
            wanted = {**msgspec.structs.asdict(search), "is_input": is_input}
            return [*_OWN, msgspec.json.encode(wanted).decode()]
        pattern = [] if search.mode == "names" else [search.pattern]
        return [self._ripgrep, *_FLAGS, *_options(search), "--", *pattern, *(["-"] if is_input else [])]


class _Place(Struct, frozen=True):
    descriptor: int
    is_directory: bool


@asynccontextmanager
async def _open_place(root: str) -> AsyncGenerator[_Place]:
    """Open what is searched as it was judged, so that a link that was put there since is not followed."""
    place = await look(_open, root)
    try:
        yield place
    finally:
        os.close(place.descriptor)


def _open(root: str) -> _Place:
    try:
        with open_directory(root) as descriptor:
            return _Place(os.dup(descriptor), is_directory=True)
    except NotADirectoryError:
        with open_file(root) as file:
            return _Place(os.dup(file.fileno()), is_directory=False)


# Only what a .gitignore of the tree says is left out, wherever one is, and nothing that a person has set up.
_FLAGS = (
    *("--no-config", "--no-messages", "--color=never", "--null", "--hidden", "--glob=!.git", "--crlf"),
    *("--no-require-git", "--no-ignore-global", "--no-ignore-exclude", "--no-ignore-dot"),
)


def _options(search: Search) -> list[str]:
    options = {
        "names": ["--files"],
        "files": ["--files-with-matches"],
        "lines": ["--line-number", "--with-filename", "--no-heading", f"--context={search.context}"],
    }[search.mode]
    if search.ignores_case:
        options.append("--ignore-case")
    if search.is_ignored_too:
        options.append("--no-ignore")
    names = {each.rpartition("/")[2] for each in expand(search.glob)} if search.glob else {""}
    # A glob of ripgrep's own would bring back what is ignored. That of a type does not; it sees the last name
    # only, and so spares the work on most files that the whole pattern would leave out afterwards.
    if all(_PLAIN_NAME.fullmatch(name) for name in names):
        options += [f"--type-add=wanted:{name}" for name in sorted(names)] + ["--type=wanted"]
    return options


async def _take(process: trio.Process, feed: Callable[[bytes], bool]) -> bool:
    """Take what a process prints, and leave nothing of it."""
    assert process.stdout is not None, "it is a pipe"
    try:
        while piece := await process.stdout.receive_some(PIECE):
            if not feed(bytes(piece)):
                return False
        await process.wait()
        return True
    finally:
        process.kill()
        with trio.move_on_after(KILL_SECONDS, shield=True):
            await process.stdout.aclose()
            await process.wait()


class _Names:
    """Paths that each end in a zero; the first of them are kept."""

    def __init__(self, only: str | None, limit: int) -> None:
        self._matches = re.compile(only, re.DOTALL).fullmatch if only is not None else None
        self._limit = limit
        self._rest = b""
        self._kept: list[str] = []
        self.count = 0

    def feed(self, piece: bytes) -> bool:
        whole, end, rest = (self._rest + piece).rpartition(b"\0")
        self._rest = rest
        names = whole.decode("utf-8", "surrogateescape").split("\0") if end else []
        found = [name for name in names if self._matches(name)] if self._matches else names
        self.count += len(found)
        self._kept += found
        if len(self._kept) > 4 * self._limit:
            self._kept = self.first()
        return True

    def first(self) -> list[str]:
        return nsmallest(self._limit, self._kept)


class _Hits:
    """Lines as ripgrep prints them, with a zero behind the path. Enough is ``MAX_HITS``."""

    def __init__(self, only: str | None) -> None:
        self._matches = re.compile(only or ".*", re.DOTALL).fullmatch
        self._rest = b""
        self.found: list[Hit] = []

    def feed(self, piece: bytes) -> bool:
        printed = self._rest + piece
        start = 0
        while (zero := printed.find(b"\0", start)) >= 0 and (end := printed.find(b"\n", zero)) >= 0:
            self._add(printed[start:zero], printed[zero + 1 : end])
            start = end + 1
        self._rest = printed[start : start + 2 * MAX_LINE]
        return len(self.found) < MAX_HITS

    def _add(self, name: bytes, line: bytes) -> None:
        # A name may have newlines of its own, so only what is no part of one is taken off.
        while b"\n" in name and _ASIDE.fullmatch(name.partition(b"\n")[0]):
            name = name.partition(b"\n")[2]
        path, number = name.decode("utf-8", "surrogateescape"), _NUMBER.match(line)
        if number is not None and self._matches(path):
            text = line[number.end() :][:MAX_LINE].rstrip(b"\r").decode("utf-8", "replace")
            self.found.append(Hit(path, int(number[1]), number[2] == b":", text))
