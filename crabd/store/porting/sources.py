"""The places that sessions are imported from: which there are below a path, read one after another.

Below the path that was named no symbolic link is followed. Every call blocks, so it runs in a thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from crabd.errors import BadRequest
from crabd.store.base import Reading, Skipped
from crabd.store.porting.crabtalk import BadDocument
from crabd.store.porting.export import BadExport, is_header, read_export
from crabd.store.porting.files import (
    TooMuch,
    has_steps,
    load_archives,
    open_lines,
    read_lines,
    read_steps,
    shown,
    within_bounds,
)
from crabd.store.porting.memory import BadMemory

# crabtalk once put a day's sessions into a directory of their own.
MAX_DEPTH = 1
# Enough to see what they are.
MAX_STRAYS = 10
# What crabtalk keeps beside its sessions: its memory, and the tree that the memory is dumped to.
MEMORIES = ("memory.db", "brain")


def read_sources(path: Path, memory: Path | None = None) -> Generator[Reading]:
    """Read every session below a path: an export of ours, or a session, file or root of crabtalk's.

    ``memory`` is crabtalk's memory file, or the tree of its dump; null looks for them beside the sessions.

    Raises:
      BadRequest: there is nothing that can be read at one of the two.
    """
    with _refusing("$.path"):
        place = path.resolve(strict=True)
        if place.is_dir() and not has_steps(place) and (place / "sessions").is_dir():
            place /= "sessions"
    archives: dict[str, str] = {}
    if memory is not None:
        with _refusing("$.memory"):
            archives = load_archives(memory.resolve(strict=True))
    else:
        for beside in _memories_beside(place):
            try:
                archives |= load_archives(beside)
            except (OSError, BadMemory, TooMuch) as exc:
                yield _left_out(beside, f"crabtalk's memory cannot be used: {_reason(exc)}")
    yield from _read_place(place, archives, 0)


@contextmanager
def _refusing(param: str) -> Generator[None]:
    try:
        yield
    except (OSError, BadMemory, TooMuch) as exc:
        raise BadRequest(param, f"{_reason(exc)}: name a file or directory that can be read") from exc


def _memories_beside(place: Path) -> Iterator[Path]:
    """Find what may be crabtalk's memory: beside its sessions, also if one of them was named."""
    roots = [root.parent for root in (place, *place.parents) if root.name == "sessions"]
    for home in {place.parent, *roots[:1]}:
        for path in map(home.joinpath, MEMORIES):
            if path.is_file() or (path / "archives").is_dir():
                yield path


def _read_place(place: Path, archives: Mapping[str, str], depth: int) -> Iterator[Reading]:
    try:
        if not place.is_dir():
            yield from _read_file(place, archives)
        elif has_steps(place):
            yield read_steps(place, archives)
        else:
            yield from _read_directory(place, archives, depth)
    except (OSError, BadDocument, TooMuch) as exc:
        yield _refuse(place, _reason(exc))


def _read_directory(place: Path, archives: Mapping[str, str], depth: int) -> Iterator[Reading]:
    with os.scandir(place) as scan:
        entries = sorted(scan, key=lambda entry: _natural(entry.name))
    strays: list[str] = []
    for entry in entries:
        inner = place / entry.name
        is_deeper = entry.is_dir(follow_symlinks=False) and depth <= MAX_DEPTH
        if entry.is_symlink():
            yield _refuse(inner, "it is a symbolic link, which is not followed: name what it points to")
        elif is_deeper or (entry.is_file() and entry.name.endswith(".jsonl")):
            yield from _read_place(inner, archives, depth + 1)
        else:
            strays.append(entry.name)
    if strays or not entries:
        problem = f"no session: {', '.join(strays[:MAX_STRAYS])}" if strays else "it is empty"
        yield _left_out(
            place, problem + (f" and {more} more" if (more := len(strays) - MAX_STRAYS) > 0 else "")
        )


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort numbers in names as numbers, so that sessions come in the order in which they began."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", name)]


def _read_file(place: Path, archives: Mapping[str, str]) -> Iterator[Reading]:
    with open_lines(place) as lines:
        line = next(lines, b"")
        if not is_header(line):
            yield read_lines(place, line, lines, archives)
            return
        while line:
            session, line = _take_session(line, lines)
            yield _read_export(place, session)


def _take_session(header: bytes, lines: Iterator[bytes]) -> tuple[list[bytes], bytes]:
    """Take the lines of one exported session, and the header of the next one, empty at the end."""
    taken = [header]
    for line in within_bounds(lines):
        if is_header(line):
            return taken, line
        taken.append(line)
    return taken, b""


def _read_export(place: Path, lines: list[bytes]) -> Reading:
    try:
        return Reading(place=shown(place), steps=read_export(lines))
    except BadExport as exc:
        return _refuse(place, str(exc))


def _refuse(place: Path, problem: str) -> Reading:
    return Reading(place=shown(place), problem=problem)


def _left_out(place: Path, problem: str) -> Reading:
    return Reading(place=shown(place), skipped=(Skipped(shown(place.name), problem),))


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError):
        where = f" ({shown(exc.filename)})" if isinstance(exc.filename, str) else ""
        return f"{exc.strerror or exc}{where}"
    return str(exc)
