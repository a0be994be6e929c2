"""Wait for all sockets of a server in one task, and send what has gathered once a scheduler pass.

A task of its own for each link costs trio a wake-up, and a call to re-arm the socket, with every request.
Here one epoll instance watches them all, and trio watches that. Knows sockets and call-backs, and nothing of
what is said on them.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import trio

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
# The other end is gone in both directions. Reported without being asked for.
HUNG_UP: Final = select.EPOLLHUP | select.EPOLLERR

# How often the sockets are looked at again before other tasks have their turn. A client that waits for its
# answer before it asks again is often back by then, and a pass of the scheduler costs more than its request.
_LOOKS = 4
# How many passes what gathers for many may wait while each of them adds to it: to send to every link with
# each pass costs far more than the pass. Where nothing is added it waits for one.
_GATHERING_PASSES = 8


class Outbox(Protocol):
    """Something that gathers what it has to send."""

    def flush(self) -> None:
        """Send what has gathered, as far as that goes without waiting. Must not raise."""
        ...


class Reactor:
    """The sockets that are watched, and the outboxes that have something to send."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        # Those that have something to send, in the order in which they came by it. To be read only.
        self.outboxes: deque[Outbox] = deque()
        # Those of them that may wait, how often they were added to, and whether some other may not.
        self._gathering: set[Outbox] = set()
        self._additions = 0
        self._is_urgent = False
        self._idle_flusher = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Reactor {len(self._callbacks)} sockets, {len(self.outboxes)} outboxes>"

    async def run(self) -> None:
        """Call back whoever can go on, until cancelled. To be called once."""
        with self._poll:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._flush_each_pass)
                await self._watch()

    def add(self, fd: int, callback: Callable[[int], None], interest: int) -> None:
        """Watch a socket. ``callback`` gets what it is ready for; it must neither block nor raise.

        What is ready is reported until it is used up or no longer of ``interest``.
        """
        self._callbacks[fd] = callback
        self._poll.register(fd, interest)

    def change(self, fd: int, interest: int) -> None:
        """Watch a socket for something else; ``HUNG_UP`` is always reported."""
        self._poll.modify(fd, interest)

    def remove(self, fd: int) -> None:
        """Watch a socket no more. To be called before it is closed."""
        del self._callbacks[fd]
        # When everything is cancelled together, the reactor may be gone first.
        if not self._poll.closed:
            self._poll.unregister(fd)

    def flush_soon(self, outbox: Outbox) -> None:
        """Flush an outbox once the tasks that can run now have run: what they add goes with it."""
        self._is_urgent = True
        self._add(outbox)

    def gather(self, outbox: Outbox) -> None:
        """Flush an outbox once a pass has added nothing to it, or after a few passes.

        To be called with each addition. It does not wait where something else is to be flushed.
        """
        self._additions += 1
        if outbox not in self._gathering:
            self._gathering.add(outbox)
            self._add(outbox)

    def flush(self) -> None:
        """Flush at once all that has gathered, in the order in which it did."""
        self._gathering.clear()
        while self.outboxes:
            self.outboxes.popleft().flush()
        self._is_urgent = False

    async def _watch(self) -> None:
        poll, callbacks = self._poll.poll, self._callbacks
        while True:
            await trio.lowlevel.wait_readable(self._poll.fileno())
            for _ in range(_LOOKS):
                ready = poll(0)
                if not ready:
                    break
                for fd, readiness in ready:
                    # One that was called before may have closed this one.
                    if (callback := callbacks.get(fd)) is not None:
                        callback(readiness)

    def _add(self, outbox: Outbox) -> None:
        if not self.outboxes:
            self._idle_flusher.unpark()
        self.outboxes.append(outbox)

    async def _flush_each_pass(self) -> None:
        while True:
            await self._until_gathered()
            self.flush()
            await self._idle_flusher.park()

    async def _until_gathered(self) -> None:
        """Let what may wait gather, for some passes at most."""
        patience = 0
        for _ in range(_GATHERING_PASSES):
            if self._is_urgent or not self._gathering:
                return
            before = self._additions
            await trio.lowlevel.checkpoint()
            if self._additions != before:
                # Of two passes one may seem quiet, for the tasks of each run in any order.
                patience = 1
            elif patience:
                patience = 0
            else:
                return
