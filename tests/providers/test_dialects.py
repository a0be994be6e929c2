"""Three dialects against a real server: what each asks and reads, and what it learns from a refusal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from msgspec import structs

from crabd.messages import AssistantMessage, ThinkingBlock, ToolMessage, Usage, user_text
from crabd.providers.base import (
    Chunk,
    Finished,
    ModelRequest,
    Provider,
    TextChunk,
    ThinkingChunk,
    ThinkingSigned,
)
from crabd.providers.facts import ModelFacts, Prices
from crabd.providers.presets import Kind
from crabd.runtime.reply import Reply
from tests.model_server import Call, ModelServer, Raw, Think, refuses, says
from tests.providers.asking import READ, ask, fail, joined, request_of
from tests.providers.conftest import KEY, provider_at

KINDS: list[Kind] = ["openai", "openai-responses", "anthropic"]
SIGNING: list[Kind] = ["openai-responses", "anthropic"]


@pytest.fixture(params=KINDS)
async def provider(request: pytest.FixtureRequest, server: ModelServer) -> AsyncIterator[Provider]:
    provider = provider_at(server.base_url, kind=request.param)
    yield provider
    await provider.aclose()


@pytest.fixture(params=SIGNING)
async def signing(request: pytest.FixtureRequest, server: ModelServer) -> AsyncIterator[Provider]:
    provider = provider_at(server.base_url, kind=request.param)
    yield provider
    await provider.aclose()


def message_of(chunks: list[Chunk]) -> AssistantMessage:
    reply = Reply()
    for chunk in chunks:
        reply.receive(chunk)
    return reply.message("test/test-model", with_calls=True)


async def bodies(server: ModelServer) -> list[dict[str, Any]]:
    return [seen.body for seen in await server.requests()]


async def test_every_dialect_reads_the_same_answer(provider: Provider, server: ModelServer) -> None:
    await server.script(says(Think("hm"), "Hello, ", "you", Call("read", '{"path":"x"}', "a")))

    chunks = await ask(provider, request_of("hi", READ))

    plain = [chunk for chunk in chunks if isinstance(chunk, TextChunk | ThinkingChunk)]
    assert plain == [ThinkingChunk("hm"), TextChunk("Hello, "), TextChunk("you")]
    assert [(call.id, call.name, call.arguments) for call in calls_of(chunks)] == [
        ("a", "read", '{"path":"x"}')
    ]
    assert chunks[-1] == Finished("tool_calls", Usage(input_tokens=7, output_tokens=5))


def calls_of(chunks: list[Chunk]) -> list[Any]:
    return [block for block in message_of(chunks).content if hasattr(block, "arguments")]


async def test_what_was_signed_goes_back_with_the_result_of_the_call(
    signing: Provider, server: ModelServer
) -> None:
    await server.script(says(Think("hm"), Call("read", "{}", "a")), says("done"))
    question = user_text("read it")

    first = await ask(signing, ModelRequest(model="m", system="", messages=(question,), tools=(READ,)))
    history = (question, message_of(first), ToolMessage("a", "read", "found", "ok"))
    await ask(signing, ModelRequest(model="m", system="", messages=history, tools=(READ,)))
    await ask(signing, ModelRequest(model="other", system="", messages=history, tools=(READ,)))

    assert any(isinstance(chunk, ThinkingSigned) for chunk in first)
    same, other = (str(body) for body in (await bodies(server))[1:])
    assert "signed hm" in same or "encrypted hm" in same
    assert "hm'" not in other


async def test_the_key_is_sent_as_the_dialect_has_it(provider: Provider, server: ModelServer) -> None:
    await ask(provider, request_of("hi"))

    headers = (await server.requests())[0].headers
    assert {headers.get("authorization"), headers.get("x-api-key")} in ({f"Bearer {KEY}", None}, {None, KEY})


@pytest.mark.parametrize(
    ("kind", "words", "gone"),
    [
        ("openai", "Unrecognized request argument supplied: reasoning_effort", "reasoning_effort"),
        ("openai-responses", "Encrypted content is not supported with this model.", "include"),
        ("openai-responses", "Your organization must be verified to generate reasoning summaries", "summary"),
        ("openai-responses", "Unsupported parameter: 'reasoning.effort'", "effort"),
        ("anthropic", "adaptive thinking is not supported on this model", "adaptive"),
        ("anthropic", "tools.0.cache_control: Extra inputs are not permitted", "cache_control"),
    ],
)
async def test_what_a_server_refuses_is_left_out_from_then_on(
    server: ModelServer, kind: Kind, words: str, gone: str
) -> None:
    provider = provider_at(server.base_url, kind=kind)
    request = ModelRequest(model="gpt-5.4", system="s", messages=(user_text("hi"),), thinking=True)
    await server.script(refuses(400, words))

    await ask(provider, request)
    await ask(provider, request)

    assert [gone in str(body) for body in await bodies(server)] == [True, False, False]
    await provider.aclose()


async def test_two_requests_that_are_refused_together_are_both_asked_again(server: ModelServer) -> None:
    provider = provider_at(server.base_url)
    request = ModelRequest(model="m", system="", messages=(user_text("hi"),))
    refusal = structs.replace(refuses(400, "stream_options is not permitted"), gate="both")
    await server.script(refusal, refusal)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, provider, request)
        nursery.start_soon(ask, provider, request)
        await server.requests(wait=2)
        await server.open_gate("both")

    assert ["stream_options" in body for body in await bodies(server)] == [True, True, False, False]
    await provider.aclose()


async def test_a_signature_that_is_refused_does_not_end_a_session(
    signing: Provider, server: ModelServer
) -> None:
    signature = '{"id":"rs_1","encrypted_content":"stale"}'
    answer = AssistantMessage(
        (ThinkingBlock("hm", signature, "test/m"), *message_of([TextChunk("So.")]).content)
    )
    history = (user_text("why"), answer, user_text("and?"))
    await server.script(refuses(400, "Invalid `signature`: the content could not be verified"), says("ok"))

    chunks = await ask(signing, ModelRequest(model="m", system="", messages=history))

    assert joined(chunks) == "ok"
    assert ["stale" in str(body) for body in await bodies(server)] == [True, False]


async def test_a_model_that_wants_to_see_its_thinking_is_shown_it(server: ModelServer) -> None:
    provider = provider_at(server.base_url)
    history = (user_text("why"), message_of([ThinkingChunk("hm"), TextChunk("So.")]), user_text("and?"))
    request = ModelRequest(model="m", system="", messages=history)
    await server.script(refuses(400, "Missing `reasoning_content` field in the assistant message at index 1"))

    await ask(provider, request)
    await ask(provider, request)

    shown = [body["messages"][1].get("reasoning_content") for body in await bodies(server)]
    assert shown == [None, "hm", "hm"]
    await provider.aclose()


@pytest.mark.parametrize(
    "words", ["temperature must be below 2", "no thinking, no reasoning_effort, no signature"]
)
async def test_a_refusal_of_what_was_not_asked_is_told_at_once(
    provider: Provider, server: ModelServer, words: str
) -> None:
    await server.script(refuses(400, words))

    error, _ = await fail(provider, request_of("hi"))

    assert (error.kind, error.status) == ("bad_reply", 400)
    assert len(await server.requests()) == 1


@pytest.mark.parametrize(
    ("kind", "event"),
    [
        ("anthropic", b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'),
        ("openai-responses", b'{"type":"error","code":"server_error","message":"Overloaded"}'),
        (
            "openai-responses",
            b'{"type":"response.failed","response":{"error":{"code":"server_error","message":"Overloaded"}}}',
        ),
    ],
)
async def test_an_error_in_the_stream_is_the_servers_failure(
    server: ModelServer, kind: Kind, event: bytes
) -> None:
    provider = provider_at(server.base_url, kind=kind)
    await server.script(says("half", Raw(b"data: %b\n\n" % event)))

    error, chunks = await fail(provider, request_of("hi"))

    assert (error.kind, joined(chunks), str(error)) == ("unavailable", "half", "test: Overloaded")
    await provider.aclose()


async def test_a_call_costs_what_its_tokens_do(server: ModelServer) -> None:
    facts = ModelFacts(prices=Prices(input=2, output=10))
    provider = provider_at(server.base_url, kind="anthropic", facts=facts)

    *_, end = await ask(provider, request_of("hi"))

    assert isinstance(end, Finished)
    assert end.usage == Usage(7, 5, cost=(7 * 2 + 5 * 10) / 1e6)
    await provider.aclose()
