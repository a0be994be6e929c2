"""Patches as models write them, understood and applied to text. Pure: knows lines, neither files nor paths.

Two kinds are read. The first is what Codex made known::

    *** Begin Patch
    *** Update File: src/main.py
    *** Move to: src/app.py
    @@ def main():
         before
    -    old
    +    new
    *** Add File: src/new.py
    +text
    *** Delete File: src/old.py
    *** End Patch

The other is a unified diff. A hunk has to fit in one place only: lines that are somewhere else, or in several
places, change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

from msgspec import Struct

from crabd.tools.files.text import Text, split_lines

BEGIN, END = "*** Begin Patch", "*** End Patch"
_FILE_LINE = re.compile(r"\*\*\* (Add|Delete|Update) File: (.+)")
_MOVE_LINE = re.compile(r"\*\*\* Move to: (.+)")
_END_OF_FILE = "*** End of File"
_RANGE = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class PatchProblem(ValueError):
    """A patch that cannot be read, or does not fit; the text says where, and what to write."""


class Hunk(Struct, frozen=True):
    """Lines without their ends, each behind its mark: a blank, ``-`` or ``+``.

    ``anchors`` are lines that come before, one after another. ``line`` is where the old ones should start,
    counted from 1, if the patch says so. If ``is_at_end``, the old ones are the last of the file.
    """

    lines: tuple[str, ...]
    anchors: tuple[str, ...] = ()
    line: int | None = None
    is_at_end: bool = False

    @property
    def old(self) -> tuple[str, ...]:
        return tuple(line[1:] for line in self.lines if line[0] != "+")

    @property
    def new(self) -> tuple[str, ...]:
        return tuple(line[1:] for line in self.lines if line[0] != "-")


class FilePatch(Struct, frozen=True):
    """What is done to one file. ``text`` is a new one's."""

    kind: Literal["add", "delete", "update"]
    path: str
    hunks: tuple[Hunk, ...] = ()
    text: str = ""
    move_to: str | None = None


def parse(patch: str) -> tuple[FilePatch, ...]:
    """Read a patch of either kind.

    Raises:
      PatchProblem.
    """
    lines = [line.removesuffix("\r") for line in patch.strip("\n").split("\n")]
    marks = [line.rstrip() for line in lines]
    if BEGIN in marks:
        if END not in marks:
            raise PatchProblem(f"the patch has no end: its last line is {END!r}")
        found = tuple(_parse_sections(lines[marks.index(BEGIN) + 1 : marks.index(END)]))
    elif any(line.startswith("--- ") for line in lines):
        found = tuple(_parse_unified(lines))
    else:
        raise PatchProblem(f"this is no patch: start it with a line {BEGIN!r}, or write a unified diff")
    if not found:
        raise PatchProblem("the patch names no file: write '*** Update File: PATH' and its hunks")
    return found


def apply(text: Text, hunks: Sequence[Hunk], path: str) -> Text:
    """Replace the lines of each hunk, which follow each other in the file.

    Ends of lines stay what they are; new lines end as most of the file's do.

    Raises:
      PatchProblem: a hunk fits nowhere, or in more than one place.
    """
    lines = split_lines(text.body)
    views = [[alike(line) for line in lines] for alike in _ALIKE]
    made: list[str] = []
    done = 0
    for number, hunk in enumerate(hunks, 1):
        start = _find(views, hunk, done, f"hunk {number} of {path}")
        made += lines[done:start]
        made += _replaced(lines[start:], hunk, text.eol)
        done = start + len(hunk.old)
    made += lines[done:]
    return Text(_join(made, text.eol), text.eol, text.has_bom)


def _parse_sections(lines: Sequence[str]) -> Iterator[FilePatch]:
    starts = [at for at, line in enumerate(lines) if _FILE_LINE.fullmatch(line.rstrip())]
    if any(line.strip() for line in lines[: starts[0] if starts else len(lines)]):
        raise PatchProblem("the patch starts with no file: write '*** Update File: PATH' first")
    for start, end in pairwise([*starts, len(lines)]):
        named = _FILE_LINE.fullmatch(lines[start].rstrip())
        assert named is not None, "that is where a section starts"
        yield _parse_section(named[1], named[2].strip(), lines[start + 1 : end])


def _parse_section(word: str, path: str, lines: Sequence[str]) -> FilePatch:
    match word:
        case "Add":
            wrong = next((line for line in lines if line.strip() and not line.startswith("+")), None)
            if wrong is not None:
                raise PatchProblem(f"every line of the new file {path} starts with '+'; {wrong!r} does not")
            return FilePatch("add", path, text="".join(f"{line[1:]}\n" for line in lines if line))
        case "Delete":
            if any(line.strip() for line in lines):
                raise PatchProblem(f"{path} is deleted, so no lines may follow")
            return FilePatch("delete", path)
        case _:
            moved = _MOVE_LINE.fullmatch(lines[0].rstrip()) if lines else None
            hunks = tuple(_parse_hunks(lines[1:] if moved else lines, path))
            if not hunks and not moved:
                raise PatchProblem(f"nothing is changed in {path}: write its hunks")
            return FilePatch("update", path, hunks, move_to=moved[1].strip() if moved else None)


def _parse_hunks(lines: Sequence[str], path: str) -> Iterator[Hunk]:
    anchors: list[str] = []
    body: list[str] = []
    for line in lines:
        if line.startswith("@@"):
            if body:
                yield _make_hunk(body, anchors, path)
                body, anchors = [], []
            anchors += [anchor] if (anchor := line[2:].removesuffix("@@").strip()) else []
        elif line.rstrip() == _END_OF_FILE:
            yield _make_hunk(body, anchors, path, is_at_end=True)
            body, anchors = [], []
        else:
            body.append(line)
    if body or anchors:
        yield _make_hunk(body, anchors, path)


def _make_hunk(
    body: Sequence[str],
    anchors: Sequence[str],
    path: str,
    *,
    line: int | None = None,
    is_at_end: bool = False,
) -> Hunk:
    # An empty line is one of context that lost its blank.
    lines = tuple(each or " " for each in body)
    wrong = next((each for each in lines if each[0] not in " +-"), None)
    if wrong is not None:
        raise PatchProblem(f"a line of a hunk of {path} starts with ' ', '-' or '+'; {wrong!r} does not")
    hunk = Hunk(lines, tuple(anchors), line, is_at_end)
    if hunk.old == hunk.new:
        raise PatchProblem(f"a hunk of {path} changes nothing: mark lines with '-' and '+'")
    return hunk


def _parse_unified(lines: Sequence[str]) -> Iterator[FilePatch]:
    at = 0
    while at < len(lines):
        if not (lines[at].startswith("--- ") and lines[at + 1 : at + 2] and lines[at + 1].startswith("+++ ")):
            # What git and others write between files.
            at += 1
            continue
        old, new = _name(lines[at]), _name(lines[at + 1])
        at += 2
        hunks: list[Hunk] = []
        while at < len(lines) and lines[at].startswith("@@"):
            hunk, at = _parse_range(lines, at, new or old or "")
            hunks.append(hunk)
        yield _file_patch(old, new, tuple(hunks))


def _name(line: str) -> str | None:
    path = line[4:].partition("\t")[0].strip()
    return None if path == "/dev/null" else path


def _file_patch(old: str | None, new: str | None, hunks: tuple[Hunk, ...]) -> FilePatch:
    # As git names the two sides, and nobody their directories.
    if (old is None or old.startswith("a/")) and (new is None or new.startswith("b/")):
        old, new = old and old[2:], new and new[2:]
    if old is None and new is not None:
        return FilePatch("add", new, text="".join(f"{line}\n" for hunk in hunks for line in hunk.new))
    if old is None:
        raise PatchProblem("a file of the patch has no name: write it after '---' and '+++'")
    if new is None:
        return FilePatch("delete", old)
    if not hunks:
        raise PatchProblem(f"nothing is changed in {new}: write its hunks")
    return FilePatch("update", old, hunks, move_to=new if new != old else None)


def _parse_range(lines: Sequence[str], at: int, path: str) -> tuple[Hunk, int]:
    """Read a hunk as far as its head says, or to the next head where models have counted wrongly."""
    counted = _RANGE.match(lines[at])
    end = at + 1
    while end < len(lines) and lines[end][:1] in {" ", "+", "-", "\\", ""}:
        if lines[end].startswith("--- ") and lines[end + 1 : end + 2] and lines[end + 1].startswith("+++ "):
            break
        end += 1
    body = [line for line in lines[at + 1 : end] if not line.startswith("\\")]
    while body and not body[-1]:
        body.pop()
    return _make_hunk(body, (), path, line=int(counted[1]) if counted else None), end


def _exactly(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


# How the lines of a hunk and of a file may be the same: to the letter, else but for blanks at their ends.
_ALIKE: tuple[Callable[[str], str], ...] = (_exactly, str.rstrip)


def _find(views: Sequence[list[str]], hunk: Hunk, start: int, where: str) -> int:
    """Find the one place that a hunk fits, from ``start`` on, in the lines as they are seen either way."""
    for alike, have in zip(_ALIKE, views, strict=True):
        first = _pass_anchors(have, hunk, start)
        if first is None:
            continue
        places = _places(have, [alike(line) for line in hunk.old], first, hunk)
        if len(places) == 1 or (places and hunk.anchors):
            return places[0]
        if places and hunk.line is not None:
            # git's own rule: the place that is nearest to where it should be.
            wanted = hunk.line - 1
            return min(places, key=lambda place: abs(place - wanted))
        if places:
            numbers = ", ".join(str(place + 1) for place in places[:5])
            raise PatchProblem(f"{where} fits in several places, lines {numbers}: give more lines around it")
    lost = next(iter((*hunk.anchors, *hunk.old)), "")
    problem = f"its lines, from {lost!r} on, are not in the file as they are written"
    raise PatchProblem(f"{where} fits nowhere: {problem}; read the file anew")


def _pass_anchors(have: Sequence[str], hunk: Hunk, start: int) -> int | None:
    """Find where to look for the old lines: not before the last anchor, which may be one of them."""
    for anchor in hunk.anchors:
        rest = range(start, len(have))
        # It is often written without its indent.
        found = [at for at in rest if have[at] == anchor] or [at for at in rest if have[at].strip() == anchor]
        if not found:
            return None
        start = found[0] + 1
    return start - 1 if hunk.anchors and hunk.old else start


def _places(have: list[str], wanted: list[str], first: int, hunk: Hunk) -> list[int]:
    if not wanted:
        # What is only added goes after its anchors, or where its head says, or to the end.
        end = len(have)
        return [first if hunk.anchors else end if hunk.line is None else max(first, min(hunk.line, end))]
    size = len(wanted)
    last = len(have) - size
    if hunk.is_at_end:
        first = max(first, last)
    return [at for at in range(first, last + 1) if have[at] == wanted[0] and have[at : at + size] == wanted]


def _replaced(old: Sequence[str], hunk: Hunk, eol: str) -> Iterator[str]:
    """Give the new lines; those of the context are the file's, with their blanks and ends."""
    had = iter(old)
    for line in hunk.lines:
        if line[0] == "+":
            yield line[1:] + eol
        else:
            kept = next(had)
            if line[0] == " ":
                yield kept


def _join(lines: Sequence[str], eol: str) -> str:
    """Put lines together, with an end for one that was the last and is it no more."""
    inner = [line if line.endswith("\n") else line + eol for line in lines[:-1]]
    return "".join([*inner, *lines[-1:]])
