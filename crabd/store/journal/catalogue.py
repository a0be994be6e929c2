"""The sums of all sessions in one file, so that a start opens none of those that nobody has touched since.

It is derived and may be deleted at any time. A session is believed only while its journal is the very file
that was summed up: its inode, its size and the time of its last change, which nobody can set, tell. Whoever
wrote, restored or removed a session behind our back is found out, and its own directory is asked. Every call
here blocks, so it runs in a thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec
from msgspec import Struct

from crabd.store.disk import load_file, replace_file
from crabd.store.journal.recovery import JOURNAL, META_VERSION, JournalFound, SavedMeta, load_meta
from crabd.store.names import is_session_id
from crabd.store.seal import is_sealed, seal

CATALOGUE = "catalogue.json"
VERSION = 1


# What the system tells of a file: its size, the time of its last change in ns, its inode.
Stamp: TypeAlias = tuple[int, int, int]


class Entry(Struct, frozen=True, array_like=True):
    """A session's ``meta.json`` as it was read when its journal had this stamp."""

    stamp: Stamp
    saved: SavedMeta


class Catalogue(Struct, frozen=True):
    """``catalogue.json``; one of another version, of its own or of its metas', is as good as none."""

    v: int
    meta_v: int
    entries: tuple[Entry, ...]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Catalogue).decode


def load_catalogue(root: Path) -> dict[str, Entry]:
    """Read the catalogue of a store; empty if there is none that can be used."""
    try:
        document = load_file(root / CATALOGUE).removesuffix(b"\n")
        if not is_sealed(document):
            return {}
        found = _decode(document)
    except (OSError, msgspec.DecodeError):
        return {}
    if (found.v, found.meta_v) != (VERSION, META_VERSION):
        return {}
    return {entry.saved.meta.id: entry for entry in found.entries}


def recall(entries: Mapping[str, Entry], home: os.DirEntry[str]) -> JournalFound | None:
    """Tell what a session's directory holds without opening anything; null if it has to be looked into."""
    entry = entries.get(home.name)
    if entry is None or home.is_symlink() or _stamp(home.path) != entry.stamp:
        return None
    saved = entry.saved
    return JournalFound(saved.meta, checksum=saved.journal_checksum, bounds=saved.bounds)


def save_catalogue(root: Path, sessions: Path, known: Mapping[str, Entry]) -> dict[str, Entry]:
    """Write down what the sessions' metas say, and return it; those in ``known`` are read if they changed.

    It is not synced: what a power cut makes of it fails its checksum.

    Raises:
      OSError: the old one is still there.
    """
    entries = {entry.saved.meta.id: entry for entry in _survey(sessions, known)}
    if entries != known or not (root / CATALOGUE).exists():
        document = _encode(Catalogue(VERSION, META_VERSION, tuple(entries.values())))
        replace_file(root / CATALOGUE, seal(document) + b"\n")
    return entries


def _survey(sessions: Path, known: Mapping[str, Entry]) -> Iterator[Entry]:
    with os.scandir(sessions) as homes:
        for home in homes:
            if not is_session_id(home.name) or home.is_symlink():
                continue
            # The stamp comes first: what is appended from here on makes it an old one.
            stamp = _stamp(home.path)
            entry = known.get(home.name)
            if stamp is None:
                continue
            if entry is not None and entry.stamp == stamp:
                yield entry
                continue
            # As in ``recovery.examine``, a meta is believed that accounts for the whole journal.
            saved = load_meta(Path(home.path))
            if saved is not None and saved.journal_size == stamp[0]:
                yield Entry(stamp, saved)


def _stamp(home: str) -> Stamp | None:
    try:
        found = os.lstat(f"{home}/{JOURNAL}")
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return (found.st_size, found.st_ctime_ns, found.st_ino)
