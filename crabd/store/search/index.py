"""Keeps the full text of all sessions in step with the store, after each commit and off everybody's path.

It reads what was committed and feeds it to a ``SearchFile`` in a thread, a little at a time. Nothing that
goes wrong here reaches a session: the index is made anew or, if that is no use, done without.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import structlog
import trio
from structlog.typing import FilteringBoundLogger

from crabd.errors import NotFound, StoreError
from crabd.store.base import Hits, Index, IndexHealth, Query, Store
from crabd.store.meta import SessionMeta
from crabd.store.search.file import Addition, Progress, SearchFile, discard

FILE = "index.db"
# What is committed within this time is fed together.
PAUSE_SECONDS = 0.25
# A search waits so long for what was committed before it; mostly that takes some milliseconds.
CATCH_UP_SECONDS = 0.5
# How many steps are fed, or documents forgotten, at a time: 20 to 50 ms of work.
SLICE = 200
# After an error that may pass by itself, a full disk above all, and between two that do not.
RETRY_SECONDS = 30.0
CLOSE_SECONDS = 5.0
# Errors that say nothing against what is in the file.
PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}

log: FilteringBoundLogger = structlog.get_logger()

T = TypeVar("T")
Args = TypeVarTuple("Args")


class StoreIndex(Index):
    """The full text of ``store``, which is open, in the directory ``home``. It works while ``run`` runs."""

    def __init__(self, home: Path, store: Store) -> None:
        self._path = home / FILE
        self._store = store
        self._file: SearchFile | None = None
        self._progress: dict[str, Progress] = {}
        # Of these something was committed; and of these something was before, the last used at the end.
        self._changed: dict[str, None] = {}
        self._past: list[str] = []
        self._in_hand = 0
        self._news = trio.Event()
        self._hurry = trio.Event()
        self._is_caught_up = trio.Event()
        self._problem: str | None = None
        self._is_off = False
        # What a search has run into.
        self._doubt: sqlite3.Error | None = None
        self._failed_at = -RETRY_SECONDS
        self._searching = trio.Lock()
        # One that writes, and one that searches meanwhile.
        self._threads = trio.CapacityLimiter(2)

    def __repr__(self) -> str:
        return f"<StoreIndex {self.health().state}, {self._waiting} sessions waiting>"

    @property
    def _waiting(self) -> int:
        return len(self._changed) + len(self._past) + self._in_hand

    def health(self) -> IndexHealth:
        is_ready = self._file is not None and not self._waiting
        return IndexHealth(
            "off" if self._is_off else "ready" if is_ready else "indexing", self._waiting, self._problem
        )

    async def search(self, query: Query) -> Hits:
        if self._changed or self._in_hand or self._file is None:
            self._hurry.set()
            with trio.move_on_after(CATCH_UP_SECONDS):
                await self._is_caught_up.wait()
        async with self._searching:
            if self._is_off:
                raise StoreError("io", f"there is no search: {self._problem}")
            if self._file is None:
                return Hits((), None, True, self._waiting)
            try:
                hits, cursor = await self._in_thread(self._file.search, query, self._store.meta)
            except sqlite3.Error as exc:
                self._doubt = exc
                self._news.set()
                raise StoreError("io", f"the index failed ({exc}): search again in a moment") from exc
            return Hits(hits, cursor, self._waiting > 0, self._waiting)

    async def run(self) -> None:
        """Feed the index until cancelled. Never raises: what goes wrong is in the log and in ``health``."""
        self._store.on_commit(self._note)
        try:
            while True:
                try:
                    await self._keep_open()
                except (sqlite3.Error, OSError) as exc:
                    await self._recover(exc)
        except Exception as exc:
            log.exception("index_given_up")
            self._problem, self._is_off = f"it was given up ({exc}): restart crabd", True
            self._is_caught_up.set()

    def _note(self, session: str) -> None:
        if not self._is_off:
            self._changed[session] = None
            if self._is_caught_up.is_set():
                self._is_caught_up = trio.Event()
            self._news.set()

    async def _keep_open(self) -> None:
        file = await self._in_thread(SearchFile, self._path)
        try:
            while True:
                self._progress = await self._in_thread(file.progress)
                self._plan()
                # Not before it is known what the file lacks: an answer would seem to be all there is.
                self._file = file
                try:
                    await self._feed(file)
                except sqlite3.Error as exc:
                    # What is in it can still be searched.
                    if not _is_passing(exc):
                        raise
                    await self._wait(exc)
        finally:
            with trio.move_on_after(CLOSE_SECONDS) as scope:
                scope.shield = True
                # Who searches is waited for, and finds nothing open afterwards.
                async with self._searching:
                    self._file = None
                    await self._in_thread(file.close)

    async def _recover(self, exc: sqlite3.Error | OSError) -> None:
        """Throw away what is damaged, and wait where trying again at once is no use.

        Raises:
          sqlite3.Error: this SQLite has no full text, and never will.
        """
        if "no such module" in str(exc):
            raise exc
        self._doubt = None
        if _is_passing(exc):
            await self._wait(exc)
            return
        log.warning("index_failed", problem=str(exc))
        self._problem = f"it failed ({exc}) and was made anew"
        is_again = trio.current_time() - self._failed_at < RETRY_SECONDS
        self._failed_at = trio.current_time()
        if is_again:
            await trio.sleep(RETRY_SECONDS)
        await self._in_thread(discard, self._path)

    async def _wait(self, exc: sqlite3.Error | OSError) -> None:
        """Wait for room on the disk, say."""
        log.warning("index_waits", problem=str(exc))
        before, self._problem = self._problem, f"it cannot be written ({exc}) and is tried again"
        await trio.sleep(RETRY_SECONDS)
        self._problem = before

    def _plan(self) -> None:
        """Find the sessions that are not as the index knows them."""
        metas = {meta.id: meta for meta in self._store.metas()}
        self._changed |= dict.fromkeys(session for session in self._progress if session not in metas)
        past = [meta for meta in metas.values() if not _is_indexed(meta, self._progress.get(meta.id))]
        self._past = [meta.id for meta in sorted(past, key=lambda meta: meta.updated_at)]

    async def _feed(self, file: SearchFile) -> None:
        """Feed what changes, and in between what is left from before, the last used first."""
        while True:
            self._news = trio.Event()
            self._raise_doubt()
            await self._catch_up(file, self._take_changed(), is_past=False)
            if not self._changed:
                self._is_caught_up.set()
                await self._catch_up(file, self._take_past(), is_past=True)
            if not self._changed and not self._past:
                self._hurry = trio.Event()
                await self._news.wait()
                # More is committed while this waits, unless somebody searches.
                with trio.move_on_after(PAUSE_SECONDS):
                    await self._hurry.wait()

    def _take_changed(self) -> Iterator[str]:
        while self._changed:
            session = next(iter(self._changed))
            del self._changed[session]
            yield session

    def _take_past(self) -> Iterator[str]:
        # What is said now goes first.
        while self._past and not self._changed:
            yield self._past.pop()

    async def _catch_up(self, file: SearchFile, sessions: Iterator[str], *, is_past: bool) -> None:
        """Feed what the index lacks of some sessions, slice by slice."""
        batch: list[Addition] = []
        for session in sessions:
            self._in_hand = 1
            while (addition := await self._read_on(file, session)) is not None:
                batch.append(addition)
                self._progress[session] = addition.progress
                if sum(len(each.steps) for each in batch) >= SLICE:
                    await self._add(file, batch, is_past=is_past)
                    batch = []
                    if is_past and self._changed:
                        self._past.append(session)
                        break
        if batch:
            await self._add(file, batch, is_past=is_past)
        self._in_hand = 0

    async def _read_on(self, file: SearchFile, session: str) -> Addition | None:
        """Read the next slice that the index lacks of a session; null if it lacks none, or cannot have it."""
        meta, known = self._store.meta(session), self._progress.get(session)
        if known is not None and (meta is None or _is_other(meta, known)):
            await self._forget(file, session)
            known = None
        if meta is None or _is_indexed(meta, known):
            return None
        upto = known.upto if known is not None else 0
        try:
            steps = await self._store.read(session, after=max(upto - 1, 0), upto=upto + SLICE)
        except NotFound:
            return None
        except StoreError as exc:
            log.warning("session_not_indexed", session=session, problem=str(exc))
            return None
        if known is not None:
            # The step that was fed last must be the one that is there now.
            if not steps or steps[0].at != known.at:
                await self._forget(file, session)
                return await self._read_on(file, session)
            steps = steps[1:]
        return Addition(meta, steps) if steps else None

    async def _add(self, file: SearchFile, batch: list[Addition], *, is_past: bool) -> None:
        began = trio.current_time()
        self._raise_doubt()
        await self._in_thread(partial(file.add, batch, is_past=is_past))
        if is_past:
            # Others have as much of the machine as this takes.
            await trio.sleep(trio.current_time() - began)

    async def _forget(self, file: SearchFile, session: str) -> None:
        while await self._in_thread(file.forget, session, SLICE):
            self._raise_doubt()
        self._progress.pop(session, None)

    def _raise_doubt(self) -> None:
        """Stop feeding a file that a search has found damaged."""
        if self._doubt is not None:
            raise self._doubt

    async def _in_thread(self, work: Callable[[*Args], T], *args: *Args) -> T:
        """Run a blocking call in a thread; once it has begun it is waited for, whatever is cancelled."""
        return await trio.to_thread.run_sync(work, *args, limiter=self._threads)


def _is_passing(exc: sqlite3.Error | OSError) -> bool:
    return isinstance(exc, OSError) or getattr(exc, "sqlite_errorcode", 0) & 0xFF in PASSING


def _is_indexed(meta: SessionMeta, known: Progress | None) -> bool:
    return known is not None and (known.upto, known.at) == (meta.steps, meta.updated_at)


def _is_other(meta: SessionMeta, known: Progress) -> bool:
    """Tell whether a session is not the one that was fed, or was being forgotten when the daemon died."""
    is_longer = meta.steps > known.upto
    return known.upto == 0 or not (is_longer or _is_indexed(meta, known))
