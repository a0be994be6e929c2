"""Blocking calls in threads of the store's own, so that the event loop never waits for a disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, TypeVarTuple

import trio

# Enough for the syncs of busy sessions to overlap; more than these wait their turn.
THREADS = 8
# A reply is written down as it comes without a sync, which no sync of others may hold up.
UNSYNCED_THREADS = 2
# The way into a thread and back takes as long as a fast disk's sync, so calls that have to wait for a thread
# go several together; not more than these, for each is answered only when all of them are done.
MOST_TOGETHER = 16

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Args = TypeVarTuple("Args")


class Threads:
    """So many threads for each kind of call. What has begun is waited for in any case."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(THREADS)
        self._syncing = _Line(THREADS)
        self._unsynced = _Line(UNSYNCED_THREADS)

    async def run(self, work: Callable[[*Args], T], *args: *Args) -> T:
        """Make one call."""
        return await trio.to_thread.run_sync(work, *args, limiter=self._limiter)

    async def run_together(self, work: Callable[[], T]) -> T:
        """Make a short call, in one go with those of others if it has to wait. Once in line it is made."""
        return await self._syncing.run(work)

    async def run_unsynced(self, work: Callable[[], T]) -> T:
        """Like ``run_together`` for a call that syncs nothing, and not behind those that do."""
        return await self._unsynced.run(work)


class _Line:
    """Short calls that wait for a few threads, and go several together."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._limiter = trio.CapacityLimiter(threads)
        self._idle = threads
        # Something waits only while no thread is idle.
        self._waiting: deque[_Job[object]] = deque()

    async def run(self, work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        job = _Job(work)
        # It lasts as long as the disk takes for those in front, as a call that has begun does.
        with trio.CancelScope(shield=True):
            if self._idle:
                self._idle -= 1
                await self._do([job])
            else:
                self._waiting.append(job)
                await job.turn.wait()
                if job.charges:
                    await self._do(job.charges)
        return job.result()

    async def _do(self, jobs: Sequence[_Job[object]]) -> None:
        try:
            await trio.to_thread.run_sync(_do_all, jobs, limiter=self._limiter)
        finally:
            for job in jobs:
                job.turn.set()
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the thread to those that wait, or back."""
        if not self._waiting:
            self._idle += 1
            return
        # The others are for the threads that are about to be idle.
        share = min(MOST_TOGETHER, -(-len(self._waiting) // self._threads))
        jobs = [self._waiting.popleft() for _ in range(share)]
        jobs[0].charges = jobs
        jobs[0].turn.set()


class _Job(Generic[T_co]):
    """A call. Its ``turn`` has come when it is done, or is to be done by its caller with its ``charges``."""

    def __init__(self, work: Callable[[], T_co]) -> None:
        self._work = work
        self._outcome: tuple[T_co] | Exception | None = None
        self.turn = trio.Event()
        self.charges: Sequence[_Job[object]] = ()

    def do(self) -> None:
        try:
            self._outcome = (self._work(),)
        except Exception as exc:
            self._outcome = exc

    def result(self) -> T_co:
        assert self._outcome is not None, "it is done"
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome[0]


def _do_all(jobs: Sequence[_Job[object]]) -> None:
    for job in jobs:
        job.do()
