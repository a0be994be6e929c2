"""Models that are asked in order, until one answers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from crabd.errors import NotFound
from crabd.providers.base import Finished, Retry
from crabd.providers.registry import Registry
from crabd.providers.settings import ProviderSettings
from tests.model_server import Gate, ModelServer, Raw, open_model_server, refuses, says
from tests.providers.asking import ask, fail, joined, request_of

HI = request_of("hi")
GONE = "http://127.0.0.1:9/v1"


@pytest.fixture
async def other() -> AsyncIterator[ModelServer]:
    async with open_model_server() as server:
        yield server


@pytest.fixture
async def registry(server: ModelServer, other: ModelServer) -> AsyncIterator[Registry]:
    providers = {
        "gone": ProviderSettings(base_url=GONE),
        "one": ProviderSettings(base_url=server.base_url),
        "two": ProviderSettings(base_url=other.base_url, kind="anthropic"),
    }
    registry = Registry(providers, None, {"OLLAMA_HOST": "127.0.0.1:9"})
    yield registry
    await registry.aclose()


async def test_the_next_model_answers_for_one_that_is_gone(registry: Registry, other: ModelServer) -> None:
    choice = registry.resolve("gone/a", ("two/b",))

    *chunks, end = await ask(choice.provider, HI)

    assert choice.id == "gone/a"
    assert joined(chunks) == "hi"
    assert isinstance(end, Finished)
    assert end.model == "two/b"
    assert [seen.body["model"] for seen in await other.requests()] == ["b"]


async def test_a_model_that_answers_is_the_only_one_asked(registry: Registry, other: ModelServer) -> None:
    *_, end = await ask(registry.resolve("one/a", ("two/b",)).provider, HI)

    assert isinstance(end, Finished)
    assert end.model == ""
    assert await other.requests() == []


@pytest.mark.parametrize(("status", "falls_back"), [(401, True), (404, True), (400, False), (422, False)])
async def test_a_request_that_is_wrong_is_wrong_for_all(
    registry: Registry, server: ModelServer, other: ModelServer, status: int, falls_back: bool
) -> None:
    await server.script(refuses(status, "no"))
    provider = registry.resolve("one/a", ("two/b",)).provider

    if falls_back:
        heard: list[Retry] = []
        assert joined(await ask(provider, HI, heard.append)) == "hi"
        assert [(retry.model, retry.seconds) for retry in heard if retry.model] == [("two/b", 0)]
    else:
        error, _ = await fail(provider, HI)
        assert error.status == status
    assert len(await other.requests()) == int(falls_back)


async def test_a_conversation_that_is_too_long_is_for_the_session_to_shorten(
    registry: Registry, server: ModelServer, other: ModelServer
) -> None:
    await server.script(refuses(400, "maximum context length is 10 tokens"))

    error, _ = await fail(registry.resolve("one/a", ("two/b",)).provider, HI)

    assert error.kind == "context_too_long"
    assert await other.requests() == []


async def test_an_answer_that_has_begun_is_nobody_elses(
    registry: Registry, server: ModelServer, other: ModelServer
) -> None:
    broken = Raw(b'data: {"error":{"message":"oh","code":502}}\n\n')
    await server.script(says("half", Gate("break"), broken))
    await server.open_gate("break")

    error, chunks = await fail(registry.resolve("one/a", ("two/b",)).provider, HI)

    assert (error.status, joined(chunks)) == (502, "half")
    assert await other.requests() == []


async def test_when_none_answers_everybodys_words_are_told(registry: Registry, other: ModelServer) -> None:
    await other.script(refuses(401, "bad key"))

    error, _ = await fail(registry.resolve("gone/a", ("two/b",)).provider, HI)

    assert error.kind == "auth"
    assert "gone/a: cannot connect" in str(error)
    assert "two/b: 401: bad key" in str(error)


async def test_a_fallback_that_is_the_model_itself_is_not_asked_twice(registry: Registry) -> None:
    choice = registry.resolve("one/a", ("one/a",))

    assert repr(choice.provider).startswith("<ChatCompletions one")


async def test_the_window_is_the_smallest_that_is_known(registry: Registry) -> None:
    windows = [
        registry.resolve("one/gpt-4.1", fallbacks).context_window
        for fallbacks in [(), ("two/mystery",), ("two/mystery", "two/gpt-4o")]
    ]

    assert windows == [1_000_000, 1_000_000, 128_000]


async def test_a_fallback_that_nobody_has_is_told_at_once(registry: Registry) -> None:
    with pytest.raises(NotFound):
        registry.resolve("one/a", ("nobody/x",))
