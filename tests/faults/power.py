"""A disk as POSIX has it: what was not synced may be there after a power cut, or not, or in part.

It follows the calls of processes, and gives the trees that a cut may leave. Nothing is assumed of any file
system: a name is safe once its directory has been synced, bytes once their file has been, and bytes that a
failed sync was for are never written by a later one. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import PurePath
from random import Random
from typing import Literal, TypeAlias

from msgspec import Struct

from tests.faults.strace import Call

SECTOR = 512
# What becomes of names, and of bytes, that are not safe.
NamesFate: TypeAlias = Literal["none", "all", "some"]
BytesFate: TypeAlias = Literal["none", "all", "some", "torn", "half", "zeros"]
FATES: tuple[tuple[NamesFate, BytesFate], ...] = (
    ("none", "none"),
    ("none", "all"),
    ("all", "none"),
    ("all", "all"),
    ("all", "some"),
    ("all", "torn"),
    ("all", "half"),
    ("all", "zeros"),
    ("some", "none"),
    ("some", "all"),
    ("some", "some"),
)
# The bytes of each file, and null for each directory, by path.
Tree: TypeAlias = dict[str, bytes | None]


class Write(Struct, frozen=True):
    offset: int
    data: bytes


class Resize(Struct, frozen=True):
    size: int


class File:
    """A file. ``seen`` is what processes read in it."""

    def __init__(self) -> None:
        self.seen = b""
        self._safe = b""
        self._pending: list[Write | Resize] = []

    def change(self, change: Write | Resize) -> None:
        self.seen = _change(self.seen, change)
        self._pending.append(change)

    @property
    def pending(self) -> int:
        return len(self._pending)

    def end_sync(self, count: int, *, is_done: bool) -> None:
        """Take the first changes that wait for safe, or for lost on a disk that has failed."""
        changes, self._pending = self._pending[:count], self._pending[count:]
        for change in changes:
            if is_done:
                self._safe = _change(self._safe, change)

    def after_cut(self, fate: BytesFate, chance: Random) -> bytes:
        """Tell what may be in it after a power cut."""
        left = self._safe
        for number, change in enumerate(self._pending, 1):
            is_last = number == len(self._pending)
            if fate == "none" or (fate in ("torn", "half") and is_last and isinstance(change, Resize)):
                continue
            if isinstance(change, Write):
                change = _spoil(change, fate, left, is_last, chance)
            left = _change(left, change)
        return left


def _change(data: bytes, change: Write | Resize) -> bytes:
    if isinstance(change, Resize):
        return data[: change.size].ljust(change.size, b"\0")
    end = change.offset + len(change.data)
    return data[: change.offset].ljust(change.offset, b"\0") + change.data + data[end:]


def _spoil(write: Write, fate: BytesFate, before: bytes, is_last: bool, chance: Random) -> Write:
    """Take away what does not reach the disk: there stays what was there ``before``, or zeros."""
    data, end = write.data, write.offset + len(write.data)
    old = before[write.offset : end].ljust(len(data), b"\0")
    match fate:
        case "torn" if is_last:
            data = data[: chance.randrange(len(data))]
        case "half" if is_last:
            # Behind the first of several lines, where half of a write looks most like a whole one.
            data = data[: data.find(b"\n") + 1]
        case "zeros" if is_last:
            data = old
        case "some":
            # Sectors reach the disk in any order, and the size before any of them.
            starts = range(SECTOR - write.offset % SECTOR, len(data), SECTOR)
            pieces = [slice(*ends) for ends in pairwise((0, *starts, len(data)))]
            data = b"".join((data if chance.random() < 0.5 else old)[piece] for piece in pieces)
        case _:
            pass
    return Write(write.offset, data)


class Directory:
    """A directory. ``seen`` are the names that processes find in it."""

    def __init__(self) -> None:
        self.seen: dict[str, Node] = {}
        self._safe: dict[str, Node] = {}
        # Each a change that happens as a whole: names and what they stand for now, null for nothing.
        self._pending: list[dict[str, Node | None]] = []

    def change(self, names: dict[str, Node | None]) -> None:
        _rename(self.seen, names)
        self._pending.append(names)

    @property
    def pending(self) -> int:
        return len(self._pending)

    def end_sync(self, count: int, *, is_done: bool) -> None:
        """Take the first changes that wait for safe; after a failure they wait on, unlike a file's."""
        # No system takes names for written that it could not write. A later sync is as good as the first.
        if is_done:
            changes, self._pending = self._pending[:count], self._pending[count:]
            for names in changes:
                _rename(self._safe, names)

    def after_cut(self, fate: NamesFate, chance: Random) -> dict[str, Node]:
        """Tell which names may be in it after a power cut."""
        left = dict(self._safe)
        for names in self._pending:
            if fate == "all" or (fate == "some" and chance.random() < 0.5):
                _rename(left, names)
        return left


def _rename(names: dict[str, Node], change: dict[str, Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


Node: TypeAlias = File | Directory


class Entry(Struct, frozen=True):
    """A name in a directory, of something or of nothing yet."""

    directory: Directory
    name: str


class Handle:
    """An open file."""

    def __init__(self, node: Node, *, is_append: bool) -> None:
        self.node = node
        self.is_append = is_append
        self.position = 0


class Disk:
    """What is under the directory ``root``, which was there and empty."""

    def __init__(self, root: PurePath) -> None:
        self._root = root
        self._top = Directory()
        # The root's own name is not our concern, only that it has one.
        self._above = Directory()
        self._above.seen["root"] = self._top
        self._handles: dict[int, Handle] = {}
        # By thread: what it syncs, and how much of that was waiting when it began to.
        self._syncs: dict[str, tuple[Node, int]] = {}

    def start_process(self) -> None:
        """Forget the open files of the process before. What the system has in memory is still there."""
        self._handles.clear()
        self._syncs.clear()

    def take(self, call: Call) -> bool:
        """Follow a call; tells whether that has changed what a power cut may leave."""
        if call.name in ("fsync", "fdatasync"):
            return self._sync(call)
        if call.result is None or call.result < 0:
            return False
        match call.name, call.args:
            case "openat", (at, path, flags, *_):
                return self._open(self._find(path, at), flags, call.result)
            case "lseek", (fd, *_):
                if handle := self._handles.get(_number(fd)):
                    handle.position = call.result
                return False
            case "write", (fd, data, *_):
                return self._write(_number(fd), data.encode("latin-1")[: call.result])
            case "pwrite64", (fd, data, _, offset):
                written = data.encode("latin-1")[: call.result]
                return self._change_file(_number(fd), Write(int(offset), written))
            case "ftruncate", (fd, size):
                return self._change_file(_number(fd), Resize(int(size)))
            case "mkdir", (path, *_):
                return self._name(self._find(path), Directory())
            case (("unlink" | "rmdir"), (path,)):
                return self._name(self._find(path), None)
            case "unlinkat", (at, path, *_):
                return self._name(self._find(path, at), None)
            case "rename", (old, new):
                return self._move(self._find(old), self._find(new))
            case _:
                raise AssertionError(f"{call.name} is not followed yet")

    def seen(self) -> Tree:
        """Tell what processes see."""
        return self._tree(self._top, lambda directory: directory.seen, lambda file: file.seen)

    def after_cut(self, names: NamesFate, contents: BytesFate, chance: Random) -> Tree:
        """Tell what may be there after a power cut."""
        return self._tree(
            self._top,
            lambda directory: directory.after_cut(names, chance),
            lambda file: file.after_cut(contents, chance),
        )

    def _tree(
        self,
        directory: Directory,
        names: Callable[[Directory], dict[str, Node]],
        contents: Callable[[File], bytes],
        place: str = "",
    ) -> Tree:
        tree: Tree = {}
        for name, node in names(directory).items():
            path = f"{place}{name}"
            if isinstance(node, File):
                tree[path] = contents(node)
            else:
                tree[path] = None
                tree |= self._tree(node, names, contents, f"{path}/")
        return tree

    def _find(self, path: str, at: str = "") -> Entry | None:
        """Find where a path leads; null if not into the root."""
        _, _, directory = at.partition("<")
        whole = PurePath(directory.removesuffix(">")) / path
        if self._root not in whole.parents:
            return Entry(self._above, "root") if whole == self._root else None
        *parents, name = whole.relative_to(self._root).parts
        node: Node = self._top
        for parent in parents:
            assert isinstance(node, Directory), whole
            node = node.seen[parent]
        assert isinstance(node, Directory), whole
        return Entry(node, name)

    def _open(self, entry: Entry | None, flags: str, fd: int) -> bool:
        self._handles.pop(fd, None)
        if entry is None:
            return False
        is_new = entry.name not in entry.directory.seen
        if is_new:
            entry.directory.change({entry.name: File()})
        assert "O_TRUNC" not in flags, "not followed yet"
        self._handles[fd] = Handle(entry.directory.seen[entry.name], is_append="O_APPEND" in flags)
        return is_new

    def _write(self, fd: int, data: bytes) -> bool:
        handle = self._handles.get(fd)
        if handle is None:
            return False
        assert isinstance(handle.node, File)
        offset = len(handle.node.seen) if handle.is_append else handle.position
        handle.position = offset + len(data)
        return self._change_file(fd, Write(offset, data))

    def _change_file(self, fd: int, change: Write | Resize) -> bool:
        handle = self._handles.get(fd)
        if handle is None:
            return False
        assert isinstance(handle.node, File)
        handle.node.change(change)
        return True

    def _name(self, entry: Entry | None, node: Node | None) -> bool:
        if entry is not None:
            entry.directory.change({entry.name: node})
        return entry is not None

    def _move(self, old: Entry | None, new: Entry | None) -> bool:
        if old is None or new is None:
            return False
        assert old.directory is new.directory, "not followed yet"
        old.directory.change({old.name: None, new.name: old.directory.seen[old.name]})
        return True

    def _sync(self, call: Call) -> bool:
        if call.result is None:
            handle = self._handles.get(_number(call.args[0]))
            if handle is not None:
                # What is written meanwhile is not its concern.
                self._syncs[call.thread] = (handle.node, handle.node.pending)
            return False
        if call.thread not in self._syncs:
            return False
        node, count = self._syncs.pop(call.thread)
        node.end_sync(count, is_done=call.result == 0)
        return True


def _number(handle: str) -> int:
    return int(handle.partition("<")[0])
