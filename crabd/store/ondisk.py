"""The stores on disk: sessions in a directory that one process holds, each log synced at every append.

This module awaits; ``root``, and the layout by which a backend keeps a session, block, each call in a thread
of the store's own. It does not know what a session's files are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import trio

from crabd.errors import NotFound, StoreError
from crabd.messages import utc_now
from crabd.store.base import Damage, Loaded, Partial, SessionLog, Store, both, ignore
from crabd.store.disk import disk_errors
from crabd.store.doctor.treatment import Held, Ward
from crabd.store.layout import Found, Layout, SessionFiles
from crabd.store.meta import Deletion, SessionMeta, advance, begin_meta, note_deletion, still_known
from crabd.store.partial import PartialFile
from crabd.store.record import Created, Record, Step
from crabd.store.root import StoreRoot
from crabd.store.threads import Threads

# Closing waits for an append that has begun. A disk that takes longer than this has other troubles.
CLOSE_SECONDS = 30.0

T = TypeVar("T")
Args = TypeVarTuple("Args")


class DiskStore(Store, Ward):
    """Sessions in the directory ``root``, which is made if need be, each kept as ``layout`` has it.

    One process holds it at a time.
    """

    def __init__(self, root: Path, layout: Layout) -> None:
        # What the setting ``store`` calls it.
        self.name = layout.name
        self._root = StoreRoot(root, layout)
        self._threads = Threads()
        # Creating, loading and deleting come one after another: they decide who has a session and its number.
        self._door = trio.Lock()
        self._metas: dict[str, SessionMeta] = {}
        self._damaged: dict[str, Damage] = {}
        self._notes: list[Damage] = []
        self._logs: dict[str, DiskLog] = {}
        self._notify: Callable[[str], None] = ignore

    def __repr__(self) -> str:
        state = "open" if self._root.is_held else "closed"
        return f"<{type(self).__name__} {state}, {len(self._metas)} sessions, {len(self._logs)} logs open>"

    async def open(self) -> tuple[Damage, ...]:
        with disk_errors("opening the session store"):
            survey = await self._threads.run(self._root.take)
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
        if self._root.is_held:
            with suppress(StoreError):
                await self.save_catalogue()
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
            first, files = await self.on_disk("making a session", None, self._root.create, blank)
            loaded = Loaded(self._add_log(begin_meta(first), files), (first,))
            self._notify(loaded.log.meta.id)
            return loaded

    async def restore(self, steps: Sequence[Step]) -> SessionMeta:
        async with self._door:
            meta = await self.on_disk("restoring a session", None, self._root.restore, steps)
            self._metas[meta.id] = meta
            self._notify(meta.id)
            return meta

    async def load(self, session: str) -> Loaded:
        async with self._door:
            self._refuse_if_unknown(session)
            if session in self._logs:
                raise StoreError("locked", "its log is open already: close it first", session=session)
            opened = await self.on_disk("loading a session", session, self._root.load, session)
            self._notes += (Damage(session, note) for note in opened.found.notes)
            if opened.files is None or opened.found.meta is None:
                problem = opened.found.problem or "it cannot be read"
                self._damaged[session] = Damage(session, problem)
                raise StoreError("damaged", problem, session=session)
            # It may have been damaged before, and restored by a person since.
            self._damaged.pop(session, None)
            log = self._add_log(opened.found.meta, opened.files)
            return Loaded(log, opened.steps, opened.partial, opened.goal)

    async def read(self, session: str, *, after: int = 0, upto: int | None = None) -> tuple[Step, ...]:
        self._refuse_if_unknown(session)
        meta = None if session in self._damaged else self._metas.get(session)
        if meta is not None:
            # What an open log has beyond these is not acknowledged.
            upto = meta.steps if upto is None else min(upto, meta.steps)
        try:
            return await self.on_disk("reading a session", session, self._root.read, session, after, upto)
        except StoreError:
            # A deletion may have taken it away meanwhile; once the door is free it has come to its end.
            async with self._door:
                self._refuse_if_unknown(session)
            raise

    def on_commit(self, notify: Callable[[str], None]) -> None:
        self._notify = both(self._notify, notify)

    async def sizes(self) -> dict[str, int]:
        return await self.on_disk("measuring the sessions", None, self._root.sizes)

    def check_room(self) -> None:
        with disk_errors("a new run"):
            self._root.check_room()

    async def save_catalogue(self) -> None:
        await self.on_disk("saving the catalogue", None, self._root.save_catalogue)

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

    async def look_around(self, look: Callable[[], None]) -> None:
        """Have ``look`` called in a thread while no session comes, goes or is loaded.

        Raises:
          StoreError: the store is not open.
        """
        async with self._door:
            await self.on_disk("checking the store", None, look)

    async def look_into(self, session: str, look: Callable[[Held | None], bool]) -> None:
        """Have ``look`` called in a thread while nobody loads the session or writes to it.

        It is told what an open log holds, and must change nothing then; else it may, and tells if it has.

        Raises:
          StoreError: as ``look_around``.
        """
        async with self._door:
            if log := self._logs.get(session):
                await log.look_into(look)
            elif await self.on_disk("checking a session", session, look, None):
                found = await self.on_disk("checking a session", session, self._root.look_again, session)
                self._believe(session, found)

    def _believe(self, session: str, found: Found | None) -> None:
        """Take note of what has become of a session while its log was closed; null if it is gone."""
        self._metas.pop(session, None)
        self._damaged.pop(session, None)
        if found is not None and found.meta is not None:
            self._metas[session] = found.meta
        if found is not None and found.problem is not None:
            self._damaged[session] = Damage(session, found.problem)
        self._notify(session)

    async def on_disk(self, doing: str, session: str | None, work: Callable[[*Args], T], *args: *Args) -> T:
        """Run a blocking call in a thread; once it has begun it is waited for, whatever is cancelled.

        Raises:
          StoreError: for the system's errors, and when the store is not open.
        """
        self._refuse_if_closed(session)
        with disk_errors(doing, session):
            return await self._threads.run(work, *args)

    async def commit(self, doing: str, session: str, work: Callable[[], T]) -> T:
        """Like ``on_disk`` for what many sessions do at the same time, and what is soon done.

        Raises:
          StoreError: likewise.
        """
        self._refuse_if_closed(session)
        with disk_errors(doing, session):
            return await self._threads.run_together(work)

    async def beside_syncs(self, doing: str, session: str, work: Callable[[], None]) -> None:
        """Like ``on_disk`` for what syncs nothing.

        Raises:
          StoreError: likewise.
        """
        self._refuse_if_closed(session)
        with disk_errors(doing, session):
            await self._threads.run_unsynced(work)

    def _refuse_if_unknown(self, session: str) -> None:
        # Only names that were found in the grammar are in these, so no other can become a path.
        if session not in self._metas and session not in self._damaged:
            raise NotFound("session", session)

    def _refuse_if_closed(self, session: str | None) -> None:
        if not self._root.is_held:
            raise StoreError("io", "the session store is closed", session=session)

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

    def _add_log(self, meta: SessionMeta, files: SessionFiles) -> DiskLog:
        self._metas[meta.id] = meta
        log = self._logs[meta.id] = DiskLog(self, meta, files)
        return log


class DiskLog(SessionLog):
    """The log of a session in a ``DiskStore``, which makes it."""

    def __init__(self, store: DiskStore, meta: SessionMeta, files: SessionFiles) -> None:
        self._store = store
        self._meta = meta
        self._files = files
        self._partial = PartialFile(store.home(meta.id))
        self._turn = trio.Lock()
        self._partial_turn = trio.Lock()
        self._is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open"
        return f"<DiskLog {self._meta.id} {state}, {self._meta.steps} steps>"

    @property
    def meta(self) -> SessionMeta:
        return self._meta

    @property
    def size(self) -> int:
        return self._files.size

    async def append(self, records: Sequence[Record]) -> tuple[Step, ...]:
        self._refuse_if_closed()
        if not records:
            return ()
        async with self._turn:
            work = partial(self._write, tuple(records))
            steps, meta = await self._store.commit("saving records", self._meta.id, work)
            self._meta = meta
            self._store.keep(meta)
            return steps

    async def keep_partial(self, piece: Partial, *, is_first: bool) -> None:
        async with self._partial_turn:
            if not self._is_closed:
                write = partial(self._partial.write, piece, is_first)
                await self._store.beside_syncs("keeping a part of a reply", self._meta.id, write)

    async def checkpoint(self) -> None:
        self._refuse_if_closed()
        async with self._turn:
            await self._save_meta()

    async def aclose(self) -> None:
        await self._close(is_kept=True)

    async def abandon(self) -> None:
        """Give the files of a session back that is about to be deleted. Like ``aclose`` in all else."""
        await self._close(is_kept=False)

    async def look_into(self, look: Callable[[Held | None], bool]) -> None:
        """Have ``look`` called in a thread with what is acknowledged, while nobody writes."""
        async with self._turn:
            held = Held(self._files.size, self._files.checksum, self._meta)
            await self._store.on_disk("checking a session", self._meta.id, look, held)

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise StoreError("io", "its log is closed: load the session again", session=self._meta.id)

    def _write(self, records: tuple[Record, ...]) -> tuple[tuple[Step, ...], SessionMeta]:
        """Append in the thread. Only the holder of the turn comes here, so the meta stands still."""
        meta = self._meta
        steps = tuple(Step(n, utc_now(), record) for n, record in enumerate(records, meta.steps + 1))
        self._files.append(steps)
        for step in steps:
            meta = advance(meta, step)
        return steps, meta

    async def _save_meta(self) -> None:
        doing = "saving what a log adds up to"
        await self._store.on_disk(doing, self._meta.id, self._files.save_meta, self._meta)

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
                    self._files.close()
                    self._store.forget_log(self._meta.id)
