"""Requests that come again with their key: answered again, never done again, whatever happened meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trio

from crabd.errors import (
    NoRun,
    NotFound,
    ProviderError,
    QueueFull,
    RequestKeyReused,
    StoreError,
)
from crabd.messages import TextBlock, UserMessage, text_of
from crabd.providers.base import TextChunk
from crabd.runtime.broker import Broker
from crabd.runtime.intake import admit_steer, confirm_steer
from crabd.runtime.router import Identity
from crabd.runtime.run import MAX_STEERS
from crabd.runtime.session import Session
from crabd.runtime.sessions import Sessions
from crabd.runtime.ticket import Compaction, Steering
from crabd.store.inmemory import InMemoryStore
from crabd.store.record import Claimed, Compacted, MessageAdded, MessageQueued
from tests.fakes import says
from tests.runtime.test_runtime import (
    Bench,
    FullLog,
    FullStore,
    in_parallel,
    open_bench,
    outcome_of,
    texts,
    until,
)

T = TypeVar("T")
USER = Identity("crab", "user")


def said(session: Session) -> list[str]:
    """List what people said, in the order of the log."""
    messages = [added.message for added in records(session, MessageAdded)]
    return [text_of(message) for message in messages if isinstance(message, UserMessage)]


def records(session: Session, kind: type[T]) -> list[T]:
    return [step.record for step in session.steps if isinstance(step.record, kind)]


async def steer(bench: Bench, session: Session, text: str, key: str | None) -> tuple[str, str, int]:
    steering = admit_steer(session, (TextBlock(text),), key)
    await confirm_steer(session, steering)
    return steering.record.steer, steering.record.run, steering.position


async def get_or_create(
    bench: Bench, key: str | None, *, identity: Identity = USER, topic: str | None = None
) -> tuple[str, bool]:
    session, is_new = await bench.runtime.get_or_create(
        identity, topic=topic, description=None, cwd=None, request_key=key
    )
    return session.id, is_new


async def reload(bench: Bench, session: Session) -> Session:
    """Unload a session and load it again, as after a restart."""
    await until(lambda: session.job is None)
    await bench.runtime.sessions.close(session.id, cancel=False)
    return await bench.runtime.sessions.load(session.id)


async def leave_before(work: Callable[[], Awaitable[object]]) -> None:
    """Ask, and be gone before there is an answer."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await work()
    assert scope.cancelled_caught


async def test_a_message_sent_fifty_times_at_once_runs_once_and_all_get_its_outcome() -> None:
    async with open_bench(says("once")) as bench:
        session = await bench.session()

        tickets = await in_parallel(50, lambda: bench.accept(session, "go", key="k"))
        outcomes = [await outcome_of(ticket) for ticket, _ in tickets]

        assert {outcome.text for outcome in outcomes} == {"once"}
        assert [disposition for _, disposition in tickets].count("started") == 1
        assert len(bench.provider.requests) == 1
        assert said(session) == ["go"]


async def test_a_key_belongs_to_one_method_with_one_content() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("a"), gate, *says()]) as bench:
        session = await bench.session()
        first, _ = await bench.accept(session, "go", key="k")

        for method in ("live", "reloaded"):
            with pytest.raises(RequestKeyReused, match="session/send"):
                await bench.accept(session, "something else", key="k")
            with pytest.raises(RequestKeyReused, match="session/send"):
                await steer(bench, session, "go", "k")
            with pytest.raises(RequestKeyReused, match="session/send"):
                await bench.runtime.edits.compact(session, None, "k")
            with pytest.raises(RequestKeyReused, match="session/send"):
                await get_or_create(bench, "k")
            with pytest.raises(RequestKeyReused, match="session/send"):
                await bench.runtime.delete(session.id, "k")
            if method == "live":
                gate.set()
                await outcome_of(first)
                session = await reload(bench, session)

        assert said(session) == ["go"]


async def test_a_message_that_waits_is_confirmed_again_without_waiting_for_its_run() -> None:
    async with open_bench([trio.Event()]) as bench:
        session = await bench.session()
        await bench.accept(session, "first")
        first, _ = await bench.accept(session, "second", key="k")

        with trio.fail_after(10):
            again, disposition = await bench.accept(session, "second", key="k")

        assert (again, disposition) == (first, "attached")
        assert len(records(session, MessageQueued)) == 1


async def test_a_message_whose_sender_left_before_it_was_recorded_is_recorded_for_who_asks_again() -> None:
    async with open_bench([trio.Event()]) as bench:
        session = await bench.session()
        await bench.accept(session, "first")
        await leave_before(lambda: bench.accept(session, "second", key="k"))
        assert records(session, MessageQueued) == []

        with trio.fail_after(10):
            await bench.accept(session, "second", key="k")

        assert [queued.request_key for queued in records(session, MessageQueued)] == ["k"]
        assert len(session.waiting) == 1


async def test_a_message_that_cannot_be_kept_is_refused_to_all_who_sent_it_and_may_be_sent_again() -> None:
    async with open_bench([trio.Event()], store=FullStore()) as bench:
        session = await bench.session()
        log = session.log
        assert isinstance(log, FullLog)
        await bench.accept(session, "first")
        log.is_full = True
        refused: list[StoreError] = []

        async def send() -> None:
            try:
                await bench.accept(session, "second", key="k")
            except StoreError as exc:
                refused.append(exc)

        with trio.fail_after(10):
            await in_parallel(5, send)
        log.is_full = False
        _, disposition = await bench.accept(session, "second", key="k")

        assert len(refused) == 5
        assert disposition == "queued"
        assert len(session.waiting) == 1


async def test_a_message_that_joined_a_run_before_it_was_recorded_is_known_by_its_key_for_good() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("a"), gate, *says()], says("b")) as bench:
        session = await bench.session()
        first, _ = await bench.accept(session, "go")
        await leave_before(lambda: bench.accept(session, "also", when_busy="steer", key="k"))
        gate.set()
        await outcome_of(first)

        session = await reload(bench, session)
        again, disposition = await bench.accept(session, "also", when_busy="steer", key="k")

        assert disposition == "attached"
        assert (await outcome_of(again)).text == "b"
        assert said(session) == ["go", "also"]


async def test_a_steer_is_told_the_same_while_it_waits_after_it_joined_and_after_a_reload() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("a"), gate, *says()], says("b")) as bench:
        session = await bench.session()
        run, _ = await bench.accept(session, "go")
        await steer(bench, session, "before", None)

        told = [await steer(bench, session, "also", "k") for _ in range(2)]
        gate.set()
        await outcome_of(run)
        told.append(await steer(bench, session, "also", "k"))
        session = await reload(bench, session)
        told.append(await steer(bench, session, "also", "k"))

        assert told == [("r1.s2", "r1", 2)] * 4
        assert said(session) == ["go", "before", "also"]
        assert texts(bench.provider.requests[1].messages) == ["go", "a", "before", "also"]
        assert [queued.steer for queued in records(session, MessageQueued)] == ["r1.s1", "r1.s2"]


async def test_fifty_steers_of_one_key_are_one() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("a"), gate, *says()], says("b")) as bench:
        session = await bench.session()
        run, _ = await bench.accept(session, "go")

        told = await in_parallel(50, lambda: steer(bench, session, "also", "k"))
        gate.set()
        await outcome_of(run)

        assert set(told) == {("r1.s1", "r1", 1)}
        assert said(session) == ["go", "also"]
        assert len(records(session, MessageQueued)) == 1


async def test_a_steer_whose_sender_left_before_it_was_recorded_is_known_by_its_key_for_good() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("a"), gate, *says()], says("b")) as bench:
        session = await bench.session()
        run, _ = await bench.accept(session, "go")
        await leave_before(lambda: steer(bench, session, "also", "k"))
        gate.set()
        await outcome_of(run)

        session = await reload(bench, session)
        told = await steer(bench, session, "also", "k")

        assert told == ("r1.s1", "r1", 1)
        assert records(session, MessageQueued) == []
        assert [added.request_key for added in records(session, MessageAdded)] == [None, None, "k", None]


async def test_a_steer_that_was_refused_leaves_its_key_free() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("a"), gate, *says()]) as bench:
        session = await bench.session()
        with pytest.raises(NoRun):
            await steer(bench, session, "too early", "k")
        await bench.accept(session, "go")
        for number in range(MAX_STEERS):
            await steer(bench, session, f"{number}", None)
        with pytest.raises(QueueFull):
            await steer(bench, session, "too many", "k")
        gate.set()
        await until(lambda: session.run is not None and session.run.steers_waiting == 0)

        assert session.keys.find("k", Steering, ()) is None


async def test_a_compaction_asked_for_fifty_times_at_once_is_one_and_its_result_stays_known() -> None:
    gate = trio.Event()
    async with open_bench(says("a" * 400), [gate, *says("summary", tokens=30)]) as bench:
        session = await bench.session()
        await bench.ask(session, "first")

        async def compact() -> Compaction:
            return await bench.runtime.edits.compact(session, "briefly", "k")

        async with trio.open_nursery() as nursery:
            results: list[Compaction] = []
            nursery.start_soon(lambda: _collect(results, in_parallel(50, compact)))
            await until(lambda: bench.provider.open_streams == 1)
            gate.set()
        results.append(await compact())
        session = await reload(bench, session)
        results.append(await compact())

        assert len(results) == 52
        assert set(map(repr, results)) == {repr(results[0])}
        assert (results[0].summary, results[0].archive) == ("summary", f"{session.id}/1")
        assert len(bench.provider.requests) == 2
        assert len(records(session, Compacted)) == 1


async def _collect(results: list[T], more: Awaitable[list[T]]) -> None:
    results += await more


async def test_a_compaction_whose_asker_left_goes_on_and_is_waited_for() -> None:
    gate = trio.Event()
    async with open_bench(says("a" * 400), [gate, *says("summary")]) as bench:
        session = await bench.session()
        await bench.ask(session, "first")
        await leave_before(lambda: bench.runtime.edits.compact(session, None, "k"))
        gate.set()

        with trio.fail_after(10):
            done = await bench.runtime.edits.compact(session, None, "k")

        assert done.summary == "summary"
        assert len(bench.provider.requests) == 2


async def test_a_compaction_that_failed_is_tried_again_by_its_key() -> None:
    broken = ProviderError("unavailable", "down", provider="scripted")
    async with open_bench(says("a" * 400), [broken], says("summary")) as bench:
        session = await bench.session()
        await bench.ask(session, "first")
        with pytest.raises(ProviderError):
            await bench.runtime.edits.compact(session, None, "k")

        done = await bench.runtime.edits.compact(session, None, "k")

        assert done.summary == "summary"


async def test_a_session_asked_for_fifty_times_at_once_by_a_key_is_new_to_all() -> None:
    async with open_bench() as bench:
        found = await in_parallel(50, lambda: get_or_create(bench, "k"))

        assert set(found) == {("crab_user_1", True)}
        assert await get_or_create(bench, "another") == ("crab_user_1", False)
        assert await get_or_create(bench, None) == ("crab_user_1", False)


async def test_a_key_leads_to_the_same_session_whichever_is_active_by_now() -> None:
    async with open_bench() as bench:
        made = await get_or_create(bench, "made")
        found = await get_or_create(bench, "found")
        other = await get_or_create(bench, None, topic="deploy")

        again = [await get_or_create(bench, "made"), await get_or_create(bench, "found")]

        assert again == [made, found] == [("crab_user_1", True), ("crab_user_1", False)]
        assert await get_or_create(bench, None) == (other[0], False)


async def test_a_key_leads_to_the_same_session_in_the_next_life_of_the_daemon() -> None:
    store = InMemoryStore()
    async with open_bench(store=store) as bench:
        made = await get_or_create(bench, "made")
        found = await get_or_create(bench, "found")
        await bench.runtime.sessions.aclose()
        sessions = Sessions(store, InMemoryStore(), Broker("next", lambda payload: payload))

        async def ask(key: str) -> tuple[str, bool]:
            session, is_new = await sessions.get_or_create(
                USER, topic=None, description=None, cwd=None, request_key=key
            )
            return session.id, is_new

        again = [await ask("made"), await ask("found")]

        assert again == [made, found]
        assert sessions.find_active(USER, None) is not None
        assert [claim.key for claim in store.metas()[0].claims] == ["made", "found"]


@pytest.mark.parametrize("first", [None, "deploy"])
@pytest.mark.parametrize(
    ("identity", "topic"),
    [(USER, "other"), (Identity("crab", "else"), None), (Identity("crab", "user", is_ephemeral=True), None)],
)
async def test_a_key_that_asked_for_one_session_cannot_ask_for_another(
    first: str | None, identity: Identity, topic: str | None
) -> None:
    async with open_bench() as bench:
        await get_or_create(bench, "k", topic=first)

        with pytest.raises(RequestKeyReused, match="session/get_or_create"):
            await get_or_create(bench, "k", identity=identity, topic=topic)

        assert len(bench.store.metas()) == 1


async def test_a_session_that_was_closed_is_given_again_and_a_deleted_one_is_not_made_again() -> None:
    async with open_bench() as bench:
        await get_or_create(bench, "made")
        await get_or_create(bench, "found")
        await bench.runtime.sessions.close("crab_user_1", cancel=False)
        closed = await get_or_create(bench, "made")

        await bench.runtime.delete("crab_user_1")

        assert closed == ("crab_user_1", True)
        for key in ("made", "found"):
            with pytest.raises(NotFound, match="take a new key"):
                await get_or_create(bench, key)
        assert bench.store.metas() == ()


async def test_the_key_of_an_ephemeral_session_lives_as_it_does() -> None:
    scratch = Identity("crab", "user", is_ephemeral=True)
    async with open_bench() as bench:
        made = [await get_or_create(bench, "k", identity=scratch) for _ in range(2)]

        await bench.runtime.sessions.close(made[0][0], cancel=False)

        assert made == [("crab_user_1000000", True)] * 2
        with pytest.raises(NotFound, match="take a new key"):
            await get_or_create(bench, "k", identity=scratch)


async def test_a_claim_that_cannot_be_kept_is_refused_and_may_be_made_again() -> None:
    async with open_bench(store=FullStore()) as bench:
        session = await bench.session()
        log = session.log
        assert isinstance(log, FullLog)
        log.is_full = True
        with pytest.raises(StoreError):
            await get_or_create(bench, "k")

        log.is_full = False
        await get_or_create(bench, "k")

        assert records(session, Claimed) == [Claimed("k")]


async def test_a_deletion_asked_for_fifty_times_at_once_by_a_key_is_one() -> None:
    async with open_bench([TextChunk("half"), trio.Event()]) as bench:
        session = await bench.session()
        ticket, _ = await bench.accept(session, "go")

        with trio.fail_after(10):
            await in_parallel(50, lambda: bench.runtime.delete(session.id, "k"))

        assert (await outcome_of(ticket)).stop_reason == "cancelled"
        assert bench.types().count("session_closed") == 1
        assert bench.store.metas() == ()
        with pytest.raises(NotFound):
            await bench.runtime.delete(session.id)
        with pytest.raises(NotFound):
            await bench.runtime.delete(session.id, "other")


async def test_a_deletion_whose_asker_left_is_done_all_the_same() -> None:
    async with open_bench([TextChunk("half"), trio.Event()]) as bench:
        session = await bench.session()
        await bench.accept(session, "go")

        await leave_before(lambda: bench.runtime.delete(session.id, "k"))
        await until(lambda: bench.store.metas() == ())

        await bench.runtime.delete(session.id, "k")
        assert bench.runtime.sessions.live() == ()


async def test_a_key_that_came_with_another_request_deletes_nothing() -> None:
    async with open_bench() as bench:
        session, other = await bench.session(), await bench.session("other")
        await outcome_of((await bench.accept(session, "go", key="sent"))[0])
        await get_or_create(bench, "asked", identity=Identity("crab", "third"))
        await bench.runtime.delete(other.id, "deleted")

        for key in ("sent", "asked", "deleted"):
            with pytest.raises(RequestKeyReused):
                await bench.runtime.delete(session.id, key)
        session = await reload(bench, session)
        await bench.runtime.sessions.close(session.id, cancel=False)
        with pytest.raises(RequestKeyReused, match="session/send"):
            await bench.runtime.delete(session.id, "sent")
        with pytest.raises(RequestKeyReused, match="session/delete"):
            await get_or_create(bench, "deleted")

        assert bench.store.meta(session.id) is not None
