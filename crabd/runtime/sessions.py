"""The sessions: which there are, which are live, who means which, and how they come and go.

There is never a second live copy of one. What they do while they are live is the runtime's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import structlog
import trio
from structlog.typing import FilteringBoundLogger

from crabd import events
from crabd.errors import NotFound, StoreError
from crabd.events import SessionInfo, SessionState, Snapshot
from crabd.runtime.broker import Broker
from crabd.runtime.recovery import close_interrupted
from crabd.runtime.router import Identity, Router, choose_stored
from crabd.runtime.session import Session, describe
from crabd.runtime.waiting import cancel_waiting
from crabd.store.base import Loaded, SessionMeta, Store

# A person who comes back within this finds the session warm; loading one takes milliseconds anyway.
IDLE_SECONDS = 15 * 60.0
# What the logs of live sessions may weigh together. In memory they take about twice as much.
LIVE_BYTES = 64 * 1024 * 1024
TIDY_SECONDS = 60.0

log: FilteringBoundLogger = structlog.get_logger()


class Sessions:
    """All sessions of a store, and those of ``scratch``, which are never kept. The caller opens both."""

    def __init__(self, store: Store, scratch: Store, broker: Broker) -> None:
        self._store = store
        self._scratch = scratch
        self._broker = broker
        self._router = Router()
        self._live: dict[str, Session] = {}

    def __repr__(self) -> str:
        return f"<Sessions {self.stored} stored, {len(self._live)} live>"

    @property
    def stored(self) -> int:
        """How many there are in the store, live or not."""
        return len(self._store.metas())

    def live(self) -> tuple[Session, ...]:
        """List those in memory."""
        return tuple(self._live.values())

    async def recover(self) -> int:
        """Close what an earlier daemon left open, before anybody asks; returns in how many logs."""
        left_open = [meta for meta in self._store.metas() if meta.open_run is not None or meta.queued]
        for meta in left_open:
            try:
                loaded = await self._store.load(meta.id)
                session = self._adopt(loaded)
                await session.save(close_interrupted(session.meta, loaded.steps, loaded.partial))
                await self._unload(session, "closed")
            except StoreError as exc:
                log.warning("recovery_failed", session=meta.id, problem=str(exc))
        return len(left_open)

    def find_live(self, session: str) -> Session | None:
        """Find a session in memory that is not on its way out."""
        found = self._live.get(session)
        if found is None or found.end is not None:
            return None
        found.used_at = trio.current_time()
        return found

    async def load(self, session: str) -> Session:
        """Find a session, reading it from the store if need be.

        Raises:
          NotFound, StoreError.
        """
        found = self.find_live(session)
        if found is not None:
            return found
        # One that is being created is not there yet; asking the store would find its log half-way to us.
        self.meta(session)
        async with self._router.lock(session):
            return self.find_live(session) or self._adopt(await self._store_of(session).load(session))

    def find_active(self, identity: Identity, topic: str | None) -> Session | None:
        """Find the identity's active session, if it is live and has this topic, or any when null."""
        active = self._router.active(identity)
        found = self.find_live(active) if active is not None else None
        return found if found is not None and topic in (None, found.meta.topic) else None

    async def get_or_create(
        self, identity: Identity, *, topic: str | None, description: str | None, cwd: str | None
    ) -> tuple[Session, bool]:
        """Find the identity's active session, else the one it used last, else make one; say if it is new.

        Raises:
          StoreError: it could not be read or made.
        """
        async with self._router.lock(identity):
            found = self.find_active(identity, topic)
            if found is not None:
                return found, False
            store = self._scratch if identity.is_ephemeral else self._store
            stored = self._active_meta(identity, topic) or choose_stored(store.metas(), identity, topic)
            if stored is not None:
                session = await self.load(stored.id)
            else:
                loaded = await store.create(
                    identity.agent, identity.sender, topic=topic, description=description, cwd=cwd
                )
                session = self._adopt(loaded)
            self._router.activate(identity, session.id)
            return session, stored is None

    async def close(self, session: str, *, cancel: bool) -> bool:
        """Unload a session; false if it was not live.

        Raises:
          NotFound; SessionBusy: something is going or waits, and ``cancel`` was not asked for.
        """
        found = self.find_live(session)
        if found is None:
            self.meta(session)
            return False
        if (found.job is not None or found.waiting) and not cancel:
            raise found.busy("cancel it, or close with cancel")
        found.end = "closed"
        async with self._router.lock(session):
            await self._unload(found, "closed")
        return True

    async def delete(self, session: str) -> None:
        """Remove a session for good: its run is cancelled and settles first, and nothing can bring it back.

        Raises:
          NotFound, StoreError.
        """
        self.meta(session)
        store = self._store_of(session)
        async with self._router.lock(session):
            found = self._live.get(session)
            if found is not None:
                await self._unload(found, "deleted")
            if not await store.delete(session):
                raise NotFound("session", session)
            self._broker.drop(session)

    async def tidy_up(self) -> None:
        """Unload sessions that nobody uses, every so often; runs until cancelled."""
        while True:
            await trio.sleep(TIDY_SECONDS)
            await self.unload_idle(max_age=IDLE_SECONDS, max_bytes=LIVE_BYTES)

    async def unload_idle(self, *, max_age: float, max_bytes: int) -> int:
        """Unload what was not used for ``max_age`` seconds, and the longest unused above ``max_bytes``.

        Nobody notices: the next call loads the session, and it is still its identity's active one. Returns
        how many went. Ephemeral sessions stay, for they are nowhere else.
        """
        at_rest = [session for session in self.live() if session.is_at_rest and not session.is_ephemeral]
        excess = sum(session.log.size for session in self.live()) - max_bytes
        idle: list[Session] = []
        for session in sorted(at_rest, key=lambda session: session.used_at):
            if excess <= 0 and trio.current_time() - session.used_at < max_age:
                break
            excess -= session.log.size
            idle.append(session)
        return sum([await self._let_go(session) for session in idle])

    async def aclose(self) -> None:
        """Close all logs; the sessions are not to be used any more."""
        for session in self.live():
            session.end = "closed"
            await session.aclose()

    def meta(self, session: str) -> SessionMeta:
        """Look a session's meta up.

        Raises:
          NotFound: no such session.
        """
        meta = self._store_of(session).meta(session)
        if meta is None:
            raise NotFound("session", session, hint="session/list tells which there are")
        return meta

    def info(self, session: Session) -> SessionInfo:
        """Describe a live session."""
        return session.info(is_active=self._is_active(session.meta, session.is_ephemeral))

    def snapshot(self, session: str) -> Snapshot:
        """Draw a session, live or not.

        Raises:
          NotFound: no such session.
        """
        found = self.find_live(session)
        if found is None:
            return Snapshot(self._describe_stored(self.meta(session)), None, ())
        return found.snapshot(is_active=self._is_active(found.meta, found.is_ephemeral))

    def infos(self) -> Iterator[SessionInfo]:
        """Describe all sessions, in no order."""
        for meta in (*self._store.metas(), *self._scratch.metas()):
            found = self.find_live(meta.id)
            yield self.info(found) if found is not None else self._describe_stored(meta)

    async def _let_go(self, session: Session) -> bool:
        async with self._router.lock(session.id):
            # Somebody may have come for it, or deleted it, while others were let go.
            if not session.is_at_rest:
                return False
            # From here on whoever asks for it waits for the lock, and loads it.
            session.end = "closed"
            await session.aclose()
            session.topic.forget_past()
            del self._live[session.id]
            return True

    def _active_meta(self, identity: Identity, topic: str | None) -> SessionMeta | None:
        """Look up the identity's active session, which may have been unloaded meanwhile."""
        active = self._router.active(identity)
        meta = self._store.meta(active) if active is not None else None
        return meta if meta is not None and topic in (None, meta.topic) else None

    def _adopt(self, loaded: Loaded) -> Session:
        id_ = loaded.log.meta.id
        is_ephemeral = self._scratch.meta(id_) is not None
        session = self._live[id_] = Session(loaded, self._broker.topic(id_), is_ephemeral=is_ephemeral)
        return session

    def _store_of(self, session: str) -> Store:
        return self._store if self._scratch.meta(session) is None else self._scratch

    def _is_active(self, meta: SessionMeta, is_ephemeral: bool) -> bool:
        return self._router.is_active(meta.id, Identity(meta.agent, meta.sender, is_ephemeral))

    def _describe_stored(self, meta: SessionMeta) -> SessionInfo:
        return describe(
            meta,
            state=self._stored_state(meta),
            is_active=self._is_active(meta, False),
            is_ephemeral=False,
            queue=len(meta.queued),
            seq=self._broker.seq(meta.id),
        )

    def _stored_state(self, meta: SessionMeta) -> SessionState:
        if self._store.is_damaged(meta.id):
            return "damaged"
        return "paused" if meta.paused else "stored"

    async def _unload(self, session: Session, reason: Literal["closed", "deleted"]) -> None:
        """Take a session out of memory; the caller holds its lock, so whoever asks for it now waits."""
        session.end = reason
        if session.job is not None:
            job = session.job
            job.cancel()
            await job.settled.wait()
        while session.waiting:
            await cancel_waiting(session, session.waiting[0])
        await session.aclose()
        self._router.deactivate(session.id)
        session.publish([events.SessionClosed(reason)])
        del self._live[session.id]
        if session.is_ephemeral and reason == "closed":
            await self._scratch.delete(session.id)
