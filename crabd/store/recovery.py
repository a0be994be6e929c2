"""What is to be believed of a session's directory that an earlier life of the daemon left.

Nothing is answered from bytes that this process has not synced: a kill between a write and its sync leaves
records that look whole and may yet be lost. The meta beside a journal vouches for the bytes it counts, for it
is written after their sync. Every call here blocks, so it runs in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import reduce
from itertools import count
from pathlib import Path
from zlib import crc32

import msgspec
from msgspec import Struct

from crabd.store.base import SessionMeta, Step, advance, begin_meta
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
from crabd.store.record import is_sealed, read_trusted, scan, seal

JOURNAL = "journal.jsonl"
META = "meta.json"
# Raised when the sum changes its meaning, and with the version of the lines, for nobody looks at that where a
# meta vouches for them; metas of another version are made again from their journals.
META_VERSION = 2
ADVICE = "it was left as it is; restore it from a backup, or delete the session"


class Found(Struct, frozen=True):
    """A session as it is on the disk. With a ``problem`` it cannot be loaded; ``notes`` tell what was cut.

    ``meta`` is the sum of a journal with that ``checksum``; of any other it is a guess.
    """

    meta: SessionMeta | None
    problem: str | None = None
    notes: tuple[str, ...] = ()
    checksum: int | None = None


class SavedMeta(Struct, frozen=True):
    """``meta.json``: the sum of the first ``journal_size`` bytes of the journal, and their checksum."""

    v: int
    journal_size: int
    journal_checksum: int
    meta: SessionMeta


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(SavedMeta).decode


def examine(home: Path) -> Found:
    """Find out what a session's directory holds, and mend what a crash has left there.

    Reads the journal only if its meta does not account for all of it.

    Raises:
      OSError: the disk fails, or a name that should be a file is none.
    """
    journal = home / JOURNAL
    temp_path(journal).unlink(missing_ok=True)
    temp_path(home / META).unlink(missing_ok=True)
    saved = _load_meta(home)
    try:
        fd = open_file(journal, os.O_RDWR)
    except FileNotFoundError:
        return Found(saved.meta if saved else None, f"{journal} is missing: {ADVICE}")
    try:
        if saved is not None and os.fstat(fd).st_size == saved.journal_size:
            return Found(saved.meta, checksum=saved.journal_checksum)
        return _recover(journal, fd, saved)
    finally:
        os.close(fd)


def save_meta(home: Path, meta: SessionMeta, journal_size: int, journal_checksum: int) -> None:
    """Write what the acknowledged bytes of a journal add up to.

    It is not synced: the journal has it all, and what a power cut makes of it fails its checksum.

    Raises:
      OSError: the old one is still there.
    """
    document = _encode(SavedMeta(META_VERSION, journal_size, journal_checksum, meta))
    replace_file(home / META, seal(document) + b"\n")


def read_whole(
    data: bytes, checksum: int, found: Found, session: str
) -> tuple[tuple[Step, ...], SessionMeta]:
    """Read a journal that has no reason to be other than whole; ``checksum`` is that of ``data``.

    Bytes that are the very ones of which the meta was made need no second look; any others, and those that a
    newer crabd has written, are gone through line by line.

    Raises:
      ValueError: it is not whole, and why.
    """
    if found.meta is not None and found.checksum == checksum:
        with suppress(msgspec.DecodeError):
            return read_trusted(data), found.meta
    result = scan(data)
    if result.problem:
        raise ValueError(result.problem)
    return result.steps, _add_up(result.steps, session)


def _add_up(steps: Sequence[Step], session: str) -> SessionMeta:
    """Sum up a log; a ValueError says that it is none of that session."""
    if not steps:
        raise ValueError("it holds not one whole record")
    meta = reduce(advance, steps[1:], begin_meta(steps[0]))
    if meta.id != session:
        raise ValueError(f"it is the log of {meta.id}")
    return meta


def _load_meta(home: Path) -> SavedMeta | None:
    """Read the meta; one that cannot be used is as good as none."""
    try:
        document = load_file(home / META).removesuffix(b"\n")
        saved = _decode(document)
    except (OSError, msgspec.DecodeError):
        return None
    is_ours = is_sealed(document) and saved.v == META_VERSION and saved.meta.id == home.name
    return saved if is_ours else None


def _recover(journal: Path, fd: int, saved: SavedMeta | None) -> Found:
    """Believe the journal as far as it goes, cut a torn tail, and make what is left safe."""
    data = read_file(fd)
    result = scan(data)
    vouched = saved.journal_size if saved else 0
    try:
        meta = _add_up(result.steps, journal.parent.name)
    except ValueError as exc:
        return Found(saved.meta if saved else None, f"{journal}: {result.problem or exc}: {ADVICE}")
    # A tail that the meta accounts for was whole once, so nobody was cut short while writing it.
    is_torn = result.is_torn and not result.good_length < vouched <= len(data)
    if result.problem and not is_torn:
        return Found(meta, f"{journal}: {result.problem}: {ADVICE}")
    notes: list[str] = []
    if result.problem:
        notes.append(f"{journal}: {result.problem}; {_cut(journal, fd, data[result.good_length :])}")
    if len(data) < vouched:
        notes.append(
            f"{journal} is {vouched - len(data)} bytes shorter than it was: acknowledged records are lost"
        )
    _make_safe(journal, fd, data[vouched : result.good_length], vouched)
    checksum = crc32(data[: result.good_length])
    with suppress(OSError):
        save_meta(journal.parent, meta, result.good_length, checksum)
    return Found(meta, notes=tuple(notes), checksum=checksum)


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
