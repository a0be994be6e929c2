"""The dialects in which servers answer."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crabd.errors import ProviderError
from crabd.messages import Usage, utc_now
from crabd.providers.answer import read_refusal
from crabd.providers.base import Chunk, Finished, ModelInfo, TextChunk, ThinkingChunk, ToolCallChunk
from crabd.providers.openai_answer import AnswerDecoder, read_models
from crabd.providers.retry import ConnectionLost
from tests.providers.oracles import heard_by_us

END = Finished("end", None)


def delta(finish: str | None = None, **fields: object) -> bytes:
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": finish}])


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def call(name: str = "", arguments: object = "", **fields: object) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **fields}


def new_decoder() -> AnswerDecoder:
    return AnswerDecoder("test", lambda data: data)


def decode(*pieces: bytes) -> list[Chunk]:
    decoder = new_decoder()
    chunks = [chunk for piece in pieces for chunk in decoder.feed(piece)]
    return chunks if decoder.is_finished else [*chunks, decoder.end()]


def test_usage_after_the_finish_reason_is_part_of_the_end() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
        "cost": 0.25,
    }

    chunks = decode(delta(content="hi"), delta("stop"), event(choices=[], usage=usage), b"data: [DONE]\n\n")

    assert chunks == [
        TextChunk("hi"),
        Finished("end", Usage(9, 4, cache_read_tokens=3, reasoning_tokens=2, cost=0.25)),
    ]


@pytest.mark.parametrize(
    ("pieces", "chunks"),
    [
        ([delta(role="assistant", content=""), delta("stop", content=None)], []),
        ([b": OPENROUTER PROCESSING\n\n", delta("stop", content="hi")], [TextChunk("hi")]),
        ([event(choices=[]), event(usage=None), delta("stop", content="hi")], [TextChunk("hi")]),
        (
            [delta(reasoning_content="a"), delta("stop", reasoning="b")],
            [ThinkingChunk("a"), ThinkingChunk("b")],
        ),
        ([delta("stop", content=[{"type": "text", "text": "a"}, {"type": "thinking"}])], [TextChunk("a")]),
        ([delta("stop", content="hi", unknown={"deep": [1, None]})], [TextChunk("hi")]),
    ],
)
def test_what_a_server_adds_or_leaves_out_does_no_harm(pieces: list[bytes], chunks: list[Chunk]) -> None:
    assert decode(*pieces) == [*chunks, END]


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        # No index: the id tells, wherever in the list its piece comes.
        (
            [
                [call("a", "{", id="x"), call("b", "{", id="y")],
                [call(arguments="}", id="y")],
                [call(arguments="}", id="x")],
            ],
            [("x", "a", "{}"), ("y", "b", "{}")],
        ),
        # Neither: a name begins a call, and what has none goes on with the last.
        (
            [[call("a", "{")], [call(arguments="}")], [call("b", {"k": 1})]],
            [("", "a", "{}"), ("", "b", '{"k":1}')],
        ),
        # An index, and the name in every piece.
        (
            [
                [call("a", "{", index=0)],
                [call("b", "{", index=1)],
                [call("a", "}", index=0)],
                [call("b", "}", index=1)],
            ],
            [("", "a", "{}"), ("", "b", "{}")],
        ),
        ([[call("a", "{", index="0", id="x")], [call(arguments="}", index="0")]], [("x", "a", "{}")]),
    ],
)
def test_pieces_of_calls_find_together_however_a_server_marks_them(
    pieces: list[list[dict[str, Any]]], calls: list[tuple[str, str, str]]
) -> None:
    said = heard_by_us(new_decoder(), [delta(tool_calls=piece) for piece in pieces] + [delta("stop")])

    found = [
        (id_ if known else "", name, arguments)
        for (id_, name, arguments), (known, *_) in zip(said.calls, calls, strict=True)
    ]
    assert found == [(id_, name, json.loads(arguments)) for id_, name, arguments in calls]
    assert len({id_ for id_, *_ in said.calls}) == len(calls)


@pytest.mark.parametrize(
    ("sent", "chunks"),
    [
        (
            event(choices=[{"message": {"role": "assistant", "content": "whole"}, "finish_reason": "stop"}]),
            [TextChunk("whole")],
        ),
        (
            delta("stop", content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]),
            [ThinkingChunk("hm")],
        ),
        (
            delta("stop", reasoning="hm", reasoning_content="hm", content="null"),
            [ThinkingChunk("hm"), TextChunk("null")],
        ),
    ],
)
def test_text_is_found_wherever_a_server_puts_it(sent: bytes, chunks: list[Chunk]) -> None:
    assert decode(sent) == [*chunks, END]


def test_figures_in_quotes_are_figures() -> None:
    chunks = decode(
        delta("stop"), event(choices=[], usage={"prompt_tokens": "9", "prompt_cache_hit_tokens": 4.0})
    )

    assert chunks == [Finished("end", Usage(9, cache_read_tokens=4))]


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("stop", "end"),
        ("length", "max_tokens"),
        ("content_filter", "refused"),
        ("tool_calls", "end"),
        ("something new", "end"),
    ],
)
def test_a_finish_reason_is_translated(told: str, meant: str) -> None:
    assert decode(delta(told)) == [Finished(meant, None)]  # type: ignore[arg-type]  # the parameters are literals


def test_a_refusal_is_text_and_a_reason() -> None:
    assert decode(delta(refusal="I will not."), delta("stop")) == [
        TextChunk("I will not."),
        Finished("refused", None),
    ]


def test_calls_that_stop_are_still_calls() -> None:
    chunks = decode(delta("stop", tool_calls=[call("read", "{}", id="a", index=0)]))

    assert chunks == [ToolCallChunk(0, "a", "read", "{}"), Finished("tool_calls", None)]


def test_pieces_of_two_calls_find_their_call_by_index() -> None:
    chunks = decode(
        delta(tool_calls=[call("read", "", id="a", index=0), call("write", "", id="b", index=1)]),
        delta(tool_calls=[call(arguments="{1", index=1)]),
        delta(tool_calls=[call(arguments="{0", index=0)]),
        delta("tool_calls"),
    )

    assert chunks[2:4] == [ToolCallChunk(1, "", "", "{1"), ToolCallChunk(0, "", "", "{0")]


def test_calls_that_share_an_index_are_told_apart_by_id() -> None:
    chunks = decode(
        delta(tool_calls=[call("read", "{}", id="a", index=0)]),
        delta("stop", tool_calls=[call("read", "{}", id="b", index=0)]),
    )

    assert chunks[:2] == [ToolCallChunk(0, "a", "read", "{}"), ToolCallChunk(1, "b", "read", "{}")]


def test_calls_without_index_and_id_get_both() -> None:
    chunks = decode(delta("stop", tool_calls=[call("read", {"path": "x"}), call("list", {})]))

    calls = [chunk for chunk in chunks if isinstance(chunk, ToolCallChunk)]
    assert [(c.index, c.name, c.arguments) for c in calls] == [(0, "read", '{"path":"x"}'), (1, "list", "{}")]
    assert len({c.id for c in calls if c.id}) == 2


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (rb'{"choices":[{"delta":{"content":"a\ud83d"}}]}', "a�"),
        (rb'{"choices":[{"delta":{"content":"\ud83e\udd80"}}]}', "🦀"),
        (b'{"choices":[{"delta":{"content":"a\xf0\x9f"}}]}', "a�"),
    ],
)
def test_half_a_character_never_fails_a_stream(payload: bytes, text: str) -> None:
    chunks = decode(b"data: " + payload + b"\n\n", delta("stop"))

    assert chunks == [TextChunk(text), END]


@settings(deadline=None)
@given(st.text(st.characters()), st.lists(st.integers(min_value=0), max_size=9))
def test_any_text_comes_through_any_cut(text: str, cuts: list[int]) -> None:
    stream = delta(content=text) + delta("stop")
    edges = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]

    chunks = decode(*(stream[start:end] for start, end in pairwise(edges)))

    said = "".join(chunk.text for chunk in chunks if isinstance(chunk, TextChunk))
    assert said == text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@pytest.mark.parametrize("payload", [b"not json", b'{"choices": "none"}', b'{"x":' + b"[" * 100_000])
def test_nonsense_is_a_bad_reply(payload: bytes) -> None:
    with pytest.raises(ProviderError) as caught:
        decode(b"data: " + payload + b"\n\n")

    assert caught.value.kind == "bad_reply"


def test_a_stream_without_end_was_cut_off() -> None:
    with pytest.raises(ConnectionLost) as caught:
        decode(delta(content="half"))

    assert caught.value.kind == "bad_reply"


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        ({"message": "x", "code": 429}, "rate_limited", 429),
        ({"message": "x", "code": "429"}, "rate_limited", 429),
        ({"message": "x", "type": "overloaded_error"}, "unavailable", 529),
        ({"message": "x", "code": "context_length_exceeded"}, "context_too_long", None),
        ({"message": "x"}, "bad_reply", None),
        ("the prompt is too long", "context_too_long", None),
    ],
)
def test_an_error_in_the_stream_counts_as_its_status(error: object, kind: str, status: int | None) -> None:
    with pytest.raises(ProviderError) as caught:
        decode(event(error=error))

    assert (caught.value.kind, caught.value.status) == (kind, status)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, b'{"error": {"message": "too\\n warm"}}', "400: too warm"),
        (400, b'{"error": "too warm"}', "400: too warm"),
        (400, b'{"message": "too warm"}', "400: too warm"),
        (400, b'[{"odd": 1}]', '400: [{"odd": 1}]'),
        (502, b"<html>Bad Gateway</html>", "502: the server does not say why"),
        (403, b"", "403: the server does not say why (the API key is from KEY)"),
        (404, b"", "404: there is no such page: does base_url end where the API begins (often /v1)?"),
        (400, b"x" * 1000, f"400: {'x' * 400}…"),
    ],
)
def test_a_refusal_speaks_in_the_servers_words(status: int, body: bytes, words: str) -> None:
    error = read_refusal("test", status, {}, body, now=utc_now(), key_origin="KEY")

    assert error.problem == words


def test_a_list_of_models_may_be_empty() -> None:
    assert read_models("test", b'{"object": "list", "data": null}') == []
    assert read_models("test", b'{"data": [{"id": "a", "context_length": 5}]}') == [
        ModelInfo(id="test/a", provider="test", context_window=5)
    ]
