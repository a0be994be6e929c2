"""Sessions that outgrow their model's window: they go on, whatever becomes of a summary."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import trio
from msgspec import structs

from crabd.errors import ProviderError
from crabd.messages import AssistantMessage, Usage, text_of
from crabd.providers.base import (
    Chunk,
    Finished,
    ModelChoice,
    ModelRequest,
    OnRetry,
    TextChunk,
    ToolCallChunk,
    unheard,
)
from crabd.runtime.agents import DEFAULT_AGENT, Agents
from crabd.runtime.compaction import SUMMARY_PROMPT
from crabd.runtime.history import Wanted
from crabd.runtime.prompt import estimate_tokens
from crabd.runtime.session import Session
from crabd.store.record import Compacted, ModelCalled, Record, Shortened
from crabd.tools.base import ToolContext, ToolOutcome
from tests.fakes import HeldTool, Part, ScriptedModels, ScriptedProvider
from tests.runtime.test_runtime import Bench, open_bench, outcome_of, texts, until

WINDOW = 1000
WORK = "The word is aubergine. Work."
ASK = "What was the word?"
RecordT = TypeVar("RecordT", bound=Record)


class NarrowProvider(ScriptedProvider):
    """A model whose server refuses what does not fit.

    It calls ``held`` as often as it has rounds left, and then says the word it was told, if it still sees it.
    """

    def __init__(self, summary: list[Part] | None = None) -> None:
        super().__init__()
        self.rounds_left = 0
        self.refused = 0
        self.overhead = 0
        self.window = WINDOW
        self._summary: list[Part] = (
            [TextChunk("they worked"), Finished("end", Usage(7, 7))] if summary is None else summary
        )

    @property
    def summaries(self) -> int:
        return sum(request.system == SUMMARY_PROMPT for request in self.requests)

    @asynccontextmanager
    async def stream(
        self, request: ModelRequest, on_retry: OnRetry = unheard
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        weight = estimate_tokens(request.messages) + self.overhead
        if weight > self.window:
            self.refused += 1
            raise ProviderError("context_too_long", "too many tokens", provider="narrow")
        self.replies = [self._answer(request, Usage(weight, 5))]
        async with super().stream(request, on_retry) as chunks:
            yield chunks

    def _answer(self, request: ModelRequest, usage: Usage) -> list[Part]:
        if request.system == SUMMARY_PROMPT:
            return self._summary
        if self.rounds_left:
            self.rounds_left -= 1
            # Each is another one, for a call that comes again and again is not made.
            arguments = f'{{"n":{self.rounds_left}}}'
            call = ToolCallChunk(0, id=f"c{self.rounds_left}", name="held", arguments=arguments)
            asking: list[Part] = [call, Finished("tool_calls", usage)]
            return asking
        sees = any("aubergine" in text_of(message) for message in request.messages)
        return [TextChunk("aubergine" if sees else "I do not know"), Finished("end", usage)]


class NarrowModels(ScriptedModels):
    """One model with a window that is known, or not."""

    def __init__(self, provider: NarrowProvider, window: int | None = WINDOW) -> None:
        super().__init__(provider)
        self.window = window

    def resolve(self, model: str | None, fallbacks: Sequence[str] = ()) -> ModelChoice:
        return structs.replace(super().resolve(model, fallbacks), context_window=self.window)


class LongWinded(HeldTool):
    """A tool that says a lot."""

    async def run(self, arguments: dict[str, object], context: ToolContext) -> ToolOutcome:
        return ToolOutcome("x" * 9000)


@asynccontextmanager
async def open_narrow(
    provider: NarrowProvider, *, window: int | None = WINDOW, tool: HeldTool | None = None
) -> AsyncGenerator[Bench]:
    async with open_bench(tools=[tool or HeldTool()]) as bench:
        options = structs.replace(DEFAULT_AGENT.options, max_rounds=1000)
        bench.runtime.equipper.agents = Agents({"crab": structs.replace(DEFAULT_AGENT, options=options)})
        bench.runtime.equipper.models = NarrowModels(provider, window)
        yield bench


def records(session: Session, kind: type[RecordT]) -> list[RecordT]:
    return [step.record for step in session.steps if isinstance(step.record, kind)]


async def test_a_session_goes_on_for_500_rounds_past_its_window_and_knows_how_it_began() -> None:
    provider = NarrowProvider()
    async with open_narrow(provider) as bench:
        session = await bench.session()
        provider.rounds_left = 500

        worked = await bench.ask(session, WORK)
        answered = await bench.ask(session, ASK)

        assert (worked.stop_reason, answered.stop_reason, answered.text) == ("end_turn",) * 2 + ("aubergine",)
        assert provider.refused == 0
        assert 5 < provider.summaries < 25
        assert provider.summaries == bench.types().count("compacted") == session.meta.archives
        assert "compaction_failed" not in bench.types()
        (first,) = (await bench.runtime.sessions.read_page(session, Wanted(1, 1))).messages
        assert text_of(first.message) == WORK
        assert session.meta.message_count == 4 + 2 * 500
        summaries = [call for call in records(session, ModelCalled) if call.purpose == "summary"]
        assert worked.usage.output_tokens == 501 * 5 + provider.summaries * 7
        assert {call.run for call in summaries} <= {"r1"}


async def test_many_short_runs_compact_as_one_long_one_does() -> None:
    provider = NarrowProvider()
    async with open_narrow(provider) as bench:
        session = await bench.session()
        await bench.ask(session, WORK)

        for _ in range(100):
            provider.rounds_left = 2
            await bench.ask(session, "go on")
        answered = await bench.ask(session, ASK)

        assert (answered.text, provider.refused) == ("aubergine", 0)
        assert 3 < provider.summaries < 25


async def test_without_a_summary_a_session_goes_on_with_extracts_and_soon_asks_for_none() -> None:
    broken = ProviderError("unavailable", "down", provider="narrow")
    provider = NarrowProvider([broken])
    async with open_narrow(provider) as bench:
        session = await bench.session()
        provider.rounds_left = 300

        worked = await bench.ask(session, WORK)
        answered = await bench.ask(session, ASK)

        assert (worked.stop_reason, answered.text) == ("end_turn", "aubergine")
        failures = [event for event in bench.events if event["type"] == "compaction_failed"]
        assert [failure["gives_up"] for failure in failures[:2]] == [False, True]
        assert provider.summaries < 60
        assert session.meta.archives > 3


async def test_a_summary_that_is_too_long_each_time_costs_twice_and_not_for_ever() -> None:
    provider = NarrowProvider([TextChunk("long " * 2000), Finished("end", Usage(7, 7))])
    provider.overhead = 820
    async with open_narrow(provider) as bench:
        session = await bench.session()
        provider.rounds_left = 12

        await bench.ask(session, WORK)

        assert provider.summaries <= 3
        failures = [event for event in bench.events if event["type"] == "compaction_failed"]
        assert failures[-1]["gives_up"] is True


async def test_where_the_window_is_not_known_the_server_tells_and_is_asked_once_more() -> None:
    provider = NarrowProvider()
    async with open_narrow(provider, window=None) as bench:
        session = await bench.session()
        provider.rounds_left = 200

        worked = await bench.ask(session, WORK)

        assert worked.stop_reason == "end_turn"
        assert provider.refused == 1
        assert provider.summaries > 2


async def test_what_fits_nowhere_ends_its_run_with_advice_and_the_next_one_works() -> None:
    provider = NarrowProvider()
    async with open_narrow(provider) as bench:
        session = await bench.session()
        await bench.ask(session, WORK)

        outcome = await bench.ask(session, "x" * 8000)
        await bench.runtime.edits.clear(session)
        after = await bench.ask(session, "hello")

        assert outcome.error is not None
        assert (outcome.stop_reason, outcome.error.kind) == ("error", "context_too_long")
        assert "compacting has not helped" in outcome.error.message
        assert after.stop_reason == "end_turn"


async def test_long_results_are_shortened_first_which_may_be_enough() -> None:
    provider = NarrowProvider()
    async with open_narrow(provider, window=24_000, tool=LongWinded()) as bench:
        session = await bench.session()
        provider.rounds_left = 9
        provider.window = 24_000

        worked = await bench.ask(session, WORK)

        assert worked.stop_reason == "end_turn"
        assert records(session, Shortened)
        assert provider.summaries == 0


async def test_a_result_larger_than_the_window_is_cut_down_and_the_run_goes_on() -> None:
    provider = NarrowProvider()
    async with open_narrow(provider, tool=LongWinded()) as bench:
        session = await bench.session()
        provider.rounds_left = 5

        worked = await bench.ask(session, WORK)
        answered = await bench.ask(session, ASK)

        assert (worked.stop_reason, answered.text) == ("end_turn", "aubergine")
        assert provider.refused == 0
        outputs = await bench.runtime.sessions.read_page(session, Wanted(1, 100, ("tool",)))
        assert texts([stored.message for stored in outputs.messages]) == ["x" * 9000] * 5


async def test_while_a_run_compacts_its_session_takes_steers_tells_its_history_and_can_be_cancelled() -> None:
    gate = trio.Event()
    provider = NarrowProvider([gate, TextChunk("they worked"), Finished("end", Usage(7, 7))])
    async with open_narrow(provider) as bench:
        session = await bench.session()
        provider.rounds_left = 120
        ticket, _ = await bench.accept(session, WORK)
        await until(lambda: provider.summaries == 1)

        position = await bench.steer(session, "faster")
        listed = bench.runtime.sessions.info(session)
        page = await bench.runtime.sessions.read_page(session, Wanted(1, 1000))
        await bench.runtime.cancel(session, None)
        outcome = await outcome_of(ticket)

        assert (position, listed.state, text_of(page.messages[0].message)) == (1, "running", WORK)
        assert outcome.stop_reason == "cancelled"
        assert session.meta.archives == 0
        gate.set()
        provider.rounds_left = 0
        assert (await bench.ask(session, ASK)).text == "aubergine"
        assert session.meta.archives == 1


async def test_a_session_that_shall_not_compact_by_itself_does_so_when_nothing_else_helps() -> None:
    provider = NarrowProvider()
    async with open_narrow(provider) as bench:
        session = await bench.session()
        await bench.runtime.configure(session, auto_compact=False)
        provider.rounds_left = 120

        worked = await bench.ask(session, WORK)

        assert worked.stop_reason == "end_turn"
        assert provider.refused == provider.summaries == 1


async def test_a_reloaded_session_sees_what_it_saw_before() -> None:
    provider = NarrowProvider()
    async with open_narrow(provider) as bench:
        session = await bench.session()
        provider.rounds_left = 150
        await bench.ask(session, WORK)
        seen, weight = session.context.messages(), session.context.weight

        await bench.runtime.close(session.id, cancel=False)
        again = await bench.runtime.sessions.load(session.id)

        assert records(again, Compacted)
        assert again.context.messages() == seen
        assert again.context.weight == weight == again.meta.usage.context_tokens
        assert isinstance(seen[-1], AssistantMessage)
