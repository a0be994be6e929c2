"""What is to be believed of a session's directory that an earlier life of the daemon left.

Nothing is answered from bytes that this process has not synced: a kill between a write and its sync leaves
records that look whole and may yet be lost. The meta beside a journal vouches for the bytes it counts, for it
is written after their sync. Every call here blocks, so it runs in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from zlib import crc32

import msgspec
from msgspec import Struct

from crabd.store.disk import (
    load_file,
    open_file,
    read_file,
    replace_file,
    save_new_file,
    sync_dir,
    temp_path,
    write_all,
)
from crabd.store.journal.line import Place, find_place, read_trusted, scan
from crabd.store.layout import ADVICE, Found, guess_meta, other_store
from crabd.store.meta import SessionMeta, add_up, tail_of
from crabd.store.record import Step
from crabd.store.seal import is_sealed, seal

JOURNAL = "journal.jsonl"
META = "meta.json"
# Raised when the sum changes its meaning, and with the version of the lines, for nobody looks at that where a
# meta vouches for them; metas of another version are made again from their journals.
META_VERSION = 5
LEFT_OVER = frozenset({temp_path(Path(JOURNAL)).name, temp_path(Path(META)).name})


class Bounds(Struct, frozen=True, omit_defaults=True):
    """Where what is needed of a journal begins, and where the goal is if that lies before."""

    tail: Place = Place()
    goal: Place | None = None


EVERYTHING = Bounds()


class JournalFound(Found, frozen=True):
    """A session as it is on the disk: its ``meta`` is the sum of a journal with that ``checksum``.

    The ``bounds`` are that journal's own; of any other one it is all a guess.
    """

    checksum: int | None = None
    bounds: Bounds = EVERYTHING


class SavedMeta(Struct, frozen=True, omit_defaults=True):
    """``meta.json``: the sum of the first ``journal_size`` bytes of the journal, and their checksum."""

    v: int
    journal_size: int
    journal_checksum: int
    meta: SessionMeta
    bounds: Bounds = EVERYTHING


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(SavedMeta).decode


def examine(home: Path) -> JournalFound:
    """Find out what a session's directory holds, and mend what a crash has left there.

    Reads the journal only if its meta does not account for all of it.

    Raises:
      OSError: the disk fails, or a name that should be a file is none.
    """
    journal = home / JOURNAL
    # Thousands of sessions may be looked at in a row: one call finds that there is nothing to sweep.
    with os.scandir(home) as entries:
        left_over = [entry.path for entry in entries if entry.name in LEFT_OVER]
    for path in left_over:
        Path(path).unlink()
    saved = load_meta(home)
    try:
        fd = open_file(journal, os.O_RDWR)
    except FileNotFoundError:
        if (home / "meta").exists():
            raise other_store(home, "stepfiles") from None
        return JournalFound(saved.meta if saved else guess_meta(home), f"{journal} is missing: {ADVICE}")
    try:
        if saved is not None and os.fstat(fd).st_size == saved.journal_size:
            return JournalFound(saved.meta, checksum=saved.journal_checksum, bounds=saved.bounds)
        return _recover(journal, fd, saved)
    finally:
        os.close(fd)


def save_meta(
    home: Path, meta: SessionMeta, journal_size: int, journal_checksum: int, bounds: Bounds = EVERYTHING
) -> None:
    """Write what the acknowledged bytes of a journal add up to, and what of them is needed.

    It is not synced: the journal has it all, and what a power cut makes of it fails its checksum.

    Raises:
      OSError: the old one is still there.
    """
    document = _encode(SavedMeta(META_VERSION, journal_size, journal_checksum, meta, bounds))
    replace_file(home / META, seal(document) + b"\n")


def read_tail(data: bytes, found: JournalFound) -> tuple[Step, ...] | None:
    """Read a journal from the place of its tail on, if these are the very bytes of which the meta was made.

    They need no second look. Any others, and those that a newer crabd has written, want ``read_whole``.
    """
    place = found.bounds.tail
    if crc32(data, place.checksum) != found.checksum:
        return None
    with suppress(msgspec.DecodeError):
        steps = read_trusted(data)
        if steps and steps[0].n == place.step:
            return steps
    return None


def read_whole(data: bytes, session: str) -> tuple[tuple[Step, ...], JournalFound]:
    """Go through all of a journal that has no reason to be other than whole.

    Raises:
      ValueError: it is not whole, and why.
    """
    result = scan(data)
    if result.problem:
        raise ValueError(result.problem)
    meta = _add_up(result.steps, session)
    bounds = find_bounds(data, EVERYTHING, result.steps, meta)
    return result.steps[bounds.tail.step - 1 :], JournalFound(meta, checksum=crc32(data), bounds=bounds)


def renew_bounds(data: bytes, checksum: int, before: Bounds, meta: SessionMeta) -> Bounds:
    """Find what is needed by now of a journal with that checksum and sum.

    ``data`` is what it has from the tail ``before`` on. If that is not what was written the old bounds hold.
    """
    if crc32(data, before.tail.checksum) != checksum:
        return before
    return find_bounds(data, before, read_trusted(data), meta)


def find_bounds(data: bytes, before: Bounds, steps: Sequence[Step], meta: SessionMeta) -> Bounds:
    """Find what is needed of a journal; ``data`` and its ``steps`` are all from the tail ``before`` on."""
    tail = tail_of(steps, meta)
    first = max(tail.first, before.tail.step)
    if first == 1:
        return EVERYTHING
    goal = None
    if tail.goal is not None and tail.goal < first:
        if before.goal is not None and before.goal.step == tail.goal:
            goal = before.goal
        elif tail.goal >= before.tail.step:
            goal = find_place(data, before.tail, tail.goal)
    return Bounds(find_place(data, before.tail, first), goal)


def _add_up(steps: Sequence[Step], session: str) -> SessionMeta:
    """Sum up a log; a ValueError says that it is none of that session."""
    if not steps:
        raise ValueError("it holds not one whole record")
    meta = add_up(steps)
    if meta.id != session:
        raise ValueError(f"it is the log of {meta.id}")
    return meta


def load_meta(home: Path) -> SavedMeta | None:
    """Read the meta; one that cannot be used is as good as none."""
    try:
        document = load_file(home / META).removesuffix(b"\n")
        saved = _decode(document)
    except (OSError, msgspec.DecodeError):
        return None
    is_ours = is_sealed(document) and saved.v == META_VERSION and saved.meta.id == home.name
    return saved if is_ours else None


def _recover(journal: Path, fd: int, saved: SavedMeta | None) -> JournalFound:
    """Believe the journal as far as it goes, cut a torn tail, and make what is left safe."""
    data = read_file(fd)
    result = scan(data)
    vouched = saved.journal_size if saved else 0
    try:
        meta = _add_up(result.steps, journal.parent.name)
    except ValueError as exc:
        problem = f"{journal}: {result.problem or exc}: {ADVICE}"
        return JournalFound(saved.meta if saved else guess_meta(journal.parent), problem)
    # A tail that the meta accounts for was whole once, so nobody was cut short while writing it.
    is_torn = result.is_torn and not result.good_length < vouched <= len(data)
    if result.problem and not is_torn:
        return JournalFound(meta, f"{journal}: {result.problem}: {ADVICE}")
    notes: list[str] = []
    if result.problem:
        notes.append(f"{journal}: {result.problem}; {_cut(journal, fd, data[result.good_length :])}")
    if len(data) < vouched:
        notes.append(
            f"{journal} is {vouched - len(data)} bytes shorter than it was: acknowledged records are lost"
        )
    _make_safe(journal, fd, data[vouched : result.good_length], vouched)
    checksum = crc32(data[: result.good_length])
    bounds = find_bounds(data, EVERYTHING, result.steps, meta)
    with suppress(OSError):
        save_meta(journal.parent, meta, result.good_length, checksum, bounds)
    return JournalFound(meta, notes=tuple(notes), checksum=checksum, bounds=bounds)


def _cut(journal: Path, fd: int, torn: bytes) -> str:
    """Save the torn tail and take it off; on a full disk it goes unsaved, for nobody was promised it."""
    try:
        kept = f"saved in {_save_torn(journal.parent, torn)}"
    except OSError as exc:
        kept = f"could not be saved ({exc.strerror})"
    os.ftruncate(fd, os.fstat(fd).st_size - len(torn))
    return f"its {len(torn)} bytes were cut off and {kept}"


def _save_torn(home: Path, torn: bytes) -> Path:
    for number in count(1):
        path = home / f"journal.torn-{number}"
        with suppress(FileExistsError):
            save_new_file(path, torn)
            return path
    raise AssertionError("count() ends")


def _make_safe(journal: Path, fd: int, unsynced: bytes, offset: int) -> None:
    """Put bytes that nobody vouches for on the disk.

    They are written again in their place: if a sync of them has failed in an earlier life, the kernel takes
    their pages for clean, and a sync alone would do nothing.
    """
    os.lseek(fd, offset, os.SEEK_SET)
    write_all(fd, unsynced)
    os.fdatasync(fd)
    sync_dir(journal.parent)
