"""What runs cost, and how budgets end them, over the in-memory store and a scripted model."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from crabd.errors import BudgetSpent
from crabd.events import Budget, DailyBudget
from crabd.messages import ToolMessage, Usage, text_of
from crabd.providers.base import TextChunk
from crabd.runtime.agents import DEFAULT_PROMPT, Agent, Agents, FrontMatter
from crabd.store.record import ModelCalled
from tests.fakes import HeldTool, calls, says
from tests.runtime.test_runtime import Bench, history, open_bench, outcome_of, texts, until


def limit(bench: Bench, *, budget: Budget | None = None, daily: DailyBudget | None = None) -> None:
    """Have the agent's file say so."""
    options = FrontMatter(budget=budget or Budget(), daily_budget=daily or DailyBudget())
    bench.runtime.equipper.agents = Agents({"crab": Agent("crab", DEFAULT_PROMPT, options, "a test")})


def told(bench: Bench, type_: str) -> list[dict[str, object]]:
    return [event for event in bench.events if event["type"] == type_]


async def test_a_run_ends_at_its_budget_and_the_next_is_refused_until_it_is_raised() -> None:
    async with open_bench(calls("held"), says("done"), tools=[HeldTool()]) as bench:
        session = await bench.session()
        await bench.runtime.configure(session, budget=Budget(rounds=1))

        outcome = await bench.ask(session, "go")
        with pytest.raises(BudgetSpent) as refused:
            await bench.ask(session, "again")
        await bench.runtime.configure(session, budget=Budget(rounds=2))
        after = await bench.ask(session, "now")

        assert (outcome.stop_reason, outcome.persisted) == ("budget", True)
        assert outcome.error is not None
        assert outcome.error.message == str(refused.value)
        assert "(rounds: 1 of 1): raise it (session/configure)" in outcome.error.message
        [event] = told(bench, "budget_spent")
        assert [event[name] for name in ("budget", "limit", "allowed", "spent")] == ["budget", "rounds", 1, 1]
        assert after.text == "done"
        assert texts(history(session)) == ["go", "", "held got {}", "now", "done"]


async def test_a_budget_of_the_agent_is_that_of_each_session() -> None:
    async with open_bench(says("one", tokens=500)) as bench:
        limit(bench, budget=Budget(tokens=1000))
        session, other = await bench.session(), await bench.session("other")

        await bench.ask(session, "go")
        state = bench.runtime.snapshot(session.id).budget
        with pytest.raises(BudgetSpent):
            await bench.ask(session, "again")
        outcome = await bench.ask(other, "go")

        assert state is not None
        assert (state.limits, state.tokens, state.rounds) == (Budget(tokens=1000), 1000, 1)
        assert outcome.stop_reason == "end_turn"


async def test_a_daily_budget_is_of_all_sessions_of_an_agent_together() -> None:
    async with open_bench(says("one", tokens=500)) as bench:
        limit(bench, daily=DailyBudget(tokens=1000))
        session, other = await bench.session(), await bench.session("other")

        await bench.ask(session, "go")
        with pytest.raises(
            BudgetSpent, match=r"today's budget of agent crab is spent \(tokens: 1000 of 1000\)"
        ):
            await bench.ask(other, "go")


async def test_messages_that_wait_when_the_budget_is_spent_join_the_history_unanswered() -> None:
    go = trio.Event()
    async with open_bench([go, *says("one")]) as bench:
        session = await bench.session()
        await bench.runtime.configure(session, budget=Budget(rounds=1))
        first, _ = await bench.accept(session, "first")
        second, _ = await bench.accept(session, "second")

        go.set()
        outcomes = [await outcome_of(ticket) for ticket in (first, second)]

        assert [outcome.stop_reason for outcome in outcomes] == ["end_turn", "budget"]
        assert texts(history(session)) == ["first", "one", "second"]
        assert len(bench.provider.requests) == 1


async def test_time_that_is_up_stops_a_run_wherever_it_is(autojump_clock: MockClock) -> None:
    tool = HeldTool(is_free=False)
    async with open_bench(calls("held"), tools=[tool]) as bench:
        session = await bench.session()
        await bench.runtime.configure(session, budget=Budget(seconds=3600))

        # A clock that jumps goes on from event to event, so nobody waits an hour here.
        ticket, _ = await bench.accept(session, "go")
        await ticket.settled.wait()

        assert ticket.outcome is not None
        assert ticket.outcome.stop_reason == "budget"
        assert tool.was_cancelled
        [result] = [message for message in history(session) if isinstance(message, ToolMessage)]
        assert result.status == "cancelled"
        assert [event["limit"] for event in told(bench, "budget_spent")] == ["seconds"]
        with pytest.raises(BudgetSpent, match="seconds"):
            await bench.ask(session, "again")


async def test_a_reply_that_was_cut_is_counted_with_what_it_is_estimated_to_have_cost() -> None:
    async with open_bench([TextChunk("some words"), trio.Event()]) as bench:
        session = await bench.session()
        ticket, _ = await bench.accept(session, "go")
        await until(lambda: "text_delta" in bench.types())

        await bench.runtime.cancel(session, None)
        outcome = await outcome_of(ticket)

        [call] = [step.record for step in session.steps if isinstance(step.record, ModelCalled)]
        assert call.estimated
        prompt = len(DEFAULT_PROMPT) // 4
        assert call.usage == outcome.usage == Usage(4 + prompt, 3)
        assert session.meta.usage.total == call.usage
        assert (session.meta.usage.calls, session.meta.usage.estimated, session.meta.usage.unpriced) == (
            1,
            1,
            1,
        )


async def test_a_request_that_was_never_answered_costs_nothing() -> None:
    async with open_bench([trio.Event()]) as bench:
        session = await bench.session()
        ticket, _ = await bench.accept(session, "go")
        await until(lambda: bench.provider.open_streams == 1)

        await bench.runtime.cancel(session, None)
        await outcome_of(ticket)

        assert session.meta.usage.calls == 0


async def test_a_call_is_told_with_its_times(autojump_clock: MockClock) -> None:
    async with open_bench(says("hi", tokens=7)) as bench:
        session = await bench.session()

        await bench.ask(session, "go")

        [event] = told(bench, "usage")
        assert (event["duration_ms"], event["first_token_ms"]) == (0, 0)
        [spent] = session.meta.spent
        assert (spent.model, spent.calls, spent.usage) == ("scripted/one", 1, Usage(7, 7))


async def test_a_call_that_repeats_itself_is_not_made_for_ever() -> None:
    async with open_bench(*[calls("held")] * 9, tools=[HeldTool()]) as bench:
        session = await bench.session()

        outcome = await bench.ask(session, "go")

        results = [message for message in history(session) if isinstance(message, ToolMessage)]
        assert [result.status for result in results] == ["ok"] * 3 + ["error"] * 2
        assert "in 3 rounds in a row" in text_of(results[-1])
        assert (outcome.stop_reason, len(bench.provider.requests)) == ("error", 5)
        assert outcome.error is not None
        assert outcome.error.kind == "bad_reply"
