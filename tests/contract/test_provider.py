"""What every provider promises, whoever is behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import pytest
import trio

from crabd.messages import AssistantMessage, ToolCall, ToolMessage, user_text
from crabd.providers.base import Finished, ModelRequest, Provider, TextChunk, ToolCallChunk
from crabd.providers.offline import Offline
from tests.model_server import Gate, Reply, calls, open_model_server, refuses, says
from tests.providers.asking import READ, SECONDS, ask, fail, joined, request_of
from tests.providers.conftest import provider_at


class Subject(NamedTuple):
    """A provider, and a way to have the server behind it say what the offline one says by itself."""

    provider: Provider
    script: Callable[[Reply], Awaitable[None]]


@pytest.fixture(params=["offline", "openai", "openai-responses", "anthropic"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "offline":
        yield Subject(Offline(), needs_no_script)
        return
    async with open_model_server() as server:
        provider = provider_at(server.base_url, kind=request.param)
        yield Subject(provider, server.script)
        await provider.aclose()


async def needs_no_script(reply: Reply) -> None:
    await trio.lowlevel.checkpoint()


async def test_text_adds_up_and_finished_comes_last_and_once(subject: Subject) -> None:
    await subject.script(says("one ", "two  ", "three"))

    chunks = await ask(subject.provider, request_of("echo one two  three"))

    assert joined(chunks) == "one two  three"
    assert [chunk for chunk in chunks if isinstance(chunk, Finished)] == chunks[-1:]
    assert isinstance(chunks[-1], Finished)
    assert chunks[-1].reason == "end"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.output_tokens > 0


async def test_a_tool_call_has_an_id_a_name_and_json(subject: Subject) -> None:
    await subject.script(calls("read", {"path": "x"}))

    *pieces, end = await ask(subject.provider, request_of('call read {"path": "x"}', READ))

    call = [piece for piece in pieces if isinstance(piece, ToolCallChunk)]
    assert [piece.name for piece in call if piece.name] == ["read"]
    assert len([piece.id for piece in call if piece.id]) == 1
    assert json.loads("".join(piece.arguments for piece in call)) == {"path": "x"}
    assert isinstance(end, Finished)
    assert end.reason == "tool_calls"


async def test_a_history_with_everything_in_it_is_answered(subject: Subject) -> None:
    history = (
        user_text("call read"),
        AssistantMessage((ToolCall("call_1", "read", '{"path":'),), partial=True),
        ToolMessage("call_1", "read", "", "interrupted"),
        user_text("echo still here"),
    )

    chunks = await ask(subject.provider, ModelRequest(model="m", system="", messages=history, tools=(READ,)))

    assert joined(chunks).endswith("still here")


async def test_an_answer_can_be_left_in_the_middle(subject: Subject) -> None:
    await subject.script(says("1 ", "2 ", Gate("never")))

    with trio.fail_after(SECONDS):
        async with subject.provider.stream(request_of("slow 1000 50")) as answer:
            first = await anext(answer)

    assert first == TextChunk("1 ")


async def test_an_answer_can_be_cancelled_in_the_middle(subject: Subject) -> None:
    seen: list[object] = []
    await subject.script(says("1 ", "2 ", Gate("never")))

    with trio.fail_after(SECONDS), trio.CancelScope() as scope:
        async with subject.provider.stream(request_of("slow 1000 50")) as answer:
            async for chunk in answer:
                seen.append(chunk)
                scope.cancel()

    assert scope.cancelled_caught
    # What came in one piece with the first chunk may still be handed out.
    assert seen in ([TextChunk("1 ")], [TextChunk("1 "), TextChunk("2 ")])


async def test_an_exhausted_answer_stays_exhausted(subject: Subject) -> None:
    await subject.script(says("one ", "two  ", "three"))

    with trio.fail_after(SECONDS):
        async with subject.provider.stream(request_of("echo one two  three")) as answer:
            chunks = [chunk async for chunk in answer]
            again = [chunk async for chunk in answer]

    assert len(chunks) > 1
    assert again == []


async def test_a_failure_is_a_provider_error_that_names_the_provider(subject: Subject) -> None:
    await subject.script(refuses(401))

    error, chunks = await fail(subject.provider, request_of("fail auth"))

    assert (error.kind, error.provider, chunks) == ("auth", subject.provider.name, [])


async def test_models_are_listed_under_the_providers_name(subject: Subject) -> None:
    with trio.fail_after(SECONDS):
        models = await subject.provider.list_models()

    assert models
    assert {model.provider for model in models} == {subject.provider.name}
    assert all(model.id.startswith(f"{subject.provider.name}/") for model in models)


async def test_closing_twice_is_closing_once(subject: Subject) -> None:
    with trio.fail_after(SECONDS):
        await subject.provider.aclose()
        await subject.provider.aclose()
