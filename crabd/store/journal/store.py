"""The store of journals: one append-only file of JSON lines per session.

    <root>/catalogue.json                     what all the metas say, for a quick start; may be deleted
    <root>/sessions/<id>/journal.jsonl        the records, the only truth
    <root>/sessions/<id>/meta.json            what they add up to
    <root>/sessions/<id>/journal.torn-<n>     tails that were cut off

Every call here but the store's own blocks, so it runs in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

from msgspec import structs

from crabd.errors import StoreError
from crabd.store.disk import load_file, open_lines, save_new_file
from crabd.store.journal.catalogue import Entry, load_catalogue, recall, save_catalogue
from crabd.store.journal.file import JournalFile
from crabd.store.journal.line import BadLine, Place, decode_line, encode_append, encode_step, read_some
from crabd.store.journal.recovery import (
    EVERYTHING,
    JOURNAL,
    Bounds,
    JournalFound,
    examine,
    read_tail,
    read_whole,
    renew_bounds,
    save_meta,
)
from crabd.store.layout import ADVICE, Layout, Opened, SessionFiles
from crabd.store.meta import SessionMeta, begin_meta
from crabd.store.ondisk import DiskStore
from crabd.store.partial import read_partial
from crabd.store.record import Cleared, Compacted, Step


class JournalStore(DiskStore):
    """Sessions in the directory ``root``, which is made if need be. One process holds it at a time."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, JournalLayout())


class JournalLayout(Layout):
    """A session as a journal and its sum."""

    name = "journal"

    def __init__(self) -> None:
        self._catalogue: dict[str, Entry] = {}

    def read_catalogue(self, root: Path) -> None:
        self._catalogue = load_catalogue(root)

    def recall(self, home: os.DirEntry[str]) -> JournalFound | None:
        return recall(self._catalogue, home)

    def save_catalogue(self, root: Path, sessions: Path) -> None:
        self._catalogue = save_catalogue(root, sessions, self._catalogue)

    def examine(self, home: Path) -> JournalFound:
        return examine(home)

    def fill(self, home: Path, steps: Sequence[Step]) -> None:
        save_new_file(home / JOURNAL, b"".join(map(encode_step, steps)))

    def open(self, home: Path, steps: Sequence[Step]) -> JournalFiles:
        checksum = crc32(b"".join(map(encode_step, steps)))
        return JournalFiles(home, JournalFile(home / JOURNAL, checksum), EVERYTHING, begin_meta(steps[0]))

    def load(self, home: Path) -> Opened:
        found = examine(home)
        if found.problem:
            return Opened(found)
        path = home / JOURNAL
        try:
            steps = read_tail(load_file(path, found.bounds.tail.offset), found)
            if steps is None:
                notes = found.notes
                steps, found = read_whole(load_file(path), home.name)
                found = structs.replace(found, notes=notes)
            goal = _read_goal(path, found.bounds.goal)
        except (ValueError, BadLine) as exc:
            return Opened(structs.replace(found, problem=f"{path}: {exc}: {ADVICE}"))
        assert found.meta is not None, "what was read has been summed up"
        assert found.checksum is not None, "and its checksum taken"
        files = JournalFiles(home, JournalFile(path, found.checksum), found.bounds, found.meta)
        partial = read_partial(home) if found.meta.open_run is not None else None
        return Opened(found, files, steps, partial, goal)

    def read(self, home: Path, after: int, upto: int | None) -> tuple[Step, ...]:
        path = home / JOURNAL
        try:
            with open_lines(path) as lines:
                return read_some(lines, after, upto)
        except BadLine as bad:
            raise StoreError("damaged", f"{path}: {bad}: {ADVICE}", session=home.name) from bad


class JournalFiles(SessionFiles):
    """The journal of one session, and its sum; ``bounds`` tell what is needed of it."""

    def __init__(self, home: Path, file: JournalFile, bounds: Bounds, meta: SessionMeta) -> None:
        self._home = home
        self._file = file
        self._bounds = bounds
        # A boundary has come, or what held the tail back may have gone.
        self._may_need_less = _is_holding(meta)

    @property
    def size(self) -> int:
        return self._file.size

    @property
    def checksum(self) -> int:
        return self._file.checksum

    def append(self, steps: Sequence[Step]) -> None:
        self._file.append(encode_append(steps))
        self._may_need_less |= any(isinstance(step.record, Compacted | Cleared) for step in steps)

    def save_meta(self, meta: SessionMeta) -> None:
        # It vouches for the file, so the file must be in no doubt.
        self._file.mend()
        if self._may_need_less:
            data = self._file.read_from(self._bounds.tail.offset)
            self._bounds = renew_bounds(data, self._file.checksum, self._bounds, meta)
            self._may_need_less = _is_holding(meta)
        save_meta(self._home, meta, self._file.size, self._file.checksum, self._bounds)

    def close(self) -> None:
        self._file.close()


def _is_holding(meta: SessionMeta) -> bool:
    """Tell whether a run or a message that is older than a boundary may be needed still."""
    return meta.open_run is not None or bool(meta.queued)


def _read_goal(path: Path, place: Place | None) -> Step | None:
    if place is None:
        return None
    with open_lines(path, place.offset) as lines:
        return decode_line(next(iter(lines), b"").removesuffix(b"\n"), place.step)
