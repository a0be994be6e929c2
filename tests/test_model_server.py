"""The model server that other tests lean on, as a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from tests.model_server import Gate, ModelServer, calls, says, start_model_server
from tests.providers.asking import READ, SECONDS, ask, joined, request_of
from tests.providers.conftest import provider_at


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with start_model_server() as server:
        yield server


async def test_it_echoes_then_says_its_script_and_remembers_what_it_was_asked(server: ModelServer) -> None:
    provider = provider_at(server.base_url)
    await server.script(says("first"), calls("read", {"path": "x"}))

    answers = [
        joined(await ask(provider, request_of(text, READ))) for text in ("one", "two", "three words here")
    ]

    seen = await server.requests(settled=3)
    assert answers == ["first", "", "three words here"]
    assert [one.body["messages"][-1]["content"] for one in seen] == ["one", "two", "three words here"]
    assert not any(one.hung_up for one in seen)
    await provider.aclose()


async def test_a_gate_holds_a_reply_until_it_is_opened(server: ModelServer) -> None:
    provider = provider_at(server.base_url)
    await server.script(says("before ", Gate("door"), "after"))

    with trio.fail_after(SECONDS):
        async with provider.stream(request_of("go")) as answer:
            before = await anext(answer)
            settled = [one.settled for one in await server.requests(wait=1)]
            await server.open_gate("door")
            after = [chunk async for chunk in answer]

    assert (joined([before]), settled, joined(after)) == ("before ", [False], "after")
    await provider.aclose()


async def test_it_is_gone_when_its_context_ends() -> None:
    with trio.fail_after(SECONDS):
        async with start_model_server() as server:
            await server.requests()

        with pytest.raises(OSError, match="all attempts to connect"):
            await server.requests()
