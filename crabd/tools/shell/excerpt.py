"""The head and the tail of an output that may have no end, in a bounded room.

Knows nothing of processes or text: it is fed bytes.
"""

from __future__ import annotations


class Excerpt:
    """Takes an output piece by piece and keeps the first half of ``max_bytes`` and the last."""

    def __init__(self, max_bytes: int) -> None:
        self._head_room = max_bytes // 2
        self._tail_room = max_bytes - self._head_room
        self._head = bytearray()
        self._rest = bytearray()
        self.total = 0

    def __repr__(self) -> str:
        return f"<Excerpt of {self.total} bytes, {self.dropped} dropped>"

    @property
    def head(self) -> bytes:
        return bytes(self._head)

    @property
    def tail(self) -> bytes:
        """The end of what does not fit into the head."""
        return bytes(self._rest[max(0, len(self._rest) - self._tail_room) :])

    @property
    def dropped(self) -> int:
        """How many bytes are missing between head and tail."""
        return self.total - len(self._head) - min(len(self._rest), self._tail_room)

    def feed(self, data: bytes) -> None:
        room = self._head_room - len(self._head)
        self._head += data[:room]
        self._rest += data[room:]
        self.total += len(data)
        # Not at every piece, so that a byte is moved once on average.
        if len(self._rest) > 2 * self._tail_room:
            del self._rest[: len(self._rest) - self._tail_room]
