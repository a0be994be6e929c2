"""What a chunk of a streamed answer costs to decode, beside the official openai SDK on the same bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from crabd.providers.answer import Decoder
from crabd.providers.anthropic_answer import AnswerDecoder as MessagesDecoder
from crabd.providers.openai_answer import AnswerDecoder as ChatDecoder
from crabd.providers.responses_answer import AnswerDecoder as ResponsesDecoder
from tests.bench.measure import Report, Samples, on_one_core, turns

CHUNKS = 5000
ROUNDS = 5
# What an operating system gives of a stream at a time: a few events, and the beginning of another.
PIECE = 1000
# The promise, of which either is enough; the second does not depend on the machine.
TARGET_MICROSECONDS = 15
TARGET_RATE = 7

HEAD = {
    "id": "chatcmpl-x",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "system_fingerprint": "f",
}


def chat_event(delta: dict[str, object], finish: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**HEAD, "choices": [choice], "usage": None}


def spelled(events: list[dict[str, object]]) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)


CHAT = spelled([*(chat_event({"content": f"word{n} "}) for n in range(CHUNKS)), chat_event({}, "stop")])
RESPONSES = spelled(
    [
        *(
            {
                "type": "response.output_text.delta",
                "sequence_number": n,
                "item_id": "msg_x",
                "output_index": 0,
                "content_index": 0,
                "delta": f"word{n} ",
                "logprobs": [],
            }
            for n in range(CHUNKS)
        ),
        {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": []}},
    ]
)
MESSAGES = spelled(
    [
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": f"word{n} "},
            }
            for n in range(CHUNKS)
        ),
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]
)


def pieces_of(data: bytes) -> list[bytes]:
    return [data[start : start + PIECE] for start in range(0, len(data), PIECE)]


def decode(decoder: Decoder, pieces: list[bytes]) -> int:
    count = 0
    for piece in pieces:
        for _ in decoder.feed(piece):
            count += 1
    if not decoder.is_finished:
        decoder.end()
        count += 1
    return count


class Arriving(httpx2.SyncByteStream):
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)


def decode_with_sdk(client: openai.OpenAI, pieces: list[bytes]) -> int:
    response = httpx2.Response(
        200, stream=Arriving(pieces), request=httpx2.Request("POST", "http://test.invalid")
    )
    return sum(1 for _ in openai.Stream(cast_to=ChatCompletionChunk, response=response, client=client))


@pytest.mark.bench
def test_decoding_costs_little(report: Report) -> None:
    client = openai.OpenAI(api_key="k", base_url="http://test.invalid/v1")
    chat, responses, messages = pieces_of(CHAT), pieces_of(RESPONSES), pieces_of(MESSAGES)
    variants: dict[str, Callable[[], int]] = {
        "chat completions": lambda: decode(ChatDecoder("p", bytes), chat),
        "responses": lambda: decode(ResponsesDecoder("p", "m", bytes), responses),
        "messages": lambda: decode(MessagesDecoder("p", "m", bytes), messages),
        "openai SDK": lambda: decode_with_sdk(client, chat),
    }
    samples = Samples()

    with on_one_core():
        for variant in turns(list(variants), ROUNDS):
            began = time.process_time()
            assert variants[variant]() == CHUNKS + 1
            samples.add(variant, (time.process_time() - began) / CHUNKS * 1e6)

    rates = {name: samples.ratio("openai SDK", name) for name in variants}
    report(
        f"decoding {CHUNKS} chunks (target: {TARGET_MICROSECONDS} µs, or {TARGET_RATE} × the SDK's rate)",
        ["", "µs CPU a chunk", "× the SDK's rate"],
        [[name, f"{samples.median(name):.3g}", rates[name]] for name in variants],
    )
    for name in ("chat completions", "responses", "messages"):
        assert samples.median(name) <= TARGET_MICROSECONDS or rates[name].middle >= TARGET_RATE, name
