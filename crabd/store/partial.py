"""The reply that is being streamed, in a file beside the journal: written as it comes, and never synced.

It survives a kill of the daemon, not a power cut, and promises nothing: once the reply is whole, its message
in the journal counts and this does not. Every call here blocks, so it runs in a thread.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from crabd.messages import AssistantBlock, TextBlock, ThinkingBlock
from crabd.store.base import Partial
from crabd.store.disk import create_file, load_file, open_file, write_all
from crabd.store.seal import is_sealed, seal

PARTIAL = "partial.jsonl"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Partial).decode


class PartialFile:
    """The file of one session. It is made with the first piece, and gone once it is closed."""

    def __init__(self, home: Path) -> None:
        self._path = home / PARTIAL
        self._fd: int | None = None

    def write(self, piece: Partial, is_first: bool) -> None:
        """Add a piece; the first one of a reply replaces what there was of an earlier one.

        Raises:
          OSError: it is not there, or not whole, and is passed over when it is read.
        """
        if self._fd is None:
            self._fd = self._open()
        if is_first:
            os.ftruncate(self._fd, 0)
        write_all(self._fd, seal(_encode(piece)) + b"\n")

    def close(self) -> None:
        """Remove the file: whoever closes a log in order has said all there is to say."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            with suppress(OSError):
                self._path.unlink()

    def _open(self) -> int:
        try:
            return open_file(self._path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return create_file(self._path)


def read_partial(home: Path) -> Partial | None:
    """Put together what a daemon that was killed had written; null if there is nothing to be had."""
    try:
        lines = load_file(home / PARTIAL).split(b"\n")
    except OSError:
        return None
    pieces: list[Partial] = []
    for line in lines:
        if not is_sealed(line):
            break
        with suppress(msgspec.DecodeError):
            pieces.append(_decode(line))
    if not pieces:
        return None
    content = _join([block for piece in pieces for block in piece.content])
    return Partial(pieces[0].run, pieces[0].after, tuple(content))


def _join(blocks: list[AssistantBlock]) -> list[AssistantBlock]:
    joined: list[AssistantBlock] = []
    for block in blocks:
        match joined, block:
            case [*_, TextBlock(text=before)], TextBlock(text=text):
                joined[-1] = TextBlock(before + text)
            case [*_, ThinkingBlock(text=before)], ThinkingBlock(text=text):
                joined[-1] = ThinkingBlock(before + text)
            case _:
                joined.append(block)
    return joined
