"""Carries bytes between a program's pipes and the daemon's socket, and knows nothing of what they say.

Nothing is gathered: what was read is written before more is read, so that whoever does not read holds up
whoever writes to it, and nobody else.
"""

from __future__ import annotations

import os
from _socket import SHUT_WR
from select import PIPE_BUF, POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, poll
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

# All that is ever held of one direction, in bytes.
CHUNK = 1 << 16
# How long nothing may happen after the program's last word, before its answers are given up, in seconds.
SILENCE_LIMIT = 600.0
# For the last words of a program that has left to arrive, in seconds. Editors kill what takes longer to end.
LEAVE_LIMIT = 1.0

_GONE = POLLERR | POLLHUP | POLLNVAL


class Silence(Exception):
    """The program has said its last word, and nothing has happened for ``SILENCE_LIMIT`` seconds."""


def pump(sock: socket, entry: int, out: int, told: int) -> bool:
    """Carry bytes until either side has ended; false if the daemon ended before the program did.

    After ``entry`` has ended the answers that are still to come are waited for. When nobody reads ``out`` any
    more, or ``told`` can be read, what the program has said so far is delivered, and that is all. Whoever
    opened the socket closes it.

    Raises:
      Silence: nothing happens after ``entry`` has ended.
    """
    sock.setblocking(False)
    # A pipe, or a socket in the place of one, that has room at all takes PIPE_BUF bytes without blocking.
    asking, answering = _Flow(entry, sock.fileno(), CHUNK), _Flow(sock.fileno(), out, PIPE_BUF)
    while answering.is_open:
        limit = SILENCE_LIMIT if asking.has_ended else None
        ready = _wait({told: POLLIN, out: 0}, asking, answering, limit=limit)
        if not ready:
            raise Silence
        if told in ready or ready.get(out, 0) & _GONE:
            break
        asking.go_on(ready)
        answering.go_on(ready)
        if asking.has_ended:
            sock.shutdown(SHUT_WR)
    if answering.has_ended:
        return asking.has_ended
    _leave(sock, asking)
    return True


class _Flow:
    """One direction. At most ``piece`` bytes are written at once."""

    def __init__(self, source: int, sink: int, piece: int) -> None:
        self._source = source
        self._sink = sink
        self._piece = piece
        self._held = memoryview(b"")
        self.has_ended = False
        self.is_broken = False

    def __repr__(self) -> str:
        return f"<_Flow {'open' if self.is_open else 'over'}, {len(self._held)} bytes held>"

    @property
    def is_open(self) -> bool:
        """Tell whether more can come: the source has not ended, and the sink still takes it."""
        return not (self.has_ended or self.is_broken)

    @property
    def is_empty(self) -> bool:
        """Tell whether all that was read has been written."""
        return not self._held

    @property
    def next_event(self) -> tuple[int, int]:
        """Name the descriptor that has to be ready, and for what."""
        return (self._sink, POLLOUT) if self._held else (self._source, POLLIN)

    def go_on(self, ready: dict[int, int]) -> bool:
        """Read, or write on, if what has to be ready is; false if nothing was done."""
        descriptor, event = self.next_event
        if not (self.is_open and ready.get(descriptor, 0) & (event | _GONE)):
            return False
        try:
            if self._held:
                self._held = self._held[os.write(descriptor, self._held[: self._piece]) :]
            else:
                self._held = memoryview(os.read(descriptor, CHUNK))
                self.has_ended = not self._held
        except BlockingIOError:
            return False
        except OSError:
            # A source that fails has ended; a sink that fails takes nothing more.
            self.is_broken = bool(self._held)
            self.has_ended = not self._held
        return True


def _wait(waits: dict[int, int], *flows: _Flow, limit: float | None) -> dict[int, int]:
    """Wait until something is ready; returns what, by descriptor. Empty if nothing was within the limit."""
    for descriptor, event in [flow.next_event for flow in flows if flow.is_open]:
        waits[descriptor] = waits.get(descriptor, 0) | event
    ready = poll()
    for descriptor, events in waits.items():
        ready.register(descriptor, events)
    return dict(ready.poll(None if limit is None else limit * 1000))


def _leave(sock: socket, asking: _Flow) -> None:
    """Deliver what the program has said, and wait until the daemon has taken it; its answers are dropped."""
    deadline = monotonic() + LEAVE_LIMIT
    nowhere = os.open(os.devnull, os.O_WRONLY)
    dropping = _Flow(sock.fileno(), nowhere, CHUNK)
    try:
        while dropping.is_open and (left := deadline - monotonic()) > 0:
            is_reading = asking.is_open and asking.is_empty
            ready = _wait({}, asking, dropping, limit=0 if is_reading else left)
            if not asking.go_on(ready) and is_reading:
                # What it has not said by now it will not say.
                asking.has_ended = True
            if asking.has_ended:
                sock.shutdown(SHUT_WR)
            dropping.go_on(ready)
    finally:
        os.close(nowhere)
