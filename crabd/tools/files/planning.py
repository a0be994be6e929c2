"""What a call would change, found out from what the files are now.

Everything here blocks, so it runs in a thread; nothing here changes a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from errno import ENOENT
from typing import TypeAlias

from msgspec import Struct

from crabd.tools.files.changing import Change, Known
from crabd.tools.files.patch import FilePatch, PatchProblem, apply
from crabd.tools.files.paths import Refusal, show
from crabd.tools.files.text import Text, decode, name_kind, split_lines, with_crlf

# Gives a file of a real path, and its mode where that is known; null if there is none. OSError, Refusal.
Load: TypeAlias = Callable[[str], tuple[bytes, int | None] | None]


class Plan(Struct, frozen=True):
    """What would be changed, and what the model is told once it is."""

    changes: tuple[Change, ...]
    told: str


def plan_write(known: Known, path: str, content: str, load: Load) -> Plan:
    """Plan a new file, or a new content of one that the session has seen.

    Raises:
      OSError, Refusal.
    """
    there = load(path)
    lines = len(split_lines(content))
    if there is None:
        return Plan((Change(path, None, content.encode()),), f"made {show(path)} with {lines} lines")
    before, mode = there
    known.require(path, before)
    after = _in_the_way_of(decode(before), content).encode()
    return Plan((Change(path, before, after, mode),), f"replaced {show(path)}, now {lines} lines")


def _in_the_way_of(old: Text, content: str) -> Text:
    """Write a text with the ends of lines that the file had, and with its byte order mark."""
    if old.eol == "\r\n":
        content = with_crlf(content)
    return Text(content.removeprefix("\ufeff"), old.eol, old.has_bom or content.startswith("\ufeff"))


def plan_edit(known: Known, path: str, old: str, new: str, is_everywhere: bool, load: Load) -> Plan:
    """Plan a replacement of text that the session has seen, in one place or in all.

    Raises:
      OSError, Refusal.
    """
    # Before it is looked at: even that it is there may be more than the model is allowed to know.
    known.require_any(path)
    there = load(path)
    if there is None:
        raise FileNotFoundError(ENOENT, "no such file", path)
    before, mode = there
    known.require(path, before)
    if kind := name_kind(before):
        raise Refusal(f"{show(path)} is {kind}: change it with bash")
    text = decode(before)
    had, put = _as_in(text, old, new)
    count = text.body.count(had)
    if count == 0:
        raise Refusal(f"`old` is not in {show(path)}: {_say_near(text.body, old)}")
    if count > 1 and not is_everywhere:
        places = f"`old` is in {show(path)} {count} times, {_say_lines(text.body, had)}"
        raise Refusal(f"{places}: give lines around it, or set replace_all")
    after = Text(text.body.replace(had, put), text.eol, text.has_bom).encode()
    told = f"edited {show(path)} in {count} place{'s' * (count > 1)}, {_say_lines(text.body, had)}"
    return Plan((Change(path, before, after, mode),), told)


def _as_in(text: Text, old: str, new: str) -> tuple[str, str]:
    """Write what a model wrote with the ends of lines that the file has, which the model was not shown."""
    ways = [(old, new), (with_crlf(old), with_crlf(new))]
    if text.eol == "\r\n":
        ways.reverse()
    return next((way for way in ways if way[0] in text.body), ways[0])


def _say_lines(body: str, old: str) -> str:
    """Say where the first few are."""
    lines: list[str] = []
    at, done, number = body.find(old), 0, 1
    while at >= 0 and len(lines) < 5:
        number += body.count("\n", done, at)
        lines.append(str(number))
        done, at = at, body.find(old, at + len(old))
    return f"at line{'s' * (len(lines) > 1)} {', '.join(lines)}{', …' if at >= 0 else ''}"


def _say_near(body: str, old: str) -> str:
    """Say where the text is with other blanks, which is what models get wrong most often."""
    have = [line.strip() for line in split_lines(body)]
    wanted = [line.strip() for line in split_lines(old)]
    size = len(wanted)
    for at in range(len(have) - size + 1):
        if have[at] == wanted[0] and have[at : at + size] == wanted:
            return f"it is at line {at + 1} with other blanks; copy it from there with read"
    return "read the file and copy the text from there"


def plan_patch(known: Known, files: Sequence[FilePatch], resolved: Mapping[str, str], load: Load) -> Plan:
    """Plan what a patch does; ``resolved`` has the real path of each that it names.

    Raises:
      OSError, Refusal.
    """
    desk = _Desk(known, load)
    for each in files:
        path = resolved[each.path]
        match each.kind:
            case "add":
                desk.add(path, each.text.encode(), None)
            case "delete":
                desk.remove(path)
            case "update":
                desk.update(path, each, resolved[each.move_to] if each.move_to else None)
    return Plan(desk.changes(), desk.told())


class _Desk:
    """The files of a patch as they would be, one section after another."""

    def __init__(self, known: Known, load: Load) -> None:
        self._known = known
        self._load = load
        # The content that was, the one that would be, and the mode.
        self._files: dict[str, tuple[bytes | None, bytes | None, int | None]] = {}

    def add(self, path: str, content: bytes, mode: int | None) -> None:
        before, now, _ = self._look(path)
        if now is not None:
            raise Refusal(f"{show(path)} is there already: update it, or delete it first")
        self._files[path] = (before, content, mode)

    def remove(self, path: str) -> tuple[bytes, int | None]:
        before, now, mode = self._look(path)
        if now is None:
            raise FileNotFoundError(ENOENT, "no such file", path)
        self._files[path] = (before, None, mode)
        return now, mode

    def update(self, path: str, patch: FilePatch, target: str | None) -> None:
        content, mode = self.remove(path)
        if patch.hunks and (kind := name_kind(content)):
            raise Refusal(f"{show(path)} is {kind}: change it with bash")
        try:
            made = apply(decode(content), patch.hunks, show(path)).encode()
        except PatchProblem as exc:
            raise Refusal(str(exc)) from exc
        self.add(target or path, made, mode)

    def changes(self) -> tuple[Change, ...]:
        """List what differs; what is made comes before what goes, so that nothing is lost in between."""
        found = [Change(path, *states) for path, states in self._files.items() if states[0] != states[1]]
        return tuple(sorted(found, key=lambda each: each.after is None))

    def told(self) -> str:
        return "\n".join(f"{_verb(each)} {show(each.path)}" for each in self.changes()) or "nothing changed"

    def _look(self, path: str) -> tuple[bytes | None, bytes | None, int | None]:
        if path not in self._files:
            content, mode = self._load(path) or (None, None)
            if content is not None and path in self._known:
                self._known.require(path, content)
            self._files[path] = (content, content, mode)
        return self._files[path]


def _verb(each: Change) -> str:
    return "made" if each.before is None else "deleted" if each.after is None else "changed"
