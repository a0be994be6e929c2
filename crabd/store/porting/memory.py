"""Where crabtalk keeps the summaries of its compactions: its memory file, or the pages of its dump. Pure."""

from __future__ import annotations

from struct import Struct, error

MAGIC = b"CRMEM\0"
_VERSION = 1
_ARCHIVE = 1
_HEADER = Struct("<IHI")
_BODY = Struct("<QI")
_ENTRY = Struct("<QQI")
_LENGTH = Struct("<I")
_META_OPEN, _META_CLOSE = '<div id="meta">', "</div>"


class BadMemory(Exception):
    """A memory file that cannot be believed. It says why."""


def read_memory(data: bytes) -> dict[str, str]:
    """Read the archives of a memory file, by name.

    Raises:
      BadMemory: it is something else, of another version, or cut short.
    """
    try:
        return _Reader(data).archives()
    except (error, UnicodeDecodeError) as exc:
        raise BadMemory(f"it is damaged: {exc}") from exc


def read_page(text: str) -> str:
    """Read the content of one entry of a dump, which may have its particulars in front."""
    text = text.removeprefix("\ufeff")
    if text.startswith(_META_OPEN) and _META_CLOSE in text:
        text = text.partition(_META_CLOSE)[2].lstrip()
    return text.rstrip()


class _Reader:
    """A place in a memory file."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = len(MAGIC)

    def archives(self) -> dict[str, str]:
        if not self._data.startswith(MAGIC):
            raise BadMemory("it is no memory file of crabtalk")
        version, flags, _ = self._take(_HEADER)
        if (version, flags) != (_VERSION, 0):
            raise BadMemory(f"it is of version {version}, flags {flags}, which this crabd does not know")
        _, count = self._take(_BODY)
        found: dict[str, str] = {}
        for _ in range(count):
            _, _, kind = self._take(_ENTRY)
            name, content = self._text(), self._text()
            (aliases,) = self._take(_LENGTH)
            for _ in range(aliases):
                self._text()
            if kind == _ARCHIVE:
                found[name] = content
        return found

    def _take(self, shape: Struct) -> tuple[int, ...]:
        values = shape.unpack_from(self._data, self._at)
        self._at += shape.size
        return values

    def _text(self) -> str:
        (length,) = self._take(_LENGTH)
        piece = self._data[self._at : self._at + length]
        if len(piece) < length:
            raise BadMemory("it is cut short")
        self._at += length
        return piece.decode()
