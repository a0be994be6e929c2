"""What is asked for when an answer breaks off in its middle, and the runs that go on from there."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from msgspec import structs

from crabd.errors import ProviderError
from crabd.messages import AssistantMessage, TextBlock, user_text
from crabd.providers.base import Finished, ModelRequest, TextChunk, ThinkingChunk, ToolCallChunk
from crabd.runtime.agents import DEFAULT_AGENT, Agents
from crabd.runtime.continuation import GO_ON, MAX_CONTINUATIONS, Continuation
from crabd.store.record import ModelCalled
from tests.fakes import Part, calls, says
from tests.runtime.test_runtime import Bench, history, open_bench, texts

REQUEST = ModelRequest(model="m", system="s", messages=(user_text("go"),))
LOST = ProviderError("unavailable", "the connection was reset", provider="scripted")
END = Finished("end")


@asynccontextmanager
async def open_patient_bench(*replies: list[Part]) -> AsyncGenerator[Bench]:
    """Open a bench whose agent goes on with partial answers."""
    options = structs.replace(DEFAULT_AGENT.options, continue_partial=True)
    async with open_bench(*replies) as bench:
        bench.runtime.equipper.agents = Agents({"crab": structs.replace(DEFAULT_AGENT, options=options)})
        yield bench


def test_the_rest_is_asked_for_with_the_partial_text_in_view() -> None:
    answer = Continuation(REQUEST)
    given = [answer.take(TextChunk("half ")), answer.take(TextChunk("an"))]

    goes_on = answer.go_on_after(LOST)

    assert goes_on
    assert given == [[TextChunk("half ")], [TextChunk("an")]]
    so_far = AssistantMessage((TextBlock("half an"),), partial=True)
    assert answer.request.messages == (user_text("go"), so_far, user_text(GO_ON))


def test_without_any_text_the_answer_is_asked_for_again() -> None:
    answer = Continuation(REQUEST)
    answer.take(ThinkingChunk("hm"))

    goes_on = answer.go_on_after(LOST)

    assert (goes_on, answer.request) == (True, REQUEST)


def test_calls_of_a_stream_that_broke_are_dropped_and_those_of_the_last_come_with_its_end() -> None:
    answer = Continuation(REQUEST)
    held = answer.take(ToolCallChunk(0, "a", "read", "{"))
    answer.go_on_after(LOST)
    whole = ToolCallChunk(0, "b", "read", "{}")

    given = [*answer.take(whole), *answer.take(END)]

    assert (held, given) == ([], [whole, END])


def test_a_stream_that_brought_nothing_is_not_gone_on_with() -> None:
    answer = Continuation(REQUEST)
    answer.take(TextChunk("half"))

    assert [answer.go_on_after(LOST), answer.go_on_after(LOST)] == [True, False]


@pytest.mark.parametrize("kind", ["auth", "context_too_long", "left_alone"])
def test_what_would_fail_again_is_not_asked_again(kind: str) -> None:
    answer = Continuation(REQUEST)
    answer.take(TextChunk("half"))
    error = ProviderError(kind, "no", provider="scripted")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    assert not answer.go_on_after(error)


async def test_a_run_goes_on_from_its_partial_answer_if_its_agent_may() -> None:
    first: list[Part] = [TextChunk("half "), LOST]
    async with open_patient_bench(first, says("an answer"), says("fine")) as bench:
        session = await bench.session()

        outcome = await bench.ask(session, "go")
        await bench.ask(session, "again")

        assert (outcome.stop_reason, outcome.text, outcome.error) == ("end_turn", "half an answer", None)
        assert texts(history(session)) == ["go", "half an answer", "again", "fine"]
        assert not any(isinstance(m, AssistantMessage) and m.partial for m in history(session))
        assert texts(bench.provider.requests[1].messages) == ["go", "half ", GO_ON]
        assert texts(bench.provider.requests[2].messages) == ["go", "half an answer", "again"]
        assert bench.types().count("text_start") == 2


async def test_a_run_ends_with_the_partial_answer_if_its_agent_may_not_go_on() -> None:
    async with open_bench([TextChunk("half"), LOST]) as bench:
        session = await bench.session()

        outcome = await bench.ask(session, "go")

        assert (outcome.stop_reason, outcome.text) == ("error", "half")
        assert len(bench.provider.requests) == 1


async def test_a_server_that_never_finishes_is_given_up_with_all_that_came() -> None:
    broken: list[list[Part]] = [[TextChunk(f"{i}"), LOST] for i in range(MAX_CONTINUATIONS + 2)]
    async with open_patient_bench(*broken) as bench:
        session = await bench.session()

        outcome = await bench.ask(session, "go")

        said = "".join(str(i) for i in range(MAX_CONTINUATIONS + 1))
        assert (outcome.stop_reason, outcome.text) == ("error", said)
        assert outcome.error is not None
        assert outcome.error.kind == "unavailable"
        assert len(bench.provider.requests) == MAX_CONTINUATIONS + 1
        last = history(session)[-1]
        assert isinstance(last, AssistantMessage)
        assert last.partial


async def test_a_call_that_was_cut_off_is_made_once_and_whole() -> None:
    broken: list[Part] = [TextChunk("let me see"), ToolCallChunk(0, "c9", "held", '{"pa'), LOST]
    async with open_patient_bench(broken, calls("held"), says("done")) as bench:
        session = await bench.session()

        outcome = await bench.ask(session, "go")

        assert outcome.text == "done"
        asked = [event["call"] for event in bench.events if event["type"] == "tool_call"]
        assert asked == ["c0"]


async def test_every_stream_of_an_answer_is_counted() -> None:
    first: list[Part] = [TextChunk("half "), LOST]
    async with open_patient_bench(first, says("an answer")) as bench:
        session = await bench.session()

        outcome = await bench.ask(session, "go")

        called = [step.record for step in session.steps if isinstance(step.record, ModelCalled)]
        assert [call.estimated for call in called] == [True, False]
        assert outcome.usage == called[0].usage + called[1].usage == session.meta.usage.total
