"""What holds in whatever order things meet: requests, a slow disk, one who leaves, the end of a reply."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from crabd.errors import ShuttingDown
from crabd.messages import TextBlock, Usage, user_text
from crabd.providers.base import TextChunk
from crabd.runtime.broker import Broker
from crabd.runtime.intake import admit_steer, confirm_steer
from crabd.runtime.recovery import INTERRUPTED_OUTPUT, close_interrupted
from crabd.runtime.router import Identity
from crabd.runtime.session import Session
from crabd.runtime.sessions import Sessions
from crabd.store.base import Loaded, Partial
from crabd.store.inmemory import InMemoryLog, InMemoryStore
from crabd.store.record import MessageAdded, Record, RunClosed, Step
from tests.fakes import HeldTool, calls, says
from tests.runtime.test_runtime import Bench, open_bench, outcome_of, texts, until

WORD = (TextBlock("mind this"),)
PATIENCE = 10.0


class SlowLog(InMemoryLog):
    """A log on a disk that takes one write for each permit, once there are permits."""

    permits: trio.Semaphore | None = None

    async def append(self, records: Sequence[Record]) -> tuple[Step, ...]:
        if self.permits is not None:
            with trio.CancelScope(shield=True):
                await self.permits.acquire()
        return await super().append(records)


class PartLog(InMemoryLog):
    """A log that remembers the newest part of a reply."""

    part: Partial | None = None

    async def keep_partial(self, piece: Partial, *, is_first: bool) -> None:
        self.part = piece


class OddStore(InMemoryStore):
    """A store whose logs are of another kind."""

    def __init__(self, kind: type[InMemoryLog]) -> None:
        super().__init__()
        self._kind = kind

    async def create(self, agent: str, sender: str, **facts: str | None) -> Loaded:
        loaded = await super().create(agent, sender, **facts)
        log = self._sessions[loaded.log.meta.id] = self._kind(await self.read(loaded.log.meta.id))
        return log.reopen()


@contextmanager
def slowed_down(session: Session) -> Generator[trio.Semaphore]:
    """Have the session's writes wait for permits in this block."""
    assert isinstance(session.log, SlowLog)
    permits = session.log.permits = trio.Semaphore(0)
    try:
        yield permits
    finally:
        session.log.permits = None
        for _ in range(99):
            permits.release()


async def stored(bench: Bench, session: Session) -> list[str]:
    """List the texts of a session's messages in the store."""
    steps = await bench.store.read(session.id)
    return texts([step.record.message for step in steps if isinstance(step.record, MessageAdded)])


async def configure(bench: Bench, session: Session) -> None:
    await bench.runtime.configure(session, title="T")


async def test_a_close_goes_on_though_whoever_asked_has_left() -> None:
    async with open_bench([TextChunk("half"), trio.Event()]) as bench:
        session = await bench.session()
        await bench.accept(session, "go")

        async with trio.open_nursery() as client:
            client.start_soon(lambda: bench.runtime.close(session.id, cancel=True))
            await until(lambda: session.end is not None)
            client.cancel_scope.cancel()
        with trio.fail_after(PATIENCE):
            found = await bench.runtime.sessions.load(session.id)

        assert found is not session
        assert await stored(bench, found) == ["go", "half"]


async def test_who_waits_for_a_session_that_the_one_in_front_closes_again_gets_it_all_the_same() -> None:
    async with open_bench([TextChunk("half"), trio.Event()], store=OddStore(SlowLog)) as bench:
        sessions, session = bench.runtime.sessions, await bench.session()
        await bench.accept(session, "go")
        found: list[Session] = []

        async def load_and_close() -> None:
            found.append(await sessions.load(session.id))
            await sessions.close(session.id, cancel=False)

        async def load() -> None:
            found.append(await sessions.load(session.id))

        async with trio.open_nursery() as nursery:
            with slowed_down(session):
                for deed in (partial(sessions.close, session.id, cancel=True), load_and_close, load):
                    nursery.start_soon(deed)
                    await wait_all_tasks_blocked()

        assert [await stored(bench, one) for one in found] == [["go", "half"]] * 2


async def test_who_wants_a_session_that_is_being_deleted_gets_a_new_one() -> None:
    async with open_bench([TextChunk("half"), trio.Event()]) as bench:
        session = await bench.session()
        await bench.accept(session, "go")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.runtime.delete, session.id)
            await until(lambda: session.end is not None)
            found = await bench.session()

        assert found.id != session.id
        assert [meta.id for meta in bench.store.metas()] == [found.id]


async def test_a_message_that_was_cancelled_while_it_waited_stays_so_though_whoever_asked_has_left() -> None:
    async with open_bench([TextChunk("half"), trio.Event()], store=OddStore(SlowLog)) as bench:
        session = await bench.session()
        await bench.accept(session, "go")
        waiting, _ = await bench.accept(session, "later")

        with slowed_down(session) as permits:
            async with trio.open_nursery() as nursery, trio.open_nursery() as client:
                nursery.start_soon(configure, bench, session)
                await wait_all_tasks_blocked()
                client.start_soon(bench.runtime.cancel, session, waiting.run)
                await wait_all_tasks_blocked()
                client.cancel_scope.cancel()
                for _ in range(2):
                    permits.release()

        assert (await outcome_of(waiting)).persisted
        assert session.meta.queued == ()


async def test_a_steering_is_confirmed_when_it_is_durable_though_its_run_was_cancelled_meanwhile() -> None:
    gate = trio.Event()
    confirmed = trio.Event()
    async with open_bench([TextChunk("a"), gate, *says()], store=OddStore(SlowLog)) as bench:
        session = await bench.session()
        await bench.accept(session, "go")
        steering = admit_steer(session, WORD)

        async def confirm() -> None:
            await confirm_steer(session, steering)
            confirmed.set()

        with slowed_down(session) as permits:
            async with trio.open_nursery() as nursery:
                # In line stand a write, the steering, a write, and the run that the steering has joined.
                for waiting in (
                    partial(configure, bench, session),
                    confirm,
                    partial(configure, bench, session),
                ):
                    nursery.start_soon(waiting)
                    await wait_all_tasks_blocked()
                gate.set()
                await wait_all_tasks_blocked()
                permits.release()
                await wait_all_tasks_blocked()
                # Now the run leaves the line, to stand behind the steering, which waits for it.
                nursery.start_soon(bench.runtime.cancel, session, None)
                await wait_all_tasks_blocked()
                permits.release()
                await wait_all_tasks_blocked()
                before = (confirmed.is_set(), await stored(bench, session))
                permits.release()
                with trio.fail_after(PATIENCE):
                    await confirmed.wait()
                after = await stored(bench, session)

        assert before == (False, ["go"])
        assert after == ["go", "a", "mind this"]


async def test_a_run_is_told_to_have_started_before_what_has_joined_it() -> None:
    async with open_bench() as bench:
        session = await bench.session()

        admission = bench.runtime.admit(session, (TextBlock("go"),), on_ticket=lambda _: None)
        admit_steer(session, WORD)
        await outcome_of(admission.ticket)

        told = [event for event in bench.events if event["type"] in ("run_started", "steered")]
        steps = await bench.store.read(session.id)
        assert [event["type"] for event in told] == ["run_started", "steered"]
        assert [step.record for step in steps if step.n == told[0]["step"]] == [
            MessageAdded("r1", user_text("go"))
        ]


async def test_what_joins_a_run_is_told_when_it_is_durable() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("a"), gate, *says()], store=OddStore(SlowLog)) as bench:
        session = await bench.session()
        ticket, _ = await bench.accept(session, "go")
        admit_steer(session, WORD)

        with slowed_down(session):
            gate.set()
            await wait_all_tasks_blocked()
            before = bench.types().count("steered")
        await outcome_of(ticket)

        assert (before, bench.types().count("steered")) == (0, 1)


async def test_a_reply_that_the_log_has_is_not_added_to_it_again_in_part() -> None:
    look = HeldTool("look", is_free=False)
    reply = [TextChunk("I look"), *calls("look")]
    async with open_bench(reply, tools=[look], store=OddStore(PartLog)) as bench:
        session = await bench.session()
        log = session.log
        assert isinstance(log, PartLog)

        await bench.accept(session, "go")
        await until(lambda: log.part is not None)

        closed = close_interrupted(session.meta, await bench.store.read(session.id), log.part)
        assert texts([record.message for record in closed if isinstance(record, MessageAdded)]) == [
            INTERRUPTED_OUTPUT
        ]


async def test_the_number_of_a_run_that_was_cancelled_before_it_was_recorded_is_not_given_again() -> None:
    async with open_bench() as bench:
        session = await bench.session()
        await session.save([RunClosed("r1", "cancelled", 0.0, Usage())])
        await bench.runtime.close(session.id, cancel=False)

        outcome = await bench.ask(await bench.session(), "go")

        assert outcome.run == "r2"


class SlowToClose(InMemoryLog):
    """A log that takes its time to close, and tells when it has begun."""

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__(steps)
        self.is_closing = trio.Event()
        self.may_close = trio.Event()

    async def aclose(self) -> None:
        self.is_closing.set()
        await self.may_close.wait()
        await super().aclose()


async def test_who_asks_for_a_session_while_all_are_closed_is_told_that_the_daemon_stops() -> None:
    store = OddStore(SlowToClose)
    sessions = Sessions(store, InMemoryStore(first_number=1000), Broker("epoch", lambda payload: payload))
    identity = Identity("crab", "user")
    session, _ = await sessions.get_or_create(identity, topic=None, description=None, cwd=None)
    log = session.log
    assert isinstance(log, SlowToClose)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sessions.aclose)
            await log.is_closing.wait()
            with pytest.raises(ShuttingDown):
                await sessions.load(session.id)
            with pytest.raises(ShuttingDown):
                await sessions.get_or_create(identity, topic="new", description=None, cwd=None)
            log.may_close.set()


async def test_a_message_cancelled_before_it_was_recorded_is_not_taken_for_new_when_it_comes_again() -> None:
    async with open_bench([trio.Event(), *says("first")]) as bench:
        session = await bench.session()
        await bench.accept(session, "first")
        admission = bench.runtime.admit(session, WORD, request_key="k", on_ticket=lambda _: None)
        await bench.runtime.cancel(session, admission.ticket.run)

        await bench.runtime.close(session.id, cancel=True)
        session = await bench.runtime.sessions.load(session.id)
        again = bench.runtime.admit(session, WORD, request_key="k", on_ticket=lambda _: None)

        assert again.disposition == "attached"
        assert (await outcome_of(again.ticket)).stop_reason == "cancelled"
        assert session.meta.queued == ()
