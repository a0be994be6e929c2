"""The checksum that a JSON object on the disk ends in, and the refusal of one that cannot be read. Pure."""

from __future__ import annotations

from zlib import crc32

_SEAL = b',"crc":"%08x"}'
_SEAL_LENGTH = len(_SEAL % 0)


def seal(document: bytes) -> bytes:
    """Give a JSON object its checksum as a last field."""
    body = document[:-1]
    return body + _SEAL % crc32(body)


def is_sealed(document: bytes) -> bool:
    """Tell whether a JSON object ends in the checksum of what comes before it."""
    return document[-_SEAL_LENGTH:] == _SEAL % crc32(document[:-_SEAL_LENGTH])


def has_seal(document: bytes) -> bool:
    """Tell whether a JSON object ends in a checksum, right or wrong."""
    return document[-_SEAL_LENGTH:].startswith(_SEAL.partition(b"%")[0])


def newer(what: str) -> str:
    """Say that only a newer crabd can read something, and what tells so."""
    return f"a newer crabd wrote it ({what}) and can read it"
