"""The store on disk: one append-only file of JSON lines per session, synced at every append.

This module awaits; ``root`` and what it stands on block, each call in a thread of the store's own. It does
not know how a line is spelled or what a crash leaves behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import trio

from crabd.errors import NotFound, StoreError
from crabd.messages import utc_now
from crabd.store.base import (
    Created,
    Damage,
    Deletion,
    Loaded,
    Partial,
    Record,
    SessionLog,
    SessionMeta,
    Step,
    Store,
    advance,
    begin_meta,
    ignore,
    note_deletion,
    still_known,
)
from crabd.store.disk import JournalFile, disk_errors
from crabd.store.partial import PartialFile
from crabd.store.record import encode_append
from crabd.store.recovery import save_meta
from crabd.store.root import StoreRoot

# Enough for the syncs of busy sessions to overlap; more than these wait their turn.
DISK_THREADS = 8
# A reply is written down as it comes without a sync, which no sync of others may hold up.
PARTIAL_THREADS = 2
# Closing waits for an append that has begun. A disk that takes longer than this has other troubles.
CLOSE_SECONDS = 30.0

T = TypeVar("T")
Args = TypeVarTuple("Args")


class JournalStore(Store):
    """Sessions in the directory ``root``, which is made if need be. One process holds it at a time."""

    def __init__(self, root: Path) -> None:
        self._root = StoreRoot(root)
        self._threads = trio.CapacityLimiter(DISK_THREADS)
        self._partial_threads = trio.CapacityLimiter(PARTIAL_THREADS)
        # Creating, loading and deleting come one after another: they decide who has a session and its number.
        self._door = trio.Lock()
        self._metas: dict[str, SessionMeta] = {}
        self._damaged: dict[str, Damage] = {}
        self._notes: list[Damage] = []
        self._logs: dict[str, JournalLog] = {}
        self._notify: Callable[[str], None] = ignore

    def __repr__(self) -> str:
        state = "open" if self._root.is_held else "closed"
        return f"<JournalStore {state}, {len(self._metas)} sessions, {len(self._logs)} logs open>"

    async def open(self) -> tuple[Damage, ...]:
        with disk_errors("opening the session store"):
            survey = await trio.to_thread.run_sync(self._root.take, limiter=self._threads)
        self._metas = {name: found.meta for name, found in survey.sessions.items() if found.meta}
        self._damaged = {
            name: Damage(name, found.problem) for name, found in survey.sessions.items() if found.problem
        }
        self._notes = [
            *survey.notes,
            *(Damage(name, note) for name, found in survey.sessions.items() for note in found.notes),
        ]
        return self.damage()

    async def aclose(self) -> None:
        for log in tuple(self._logs.values()):
            await log.aclose()
        self._root.release()

    def metas(self) -> tuple[SessionMeta, ...]:
        return tuple(self._metas.values())

    def meta(self, session: str) -> SessionMeta | None:
        return self._metas.get(session)

    def damage(self) -> tuple[Damage, ...]:
        return (*self._notes, *self._damaged.values())

    def is_damaged(self, session: str) -> bool:
        return session in self._damaged

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
        blank = Created(
            session="",
            agent=agent,
            sender=sender,
            topic=topic,
            description=description,
            cwd=cwd,
            parent=parent,
            request_key=request_key,
        )
        async with self._door:
            first, file = await self.on_disk("making a session", None, self._root.create, blank)
            loaded = Loaded(self._add_log(begin_meta(first), file), (first,))
            self._notify(loaded.log.meta.id)
            return loaded

    async def load(self, session: str) -> Loaded:
        async with self._door:
            # Only names that were found in the grammar are in these, so no other can become a path.
            if session not in self._metas and session not in self._damaged:
                raise NotFound("session", session)
            if session in self._logs:
                raise StoreError("locked", "its log is open already: close it first", session=session)
            opened = await self.on_disk("loading a session", session, self._root.load, session)
            self._notes += (Damage(session, note) for note in opened.found.notes)
            if opened.file is None or opened.found.meta is None:
                problem = opened.found.problem or "it cannot be read"
                self._damaged[session] = Damage(session, problem)
                raise StoreError("damaged", problem, session=session)
            # It may have been damaged before, and restored by a person since.
            self._damaged.pop(session, None)
            return Loaded(self._add_log(opened.found.meta, opened.file), opened.steps, opened.partial)

    async def read(self, session: str, *, after: int = 0) -> tuple[Step, ...]:
        if session not in self._metas and session not in self._damaged:
            raise NotFound("session", session)
        log = self._logs.get(session)
        # Of an open log only so much is acknowledged.
        size = log.size if log else None
        return await self.on_disk("reading a session", session, self._root.read, session, size, after)

    def on_commit(self, notify: Callable[[str], None]) -> None:
        self._notify = notify

    async def delete(self, session: str, *, request_key: str | None = None) -> bool:
        async with self._door:
            if session not in self._metas and session not in self._damaged:
                return False
            if log := self._logs.get(session):
                await log.abandon()
            deletion = note_deletion(session, self._metas.get(session), request_key, utc_now())
            await self.on_disk("deleting a session", session, self._root.remove, session, deletion)
            self._metas.pop(session, None)
            self._damaged.pop(session, None)
            self._notify(session)
            return True

    def deletions(self) -> tuple[Deletion, ...]:
        return still_known(self._root.deletions, utc_now())

    async def on_disk(self, doing: str, session: str | None, work: Callable[[*Args], T], *args: *Args) -> T:
        """Run a blocking call in a thread; once it has begun it is waited for, whatever is cancelled.

        Raises:
          StoreError: for the system's errors, and when the store is not open.
        """
        return await self._run(self._threads, doing, session, work, *args)

    async def beside_syncs(
        self, doing: str, session: str, work: Callable[[*Args], None], *args: *Args
    ) -> None:
        """Run a blocking call that syncs nothing, as ``on_disk``, and not behind those that do."""
        await self._run(self._partial_threads, doing, session, work, *args)

    def home(self, session: str) -> Path:
        """Name the directory of a session that is in the store."""
        return self._root.home(session)

    def keep(self, meta: SessionMeta) -> None:
        """Take note of what a log has come to."""
        self._metas[meta.id] = meta
        self._notify(meta.id)

    def forget_log(self, session: str) -> None:
        """Take note that a log is closed."""
        del self._logs[session]

    async def _run(
        self,
        threads: trio.CapacityLimiter,
        doing: str,
        session: str | None,
        work: Callable[[*Args], T],
        *args: *Args,
    ) -> T:
        if not self._root.is_held:
            raise StoreError("io", "the session store is closed", session=session)
        with disk_errors(doing, session):
            return await trio.to_thread.run_sync(work, *args, limiter=threads)

    def _add_log(self, meta: SessionMeta, file: JournalFile) -> JournalLog:
        self._metas[meta.id] = meta
        log = self._logs[meta.id] = JournalLog(self, meta, file)
        return log


class JournalLog(SessionLog):
    """The log of a session in a ``JournalStore``, which makes it."""

    def __init__(self, store: JournalStore, meta: SessionMeta, file: JournalFile) -> None:
        self._store = store
        self._meta = meta
        self._file = file
        self._partial = PartialFile(store.home(meta.id))
        self._turn = trio.Lock()
        self._partial_turn = trio.Lock()
        self._is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open"
        return f"<JournalLog {self._meta.id} {state}, {self._meta.steps} steps>"

    @property
    def meta(self) -> SessionMeta:
        return self._meta

    @property
    def size(self) -> int:
        return self._file.size

    async def append(self, records: Sequence[Record]) -> tuple[Step, ...]:
        self._refuse_if_closed()
        if not records:
            return ()
        async with self._turn:
            steps, meta = await self._store.on_disk(
                "saving records", self._meta.id, self._write, tuple(records)
            )
            self._meta = meta
            self._store.keep(meta)
            return steps

    async def keep_partial(self, piece: Partial, *, is_first: bool) -> None:
        async with self._partial_turn:
            if not self._is_closed:
                await self._store.beside_syncs(
                    "keeping a part of a reply", self._meta.id, self._partial.write, piece, is_first
                )

    async def checkpoint(self) -> None:
        self._refuse_if_closed()
        async with self._turn:
            await self._save_meta()

    async def aclose(self) -> None:
        await self._close(is_kept=True)

    async def abandon(self) -> None:
        """Give the files of a session back that is about to be deleted. Like ``aclose`` in all else."""
        await self._close(is_kept=False)

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise StoreError("io", "its log is closed: load the session again", session=self._meta.id)

    def _write(self, records: tuple[Record, ...]) -> tuple[tuple[Step, ...], SessionMeta]:
        """Append in the thread. Only the holder of the turn comes here, so the meta stands still."""
        meta = self._meta
        steps = tuple(Step(n, utc_now(), record) for n, record in enumerate(records, meta.steps + 1))
        self._file.append(encode_append(steps))
        for step in steps:
            meta = advance(meta, step)
        return steps, meta

    async def _save_meta(self) -> None:
        await self._store.on_disk("saving what a log adds up to", self._meta.id, self._write_meta)

    def _write_meta(self) -> None:
        """Save the meta in the thread. It vouches for the file, so the file must be in no doubt."""
        self._file.mend()
        save_meta(self._store.home(self._meta.id), self._meta, self._file.size, self._file.checksum)

    async def _close(self, *, is_kept: bool) -> None:
        if self._is_closed:
            return
        # From here on appends are refused; those that wait already have their turn before this.
        self._is_closed = True
        with trio.move_on_after(CLOSE_SECONDS) as scope:
            scope.shield = True
            async with self._turn, self._partial_turn:
                try:
                    if is_kept:
                        with suppress(StoreError):
                            await self._save_meta()
                finally:
                    self._partial.close()
                    self._file.close()
                    self._store.forget_log(self._meta.id)
