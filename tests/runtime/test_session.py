"""A live session: its tickets and keys, its bound, and how it is described."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from msgspec import structs

from crabd.errors import QueueFull, RequestKeyReused, StoreError
from crabd.events import QueuedMessage, RunPicture, SessionUsage, Snapshot, TextStart
from crabd.messages import AssistantMessage, TextBlock, ToolCall, ToolMessage, Usage, user_text, utc_now
from crabd.providers.base import Finished, TextChunk, ToolCallChunk
from crabd.runtime.broker import Broker
from crabd.runtime.run import CallTools, Run, Save
from crabd.runtime.session import MAX_WAITING, Job, Session
from crabd.runtime.ticket import Admission, Outcome
from crabd.store.base import Loaded
from crabd.store.inmemory import InMemoryLog
from crabd.store.record import (
    Claimed,
    Configured,
    Created,
    MessageAdded,
    MessageQueued,
    ModelCalled,
    Record,
    RunClosed,
    RunOpened,
    Step,
)

CREATED = Created(session="crab_user_1", agent="crab", sender="user", topic="t", cwd="/src")
HELLO = (TextBlock("hello"),)
CALL = ModelCalled("r1", "m", "reply", Usage(30, 10, cost=0.5), 40, 1000)


class StubbornLog(InMemoryLog):
    """A log that takes nothing until it is told to."""

    is_stubborn = False

    async def append(self, records: Sequence[Record]) -> tuple[Step, ...]:
        if self.is_stubborn:
            raise StoreError("full", "the disk is full: make room")
        return await super().append(records)


async def open_session(*records: Record) -> Session:
    """Load a session whose log has these records."""
    first = Step(1, utc_now(), CREATED)
    log = StubbornLog([first])
    log.reopen()
    steps = await log.append(records)
    return Session(
        Loaded(log, (first, *steps)), Broker("epoch", lambda payload: payload).topic("crab_user_1")
    )


def run_of(run: str, key: str | None, *texts: str) -> list[Record]:
    """Make the records of a finished run with these replies."""
    replies: list[Record] = [MessageAdded(run, AssistantMessage((TextBlock(text),))) for text in texts]
    opened: list[Record] = [RunOpened(run, key), MessageAdded(run, user_text("go"))]
    return [*opened, *replies, RunClosed(run, "end_turn", 1.0, Usage(7, 7))]


def step_to(run: Run, wanted: type) -> None:
    """Save what the machine asks to have saved, until it asks for something else."""
    action, _ = run.next_action(0.0)
    while isinstance(action, Save):
        run.saved()
        action, _ = run.next_action(0.0)
    assert isinstance(action, wanted)


async def test_messages_are_numbered_as_runs_and_know_where_their_events_begin() -> None:
    session = await open_session()
    session.publish([TextStart(), TextStart()])

    first, second = session.accept(HELLO), session.accept(HELLO)

    assert [first.run, second.run] == ["r1", "r2"]
    assert first.first_seq == 3
    assert list(session.waiting) == [first, second]
    assert repr(session) == "<Session crab_user_1 idle, 2 waiting>"


async def test_numbers_of_runs_go_on_after_those_of_the_log_run_or_not() -> None:
    after_run = await open_session(*run_of("r9", None), *run_of("r10", None))
    after_queued = await open_session(*run_of("r1", None), MessageQueued("r2", HELLO))

    assert after_run.accept(HELLO).run == "r11"
    assert after_queued.accept(HELLO).run == "r3"


async def test_no_more_than_the_bound_may_wait_and_a_refused_message_takes_no_number() -> None:
    session = await open_session()
    for _ in range(MAX_WAITING):
        session.accept(HELLO)

    with pytest.raises(QueueFull) as refused:
        session.accept(HELLO)
    session.waiting.popleft()

    assert refused.value.limit == MAX_WAITING
    assert session.accept(HELLO).run == f"r{MAX_WAITING + 1}"


async def test_a_message_that_is_withdrawn_was_never_there_and_whoever_waits_for_it_is_told() -> None:
    session = await open_session()
    kept, withdrawn = session.accept(HELLO), session.accept(HELLO, request_key="k")
    session.keys.add("k", HELLO, Admission(withdrawn, "queued"))
    refusal = StoreError("full", "make room")

    session.withdraw(withdrawn, refusal)

    assert list(session.waiting) == [kept]
    assert session.keys.find("k", Admission, HELLO) is None
    assert withdrawn.refusal is refusal
    assert withdrawn.accepted.is_set()


async def test_a_claim_is_in_the_log_and_takes_its_key() -> None:
    session = await open_session()

    await session.claim("k", "t")

    assert session.steps[-1].record == Claimed("k", "t")
    assert [(claim.key, claim.topic, claim.created) for claim in session.meta.claims] == [("k", "t", False)]
    with pytest.raises(RequestKeyReused, match="session/get_or_create"):
        session.keys.find("k", Admission, HELLO)


async def test_a_key_that_came_with_a_message_cannot_claim_the_session() -> None:
    session = await open_session()
    session.keys.add("k", HELLO, Admission(session.accept(HELLO), "started"))

    with pytest.raises(RequestKeyReused, match="session/send"):
        await session.claim("k", None)

    assert session.meta.claims == ()


async def test_a_ticket_that_settles_lets_everybody_go_who_waits() -> None:
    session = await open_session()
    ticket = session.accept(HELLO)
    open_repr = repr(ticket)
    outcome = Outcome(
        run="r1",
        stop_reason="end_turn",
        text="hi",
        usage=Usage(),
        persisted=True,
        error=None,
        first_seq=1,
        last_seq=2,
    )

    ticket.settle(outcome)

    with trio.fail_after(10):
        await ticket.accepted.wait()
        await ticket.settled.wait()
    assert (open_repr, repr(ticket)) == ("<Ticket r1 open>", "<Ticket r1 end_turn>")


async def test_a_session_is_described_by_what_its_log_adds_up_to() -> None:
    session = await open_session(*run_of("r1", None, "hi"), CALL, Configured(title="Title", model="x/y"))
    session.publish([TextStart()])
    session.accept(HELLO)

    info = session.info(is_active=True)

    meta = session.meta
    assert (info.id, info.agent, info.sender, info.topic, info.cwd) == (
        "crab_user_1",
        "crab",
        "user",
        "t",
        "/src",
    )
    assert (info.title, info.model, info.state, info.active, info.ephemeral) == (
        "Title",
        "x/y",
        "idle",
        True,
        False,
    )
    assert (info.message_count, info.steps, info.queue, info.seq, info.active_seconds) == (2, 7, 1, 1, 1.0)
    assert info.usage == SessionUsage(40, 1000, 1, Usage(30, 10, cost=0.5), rounds=1)
    assert (info.created_at, info.updated_at, info.last_run_at) == (
        meta.created_at,
        meta.updated_at,
        meta.last_run_at,
    )


async def test_the_state_tells_whether_it_works_or_is_held() -> None:
    idle = await open_session()
    paused = await open_session(Configured(paused=True))
    compacting = await open_session()
    compacting.job = Job()
    busy_and_paused = await open_session(Configured(paused=True))
    busy_and_paused.job = Job()

    states = [session.info(is_active=False).state for session in (idle, paused, compacting, busy_and_paused)]

    assert states == ["idle", "paused", "running", "running"]
    assert repr(compacting) == "<Session crab_user_1 compacting, 0 waiting>"


async def test_a_snapshot_of_an_idle_session_has_no_run_and_shows_who_waits() -> None:
    session = await open_session()
    session.accept(HELLO)

    snapshot = session.snapshot(is_active=False)

    assert snapshot == Snapshot(session.info(is_active=False), None, (QueuedMessage("r1", HELLO),))


async def test_a_snapshot_in_mid_reply_holds_the_text_so_far_and_no_half_call() -> None:
    session = await open_session()
    run = Run("r1", HELLO)
    session.job = Job(run)
    step_to(run, object)
    for chunk in (
        TextChunk("half an "),
        TextChunk("answer"),
        ToolCallChunk(0, id="a", name="x", arguments="{"),
    ):
        run.receive(chunk)
    run.steer(session.id, HELLO)

    picture = session.snapshot(is_active=False).run

    assert picture == RunPicture(
        run="r1",
        started_at=session.job.started_at,
        round=1,
        reply=AssistantMessage((TextBlock("half an answer"),), "", partial=True),
        open_calls=(),
        steers_waiting=1,
    )


async def test_a_snapshot_among_tools_lists_the_calls_without_a_result() -> None:
    session = await open_session()
    run = Run("r1", HELLO)
    session.job = Job(run)
    step_to(run, object)
    for chunk in (
        ToolCallChunk(0, id="a", name="x"),
        ToolCallChunk(1, id="b", name="y"),
        Finished("tool_calls"),
    ):
        run.receive(chunk)
    run.reply_finished(CALL)
    step_to(run, CallTools)
    run.tool_finished(ToolCall("a", "x", ""), "done", "ok")

    picture = session.snapshot(is_active=False).run

    assert picture is not None
    assert picture.open_calls == (ToolCall("b", "y", ""),)
    assert picture.results == (ToolMessage("a", "x", "done", "ok"),)
    assert picture.reply_kept


async def test_a_snapshot_says_of_a_reply_and_of_results_whether_the_log_has_them() -> None:
    session = await open_session()
    run = Run("r1", HELLO)
    session.job = Job(run)
    step_to(run, object)
    for chunk in (TextChunk("look"), ToolCallChunk(0, id="a", name="x"), Finished("tool_calls")):
        run.receive(chunk)

    seen: list[tuple[bool, int]] = []

    def look() -> None:
        picture = session.snapshot(is_active=False).run
        assert picture is not None
        seen.append((picture.reply_kept, len(picture.results)))

    look()
    run.reply_finished(CALL)
    look()
    step_to(run, CallTools)
    look()
    run.tool_finished(ToolCall("a", "x", ""), "done", "ok")
    look()
    run.next_action(0.0)
    run.saved()
    look()

    assert seen == [(False, 0), (False, 0), (True, 0), (True, 1), (True, 0)]


async def test_what_is_saved_joins_the_log_and_what_the_model_sees() -> None:
    session = await open_session()

    steps = await session.save([MessageAdded("r1", user_text("hi")), CALL])

    assert [step.n for step in steps] == [2, 3]
    assert session.steps[-2:] == list(steps)
    assert session.context.messages() == (user_text("hi"),)
    assert await session.save([]) == ()


async def test_records_of_what_has_happened_are_kept_when_the_store_refuses_and_go_first_next_time() -> None:
    session = await open_session()
    assert isinstance(session.log, StubbornLog)
    session.log.is_stubborn = True
    for text in ("one", "two"):
        with pytest.raises(StoreError):
            await session.save([MessageAdded("r1", user_text(text))], is_kept=True)
    with pytest.raises(StoreError):
        await session.save([MessageAdded("r1", user_text("its sender was told no"))])
    assert (session.unsaved, session.meta.steps) == (2, 1)

    session.log.is_stubborn = False
    steps = await session.save([MessageAdded("r1", user_text("three"))])

    assert session.unsaved == 0
    assert [step.record for step in steps] == [
        MessageAdded("r1", user_text(text)) for text in ("one", "two", "three")
    ]


async def test_a_save_that_is_cancelled_before_it_begins_takes_nothing() -> None:
    session = await open_session()

    with trio.CancelScope() as scope:
        scope.cancel()
        await session.save([MessageAdded("r1", user_text("hi"))])

    assert scope.cancelled_caught
    assert (session.unsaved, session.meta.steps, len(session.steps)) == (0, 1, 1)


@pytest.mark.parametrize("is_stubborn", [False, True])
async def test_closing_tries_once_more_to_save_and_closes_the_log_whatever_comes_of_it(
    is_stubborn: bool,
) -> None:
    session = await open_session()
    assert isinstance(session.log, StubbornLog)
    session.log.is_stubborn = True
    with pytest.raises(StoreError):
        await session.save([MessageAdded("r1", user_text("hi"))], is_kept=True)

    session.log.is_stubborn = is_stubborn
    await session.aclose()

    assert not session.log.is_open
    assert session.unsaved == (1 if is_stubborn else 0)
    assert session.meta.message_count == (0 if is_stubborn else 1)


async def test_events_go_out_in_the_order_they_are_given() -> None:
    session = await open_session()

    session.publish([TextStart(), TextStart()], "r1")

    assert session.topic.seq == 2
    assert len(session.topic.missed(0) or ()) == 2


async def test_an_ephemeral_session_says_so() -> None:
    session = await open_session()
    scratch = Session(Loaded(session.log, tuple(session.steps)), session.topic, is_ephemeral=True)

    assert scratch.info(is_active=False) == structs.replace(session.info(is_active=False), ephemeral=True)
