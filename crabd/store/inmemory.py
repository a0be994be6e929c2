"""The store that forgets: ephemeral sessions, and tests.

It keeps the promises of ``base.Store`` for as long as it lives, and knows no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import trio

from crabd.errors import NotFound, StoreError
from crabd.messages import utc_now
from crabd.store.base import (
    Created,
    Damage,
    Loaded,
    Partial,
    Record,
    SessionLog,
    SessionMeta,
    Step,
    Store,
    advance,
    begin_meta,
    slug,
)


class InMemoryStore(Store):
    """Sessions in memory. Their numbers count up from ``first_number`` over all of them."""

    def __init__(self, first_number: int = 1) -> None:
        self._numbers = count(first_number)
        self._sessions: dict[str, InMemoryLog] = {}

    def __repr__(self) -> str:
        return f"<InMemoryStore {len(self._sessions)} sessions>"

    async def open(self) -> tuple[Damage, ...]:
        return ()

    async def aclose(self) -> None:
        for log in self._sessions.values():
            await log.aclose()

    def metas(self) -> tuple[SessionMeta, ...]:
        return tuple(log.meta for log in self._sessions.values())

    def meta(self, session: str) -> SessionMeta | None:
        log = self._sessions.get(session)
        return log.meta if log else None

    def damage(self) -> tuple[Damage, ...]:
        return ()

    def is_damaged(self, session: str) -> bool:
        return False

    async def create(
        self,
        agent: str,
        sender: str,
        *,
        topic: str | None = None,
        description: str | None = None,
        cwd: str | None = None,
        parent: str | None = None,
    ) -> Loaded:
        session = f"{slug(agent)}_{slug(sender)}_{next(self._numbers)}"
        record = Created(
            session=session,
            agent=agent,
            sender=sender,
            topic=topic,
            description=description,
            cwd=cwd,
            parent=parent,
        )
        log = InMemoryLog(Step(1, utc_now(), record))
        self._sessions[session] = log
        return log.reopen()

    async def load(self, session: str) -> Loaded:
        log = self._sessions.get(session)
        if log is None:
            raise NotFound("session", session)
        if log.is_open:
            raise StoreError("locked", "its log is open already: close it first", session=session)
        return log.reopen()

    async def delete(self, session: str) -> bool:
        log = self._sessions.pop(session, None)
        if log is None:
            return False
        await log.aclose()
        return True


class InMemoryLog(SessionLog):
    """A log that is a list. Nothing in it waits, so all of an append happens at once."""

    def __init__(self, first: Step) -> None:
        self._meta = begin_meta(first)
        self._steps = [first]
        self.is_open = False

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<InMemoryLog {self._meta.id} {state}, {len(self._steps)} steps>"

    @property
    def meta(self) -> SessionMeta:
        return self._meta

    @property
    def size(self) -> int:
        # Nobody counts what never leaves memory; a thousand bytes are what a step takes on a disk.
        return 1000 * len(self._steps)

    def reopen(self) -> Loaded:
        self.is_open = True
        return Loaded(self, tuple(self._steps))

    async def append(self, records: Sequence[Record]) -> tuple[Step, ...]:
        if not self.is_open:
            raise StoreError("io", "its log is closed: load the session again", session=self._meta.id)
        steps = tuple(Step(n, utc_now(), record) for n, record in enumerate(records, self._meta.steps + 1))
        for step in steps:
            self._steps.append(step)
            self._meta = advance(self._meta, step)
        # Others get their turn when all is done, so that no append is ever half there.
        await trio.lowlevel.cancel_shielded_checkpoint()
        return steps

    async def keep_partial(self, piece: Partial, *, is_first: bool) -> None:
        """Do nothing: this log does not outlive the run."""

    async def checkpoint(self) -> None:
        """Do nothing: the meta is always there."""

    async def aclose(self) -> None:
        self.is_open = False
