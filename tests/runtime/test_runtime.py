"""The runtime over the in-memory store and a scripted model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import trio
from msgspec import structs

from crabd.errors import (
    CrabdError,
    NoRun,
    NotFound,
    NothingToCompact,
    ProviderError,
    QueueFull,
    RequestCancelled,
    SessionBusy,
    SessionPaused,
    ShuttingDown,
    StoreError,
)
from crabd.events import PlanItem, QueuedMessage
from crabd.messages import (
    AssistantMessage,
    ImageBlock,
    Message,
    TextBlock,
    ToolMessage,
    UserMessage,
    text_of,
    without_pictures,
)
from crabd.providers.base import TextChunk
from crabd.runtime.agents import DEFAULT_AGENT, Agents
from crabd.runtime.broker import Broker
from crabd.runtime.guards import Guards
from crabd.runtime.history import Wanted
from crabd.runtime.intake import admit_steer, confirm, confirm_steer
from crabd.runtime.permissions.rulebook import Rulebook
from crabd.runtime.router import Identity
from crabd.runtime.runtime import Runtime, WhenBusy
from crabd.runtime.session import MAX_WAITING, Session
from crabd.runtime.sessions import Sessions
from crabd.runtime.ticket import Disposition, Outcome, Ticket
from crabd.runtime.trust import Trust
from crabd.store.base import Loaded, Store
from crabd.store.inmemory import InMemoryLog, InMemoryStore
from crabd.store.record import Created, MessageAdded, MessageQueued, Planned, Record, RunOpened, Step
from crabd.tools.base import Tool, Toolmaker
from tests.fakes import FixedTools, HeldTool, Part, ScriptedModels, ScriptedProvider, calls, guards, says

T = TypeVar("T")
# There are no instructions, and nothing is trusted.
NOWHERE = Path("/nonexistent")


class Bench:
    """A runtime with everything round it, and the events of every session."""

    def __init__(self, runtime: Runtime, provider: ScriptedProvider, store: Store) -> None:
        self.runtime = runtime
        self.provider = provider
        self.store = store
        self.events: list[dict[str, object]] = []
        self.backlog = 0
        runtime.broker.watch(self)

    def post(self, payload: bytes) -> None:
        self.events.append(msgspec.json.decode(payload, type=dict[str, object]))

    def post_at_once(self, bundle: Sequence[bytes]) -> bool:
        return False

    def close(self) -> None:
        raise AssertionError("nothing was left unread")

    async def session(self, sender: str = "user") -> Session:
        session, _ = await self.runtime.get_or_create(
            Identity("crab", sender), topic=None, description=None, cwd=None
        )
        return session

    async def accept(
        self, session: Session, text: str, *, when_busy: WhenBusy = "queue", key: str | None = None
    ) -> tuple[Ticket, Disposition]:
        admission = self.runtime.admit(
            session, (TextBlock(text),), when_busy=when_busy, request_key=key, on_ticket=lambda _: None
        )
        await confirm(session, admission)
        return admission.ticket, admission.disposition

    async def steer(self, session: Session, text: str) -> int:
        steering = admit_steer(session, (TextBlock(text),))
        await confirm_steer(session, steering)
        return steering.position

    async def ask(self, session: Session, text: str) -> Outcome:
        ticket, _ = await self.accept(session, text)
        return await outcome_of(ticket)

    def types(self) -> list[object]:
        return [event["type"] for event in self.events]


async def outcome_of(ticket: Ticket) -> Outcome:
    with trio.fail_after(10):
        await ticket.settled.wait()
    assert ticket.outcome is not None
    return ticket.outcome


async def until(condition: Callable[[], bool]) -> None:
    """Let others work until something is so."""
    with trio.fail_after(10):
        while not condition():
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def open_bench(
    *replies: Sequence[Part],
    tools: Sequence[Tool] = (),
    store: Store | None = None,
    guarded: Guards | None = None,
    toolmaker: Toolmaker | None = None,
    rulebook: Rulebook | None = None,
) -> AsyncGenerator[Bench]:
    provider = ScriptedProvider(*replies)
    broker = Broker("epoch", lambda payload: payload)
    kept = store or InMemoryStore()
    async with trio.open_nursery() as runs:
        sessions = Sessions(kept, InMemoryStore(first_number=1_000_000), broker)
        runtime = Runtime(
            runs=runs,
            sessions=sessions,
            broker=broker,
            agents=Agents({"crab": DEFAULT_AGENT}),
            models=ScriptedModels(provider),
            toolmaker=toolmaker or FixedTools(*tools),
            guards=guarded or guards(),
            trust=Trust(NOWHERE, NOWHERE),
            rulebook=rulebook or Rulebook(NOWHERE, "/"),
        )
        yield Bench(runtime, provider, kept)
        runs.cancel_scope.cancel()


def history(session: Session) -> list[Message]:
    """List the messages in memory."""
    return [added.message for step in session.steps if isinstance(added := step.record, MessageAdded)]


def texts(messages: Sequence[Message]) -> list[str]:
    return [text_of(message) for message in messages]


async def in_parallel(count: int, work: Callable[[], Awaitable[T]]) -> list[T]:
    results: list[T] = []

    async def one() -> None:
        results.append(await work())

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return results


async def test_fifty_concurrent_callers_of_one_identity_get_one_session() -> None:
    async with open_bench() as bench:
        sessions = await in_parallel(50, bench.session)

        assert {id(session) for session in sessions} == {id(sessions[0])}
        assert len(bench.store.metas()) == 1


async def test_senders_that_share_a_slug_have_a_session_each() -> None:
    async with open_bench() as bench:
        senders = ["b_1", "b-1", "b:1", "B 1"]
        ids = [(await bench.session(sender)).id for sender in senders]
        again = [(await bench.session(sender)).id for sender in senders]

        assert ids == ["crab_b-1_1", "crab_b-1_2", "crab_b-1_3", "crab_b-1_4"]
        assert again == ids


async def test_an_unknown_agent_is_refused_by_name() -> None:
    async with open_bench() as bench:
        with pytest.raises(NotFound, match="there is no agent 'nobody'"):
            await bench.runtime.get_or_create(
                Identity("nobody", "user"), topic=None, description=None, cwd=None
            )


async def test_a_topic_is_found_again_and_becomes_active() -> None:
    async with open_bench() as bench:

        async def topic(name: str | None) -> tuple[str, bool]:
            session, is_new = await bench.runtime.get_or_create(
                Identity("crab", "user"), topic=name, description=None, cwd=None
            )
            return session.id, is_new

        plain = await topic(None)
        deploy = await topic("deploy")
        again = await topic("deploy")
        active = await topic(None)

        assert plain == ("crab_user_1", True)
        assert deploy == ("crab_user_2", True)
        assert again == active == ("crab_user_2", False)


async def test_an_ephemeral_session_is_not_in_the_store_and_ends_with_its_close() -> None:
    async with open_bench() as bench:
        runtime = bench.runtime
        session, _ = await runtime.get_or_create(
            Identity("crab", "user", is_ephemeral=True), topic=None, description=None, cwd=None
        )
        await bench.ask(session, "hello")
        kept = await bench.session()

        await runtime.sessions.close(session.id, cancel=False)

        assert bench.store.metas() == (kept.meta,)
        with pytest.raises(NotFound):
            runtime.sessions.meta(session.id)


async def test_a_run_answers_and_its_history_is_what_the_next_request_holds() -> None:
    async with open_bench(says("one"), says("two")) as bench:
        session = await bench.session()

        first = await bench.ask(session, "first")
        second = await bench.ask(session, "second")

        assert (first.text, first.stop_reason, first.persisted) == ("one", "end_turn", True)
        assert (second.run, second.text) == ("r2", "two")
        assert texts(bench.provider.requests[1].messages) == ["first", "one", "second"]


async def test_the_events_of_a_run_are_numbered_without_gaps_and_end_with_run_ended() -> None:
    async with open_bench(says("a", "b")) as bench:
        session = await bench.session()

        outcome = await bench.ask(session, "hello")

        assert bench.types() == [
            "run_started",
            "text_start",
            "text_delta",
            "text_delta",
            "text_end",
            "usage",
            "run_ended",
        ]
        assert [event["seq"] for event in bench.events] == list(range(1, 8))
        assert (outcome.first_seq, outcome.last_seq) == (1, 7)
        assert {event["run"] for event in bench.events} == {"r1"}


async def test_messages_to_a_busy_session_run_in_order() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("one"), gate, *says()], says("two"), says("three")) as bench:
        session = await bench.session()
        tickets = [await bench.accept(session, word) for word in ("first", "second", "third")]
        assert [disposition for _, disposition in tickets] == ["started", "queued", "queued"]

        gate.set()
        outcomes = [await outcome_of(ticket) for ticket, _ in tickets]

        assert [outcome.text for outcome in outcomes] == ["one", "two", "three"]
        assert texts(history(session)) == ["first", "one", "second", "two", "third", "three"]
        assert session.meta.queued == ()


async def test_words_stand_for_pictures_in_events_and_queues_and_the_history_has_them() -> None:
    shown = (TextBlock("What is this?"), ImageBlock("image/png", b"x" * 2000))
    told = without_pictures(shown)
    gate = trio.Event()
    async with open_bench([TextChunk("one"), gate, *says()], says("two"), says("three")) as bench:
        session = await bench.session()

        first = bench.runtime.admit(session, shown, on_ticket=lambda _: None)
        await confirm(session, first)
        await confirm_steer(session, admit_steer(session, shown))
        second = bench.runtime.admit(session, shown, on_ticket=lambda _: None)
        await confirm(session, second)
        queue = session.snapshot(is_active=True).queue
        gate.set()
        await outcome_of(second.ticket)

        contents = [(event["type"], event["content"]) for event in bench.events if "content" in event]
        types = ("run_started", "queued", "steered", "run_started")
        assert contents == [(type_, list(msgspec.to_builtins(told))) for type_ in types]
        assert queue == (QueuedMessage("r2", told),)
        log = [step.record for step in await bench.store.read(session.id)]
        said = [record.message for record in log if isinstance(record, MessageAdded)]
        assert [message.content for message in said if isinstance(message, UserMessage)] == [shown] * 3


async def test_a_busy_session_can_reject_and_its_queue_has_a_bound() -> None:
    async with open_bench([trio.Event()]) as bench:
        session = await bench.session()
        await bench.accept(session, "first")

        with pytest.raises(SessionBusy, match="busy with run r1"):
            await bench.accept(session, "no", when_busy="reject")
        for i in range(MAX_WAITING):
            await bench.accept(session, f"{i}")
        with pytest.raises(QueueFull):
            await bench.accept(session, "one too many")


async def test_a_burst_of_steers_arrives_complete_and_in_order() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("thinking"), gate, *says()], says("done")) as bench:
        session = await bench.session()
        ticket, _ = await bench.accept(session, "go")
        words = ["one", "two", "three", "four", "five"]

        acknowledged = [await bench.steer(session, word) for word in words]
        gate.set()
        outcome = await outcome_of(ticket)

        assert acknowledged == [1, 2, 3, 4, 5]
        assert texts(bench.provider.requests[1].messages) == ["go", "thinking", *words]
        assert outcome.text == "done"
        assert bench.types().count("steered") == 5
        assert session.meta.queued == ()


async def test_what_is_taken_before_its_record_is_written_does_not_wait_for_ever() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("a"), gate, *says()], says("b"), says("c")) as bench:
        session = await bench.session()
        await bench.accept(session, "first")
        steering = admit_steer(session, (TextBlock("steer"),))
        admission = bench.runtime.admit(session, (TextBlock("second"),), on_ticket=lambda _: None)

        gate.set()
        await outcome_of(admission.ticket)
        await confirm_steer(session, steering)
        await confirm(session, admission)

        assert session.meta.queued == ()
        assert texts(history(session)) == ["first", "a", "steer", "b", "second", "c"]


async def test_a_steer_with_nothing_going_is_refused() -> None:
    async with open_bench() as bench:
        session = await bench.session()

        with pytest.raises(NoRun):
            await bench.steer(session, "hello?")


async def test_a_message_may_steer_a_busy_session_and_gets_its_outcome() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("a"), gate, *says()], says("b")) as bench:
        session = await bench.session()
        first, _ = await bench.accept(session, "go")

        second, disposition = await bench.accept(session, "also", when_busy="steer")
        gate.set()

        assert (second, disposition) == (first, "steered")
        assert (await outcome_of(first)).text == "b"


async def test_a_cancel_in_the_stream_keeps_the_partial_answer() -> None:
    async with open_bench([TextChunk("half"), trio.Event()], says("fine")) as bench:
        session = await bench.session()
        ticket, _ = await bench.accept(session, "go")
        await until(lambda: "text_delta" in bench.types())

        settled = await bench.runtime.cancel(session, None)
        after = await bench.ask(session, "again")

        assert settled == ("r1", "cancelled")
        assert (await outcome_of(ticket)).stop_reason == "cancelled"
        assert history(session)[1] == AssistantMessage((TextBlock("half"),), "scripted/one", partial=True)
        assert bench.provider.open_streams == 0
        assert after.text == "fine"
        assert texts(bench.provider.requests[1].messages) == ["go", "half", "again"]


async def test_a_cancel_in_a_tool_stops_it_and_leaves_a_valid_history() -> None:
    tool = HeldTool(is_free=False)
    async with open_bench(calls("held"), says("fine"), tools=[tool]) as bench:
        session = await bench.session()
        await bench.accept(session, "go")
        await tool.began.wait()

        await bench.runtime.cancel(session, "r1")
        await bench.ask(session, "again")

        assert tool.was_cancelled
        results = [
            message for message in bench.provider.requests[1].messages if isinstance(message, ToolMessage)
        ]
        assert [(result.call, result.status) for result in results] == [("c0", "cancelled")]


async def test_a_waiting_message_can_be_cancelled_by_its_run() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("a"), gate, *says()]) as bench:
        session = await bench.session()
        first, _ = await bench.accept(session, "first")
        second, _ = await bench.accept(session, "second")

        settled = await bench.runtime.cancel(session, second.run)
        gate.set()
        await outcome_of(first)

        assert settled == ("r2", "cancelled")
        assert (await outcome_of(second)).stop_reason == "cancelled"
        assert texts(history(session)) == ["first", "a"]
        assert session.meta.queued == ()


async def test_tools_of_a_round_run_at_once_and_their_results_come_as_they_complete() -> None:
    slow, fast = HeldTool("slow", is_free=False), HeldTool("fast")
    async with open_bench(calls("slow", "fast"), says("done"), tools=[slow, fast]) as bench:
        session = await bench.session()
        ticket, _ = await bench.accept(session, "go")
        await until(lambda: "tool_result" in bench.types())

        slow.go.set()
        outcome = await outcome_of(ticket)

        results = [event["name"] for event in bench.events if event["type"] == "tool_result"]
        assert results == ["fast", "slow"]
        assert [m.name for m in history(session) if isinstance(m, ToolMessage)] == ["slow", "fast"]
        assert outcome.text == "done"


async def test_a_call_that_cannot_be_made_is_answered_to_the_model() -> None:
    async with open_bench(
        calls("nothing"), calls("held", arguments="{oops"), says("sorry"), tools=[HeldTool()]
    ) as bench:
        session = await bench.session()

        outcome = await bench.ask(session, "go")

        results = [message for message in history(session) if isinstance(message, ToolMessage)]
        assert [result.status for result in results] == ["error", "error"]
        assert "there is no tool 'nothing'; the tools are: held" in results[0].output
        assert "not a JSON object" in results[1].output
        assert outcome.text == "sorry"


async def test_a_failing_model_ends_the_run_with_its_error_and_keeps_what_came() -> None:
    broken = ProviderError("unavailable", "the server hung up", provider="scripted")
    async with open_bench([TextChunk("half"), broken], says("fine")) as bench:
        session = await bench.session()

        outcome = await bench.ask(session, "go")
        after = await bench.ask(session, "again")

        assert outcome.stop_reason == "error"
        assert outcome.error is not None
        assert (outcome.error.code, outcome.error.kind) == (-32010, "unavailable")
        assert outcome.persisted
        assert after.text == "fine"


async def test_a_repeated_request_key_attaches_to_the_first_run() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("once"), gate, *says()]) as bench:
        session = await bench.session()
        first, _ = await bench.accept(session, "go", key="k1")

        second, disposition = await bench.accept(session, "go", key="k1")
        gate.set()
        outcome = await outcome_of(second)
        third, _ = await bench.accept(session, "go", key="k1")

        assert (second, disposition, third) == (first, "attached", first)
        assert outcome.text == "once"
        assert len(bench.provider.requests) == 1


async def test_a_steering_that_is_sent_again_does_not_steer_again() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("a"), gate, *says()], says("b")) as bench:
        session = await bench.session()
        first, _ = await bench.accept(session, "go")

        steered = [await bench.accept(session, "also", when_busy="steer", key="k1") for _ in range(2)]
        gate.set()
        await outcome_of(first)
        await bench.runtime.sessions.close(session.id, cancel=False)
        later, disposition = await bench.accept(await bench.session(), "also", when_busy="steer", key="k1")

        assert steered == [(first, "steered"), (first, "attached")]
        assert texts(bench.provider.requests[1].messages) == ["go", "a", "also"]
        assert disposition == "attached"
        assert (await outcome_of(later)).text == "b"


async def test_a_request_key_is_known_after_the_session_was_unloaded() -> None:
    async with open_bench(says("once")) as bench:
        session = await bench.session()
        await outcome_of((await bench.accept(session, "go", key="k1"))[0])
        await bench.runtime.sessions.close(session.id, cancel=False)

        ticket, disposition = await bench.accept(await bench.session(), "go", key="k1")

        assert disposition == "attached"
        assert (await outcome_of(ticket)).text == "once"


async def test_a_paused_session_refuses_messages_and_lets_waiting_ones_go_on_when_resumed() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("one"), gate, *says()], says("two")) as bench:
        session = await bench.session()
        first, _ = await bench.accept(session, "first")
        second, _ = await bench.accept(session, "second")
        await bench.runtime.configure(session, paused=True)
        gate.set()
        await outcome_of(first)

        with pytest.raises(SessionPaused):
            await bench.accept(session, "third")
        assert second.outcome is None
        await bench.runtime.configure(session, paused=False)

        assert (await outcome_of(second)).text == "two"


async def test_compaction_replaces_old_rounds_and_keeps_the_goal_the_plan_and_the_newest() -> None:
    replies = [says(f"answer {i}" + " and so on" * 20, tokens=300) for i in range(3)]
    async with open_bench(*replies, says("they talked"), says("more")) as bench:
        session = await bench.session()
        for i in range(3):
            await bench.ask(session, f"question {i}")
        await session.save([Planned("r1", (PlanItem("count them"),))])

        done = await bench.runtime.edits.compact(session, "mind the numbers")
        await bench.ask(session, "next")

        assert done.archive == f"{session.id}/1"
        assert done.summary == "they talked"
        assert done.usage_after < done.usage_before == 600
        asked = text_of(bench.provider.requests[3].messages[0])
        assert "mind the numbers" in asked
        assert "person: question 0\nagent: answer 0" in asked
        seen = texts(bench.provider.requests[4].messages)
        assert seen[0].startswith("question 0")
        assert "they talked" in seen[0]
        assert seen[0].endswith("<your_plan_by_then>\n[ ] count them\n</your_plan_by_then>")
        assert seen[1:] == ["question 2", "answer 2" + " and so on" * 20, "next"]
        assert len((await bench.runtime.sessions.read_page(session, Wanted(1, 100))).messages) == 8


async def test_a_session_compacts_again_and_still_knows_its_goal() -> None:
    a, b = says("a" * 400), says("b" * 400)
    async with open_bench(a, says("sum one"), b, says("sum two"), says("c")) as bench:
        session = await bench.session()
        await bench.ask(session, "the goal")
        await bench.runtime.edits.compact(session, None)
        await bench.ask(session, "second")

        again = await bench.runtime.edits.compact(session, None)
        await bench.ask(session, "third")

        assert again.archive == f"{session.id}/2"
        assert "sum one" in text_of(bench.provider.requests[3].messages[0])
        seen = texts(bench.provider.requests[4].messages)
        assert seen[0].startswith("the goal")
        assert "sum two" in seen[0]
        assert "sum one" not in seen[0]
        assert seen[-1] == "third"


async def test_a_session_serves_others_while_it_compacts_and_queues_messages() -> None:
    gate = trio.Event()
    async with open_bench(says("a" * 400), [gate, *says("summary")], says("b")) as bench:
        session = await bench.session()
        await bench.ask(session, "first")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.runtime.edits.compact, session, None)
            await until(lambda: session.job is not None)

            ticket, disposition = await bench.accept(session, "second")
            state = bench.runtime.sessions.info(session).state
            gate.set()

        assert (disposition, state) == ("queued", "running")
        assert (await outcome_of(ticket)).text == "b"
        assert "summary" in texts(bench.provider.requests[2].messages)[0]


async def test_a_cancelled_or_failed_compaction_changes_nothing() -> None:
    broken = ProviderError("unavailable", "down", provider="scripted")
    async with open_bench(says("a"), [trio.Event()], [broken]) as bench:
        session = await bench.session()
        await bench.ask(session, "first")
        steps = session.meta.steps

        async def compact() -> None:
            with pytest.raises(RequestCancelled):
                await bench.runtime.edits.compact(session, None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(compact)
            await until(lambda: bench.provider.open_streams == 1)
            await bench.runtime.cancel(session, None)
        with pytest.raises(ProviderError):
            await bench.runtime.edits.compact(session, None)

        assert session.meta.steps == steps
        assert session.job is None


async def test_a_session_without_a_round_has_nothing_to_compact() -> None:
    async with open_bench() as bench:
        session = await bench.session()

        with pytest.raises(NothingToCompact):
            await bench.runtime.edits.compact(session, None)


async def test_clear_empties_what_the_model_sees_and_keeps_the_log() -> None:
    async with open_bench(says("one"), says("two")) as bench:
        session = await bench.session()
        await bench.ask(session, "first")

        await bench.runtime.edits.clear(session)
        await bench.ask(session, "second")

        assert texts(bench.provider.requests[1].messages) == ["second"]
        page = await bench.runtime.sessions.read_page(session, Wanted(1, 100))
        assert texts([stored.message for stored in page.messages]) == ["first", "one", "second", "two"]


async def test_close_refuses_a_busy_session_unless_told_to_cancel() -> None:
    async with open_bench([TextChunk("half"), trio.Event()]) as bench:
        session = await bench.session()
        running, _ = await bench.accept(session, "go")
        waiting, _ = await bench.accept(session, "later")

        with pytest.raises(SessionBusy):
            await bench.runtime.sessions.close(session.id, cancel=False)
        closed = await bench.runtime.sessions.close(session.id, cancel=True)
        again = await bench.runtime.sessions.close(session.id, cancel=False)

        assert (closed, again) == (True, False)
        assert (await outcome_of(running)).stop_reason == "cancelled"
        assert (await outcome_of(waiting)).stop_reason == "cancelled"
        assert bench.types()[-1] == "session_closed"


async def test_a_closed_session_comes_back_as_it_was() -> None:
    async with open_bench(says("one"), says("two")) as bench:
        session = await bench.session()
        await bench.runtime.configure(session, title="Title", model="scripted/two")
        await bench.ask(session, "first")
        before = session.meta
        await bench.runtime.sessions.close(session.id, cancel=False)

        again = await bench.session()
        outcome = await bench.ask(again, "second")

        assert again is not session
        assert (again.meta.title, again.meta.model, again.meta.created_at) == (
            before.title,
            before.model,
            before.created_at,
        )
        assert outcome.run == "r2"
        assert texts(bench.provider.requests[1].messages) == ["first", "one", "second"]


async def test_a_message_that_meets_a_closing_session_goes_to_its_next_life() -> None:
    async with open_bench([TextChunk("half"), trio.Event()], says("fine")) as bench:
        session = await bench.session()
        await bench.accept(session, "go")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: bench.runtime.sessions.close(session.id, cancel=True))
            await until(lambda: session.end is not None)
            found = await bench.runtime.sessions.load(session.id)

        assert found is not session
        assert (await bench.ask(found, "again")).text == "fine"


async def test_delete_cancels_the_run_and_nothing_brings_the_session_back() -> None:
    async with open_bench([TextChunk("half"), trio.Event()]) as bench:
        session = await bench.session()
        ticket, _ = await bench.accept(session, "go")

        await bench.runtime.sessions.delete(session.id)

        assert (await outcome_of(ticket)).stop_reason == "cancelled"
        assert bench.store.metas() == ()
        with pytest.raises(NotFound):
            await bench.runtime.sessions.load(session.id)
        with pytest.raises(NotFound):
            await bench.runtime.sessions.delete(session.id)


async def test_a_drain_lets_runs_finish_and_leaves_waiting_messages_in_the_history() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("one"), gate, *says()]) as bench:
        session = await bench.session()
        running, _ = await bench.accept(session, "first")
        waiting, _ = await bench.accept(session, "second")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.runtime.drain, trio.move_on_after(10))
            await until(lambda: bench.runtime.is_stopping)
            with pytest.raises(ShuttingDown):
                await bench.accept(session, "third")
            gate.set()

        assert (await outcome_of(running)).stop_reason == "end_turn"
        assert (await outcome_of(waiting)).stop_reason == "interrupted"
        assert texts(history(session)) == ["first", "one", "second"]


async def test_a_drain_cancels_what_outlasts_its_grace() -> None:
    async with open_bench([TextChunk("half"), trio.Event()]) as bench:
        session = await bench.session()
        ticket, _ = await bench.accept(session, "go")
        await until(lambda: "text_delta" in bench.types())
        grace = trio.move_on_after(60)
        grace.cancel()

        with trio.fail_after(10):
            await bench.runtime.drain(grace)

        outcome = await outcome_of(ticket)
        assert outcome.stop_reason == "cancelled"
        assert outcome.error is not None
        assert outcome.error.kind == "shutting_down"
        assert texts(history(session)) == ["go", "half"]


async def test_a_log_that_a_crash_left_open_is_closed_before_anybody_asks() -> None:
    store = InMemoryStore()
    loaded = await store.create("crab", "user")
    call = AssistantMessage(())
    await loaded.log.append(
        [
            RunOpened("r1"),
            MessageAdded("r1", UserMessage((TextBlock("go"),))),
            MessageQueued("r1", (TextBlock("steer"),), "r1.s1"),
            MessageQueued("r2", (TextBlock("later"),), request_key="k"),
            MessageAdded("r1", call),
        ]
    )
    await loaded.log.aclose()
    async with open_bench(says("fine"), store=store) as bench:
        recovered = await bench.runtime.sessions.recover()
        session = await bench.session()

        assert recovered == 1
        assert (session.meta.open_run, session.meta.queued) == (None, ())
        assert texts(history(session)) == ["go", "", "steer", "later"]
        assert (await bench.ask(session, "next")).run == "r3"


class FullLog(InMemoryLog):
    """A log on a disk that is full until somebody makes room; ``bug`` is raised in its place."""

    is_full = False
    bug: Exception | None = None

    async def append(self, records: Sequence[Record]) -> tuple[Step, ...]:
        if self.bug is not None:
            raise self.bug
        if self.is_full:
            raise StoreError("full", "the disk is full: make room")
        return await super().append(records)


class FullStore(InMemoryStore):
    async def create(self, agent: str, sender: str, **facts: str | None) -> Loaded:
        loaded = await super().create(agent, sender, **facts)
        created = loaded.steps[0]
        assert isinstance(created.record, Created)
        log = FullLog([created])
        log.is_open = True
        return Loaded(log, (created,))


async def test_a_store_that_fails_is_told_and_the_records_are_written_once_when_it_recovers() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("one"), gate, *says()], says("two"), store=FullStore()) as bench:
        session = await bench.session()
        log = session.log
        assert isinstance(log, FullLog)
        ticket, _ = await bench.accept(session, "first")
        log.is_full = True
        gate.set()
        outcome = await outcome_of(ticket)
        with pytest.raises(StoreError):
            await bench.accept(session, "refused")

        log.is_full = False
        after = await bench.ask(session, "second")

        assert (outcome.stop_reason, outcome.persisted) == ("error", False)
        assert "persistence_failed" in bench.types()
        assert after.persisted
        assert texts(history(session)) == ["first", "one", "refused", "second", "two"]
        assert session.unsaved == 0


async def test_a_bug_in_the_store_ends_its_run_and_no_other() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("one"), gate, *says()], says("fine"), store=FullStore()) as bench:
        session, other = await bench.session(), await bench.session("other")
        log = session.log
        assert isinstance(log, FullLog)
        ticket, _ = await bench.accept(session, "first")
        log.bug = ValueError("a bug")

        gate.set()
        outcome = await outcome_of(ticket)
        fine = await bench.ask(other, "hello")

        assert (outcome.stop_reason, outcome.persisted) == ("error", False)
        assert outcome.error is not None
        assert outcome.error.kind == "internal"
        assert fine.text == "fine"


async def test_a_bug_in_a_compaction_is_told_and_harms_nothing() -> None:
    async with open_bench(says("one"), says("summary"), says("fine"), store=FullStore()) as bench:
        session = await bench.session()
        log = session.log
        assert isinstance(log, FullLog)
        await bench.ask(session, "first")
        log.bug = ValueError("a bug")
        with pytest.raises(CrabdError, match="internal error"):
            await bench.runtime.edits.compact(session, None)

        log.bug = None
        after = await bench.ask(session, "second")

        assert after.text == "fine"


async def test_an_agent_is_offered_its_own_tools_and_cannot_call_others() -> None:
    own, other = HeldTool("own"), HeldTool("other")
    async with open_bench(calls("own", "other"), says("done"), tools=[own, other]) as bench:
        options = structs.replace(DEFAULT_AGENT.options, tools=("own",))
        bench.runtime.equipper.agents = Agents({"crab": structs.replace(DEFAULT_AGENT, options=options)})
        session = await bench.session()

        await bench.ask(session, "go")

        assert [offer.name for offer in bench.provider.requests[0].tools] == ["own"]
        results = [message for message in history(session) if isinstance(message, ToolMessage)]
        assert [(result.name, result.status) for result in results] == [("own", "ok"), ("other", "error")]


async def test_idle_sessions_leave_memory_and_come_back_unnoticed() -> None:
    async with open_bench(says("one"), says("two")) as bench:
        sessions = bench.runtime.sessions
        session = await bench.session()
        await bench.runtime.get_or_create(Identity("crab", "user"), topic="later", description=None, cwd=None)
        active = await bench.runtime.get_or_create(
            Identity("crab", "user"), topic=None, description=None, cwd=None
        )
        await bench.ask(session, "first")
        seen = len(bench.events)
        await until(lambda: session.is_at_rest)

        gone = await sessions.unload_idle(max_age=0, max_bytes=0)
        again = await bench.session()
        outcome = await bench.ask(await sessions.load(session.id), "second")

        assert gone == 2
        assert sessions.live() == (again, sessions.find_live(session.id))
        assert again.id == active[0].id != session.id
        assert "session_closed" not in bench.types()
        assert outcome.run == "r2"
        assert bench.events[seen]["seq"] == seen + 1
        assert texts(bench.provider.requests[1].messages) == ["first", "one", "second"]


async def test_only_sessions_at_rest_leave_memory_and_the_longest_unused_first() -> None:
    async with open_bench([TextChunk("half"), trio.Event()]) as bench:
        sessions = bench.runtime.sessions
        running, old, new = [await bench.session(name) for name in ("running", "old", "new")]
        ephemeral, _ = await bench.runtime.get_or_create(
            Identity("crab", "user", is_ephemeral=True), topic=None, description=None, cwd=None
        )
        await bench.accept(running, "go")
        new.used_at, old.used_at = 2.0, 1.0

        spared = await sessions.unload_idle(max_age=float("inf"), max_bytes=1_000_000)
        one = await sessions.unload_idle(
            max_age=float("inf"), max_bytes=sum(session.log.size for session in sessions.live()) - 1
        )
        left_after_one = sessions.live()
        rest = await sessions.unload_idle(max_age=0, max_bytes=0)

        assert (spared, one, rest) == (0, 1, 1)
        assert left_after_one == (running, new, ephemeral)
        assert sessions.live() == (running, ephemeral)
