"""Server-sent events: bytes in, the data of each event out. It knows no JSON and no model server.

After https://html.spec.whatwg.org/multipage/server-sent-events.html, less what model servers do not use:
event names, ids and retry times are skipped.
"""

from __future__ import annotations

# A tool call's arguments may come as one event, and may hold a file; beyond this nobody means it.
MAX_EVENT_BYTES = 8 * 1024 * 1024


class EventTooLong(Exception):
    """An event has outgrown ``MAX_EVENT_BYTES``; nothing sensible can follow."""

    def __str__(self) -> str:
        return f"an event is longer than {MAX_EVENT_BYTES} bytes"


class EventParser:
    """Cut a stream of bytes into events, wherever the network has cut it."""

    def __init__(self) -> None:
        # The line that is not complete yet, in pieces: joining them at every feed would be quadratic.
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes and return the data of every event they complete; events without data are skipped.

        Raises:
          EventTooLong: the parser is of no more use.
        """
        *ended, rest = self._one_newline(data).split(b"\n")
        events: list[bytes] = []
        for end in ended:
            self._grow(end)
            line = b"".join(self._line)
            self._line.clear()
            if line:
                self._add_line(line)
            else:
                if self._data:
                    events.append(b"\n".join(self._data))
                self._data.clear()
                self._size = 0
        if rest:
            self._grow(rest)
        return events

    def _one_newline(self, data: bytes) -> bytes:
        """Turn CRLF and CR into LF. A CR ends its line at once; an LF that follows belongs to it."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _grow(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLong
        self._line.append(piece)

    def _add_line(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
