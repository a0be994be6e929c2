"""The store that forgets: ephemeral sessions, and tests.

It keeps the promises of ``base.Store`` for as long as it lives, and knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from crabd.errors import NotFound, StoreError
from crabd.messages import utc_now
from crabd.store.base import Damage, Loaded, Partial, SessionLog, Store, both, ignore
from crabd.store.meta import Deletion, SessionMeta, add_up, advance, note_deletion, still_known
from crabd.store.names import choose_number, slug
from crabd.store.record import Created, Record, Step, check_log, rename_log


class InMemoryStore(Store):
    """Sessions in memory. Their numbers count up from ``first_number`` over all of them."""

    def __init__(self, first_number: int = 1) -> None:
        self._largest = first_number - 1
        self._sessions: dict[str, InMemoryLog] = {}
        self._deletions: tuple[Deletion, ...] = ()
        self._notify: Callable[[str], None] = ignore

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
        request_key: str | None = None,
    ) -> Loaded:
        session = self._choose_id(agent, sender)
        record = Created(
            session=session,
            agent=agent,
            sender=sender,
            topic=topic,
            description=description,
            cwd=cwd,
            parent=parent,
            request_key=request_key,
        )
        log = InMemoryLog((Step(1, utc_now(), record),), lambda changed: self._notify(changed))
        self._sessions[session] = log
        self._notify(session)
        return log.reopen()

    async def restore(self, steps: Sequence[Step]) -> SessionMeta:
        blank = check_log(steps)
        session = self._choose_id(blank.agent, blank.sender, blank.session)
        log = InMemoryLog(rename_log(steps, session), lambda changed: self._notify(changed))
        self._sessions[session] = log
        self._notify(session)
        return log.meta

    async def load(self, session: str) -> Loaded:
        log = self._sessions.get(session)
        if log is None:
            raise NotFound("session", session)
        if log.is_open:
            raise StoreError("locked", "its log is open already: close it first", session=session)
        return log.reopen()

    async def read(self, session: str, *, after: int = 0, upto: int | None = None) -> tuple[Step, ...]:
        log = self._sessions.get(session)
        if log is None:
            raise NotFound("session", session)
        return log.steps(after, upto)

    def on_commit(self, notify: Callable[[str], None]) -> None:
        self._notify = both(self._notify, notify)

    async def sizes(self) -> dict[str, int]:
        return {name: log.size for name, log in self._sessions.items()}

    def check_room(self) -> None:
        """Do nothing: nobody knows how much memory there is."""

    async def save_catalogue(self) -> None:
        pass

    async def delete(self, session: str, *, request_key: str | None = None) -> bool:
        log = self._sessions.pop(session, None)
        if log is None:
            return False
        self._notify(session)
        now = utc_now()
        if deletion := note_deletion(session, log.meta, request_key, now):
            self._deletions = still_known((*self._deletions, deletion), now)
        await log.aclose()
        return True

    def deletions(self) -> tuple[Deletion, ...]:
        return still_known(self._deletions, utc_now())

    def _choose_id(self, agent: str, sender: str, wanted: str = "") -> str:
        pair = f"{slug(agent)}_{slug(sender)}"
        self._largest = choose_number(wanted, pair, self._largest)
        return f"{pair}_{self._largest}"


class InMemoryLog(SessionLog):
    """A log that is a list. Nothing in it waits, so all of an append happens at once."""

    def __init__(self, steps: Sequence[Step], notify: Callable[[str], None] = ignore) -> None:
        self._meta = add_up(steps)
        self._steps = list(steps)
        self._notify = notify
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

    def steps(self, after: int, upto: int | None) -> tuple[Step, ...]:
        """List the steps numbered above ``after``, up to ``upto`` or to the end."""
        return tuple(self._steps[after:upto])

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
        if steps:
            self._notify(self._meta.id)
        # Others get their turn when all is done, so that no append is ever half there.
        await trio.lowlevel.cancel_shielded_checkpoint()
        return steps

    async def keep_partial(self, piece: Partial, *, is_first: bool) -> None:
        """Do nothing: this log does not outlive the run."""

    async def checkpoint(self) -> None:
        """Do nothing: the meta is always there."""

    async def aclose(self) -> None:
        self.is_open = False
