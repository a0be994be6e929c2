"""The OpenAI provider against a real server: good answers, and every way a server fails."""

from __future__ import annotations

import socket
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from crabd.errors import ProviderError
from crabd.messages import Usage, utc_now
from crabd.providers.base import Finished, ModelInfo, Retry, TextChunk, ThinkingChunk, ToolCallChunk
from crabd.providers.http import MAX_BODY_BYTES
from crabd.providers.server import Server
from crabd.providers.settings import Deadlines
from crabd.providers.sse import MAX_EVENT_BYTES
from tests.model_server import Call, Ending, Gate, ModelServer, Raw, Reply, Say, Think, refuses, says
from tests.providers.asking import READ, SECONDS, ask, fail, joined, request_of
from tests.providers.conftest import KEY, provider_at

if TYPE_CHECKING:
    from crabd.errors import ProviderErrorKind

HELLO = request_of("hello")
PING = Raw(b": ping\n\n")
END = Finished("end", Usage(input_tokens=7, output_tokens=5))


def count_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_an_answer_streams_in_the_order_it_was_said(openai: Server, server: ModelServer) -> None:
    await server.script(says(Think("hm"), "Hello, ", "you"))

    chunks = await ask(openai, HELLO)

    assert chunks == [ThinkingChunk("hm"), TextChunk("Hello, "), TextChunk("you"), END]


async def test_a_chunk_arrives_before_the_next_one_is_sent(openai: Server, server: ModelServer) -> None:
    await server.script(says("first", Gate("rest"), "second"))

    with trio.fail_after(SECONDS):
        async with openai.stream(HELLO) as answer:
            first = await anext(answer)
            await server.open_gate("rest")
            rest = [chunk async for chunk in answer]

    assert (first, rest) == (TextChunk("first"), [TextChunk("second"), END])


async def test_tool_calls_arrive_in_pieces_that_add_up(openai: Server, server: ModelServer) -> None:
    await server.script(says(Call("read", '{"path":"x"}', "a", 0), Call("read", "{}", "", 1)))

    *pieces, end = await ask(openai, request_of("read", READ))

    calls = {
        index: "".join(p.arguments for p in pieces if isinstance(p, ToolCallChunk) and p.index == index)
        for index in (0, 1)
    }
    ids = [piece.id for piece in pieces if isinstance(piece, ToolCallChunk) and piece.id]
    assert calls == {0: '{"path":"x"}', 1: "{}"}
    assert ids[0] == "a"
    assert ids[1].startswith("call_")
    assert isinstance(end, Finished)
    assert end.reason == "tool_calls"


async def test_the_key_goes_into_the_header_and_nowhere_else(openai: Server, server: ModelServer) -> None:
    await server.script(refuses(401, f"Incorrect API key provided: {KEY}"))

    error, _ = await fail(openai, HELLO)

    seen = await server.requests(wait=1)
    assert seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert seen[0].headers["accept-encoding"] == "identity"
    assert KEY not in f"{error!r} {error} {error.data} {openai!r} {seen[0].body}"
    assert str(error) == "test: 401: Incorrect API key provided: [key] (the API key is from TEST_KEY)"


async def test_the_key_is_not_told_by_an_error_in_mid_stream_either(
    openai: Server, server: ModelServer
) -> None:
    event = f'data: {{"error":{{"message":"bad key {KEY}","code":401}}}}\n\n'
    await server.script(says(Raw(event.encode())))

    error, _ = await fail(openai, HELLO)

    assert (error.kind, str(error)) == ("auth", "test: bad key [key]")
    assert KEY not in repr(error)


async def test_a_connection_serves_the_next_call_too(openai: Server, server: ModelServer) -> None:
    await ask(openai, HELLO)
    await ask(openai, HELLO)

    seen = await server.requests(settled=2)

    assert seen[0].connection == seen[1].connection


async def test_a_finish_reason_is_enough_of_an_end(openai: Server, server: ModelServer) -> None:
    await server.script(Reply(parts=(Say("hi"),), done=False, usage=None))
    await server.script(Reply(parts=(Say("hi"),), done=False, usage=None, ending="reset"))

    clean = await ask(openai, HELLO)
    torn = await ask(openai, HELLO)

    assert clean == torn == [TextChunk("hi"), Finished("end", None)]


async def test_a_connection_that_breaks_after_the_end_harms_nothing(
    openai: Server, server: ModelServer
) -> None:
    await server.script(Reply(parts=(Say("hi"),), ending="cut"))

    assert await ask(openai, HELLO) == [TextChunk("hi"), END]


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (401, "bad key", "auth"),
        (403, "not for you", "auth"),
        (400, "This model's maximum context length is 8192 tokens.", "context_too_long"),
        (413, "prompt is too long", "context_too_long"),
        (400, "the request exceeds the available context size, try increasing it", "context_too_long"),
        (400, "temperature must be below 2", "bad_reply"),
        (404, "The model `x` does not exist", "bad_reply"),
    ],
)
async def test_a_refusal_is_told_once_with_the_servers_words(
    openai: Server, server: ModelServer, status: int, message: str, kind: ProviderErrorKind
) -> None:
    await server.script(refuses(status, message))

    error, chunks = await fail(openai, HELLO)

    assert (error.kind, error.status, chunks) == (kind, status, [])
    assert f"{status}: {message}" in str(error)
    assert len(await server.requests()) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
async def test_a_passing_failure_is_tried_again(openai: Server, server: ModelServer, status: int) -> None:
    await server.script(refuses(status, "later", retry_after_ms="1"), says("now"))

    heard: list[Retry] = []
    chunks = await ask(openai, HELLO, heard.append)

    assert joined(chunks) == "now"
    assert len(await server.requests()) == 2
    [retry] = heard
    assert (f"{status}: later" in retry.problem, retry.seconds > 0, retry.model) == (True, True, "")


async def test_three_tries_are_all_there_are(openai: Server, server: ModelServer) -> None:
    await server.script(*[refuses(503, "busy", retry_after_ms="1")] * 4)

    error, _ = await fail(openai, HELLO)

    assert (error.kind, error.status) == ("unavailable", 503)
    assert len(await server.requests()) == 3


@pytest.mark.parametrize("unit", ["seconds", "date"])
async def test_a_long_wait_is_reported_and_not_waited(openai: Server, server: ModelServer, unit: str) -> None:
    until = utc_now() + timedelta(seconds=120)
    after = "120" if unit == "seconds" else format_datetime(until, usegmt=True)
    await server.script(refuses(429, "slow down", retry_after=after))

    error, _ = await fail(openai, HELLO)

    assert error.kind == "rate_limited"
    assert error.retry_after is not None
    assert 60 < error.retry_after <= 120
    assert len(await server.requests()) == 1


async def test_a_reset_before_the_first_word_is_tried_again(openai: Server, server: ModelServer) -> None:
    await server.script(
        Reply(status=0, ending="reset"), Reply(finish=None, ending="cut", usage=None, done=False)
    )
    await server.script(says("third time"))

    chunks = await ask(openai, HELLO)

    assert joined(chunks) == "third time"


@pytest.mark.parametrize(
    ("ending", "kind"), [("cut", "bad_reply"), ("clean", "bad_reply"), ("reset", "unavailable")]
)
async def test_an_answer_that_breaks_off_fails_after_what_came(
    openai: Server, server: ModelServer, ending: Ending, kind: ProviderErrorKind
) -> None:
    parts = (Say("half"), Gate("break"))
    await server.script(Reply(parts=parts, finish=None, usage=None, done=False, ending=ending))

    with trio.fail_after(SECONDS):
        async with openai.stream(HELLO) as answer:
            first = await anext(answer)
            await server.open_gate("break")
            with pytest.raises(ProviderError) as caught:
                await anext(answer)

    assert (first, caught.value.kind) == (TextChunk("half"), kind)
    assert len(await server.requests()) == 1


async def test_an_error_in_mid_stream_comes_after_the_text_before_it(
    openai: Server, server: ModelServer
) -> None:
    event = (
        b'data: {"choices":[{"delta":{"content":"half"}}]}\n\ndata: {"error":{"message":"oh","code":502}}\n\n'
    )
    await server.script(says(Raw(event)))

    error, chunks = await fail(openai, HELLO)

    assert (error.kind, error.status, joined(chunks)) == ("unavailable", 502, "half")


async def test_an_error_in_place_of_the_first_word_is_tried_again(
    openai: Server, server: ModelServer
) -> None:
    await server.script(
        says(Raw(b'data: {"error":{"message":"oh","type":"overloaded_error"}}\n\n')), says("ok")
    )

    chunks = await ask(openai, HELLO)

    assert joined(chunks) == "ok"


async def test_a_character_cut_in_two_is_whole_again(openai: Server, server: ModelServer) -> None:
    event = 'data: {"choices":[{"delta":{"content":"crab 🦀"}}]}\n\n'.encode()
    cut = event.index("🦀".encode()) + 2
    await server.script(says(Raw(event[:cut]), Raw(event[cut:])))

    chunks = await ask(openai, HELLO)

    assert joined(chunks) == "crab 🦀"


async def test_an_answer_that_comes_byte_by_byte_is_the_same_answer(
    openai: Server, server: ModelServer
) -> None:
    event = b': ping\r\n\r\ndata: {"choices":[{"delta":{"content":"drip"}}]}\r\n\r\n'
    await server.script(says(*(Raw(bytes([byte])) for byte in event)))

    chunks = await ask(openai, HELLO)

    assert chunks == [TextChunk("drip"), END]


async def test_a_line_without_end_is_refused(openai: Server, server: ModelServer) -> None:
    await server.script(says(Raw(b"data: " + b"x" * (MAX_EVENT_BYTES + 1)), Gate("never")))

    error, _ = await fail(openai, HELLO)

    assert (error.kind, str(error)) == ("bad_reply", f"test: an event is longer than {MAX_EVENT_BYTES} bytes")
    assert (await server.requests(settled=1))[0].hung_up


async def test_an_answer_without_end_is_refused(openai: Server, server: ModelServer) -> None:
    comment = b":" * 1_000_000 + b"\n\n"
    await server.script(says(Raw(comment, MAX_BODY_BYTES // len(comment) + 1), Gate("never")))

    error, _ = await fail(openai, HELLO)

    assert str(error) == f"test: the answer is longer than {MAX_BODY_BYTES} bytes"


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({"content-type": "text/html; charset=utf-8"}, "the answer is text/html, not text/event-stream"),
        ({"content-encoding": "gzip"}, "the answer is compressed"),
    ],
)
async def test_an_answer_of_the_wrong_kind_is_refused(
    openai: Server, server: ModelServer, headers: dict[str, str], problem: str
) -> None:
    await server.script(Reply(headers=headers, parts=(Say("hi"),)))

    error, _ = await fail(openai, HELLO)

    assert error.kind == "bad_reply"
    assert problem in str(error)


async def test_an_answer_may_be_asked_for_whole(server: ModelServer) -> None:
    await server.script(says("Hello", Call("read", '{"path":"x"}', "a")))
    whole = provider_at(server.base_url, is_streamed=False)

    chunks = await ask(whole, HELLO)
    await whole.aclose()

    assert chunks[:2] == [TextChunk("Hello"), ToolCallChunk(0, "a", "read", '{"path":"x"}')]
    assert isinstance(chunks[2], Finished)
    [seen] = await server.requests()
    assert (seen.body["stream"], "stream_options" in seen.body) == (False, False)


async def test_a_whole_answer_will_do_where_a_stream_was_asked_for(
    openai: Server, server: ModelServer
) -> None:
    told = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    body = msgspec.json.encode(told).decode()
    await server.script(Reply(headers={"content-type": "application/json; charset=utf-8"}, body=body))

    chunks = await ask(openai, HELLO)

    assert chunks == [TextChunk("Hi"), Finished("end")]


async def test_a_redirect_is_not_followed(openai: Server, server: ModelServer) -> None:
    await server.script(
        Reply(status=307, headers={"location": f"{server.base_url}/chat/completions"}, body="")
    )

    error, _ = await fail(openai, HELLO)

    assert (error.kind, error.status) == ("bad_reply", 307)
    assert len(await server.requests()) == 1


async def test_nobody_at_the_port_is_unavailable_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        provider = provider_at(f"http://127.0.0.1:{unused.getsockname()[1]}/v1")

        error, _ = await fail(provider, HELLO)

    assert error.kind == "unavailable"
    assert "cannot connect" in str(error)
    await provider.aclose()


async def test_a_handshake_that_hangs_ends_with_a_deadline_and_leaves_no_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/v1"
        provider = provider_at(url, deadlines=Deadlines(connect=0.2))
        await fail(provider, HELLO)
        before = count_open_files()

        error, _ = await fail(provider, HELLO)

    assert str(error) == "test: cannot connect: no answer in time"
    # One less: the listener is closed.
    assert count_open_files() == before - 1
    await provider.aclose()


async def test_a_proxy_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "carrier-pigeon://127.0.0.1:9")

    error, _ = await fail(provider_at("https://example.com/v1"), HELLO)

    assert error.kind == "unavailable"
    assert "proxy" in str(error)


async def test_no_proxy_comes_between_us_and_this_machine(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    provider = provider_at(server.base_url)

    chunks = await ask(provider, HELLO)

    assert joined(chunks) == "hello"
    await provider.aclose()


@pytest.mark.parametrize(
    ("deadlines", "reply", "words"),
    [
        (Deadlines(first_byte=0.2), Reply(status=0, ending="hang"), "it was silent for 0.2 s"),
        (Deadlines(first_byte=0.2), Reply(parts=(Gate("never"),)), "it was silent for 0.2 s"),
        (Deadlines(idle=0.2), Reply(parts=(PING, Gate("never"))), "it was silent for 0.2 s"),
        (Deadlines(total=0.2), Reply(parts=(Gate("never"),)), "it took too long as a whole"),
    ],
)
async def test_silence_ends_with_a_deadline(
    server: ModelServer, deadlines: Deadlines, reply: Reply, words: str
) -> None:
    provider = provider_at(server.base_url, deadlines=deadlines)
    await server.script(reply)

    error, _ = await fail(provider, HELLO)

    seen = await server.requests(settled=1)
    assert error.kind == "unavailable"
    assert words in str(error)
    assert seen[0].hung_up
    assert len(seen) == 1
    await provider.aclose()


@pytest.mark.parametrize("reply", [Reply(status=0, ending="hang"), Reply(parts=(Say("hi"), Gate("never")))])
async def test_cancelling_hangs_up(openai: Server, server: ModelServer, reply: Reply) -> None:
    await server.script(reply)

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, openai, HELLO)
            await server.requests(wait=1)
            nursery.cancel_scope.cancel()

    assert (await server.requests(settled=1))[0].hung_up


async def test_leaving_in_mid_answer_hangs_up(openai: Server, server: ModelServer) -> None:
    await server.script(says("hi", Gate("never")))

    with trio.fail_after(SECONDS):
        async with openai.stream(HELLO) as answer:
            await anext(answer)

    assert (await server.requests(settled=1))[0].hung_up


async def test_cancelling_between_two_tries_ends_the_tries(openai: Server, server: ModelServer) -> None:
    await server.script(refuses(503, "busy", retry_after="20"))

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, openai, HELLO)
            await server.requests(settled=1)
            nursery.cancel_scope.cancel()

    assert len(await server.requests()) == 1


async def test_closing_the_provider_ends_what_streams(openai: Server, server: ModelServer) -> None:
    await server.script(says("hi", Gate("never")))

    with trio.fail_after(SECONDS):
        async with openai.stream(HELLO) as answer:
            await anext(answer)
            await openai.aclose()
            with pytest.raises(ProviderError):
                await anext(answer)
    after, _ = await fail(openai, HELLO)

    assert after.kind == "unavailable"
    assert (await server.requests(settled=1))[0].hung_up


async def test_a_server_that_refuses_stream_options_is_asked_without(
    openai: Server, server: ModelServer
) -> None:
    await server.script(refuses(422, "stream_options: extra fields not permitted"))

    await ask(openai, HELLO)
    await ask(openai, HELLO)

    bodies = [seen.body for seen in await server.requests()]
    assert ["stream_options" in body for body in bodies] == [True, False, False]


async def test_models_come_with_the_window_the_server_tells(openai: Server, server: ModelServer) -> None:
    await server.set_models(
        {"id": "a", "max_model_len": 4096}, {"id": "b", "meta": {"n_ctx_train": 8192}}, {"id": "c"}
    )

    with trio.fail_after(SECONDS):
        models = await openai.list_models()

    assert models == (
        ModelInfo(id="test/a", provider="test", context_window=4096),
        ModelInfo(id="test/b", provider="test", context_window=8192),
        ModelInfo(id="test/c", provider="test"),
    )
