"""Which sessions go when limits are set, and which never do."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec import structs

from crabd.messages import Usage, user_text, utc_now
from crabd.runtime.broker import Broker
from crabd.runtime.retention import Limits, Stale, choose_stale
from crabd.runtime.sessions import Sessions
from crabd.store.inmemory import InMemoryStore
from crabd.store.meta import SessionMeta
from crabd.store.record import Configured, MessageAdded, MessageQueued, Record, RunClosed, RunOpened

NOW = utc_now()
DAY = timedelta(days=1)
EVERYTHING = Limits(max_bytes=0)


def old(name: str, days: float) -> SessionMeta:
    at = NOW - days * DAY
    return SessionMeta(id=name, agent="a", sender="b", created_at=at, updated_at=at, steps=1)


SESSIONS = [old("c", 1), old("a", 30), old("b", 10)]
SIZES = {"a": 100, "b": 10, "c": 1, "live": 1000}


@pytest.mark.parametrize(
    ("limits", "gone"),
    [
        (Limits(), []),
        (Limits(keep_days=30.5), []),
        (Limits(keep_days=9), [("a", "keep_days"), ("b", "keep_days")]),
        (Limits(max_bytes=1111), []),
        (Limits(max_bytes=1110), [("a", "max_bytes")]),
        (Limits(max_bytes=1000), [("a", "max_bytes"), ("b", "max_bytes"), ("c", "max_bytes")]),
        (Limits(keep_days=20, max_bytes=1005), [("a", "keep_days"), ("b", "max_bytes")]),
    ],
)
def test_the_longest_unused_go_until_the_rest_is_within_the_limits(
    limits: Limits, gone: list[tuple[str, str]]
) -> None:
    stale = choose_stale(SESSIONS, SIZES, limits, NOW)

    assert [(each.meta.id, each.limit) for each in stale] == gone
    assert limits.is_set is (limits != Limits())


async def make(store: InMemoryStore, *records: Record) -> SessionMeta:
    log = (await store.create("a", "b")).log
    await log.append(records)
    await log.aclose()
    return log.meta


def sessions_of(store: InMemoryStore) -> Sessions:
    return Sessions(store, InMemoryStore(first_number=1000), Broker("epoch", lambda payload: payload))


async def test_what_would_go_is_told_first_and_then_goes() -> None:
    store = InMemoryStore()
    metas = [await make(store), await make(store)]
    sessions = sessions_of(store)

    told = await sessions.prune(EVERYTHING, is_dry=True)
    before = store.metas()
    gone = await sessions.prune(EVERYTHING, is_dry=False)

    assert told == gone == tuple(Stale(meta, 1000, "max_bytes") for meta in metas)
    assert before == tuple(metas)
    assert store.metas() == ()


async def test_what_is_in_use_or_waits_for_somebody_never_goes() -> None:
    store = InMemoryStore()
    kept = [
        await make(store, Configured(paused=True)),
        await make(store, RunOpened("r1")),
        await make(store, MessageQueued("r1", user_text("hi").content)),
        await make(store, MessageAdded("r1", user_text("hi"))),
    ]
    gone = await make(store, RunOpened("r1"), RunClosed("r1", "end_turn", 1.0, Usage()))
    sessions = sessions_of(store)
    await sessions.load(kept[3].id)

    stale = await sessions.prune(EVERYTHING, is_dry=False)

    assert [each.meta.id for each in stale] == [gone.id]
    assert store.metas() == tuple(kept)


async def test_a_session_that_somebody_has_come_for_meanwhile_stays() -> None:
    class Busy(InMemoryStore):
        """Somebody loads the second session while the first one is removed."""

        async def delete(self, session: str, *, request_key: str | None = None) -> bool:
            await sessions.load(second.id)
            return await super().delete(session, request_key=request_key)

    store = Busy()
    first, second = await make(store), await make(store)
    sessions = sessions_of(store)

    stale = await sessions.prune(EVERYTHING, is_dry=False)

    assert [each.meta for each in stale] == [first]
    assert store.metas() == (structs.replace(second),)
