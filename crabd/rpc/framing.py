"""Cut a byte stream into JSON texts, and wrap JSON texts for it.

Two framings share the socket, told apart by the first byte that is not blank: one JSON text per line, or a
block of headers with a ``Content-Length`` before each text. Knows nothing of what the texts say.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Literal, TypeAlias

# What JSON calls blank; a byte order mark is none of it and reaches the decoder, which refuses it.
BLANK = b" \t\r\n"

# Real header blocks have 20 to 80 bytes. Also bounds how often a block that trickles in is searched again.
MAX_HEADER_BYTES = 8 * 1024

_HEADER_END = re.compile(rb"\r?\n\r?\n")

# More digits than any limit has; int() itself refuses some thousands.
_MAX_LENGTH_DIGITS = 18


Framing: TypeAlias = Literal["lines", "headers"]


class FramingError(Exception):
    """The stream no longer says where a message ends: nothing after this point can be read."""


class MessageTooLarge(FramingError):
    """A message is longer than ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __str__(self) -> str:
        return f"a message is longer than {self.limit} bytes"


def frame(payloads: Sequence[bytes], framing: Framing) -> bytes:
    """Wrap JSON texts for the wire, one after the other."""
    if framing == "headers":
        return b"".join([b"Content-Length: %d\r\n\r\n%b" % (len(text), text) for text in payloads])
    lines = b"\n".join(payloads) + b"\n"
    if lines.count(b"\n") == len(payloads):
        return lines
    # Inside JSON strings a line feed is always escaped, so that one found here is only layout.
    return b"".join([text.replace(b"\n", b" ") + b"\n" for text in payloads])


class Bundle:
    """JSON texts that go to any number of links as they are: each framing is made once."""

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self._payloads = payloads
        self._framed: dict[Framing, bytes] = {}

    def framed(self, framing: Framing) -> bytes:
        """Give the texts, wrapped for the wire; always the same bytes object."""
        data = self._framed.get(framing)
        if data is None:
            data = self._framed[framing] = frame(self._payloads, framing)
        return data


class PayloadReader:
    """Turn bytes, in whatever pieces they come, into JSON texts without their framing.

    Pull all payloads after each piece: what waits inside is then at most one message of ``max_bytes`` and
    one piece.
    """

    def __init__(self, *, max_bytes: int) -> None:
        # The framing of the other end, once it has sent a byte that is not blank.
        self.framing: Framing = "lines"
        self._max_bytes = max_bytes
        self._source: _LineReader | _HeaderReader | None = None
        self._has_ended = False

    @property
    def is_mid_message(self) -> bool:
        """Whether a message has begun and the rest of it is still to come."""
        return self._source is not None and self._source.is_mid_message

    @property
    def has_ended(self) -> bool:
        """Whether the stream has ended; payloads may still wait to be pulled."""
        return self._has_ended

    def receive_data(self, data: bytes) -> None:
        """Take the next piece of the stream."""
        if self._source is None:
            data = data.lstrip(BLANK)
            if not data:
                return
            # Anything but a header is read as lines, so that a stranger gets a parse error for an answer.
            self.framing = "headers" if data[0] in b"Cc" else "lines"
            reader = _HeaderReader if self.framing == "headers" else _LineReader
            self._source = reader(self._max_bytes)
        self._source.receive_data(data)

    def waiting_lines(self) -> bytes:
        """Look at the whole lines of the last piece, as they came; empty if some before them still wait."""
        return self._source.block if isinstance(self._source, _LineReader) else b""

    def skip_lines(self) -> None:
        """Forget ``waiting_lines``: they have been read."""
        if isinstance(self._source, _LineReader):
            self._source.block = b""

    def receive_eof(self) -> None:
        """Take note that the stream has ended: a last line needs no line feed."""
        self._has_ended = True
        if self._source is not None:
            self._source.receive_eof()

    def next_payload(self) -> bytes | None:
        """Return the next JSON text, stripped of blanks; null if more data is needed.

        Raises:
          MessageTooLarge: as soon as that is known, which is before the message is complete.
          FramingError: a header block that cannot be read, or a body cut short by the end of the stream.
        """
        return None if self._source is None else self._source.next_payload()


class _LineReader:
    def __init__(self, max_bytes: int) -> None:
        # Whole lines that have not been cut yet.
        self.block = b""
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque()
        self._partial = bytearray()

    @property
    def is_mid_message(self) -> bool:
        return bool(self._partial) and not self._partial.isspace()

    def receive_data(self, data: bytes) -> None:
        # One search per piece: a long line that arrives in many is searched once.
        end = data.rfind(b"\n") + 1
        if end:
            self._cut()
            if self._partial:
                self.block = bytes(self._partial) + data[:end]
                self._partial.clear()
            else:
                self.block = data[:end]
            if self._lines:
                self._cut()
        self._partial += data[end:]

    def receive_eof(self) -> None:
        self._cut()
        self._lines.append(bytes(self._partial))
        self._partial.clear()

    def next_payload(self) -> bytes | None:
        self._cut()
        while self._lines:
            line = self._lines.popleft()
            if len(line) > self._max_bytes:
                raise MessageTooLarge(self._max_bytes)
            if line := line.strip(BLANK):
                return line
        if len(self._partial) > self._max_bytes:
            raise MessageTooLarge(self._max_bytes)
        return None

    def _cut(self) -> None:
        if self.block:
            self._lines.extend(self.block.split(b"\n"))
            self.block = b""


class _HeaderReader:
    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._length: int | None = None
        self._has_ended = False

    @property
    def is_mid_message(self) -> bool:
        return self._length is not None or (bool(self._buffer) and not self._buffer.isspace())

    def receive_data(self, data: bytes) -> None:
        self._buffer += data

    def receive_eof(self) -> None:
        self._has_ended = True

    def next_payload(self) -> bytes | None:
        if self._length is None:
            self._length = self._take_header()
        if self._length is None or len(self._buffer) < self._length:
            if self._has_ended and self.is_mid_message:
                raise FramingError("the stream ended in the middle of a message")
            return None
        payload, self._length = self._take(self._length), None
        return payload.strip(BLANK)

    def _take_header(self) -> int | None:
        """Remove a complete header block and return the length it announces."""
        if self._buffer[:1].isspace():
            self._buffer = self._buffer.lstrip(BLANK)
        end = _find_header_end(self._buffer)
        if end is None:
            if len(self._buffer) > MAX_HEADER_BYTES:
                raise FramingError(f"a header block is longer than {MAX_HEADER_BYTES} bytes")
            return None
        length = _read_length(self._take(end))
        if length > self._max_bytes:
            raise MessageTooLarge(self._max_bytes)
        return length

    def _take(self, count: int) -> bytes:
        with memoryview(self._buffer) as view:
            taken = bytes(view[:count])
        del self._buffer[:count]
        return taken


def _find_header_end(buffer: bytearray) -> int | None:
    """Find the first byte behind the header block (the match dies here: it pins the buffer)."""
    found = _HEADER_END.search(buffer, 0, MAX_HEADER_BYTES)
    return None if found is None else found.end()


def _read_length(block: bytes) -> int:
    lengths: set[bytes] = set()
    for line in block.split(b"\n")[:-2]:
        name, colon, value = line.partition(b":")
        if not colon:
            raise FramingError("a header line has no colon")
        if name.strip().lower() == b"content-length":
            lengths.add(value.strip())
    if len(lengths) != 1:
        raise FramingError("a message needs exactly one Content-Length")
    (digits,) = lengths
    if not digits.isdigit() or len(digits) > _MAX_LENGTH_DIGITS:
        raise FramingError("a Content-Length is no number of bytes")
    return int(digits)
