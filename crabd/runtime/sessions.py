"""The sessions: which there are, which are live, who means which, and how they come and go.

There is never a second live copy of one. What they do while they are live is the runtime's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Literal

import structlog
import trio
from msgspec import structs
from structlog.typing import FilteringBoundLogger

from crabd import events
from crabd.errors import BadRequest, NotFound, RequestKeyReused, ShuttingDown, StoreError
from crabd.events import SessionGlance, SessionInfo, SessionState, Snapshot
from crabd.messages import utc_now
from crabd.runtime.broker import Broker
from crabd.runtime.claims import Claims
from crabd.runtime.fork import fork_log, last_boundary
from crabd.runtime.history import Page, Wanted, read_back, read_page
from crabd.runtime.listing import Filter, Listing, Place
from crabd.runtime.project import NO_PROJECT, Project
from crabd.runtime.recovery import close_interrupted
from crabd.runtime.retention import Limits, Stale, choose_stale, may_go
from crabd.runtime.router import Identity, Router, choose_stored
from crabd.runtime.session import Session, describe
from crabd.runtime.trust import Trust
from crabd.runtime.waiting import cancel_waiting
from crabd.store.base import Hits, Index, Loaded, Query, Store
from crabd.store.meta import KEY_AGE, SessionMeta
from crabd.store.record import Forked, Step

# A person who comes back within this finds the session warm; loading one takes milliseconds anyway.
IDLE_SECONDS = 15 * 60.0
# What the logs of live sessions may weigh together. In memory they take about twice as much.
LIVE_BYTES = 64 * 1024 * 1024
TIDY_SECONDS = 60.0

log: FilteringBoundLogger = structlog.get_logger()


class Sessions:
    """All sessions of a store, and those of ``scratch``, which are never kept. The caller has opened both.

    Without an ``index`` they can be listed and not searched. Without ``trust`` no directory brings along
    anything.
    """

    def __init__(
        self,
        store: Store,
        scratch: Store,
        broker: Broker,
        index: Index | None = None,
        trust: Trust | None = None,
    ) -> None:
        self._store = store
        self._scratch = scratch
        self._broker = broker
        self.index = index
        # Told of every session that is live no more, at once; it must not block or raise.
        self.on_end: Callable[[Session, str], None] = ignore_end
        # Told of every session that may not be as it was, at once; it must not block or raise.
        self.on_change: Callable[[str], None] = ignore_change
        # Called when a session is gone for good, so that what was kept elsewhere for it goes too.
        self.discard: Callable[[str], Awaitable[None]] = discard_nothing
        self.trust = trust
        self._claims = Claims(store, scratch)
        self._router = Router()
        self._live: dict[str, Session] = {}
        self._is_closed = False
        self._listing = Listing((meta.updated_at, meta.id) for meta in (*store.metas(), *scratch.metas()))
        store.on_commit(self._keep_place)
        scratch.on_commit(self._keep_place)

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

    def find_loaded(self, session: str) -> Session | None:
        """Find a session in memory, be it on its way out."""
        return self._live.get(session)

    async def load(self, session: str, request_key: str | None = None) -> Session:
        """Find a session, reading from the store what it lacks: itself, or what became of a request key.

        Raises:
          NotFound, StoreError; ShuttingDown: all logs are being closed.
        """
        found = self.find_live(session)
        if found is not None and found.knows(request_key):
            return found
        # One that is being created is not there yet; asking the store would find its log half-way to us.
        self.meta(session)
        async with self._router.lock(session):
            return await self._load(session, request_key)

    async def read_log(self, session: str) -> tuple[Step, ...]:
        """Read all that there is of a session, live or not.

        Raises:
          NotFound, StoreError.
        """
        return await self._store_of(session).read(session)

    async def read_page(self, session: Session, wanted: Wanted) -> Page:
        """Find a page of a session's messages, reading from the store what is not in memory.

        Raises:
          NotFound, StoreError.
        """
        return await read_page(self._store_of(session.id), session.id, tuple(session.steps), wanted)

    def find_active(self, identity: Identity, topic: str | None) -> Session | None:
        """Find the identity's active session, if it is live and has this topic, or any when null."""
        active = self._router.active(identity)
        found = self.find_live(active) if active is not None else None
        return found if found is not None and topic in (None, found.meta.topic) else None

    async def get_or_create(
        self,
        identity: Identity,
        *,
        topic: str | None,
        description: str | None,
        cwd: str | None,
        request_key: str | None = None,
        is_fresh: bool = False,
    ) -> tuple[Session, bool]:
        """Find the identity's active session, else the one it used last, else make one; say if it is new.

        One that ``is_fresh`` is made whatever there is, beside the others, and is the active one then.
        A request that came with the same key before is given the same answer, whatever is active by now.

        Raises:
          NotFound: the session that was the answer is gone.
          RequestKeyReused: the key came with another request.
          StoreError: it could not be read or made.
          ShuttingDown: all logs are being closed.
        """
        async with self._turn_of(request_key):
            known = self._claims.recall(identity, topic, request_key) if request_key is not None else None
            if known is not None:
                return await self._give_again(identity, *known)
            async with self._router.lock(identity):
                session = None if is_fresh else await self._find_latest(identity, topic)
                is_new = session is None
                if session is None:
                    project = await self._read_project(cwd)
                    self._refuse_if_closed()
                    store = self._scratch if identity.is_ephemeral else self._store
                    loaded = await store.create(
                        identity.agent,
                        identity.sender,
                        topic=topic,
                        description=description,
                        cwd=cwd,
                        request_key=request_key,
                    )
                    session = self._adopt(loaded, project)
                elif request_key is not None:
                    session = await self.load(session.id, request_key)
                    await session.claim(request_key, topic)
                before = self._router.active(identity)
                self._router.activate(identity, session.id)
                for each in {session.id, before or session.id}:
                    self.on_change(each)
                return session, is_new

    async def close(self, session: str, *, cancel: bool) -> bool:
        """Unload a session; false if it was not live.

        Raises:
          NotFound; SessionBusy: something is going or waits, and ``cancel`` was not asked for.
        """
        # Whoever waits for the lock may be about to load the session, so only its holder may end it.
        async with self._router.lock(session):
            found = self.find_live(session)
            if found is None:
                self.meta(session)
                return False
            if (found.job is not None or found.waiting) and not cancel:
                raise found.busy("cancel it, or close with cancel")
            await self._unload(found, "closed")
            return True

    async def delete(self, session: str, request_key: str | None = None) -> None:
        """Remove a session for good: its run is cancelled and settles first, and nothing can bring it back.

        If the session is gone, and by a request of the same key, there is nothing to do.

        Raises:
          NotFound, RequestKeyReused, StoreError.
        """
        async with self._turn_of(request_key), self._router.lock(session):
            store = self._store_of(session)
            is_repeated = request_key is not None and self._claims.was_deleted(session, request_key)
            if is_repeated and store.meta(session) is None:
                return
            self.meta(session)
            if request_key is not None and not is_repeated:
                await self._refuse_reused(session, request_key)
            found = self._live.get(session)
            if found is not None:
                await self._unload(found, "deleted")
            if not await store.delete(session, request_key=request_key):
                raise NotFound("session", session)
            if found is None:
                self._broker.topic(session).publish(events.SessionClosed("deleted"))
            await self.discard(session)
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
        excess = sum(session.weight for session in self.live()) - max_bytes
        idle: list[Session] = []
        for session in sorted(at_rest, key=lambda session: session.used_at):
            if excess <= 0 and trio.current_time() - session.used_at < max_age:
                break
            excess -= session.weight
            idle.append(session)
        return sum([await self._let_go(session) for session in idle])

    async def fork(
        self, session: str, at: int | None, request_key: str | None = None
    ) -> tuple[SessionInfo, int]:
        """Make a session of what another has up to step ``at``, and tell up to which it is.

        A request that came with the same key before is given the same one.

        Raises:
          NotFound, RequestKeyReused, StoreError; BadRequest: there is no such step.
        """
        async with self._turn_of(request_key):
            known = self._claims.recall_fork(session, request_key) if request_key is not None else None
            if known is None:
                return await self._fork(session, at, request_key)
            made = await self._store_of(known.id).read(known.id)
            upto = next(step.record.step for step in made if isinstance(step.record, Forked))
            if at is not None and at < upto:
                raise RequestKeyReused(request_key or "", "session/fork")
            return self._describe(known), upto

    async def _fork(self, session: str, at: int | None, request_key: str | None) -> tuple[SessionInfo, int]:
        store, last = self._store_of(session), self.meta(session).steps
        if at is not None and at > last:
            raise BadRequest("$.at", f"step {at} is behind the last one, {last}")
        steps = await store.read(session, upto=at or last)
        made = await store.restore(fork_log(steps, utc_now(), request_key))
        return self._describe(made), last_boundary(steps)

    def check_room(self, session: Session) -> None:
        """Make sure that there is room for a new run.

        Raises:
          StoreError: the disk is all but full.
        """
        self._store_of(session.id).check_room()

    async def prune(self, limits: Limits, *, is_dry: bool) -> tuple[Stale, ...]:
        """Remove the stored sessions that are over a limit, or, when dry, tell which these are.

        Those that are live, paused, damaged, or have something open or waiting stay.

        Raises:
          StoreError: those that come after it stay.
        """
        sizes = await self._store.sizes()
        stale = choose_stale(filter(self._may_go, self._store.metas()), sizes, limits, utc_now())
        return stale if is_dry else tuple([each for each in stale if await self._prune(each)])

    async def _prune(self, stale: Stale) -> bool:
        async with self._router.lock(stale.meta.id):
            # Somebody may have come for it while others were removed.
            if self._store.meta(stale.meta.id) != stale.meta or not self._may_go(stale.meta):
                return False
            await self._store.delete(stale.meta.id)
            self._broker.topic(stale.meta.id).publish(events.SessionClosed("deleted"))
            await self.discard(stale.meta.id)
            self._broker.drop(stale.meta.id)
            log.info("session_pruned", session=stale.meta.id, limit=stale.limit, bytes=stale.size)
            return True

    def _may_go(self, meta: SessionMeta) -> bool:
        return meta.id not in self._live and not self._store.is_damaged(meta.id) and may_go(meta)

    async def aclose(self) -> None:
        """Close all logs; the sessions are not to be used any more, and none is loaded or made."""
        self._is_closed = True
        for session in self.live():
            session.end = "closed"
            await session.aclose()

    def metas(self) -> tuple[SessionMeta, ...]:
        """List what all sessions add up to, those that are never kept among them, in no order."""
        return (*self._store.metas(), *self._scratch.metas())

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

    async def announce(self, session: Session) -> None:
        """Tell whoever listens how a live session is by now."""
        session.publish([events.SessionChanged(self.info(session))])
        await session.checkpoint()

    def glance(self, session: str) -> SessionGlance | None:
        """Describe a session, live or not, with what waits in it; null if there is none."""
        meta = self._store_of(session).meta(session)
        if meta is None:
            return None
        live = self._live.get(session)
        return SessionGlance(
            **structs.asdict(self._describe(meta)),
            confirmations=len(live.desk.confirmations) if live is not None else 0,
            questions=len(live.desk.questions) if live is not None else 0,
        )

    def glances(self, limit: int) -> tuple[SessionGlance, ...]:
        """Describe those that were used last, and whatever else is live."""
        newest, _ = self.newest(Filter(), before=None, limit=limit)
        shown = dict.fromkeys([*(info.id for info in newest), *self._live])
        return tuple(glance for session in shown if (glance := self.glance(session)) is not None)

    def snapshot(self, session: str) -> Snapshot:
        """Draw a session, live or not.

        Raises:
          NotFound: no such session.
        """
        found = self.find_live(session)
        if found is None:
            meta = self.meta(session)
            return Snapshot(self._describe_stored(meta), None, (), plan=meta.plan)
        return found.snapshot(is_active=self._is_active(found.meta, found.is_ephemeral))

    def newest(
        self, wanted: Filter, *, before: Place | None, limit: int
    ) -> tuple[tuple[SessionInfo, ...], Place | None]:
        """Describe the sessions that were last used, or those behind a place, and say where to go on.

        The place is null when there are no more.
        """
        page: list[SessionMeta] = []
        for session in self._listing.newest(before):
            meta = self._store_of(session).meta(session)
            if meta is None or not wanted.matches(meta):
                continue
            if wanted.state not in (None, self._state(meta)):
                continue
            if len(page) == limit:
                return tuple(map(self._describe, page)), (page[-1].updated_at, page[-1].id)
            page.append(meta)
        return tuple(map(self._describe, page)), None

    async def search(
        self, text: str, wanted: Filter, *, session: str | None, limit: int, cursor: str | None
    ) -> Hits:
        """Look for text in all that was said in stored sessions; the state of a session does not count.

        Raises:
          NotFound: there is no such ``session``.
          BadRequest: the text or the cursor means nothing.
          StoreError: there is no index, or not now.
        """
        if session is not None:
            self.meta(session)
        if self.index is None:
            raise StoreError("io", "there is no search: this Python has no SQLite, install one that has")
        return await self.index.search(
            Query(
                text=text,
                agent=wanted.agent,
                sender=wanted.sender,
                topic=wanted.topic,
                session=session,
                limit=limit,
                cursor=cursor,
            )
        )

    def _describe(self, meta: SessionMeta) -> SessionInfo:
        found = self._live.get(meta.id)
        return self._describe_stored(meta) if found is None or found.end is not None else self.info(found)

    def _state(self, meta: SessionMeta) -> SessionState:
        found = self._live.get(meta.id)
        return self._stored_state(meta) if found is None or found.end is not None else found.state

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
            self.on_end(session, "unloaded")
            self.on_change(session.id)
            return True

    def _keep_place(self, session: str) -> None:
        meta = self._store_of(session).meta(session)
        self._listing.note(session, meta.updated_at if meta is not None else None)
        self.on_change(session)

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise ShuttingDown

    def _turn_of(self, request_key: str | None) -> AbstractAsyncContextManager[None]:
        """Take the requests of one key one by one, so that a repeated one finds what the first has done."""
        # No session's id has a space.
        return self._router.lock(f"key {request_key}") if request_key is not None else nullcontext()

    async def _refuse_reused(self, session: str, request_key: str) -> None:
        """Refuse to delete a session by a key that came with another request; the caller holds its lock."""
        self._claims.refuse_reused(request_key)
        # Only its log has all its keys. One that cannot be read may be deleted all the same.
        with suppress(StoreError):
            await self._load(session, request_key)
        if found := self._live.get(session):
            found.keys.refuse(request_key)

    async def _load(self, session: str, request_key: str | None) -> Session:
        """Load a session, and what it has to know of the key; the caller holds its lock."""
        store, horizon = self._store_of(session), utc_now() - KEY_AGE
        found = self.find_live(session)
        if found is None:
            meta = store.meta(session)
            project = await self._read_project(meta.cwd if meta is not None else None)
            self._refuse_if_closed()
            found = self._adopt(await store.load(session), project)
        if not found.knows(request_key):
            known = tuple(found.steps)
            found.recall(await read_back(store, session, known, lambda steps: steps[0].at < horizon))
        return found

    async def _give_again(self, identity: Identity, session: str, is_new: bool) -> tuple[Session, bool]:
        """Answer a repeated request. What is active by now stays so: that was decided later."""
        found = await self.load(session)
        if self._router.active(identity) is None:
            self._router.activate(identity, session)
        return found, is_new

    async def _find_latest(self, identity: Identity, topic: str | None) -> Session | None:
        return self.find_active(identity, topic) or await self._load_latest(identity, topic)

    async def _load_latest(self, identity: Identity, topic: str | None) -> Session | None:
        """Load the identity's active session, else the one it used last; null if it has none."""
        store = self._scratch if identity.is_ephemeral else self._store
        while True:
            stored = self._active_meta(identity, topic) or choose_stored(store.metas(), identity, topic)
            if stored is None:
                return None
            # One that is deleted before it is loaded was not the latest, so there is another look.
            with suppress(NotFound):
                return await self.load(stored.id)

    def _active_meta(self, identity: Identity, topic: str | None) -> SessionMeta | None:
        """Look up the identity's active session, which may have been unloaded meanwhile."""
        active = self._router.active(identity)
        meta = self._store.meta(active) if active is not None else None
        return meta if meta is not None and topic in (None, meta.topic) else None

    async def refresh_projects(self) -> None:
        """Read anew what the directories of live sessions bring along, for what is trusted has changed."""
        for session in self.live():
            session.project = await self._read_project(session.meta.cwd)

    async def _read_project(self, directory: str | None) -> Project:
        return NO_PROJECT if self.trust is None else await self.trust.read(directory)

    def _adopt(self, loaded: Loaded, project: Project = NO_PROJECT) -> Session:
        id_ = loaded.log.meta.id
        is_ephemeral = self._scratch.meta(id_) is not None
        session = self._live[id_] = Session(loaded, self._broker.topic(id_), is_ephemeral=is_ephemeral)
        session.project = project
        # A person may have restored it since it was listed.
        self._keep_place(id_)
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
        self.on_end(session, reason)
        self.on_change(session.id)
        if session.is_ephemeral and reason == "closed":
            await self._scratch.delete(session.id)
            await self.discard(session.id)


def ignore_end(_session: Session, _reason: str) -> None:
    """Take no note of it."""


def ignore_change(_session: str) -> None:
    """Take no note of it."""


async def discard_nothing(_session: str) -> None:
    """Leave what there may be elsewhere."""
