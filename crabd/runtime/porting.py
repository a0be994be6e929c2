"""Sessions on their way in and out of the store. It does not know how anybody spells them.

An import is a series of sessions, each of which is in the store whole or not at all; what was brought before
is known again, so an import that was stopped is simply repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import structlog
import trio
from msgspec import Struct, structs
from structlog.typing import FilteringBoundLogger

from crabd.errors import BadRequest, StoreError
from crabd.messages import utc_now
from crabd.runtime.recovery import close_interrupted
from crabd.store.base import Reading, Skipped, Store
from crabd.store.meta import SessionMeta, add_up
from crabd.store.record import Configured, Created, Step

# Reads what sessions there are below a path, with the memory that belongs to them; each step of it blocks.
Read: TypeAlias = Callable[[Path, Path | None], Generator[Reading]]
# What was allowed in it may have been so by a stranger.
DISARMED = "what it was allowed to do without asking is not allowed here: crabctl set mode=, or permissions"


class Write(Protocol):
    """Writes a page of a session's steps, and tells the step to go on from; null when the last is written."""

    def __call__(self, session: str, steps: Sequence[Step], *, is_last: bool) -> tuple[str, int | None]: ...


log: FilteringBoundLogger = structlog.get_logger()


class Wish(Struct, frozen=True, kw_only=True):
    """What is to be imported, and how. Agent and sender, if given, take the place of those that are told."""

    path: str
    memory: str | None = None
    agent: str | None = None
    sender: str | None = None
    dry_run: bool = False
    again: bool = False


class Brought(Struct, frozen=True, kw_only=True):
    """What became of one session: in a dry run ``found``, ``there`` before; what is ``skipped`` is none."""

    place: str
    status: Literal["imported", "found", "there", "refused", "skipped"]
    meta: SessionMeta | None = None
    problem: str | None = None
    notes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()


class Porting:
    """Brings sessions into ``store``, one import at a time, and gives out those of any of the two stores."""

    def __init__(self, store: Store, scratch: Store, read: Read, write: Write) -> None:
        self._store = store
        self._scratch = scratch
        self._read = read
        self._write = write
        self._turn = trio.Lock()

    async def bring(self, wish: Wish) -> tuple[Brought, ...]:
        """Import every session below a path. Cancelled, it ends between two of them.

        Raises:
          BadRequest: there is nothing that can be read.
        """
        memory = Path(wish.memory) if wish.memory is not None else None
        brought: list[Brought] = []
        async with self._turn:
            known = Known(self._store.metas())
            with closing(self._read(Path(wish.path), memory)) as readings:
                while arrival := await trio.to_thread.run_sync(_next, readings, wish):
                    brought.append(await self._take(arrival, wish, known))
        log.info("imported", path=wish.path, sessions=sum(one.status == "imported" for one in brought))
        return tuple(brought)

    async def give(self, session: str, first: int, limit: int) -> tuple[str, int | None]:
        """Write a page of a session's records from step ``first`` on, and tell the step to go on from.

        Raises:
          NotFound, StoreError; BadRequest: there is no such step.
        """
        store = self._store if self._scratch.meta(session) is None else self._scratch
        meta = store.meta(session)
        last = meta.steps if meta is not None else 0
        upto = min(last, first + limit - 1)
        steps = await store.read(session, after=first - 1, upto=upto)
        if not steps:
            raise BadRequest("$.from", f"step {first} is behind the last one, {last}")
        write = partial(self._write, session, steps, is_last=upto == last)
        return await trio.to_thread.run_sync(write)

    async def _take(self, arrival: Arrival, wish: Wish, known: Known) -> Brought:
        reading, meta = arrival.reading, arrival.meta
        brought = Brought(
            place=reading.place,
            status="refused" if reading.problem else "skipped",
            problem=reading.problem,
            notes=reading.notes,
            skipped=reading.skipped,
        )
        if meta is None:
            return brought
        twin = known.find(meta)
        if twin is not None and not wish.again:
            return Brought(place=reading.place, status="there", meta=twin, notes=_differences(twin, meta))
        if wish.dry_run:
            known.add(meta)
            return structs.replace(brought, status="found", meta=meta)
        try:
            made = await self._store.restore(arrival.steps)
        except (StoreError, ValueError) as exc:
            return structs.replace(brought, status="refused", problem=str(exc))
        known.add(made)
        return structs.replace(brought, status="imported", meta=made)


class Arrival(Struct, frozen=True):
    """A reading, what its log adds up to, and the log as it is to be here; a refused one has neither."""

    reading: Reading
    meta: SessionMeta | None = None
    steps: tuple[Step, ...] = ()


def _next(readings: Generator[Reading], wish: Wish) -> Arrival | None:
    """Read the next session and make it ready, in a thread: a long log takes a while to add up."""
    reading = next(readings, None)
    if reading is None or not reading.steps:
        return Arrival(reading) if reading else None
    steps = _rename(reading.steps, wish)
    meta = add_up(steps)
    # A run that was going when the log was written out does not go on here.
    disarmed = _disarm(meta)
    ends = (*close_interrupted(meta, steps), *disarmed)
    closed = (*steps, *(Step(n, utc_now(), end) for n, end in enumerate(ends, len(steps) + 1)))
    notes = (*reading.notes, DISARMED) if disarmed else reading.notes
    return Arrival(structs.replace(reading, steps=(), notes=notes), meta, closed)


def _disarm(meta: SessionMeta) -> tuple[Configured, ...]:
    """Take back what was allowed elsewhere, perhaps by a stranger; what was forbidden stays so."""
    mode = None if meta.mode in ("accept-edits", "full") else meta.mode
    permissions = structs.replace(meta.permissions, allow=())
    if (mode, permissions) == (meta.mode, meta.permissions):
        return ()
    return (Configured(mode=mode, permissions=permissions),)


def _rename(steps: tuple[Step, ...], wish: Wish) -> tuple[Step, ...]:
    first = steps[0].record
    assert isinstance(first, Created), "a reading begins with it"
    renamed = structs.replace(first, agent=wish.agent or first.agent, sender=wish.sender or first.sender)
    return (structs.replace(steps[0], record=renamed), *steps[1:])


class Known:
    """The sessions that are there, by what they are known by when they come again."""

    def __init__(self, metas: Sequence[SessionMeta]) -> None:
        self._by_source: dict[str, SessionMeta] = {}
        self._by_birth: dict[tuple[str, str, datetime], SessionMeta] = {}
        for meta in metas:
            self.add(meta)

    def add(self, meta: SessionMeta) -> None:
        """Know one more."""
        self._by_birth[_birth(meta)] = meta
        if meta.source is not None:
            self._by_source[meta.source.key] = meta

    def find(self, meta: SessionMeta) -> SessionMeta | None:
        """Find the session that this one is, be it under another id."""
        if meta.source is not None:
            return self._by_source.get(meta.source.key)
        return self._by_birth.get(_birth(meta))


def _birth(meta: SessionMeta) -> tuple[str, str, datetime]:
    return meta.agent, meta.sender, meta.created_at


def _differences(twin: SessionMeta, meta: SessionMeta) -> tuple[str, ...]:
    """Tell what is not here of a session that is, though the two have begun as one."""
    has_changed = twin.source is not None and meta.source is not None and twin.source != meta.source
    if not has_changed and meta.steps <= twin.steps:
        return ()
    return (
        "it has gone on where it comes from since: import it again to have that too, as one more session",
    )
