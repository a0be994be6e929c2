"""crabd against llama.cpp's own server: its grammar, its parsers, its slots and its words, in every dialect.

The model is a real one, loaded from a file, and recites; all else is llama.cpp's. `llama-server` is what
the PATH has of that name: a build of 2026 or later, or a script that runs `llama_server.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trio

from crabd.errors import ProviderError
from crabd.messages import (
    AssistantMessage,
    Message,
    ThinkingBlock,
    ToolMessage,
    text_of,
    tool_calls_of,
    user_text,
)
from crabd.providers.base import Finished, ModelRequest, Provider, ToolOffer
from crabd.providers.presets import Kind
from crabd.runtime.reply import Reply
from tests.e2e.daemon import Home, start_daemon
from tests.e2e.foreign import free_port, run_server
from tests.e2e.reciter import write_reciter
from tests.providers.conftest import provider_at

ANSWERS_WITHIN = 60
THOUGHT = ("<think>\n", "Hm.", "\n</think>\n\n")
SPOKEN = ("I", " look", ".")
CALLED = (
    "<tool_call>",
    '\n{"name": "',
    "read",
    '", "arguments": {"',
    "path",
    '": "',
    "x",
    '"}}',
    "\n</tool_call>",
)
WINDOW = 16_384
# llama.cpp makes a grammar of it, and refuses what it cannot.
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "path": {"type": "string", "minLength": 1, "pattern": "^[^\\n]+$", "description": "a file"},
        "mode": {"enum": ["text", "bytes", None]},
        "lines": {"type": "array", "maxItems": 9, "items": {"$ref": "#/$defs/range"}},
        "since": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
        "options": {"type": "object", "additionalProperties": {"type": ["boolean", "number"]}},
    },
    "required": ["path"],
    "additionalProperties": False,
    "$defs": {"range": {"type": "object", "properties": {"first": {"type": "integer", "minimum": 1}}}},
}
TOOLS = (
    ToolOffer("read", "Read a file.", SCHEMA),
    ToolOffer("now", "", {"type": "object", "properties": {}}),
)

pytestmark = pytest.mark.skipif(
    shutil.which("llama-server") is None, reason="llama.cpp's llama-server is not on the PATH"
)
every_kind = pytest.mark.parametrize("kind", ["openai", "openai-responses", "anthropic"])


@contextmanager
def start_llama(folder: Path, *pieces: str, endlessly: bool = False, window: int = WINDOW) -> Generator[str]:
    """Serve a model that recites the pieces to one at a time, and give the base_url."""
    model, port = folder / "reciter.gguf", free_port()
    write_reciter(model, *pieces, endlessly=endlessly)
    options = {"--model": model, "--alias": "m", "--host": "127.0.0.1", "--port": port}
    options |= {"--ctx-size": window, "--parallel": 1, "--threads": 1}
    command = [str(word) for option in options.items() for word in option]
    with run_server(["llama-server", *command], port, folder, health="/health") as url:
        yield f"{url}/v1"


async def answer(provider: Provider, *history: Message, max_tokens: int | None = None) -> Reply:
    request = ModelRequest(
        model="m", system="Be brief.", messages=history, tools=TOOLS, thinking=True, max_tokens=max_tokens
    )
    reply = Reply()
    with trio.fail_after(ANSWERS_WITHIN):
        async with provider.stream(request) as chunks:
            async for chunk in chunks:
                reply.receive(chunk)
    return reply


def finish_of(reply: Reply) -> Finished:
    assert reply.finish
    return reply.finish


def thought_of(message: AssistantMessage) -> str:
    return "".join(block.text for block in message.content if isinstance(block, ThinkingBlock))


@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "whole"])
@every_kind
async def test_thoughts_words_and_calls_are_read_and_the_result_goes_back(
    tmp_path: Path, kind: Kind, is_streamed: bool
) -> None:
    question = user_text("What is in x?")
    with start_llama(tmp_path, *THOUGHT, *SPOKEN, *CALLED) as url:
        provider = provider_at(url, kind=kind, is_streamed=is_streamed)

        first = await answer(provider, question)
        said = first.message("test/m", with_calls=True)
        (call,) = tool_calls_of(said)
        second = await answer(provider, question, said, ToolMessage(call.id, "read", "it", "ok"))

        await provider.aclose()

    assert (thought_of(said), text_of(said)) == ("Hm.\n", "I look.")
    assert (call.name, json.loads(call.arguments)) == ("read", {"path": "x"})
    assert text_of(second.message("test/m", with_calls=True)) == "I look."
    before, after = finish_of(first), finish_of(second)
    assert before.reason == "tool_calls"
    assert before.usage
    assert after.usage
    # The end of the recital is a token as well.
    said_tokens = len(THOUGHT + SPOKEN + CALLED) + 1
    assert before.usage.output_tokens == after.usage.output_tokens == said_tokens
    # The second request begins as the first one did, and llama.cpp remembers that.
    assert after.usage.input_tokens > before.usage.input_tokens >= after.usage.cache_read_tokens > 0


@every_kind
async def test_an_answer_ends_where_it_may_be_no_longer(tmp_path: Path, kind: Kind) -> None:
    with start_llama(tmp_path, "la", " li", " lu ", endlessly=True) as url:
        provider = provider_at(url, kind=kind)

        reply = await answer(provider, user_text("sing"), max_tokens=30)

        await provider.aclose()

    finish = finish_of(reply)
    # In Responses llama.cpp says "completed", whatever the reason.
    assert finish.reason == ("end" if kind == "openai-responses" else "max_tokens")
    assert finish.usage
    assert finish.usage.output_tokens == 30
    assert text_of(reply.message("test/m", with_calls=True)) == "la li lu " * 10


@every_kind
async def test_what_does_not_fit_into_the_window_is_refused_as_too_long(tmp_path: Path, kind: Kind) -> None:
    with start_llama(tmp_path, *SPOKEN, window=2048) as url:
        provider = provider_at(url, kind=kind)

        with pytest.raises(ProviderError) as refused:
            await answer(provider, user_text("word " * 1000))

        await provider.aclose()

    assert (refused.value.kind, refused.value.status) == ("context_too_long", 400)


def configure(home: Home, url: str, kind: Kind) -> None:
    home.configure(
        f'model = "llama/m"\ntitles = false\n[providers.llama]\nkind = "{kind}"\nbase_url = "{url}"\n'
    )


async def slot_is_free(url: str) -> bool:
    async with httpx.AsyncClient() as client:
        (slot,) = (await client.get(url.removesuffix("/v1") + "/slots")).json()
    return not slot["is_processing"]


@every_kind
async def test_a_daemon_lists_the_model_asks_it_and_tells_the_usage(home: Home, kind: Kind) -> None:
    with start_llama(home.directory, *SPOKEN) as url:
        configure(home, url, kind)
        async with start_daemon(home) as daemon:
            client = await daemon.connect()
            session = (await client.call("session/get_or_create", agent="crab"))["id"]
            await client.call("session/subscribe", session=session)

            models = (await client.call("model/list"))["models"]
            results = [await client.call("session/send", session=session, content="Hi") for _ in range(2)]
            usage = await client.call("session/usage", session=session)

            streamed = [event["text"] for event in client.events("text_delta")]

    windows = {model["id"]: model["context_window"] for model in models}
    assert windows["llama/m"] == WINDOW
    assert [(result["text"], result["stop_reason"]) for result in results] == [("I look.", "end_turn")] * 2
    assert streamed == [*SPOKEN, *SPOKEN]
    assert usage["usage"]["total"]["output_tokens"] == 2 * (len(SPOKEN) + 1)
    # The second request begins as the first one did, and llama.cpp remembers that.
    assert usage["usage"]["total"]["cache_read_tokens"] > 0


@every_kind
async def test_a_cancel_in_mid_stream_frees_the_only_slot(home: Home, kind: Kind) -> None:
    # To the end of this window it would go on for minutes.
    with start_llama(home.directory, "la", " li", " lu ", endlessly=True, window=1 << 17) as url:
        configure(home, url, kind)
        async with start_daemon(home) as daemon:
            client = await daemon.connect()
            session = (await client.call("session/get_or_create", agent="crab"))["id"]
            await client.call("session/subscribe", session=session)
            running = await client.ask("session/send", session=session, content="sing")
            await client.event("text_delta", 10)
            was_free = await slot_is_free(url)

            await client.call("session/cancel", session=session)
            result = await client.answer(running)

            with trio.fail_after(ANSWERS_WITHIN):
                while not await slot_is_free(url):
                    await trio.sleep(0.1)

    assert not was_free
    assert result["stop_reason"] == "cancelled"
    assert result["text"].startswith("la li lu la li lu ")


async def test_a_session_that_outgrows_the_window_is_compacted_and_goes_on(home: Home) -> None:
    with start_llama(home.directory, *SPOKEN, window=8192) as url:
        configure(home, url, "openai")
        # What is told of tools would fill this window by itself.
        (home.config / "agents").mkdir()
        (home.config / "agents" / "crab.md").write_text("---\ntools: []\n---\nBe brief.\n")
        async with start_daemon(home) as daemon:
            client = await daemon.connect()
            session = (await client.call("session/get_or_create", agent="crab"))["id"]
            await client.call("session/subscribe", session=session)

            # To this model a letter is a token: it is twice what the window holds.
            results = [
                await client.call("session/send", session=session, content=letter * 1500)
                for letter in "abcdefghijkl"
            ]

            compactions = client.events("compacted")

    assert [(result["text"], result["stop_reason"]) for result in results] == [("I look.", "end_turn")] * 12
    assert compactions[0]["usage_after"] < compactions[0]["usage_before"]
