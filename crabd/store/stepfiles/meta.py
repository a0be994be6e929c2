"""The two small files beside a session's steps: crabtalk's ``meta``, and ``crabd.json``, the sum of the log.

``meta`` is for crabtalk, which asks it who talks to whom; whatever else is in it stays there. The sum spares
us the reading of the steps it counts, and vouches for them, for it is written after their sync; crabtalk does
not know it. Every call here blocks, so it runs in a thread.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from crabd.store.disk import load_file, replace_file, replace_file_durably
from crabd.store.meta import SessionMeta
from crabd.store.porting.crabtalk import BadDocument, Meta, read_meta
from crabd.store.seal import is_sealed, seal

META = "meta"
SUM = "crabd.json"
# Raised when the sum changes its meaning; one of another version is made again from the steps.
SUM_VERSION = 3


class Dense(Struct, frozen=True):
    """From the file of that number on each holds one step, the first of them the step ``n``."""

    number: int = 1
    n: int = 1


# For a log of which nobody knows where its steps are: every file is looked into.
UNKNOWN = Dense(sys.maxsize, sys.maxsize)


class Sum(Struct, frozen=True, omit_defaults=True):
    """``crabd.json``: what the steps up to file number ``last`` add up to, and how many files they are."""

    v: int
    last: int
    files: int
    meta: SessionMeta
    dense: Dense = Dense()


_encode = msgspec.json.Encoder().encode
_decode_sum = msgspec.json.Decoder(Sum).decode
_decode_keys = msgspec.json.Decoder(dict[str, Raw]).decode


def load_sum(home: Path) -> Sum | None:
    """Read the sum; one that cannot be used is as good as none."""
    try:
        document = load_file(home / SUM)
        found = _decode_sum(document)
    except (OSError, msgspec.DecodeError):
        return None
    return found if is_sealed(document) and found.v == SUM_VERSION and found.meta.id == home.name else None


def save_sum(home: Path, meta: SessionMeta, last: int, files: int, dense: Dense) -> None:
    """Write what acknowledged steps add up to.

    It is not synced: what a power cut makes of it fails its checksum.

    Raises:
      OSError: the old one is still there.
    """
    replace_file(home / SUM, seal(_encode(Sum(SUM_VERSION, last, files, meta, dense))))


def load_meta(home: Path) -> Meta | None:
    """Read what crabtalk knows of a session; null if it knows none.

    Raises:
      BadDocument: it is damaged.
      OSError: the disk fails.
    """
    try:
        return read_meta(load_file(home / META))[0]
    except FileNotFoundError:
        return None


def save_meta(home: Path, meta: SessionMeta, summary: str | None | UnsetType = UNSET) -> None:
    """Tell crabtalk what has become of a session; ``summary`` is that of its newest boundary, if new.

    All keys that either version has are written, and those that neither has are kept as they are.

    Raises:
      OSError: the old one is still there.
    """
    kept = _load_keys(home)
    told: dict[str, object] = {
        "agent": meta.agent,
        "created_by": meta.sender,
        "created_at": kept.get("created_at", meta.created_at.isoformat()),
        "title": meta.title,
        "uptime_secs": int(meta.active_seconds),
        "topic": meta.topic,
        "updated_at": meta.updated_at.isoformat(),
        "message_count": meta.message_count,
        "summary": kept.get("summary") if summary is UNSET else summary,
    }
    # crabtalk has no use for a session without it, so it is whole whatever comes.
    replace_file_durably(home / META, _encode({**kept, **told}))


def _load_keys(home: Path) -> dict[str, Raw]:
    try:
        data = load_file(home / META)
        read_meta(data)
        return _decode_keys(data)
    except (FileNotFoundError, BadDocument):
        return {}
