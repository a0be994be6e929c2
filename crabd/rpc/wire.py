"""A socket that is read when there is something to read, and written without ever waiting.

What the kernel does not take at once is kept, and goes when it takes more. Knows bytes, not messages.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import structlog
import trio

from crabd.rpc.reactor import HUNG_UP, READABLE, WRITABLE, Reactor

# One read serves one wake-up, so that a peer that never pauses cannot starve the others.
READ_BYTES = 64 * 1024

_log = structlog.get_logger()


class Wire:
    """A connected stream socket, which is ours from here on.

    ``on_data`` gets what was read, once a wake-up, and empty bytes at the end of the stream. ``on_room`` is
    called when the kernel has taken more, ``on_gone`` when the other end is not there any more, or one of the
    others has failed. None of them may block.
    """

    def __init__(
        self,
        sock: socket.socket,
        reactor: Reactor,
        *,
        on_data: Callable[[bytes], None],
        on_room: Callable[[], None],
        on_gone: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        # What the kernel has not taken yet. To be read only.
        self.unsent: bytes | memoryview = b""
        self._sock = sock
        self._reactor = reactor
        self._on_data = on_data
        self._on_room = on_room
        self._on_gone = on_gone
        self._is_reading = True
        self._wants_room = False
        # What the reactor watches for; null while it does not.
        self._interest: int | None = None

    def open(self) -> None:
        """Begin to read."""
        self._interest = self._wanted()
        self._reactor.add(self._sock.fileno(), self._on_ready, self._interest)

    def read(self, is_wanted: bool) -> None:
        """Read on, or read no more."""
        self._is_reading = is_wanted
        self._watch()

    def ask_for_room(self) -> None:
        """Have ``on_room`` called when others have had their turn, even if nothing is unsent."""
        self._wants_room = True
        self._watch()

    def write(self, data: bytes) -> bool:
        """Send, behind which nothing may be unsent; tell whether the kernel took it all.

        Raises:
          OSError: the other end is gone.
        """
        # Nearly always the kernel takes it all; the rest of this module is for when it does not.
        try:
            count = self._sock.send(data)
        except BlockingIOError:
            count = 0
        if count == len(data):
            return True
        self.unsent = memoryview(data)[count:]
        return self.write_rest()

    def write_rest(self) -> bool:
        """Send what is unsent, as ``write``."""
        try:
            while self.unsent:
                count = self._sock.send(self.unsent)
                self.unsent = memoryview(self.unsent)[count:] if count < len(self.unsent) else b""
        except BlockingIOError:
            self._watch()
            return False
        return True

    def close(self) -> None:
        """Close the socket; what is unsent is lost. Idempotent."""
        self.stop()
        self._sock.close()

    def stop(self) -> None:
        """Neither read nor write any more. Idempotent."""
        if self._interest is not None:
            self._interest = None
            self._reactor.remove(self._sock.fileno())

    async def linger(self) -> None:
        """Say that no more is to come, and throw away what the other end still writes, until it ends.

        Closing a socket with unread bytes resets it: what was written last would be lost on the other end.

        Raises:
          OSError: the other end is gone.
        """
        self.stop()
        self._sock.shutdown(socket.SHUT_WR)
        await trio.lowlevel.wait_readable(self._sock)
        while self._sock.recv(READ_BYTES):
            await trio.lowlevel.wait_readable(self._sock)

    def _wanted(self) -> int:
        return (READABLE if self._is_reading else 0) | (WRITABLE if self.unsent or self._wants_room else 0)

    def _watch(self) -> None:
        wanted = self._wanted()
        if self._interest is not None and self._interest != wanted:
            self._interest = wanted
            self._reactor.change(self._sock.fileno(), wanted)

    def _on_ready(self, readiness: int) -> None:
        try:
            if readiness & WRITABLE:
                self._wants_room = False
                self.write_rest()
                self._on_room()
                self._watch()
            if readiness & READABLE and self._is_reading:
                self._read()
            elif readiness & HUNG_UP:
                self._on_gone()
        except OSError:
            self._on_gone()
        except Exception:
            # One link's trouble is no other's.
            _log.exception("link_failed")
            self._on_gone()

    def _read(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        self._on_data(data)
