"""Our decoders against the official SDKs' own: from the same bytes both read the same answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypeAlias

import anthropic
import openai
from hypothesis import given, settings
from hypothesis import strategies as st

from crabd.providers import anthropic_answer, openai_answer, responses_answer
from tests.providers.oracles import (
    chat_completion,
    completed_response,
    final_message,
    heard_by_anthropic,
    heard_by_openai,
    heard_by_openai_responses,
    heard_by_us,
    heard_whole_by_us,
)

Event: TypeAlias = dict[str, Any]

# Everything that fits into JSON and UTF-8; SDKs differ from us only in what they make of half characters.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
pieces = st.lists(texts.filter(bool), max_size=4)
arguments = st.dictionaries(st.text("abc", min_size=1, max_size=3), texts | st.integers(), max_size=3).map(
    json.dumps
)
counts = st.integers(0, 10**6)
newlines = st.sampled_from(["\n", "\r\n"])


def cut_up(data: bytes, places: list[int]) -> list[bytes]:
    cuts = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(cuts)]


@st.composite
def parts_of(draw: st.DrawFn, text: str) -> list[str]:
    """Cut a text into pieces of at least one character."""
    places = draw(st.lists(st.integers(0, max(0, len(text))), max_size=3))
    cuts = sorted({0, len(text), *places})
    return [text[start:end] for start, end in pairwise(cuts)]


def spelled(events: list[Event], newline: str, *, named: bool, done: bool) -> bytes:
    """Write events as a server does, with a comment between some of them."""

    def lines() -> Iterator[str]:
        for number, event in enumerate(events):
            if number % 3 == 1:
                yield ": keep-alive"
                yield ""
            if named:
                yield f"event: {event['type']}"
            yield f"data: {json.dumps(event, ensure_ascii=bool(number % 2))}"
            yield ""
        if done:
            yield "data: [DONE]"
            yield ""

    return "".join(line + newline for line in lines()).encode()


@st.composite
def chat_events(draw: st.DrawFn) -> list[Event]:
    deltas: list[Event] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": piece} for piece in draw(pieces)]
    deltas += [{"content": piece} for piece in draw(pieces)]
    calls = draw(st.lists(arguments, max_size=3))
    for index, text in enumerate(calls):
        function = {"name": f"tool{index}", "arguments": ""}
        begin: Event = {"index": index, "id": f"call_{index}", "type": "function", "function": function}
        more = [{"index": index, "function": {"arguments": part}} for part in draw(parts_of(text))]
        if draw(st.booleans()) and more:
            # The beginning and the first arguments in one.
            deltas.append({"tool_calls": [begin, more.pop(0)]})
        else:
            deltas.append({"tool_calls": [begin]})
        deltas += [{"tool_calls": [piece]} for piece in more]
    finish = "tool_calls" if calls else draw(st.sampled_from(["stop", "length", "content_filter"]))
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    events: list[Event] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    events.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    if draw(st.booleans()):
        prompt, completion, cached = draw(counts), draw(counts), draw(counts)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        events.append(
            {**head, "choices": [], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": cached}}}
        )
    return events


def reasoning_item(draw: st.DrawFn, at: Event) -> tuple[Event, Event, list[Event]]:
    """Make an item, how it begins, and the events between."""
    summary = [{"type": "summary_text", "text": part} for part in draw(pieces)]
    item: Event = {"type": "reasoning", "id": at["item_id"], "summary": summary}
    deltas = [
        {**at, "type": "response.reasoning_summary_text.delta", "summary_index": number, "delta": piece}
        for number, part in enumerate(summary)
        for piece in draw(parts_of(part["text"]))
    ]
    begin: Event = {**item, "summary": [], "encrypted_content": "half"}
    return {**item, "encrypted_content": draw(texts) + "x"}, begin, deltas


def message_item(draw: st.DrawFn, at: Event) -> tuple[Event, Event, list[Event]]:
    text = draw(texts)
    part: Event = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    item: Event = {"type": "message", "id": at["item_id"], "role": "assistant", "status": "completed"}
    within: Event = {**at, "content_index": 0}
    deltas: list[Event] = [
        {**within, "type": "response.content_part.added", "part": part},
        *(
            {**within, "type": "response.output_text.delta", "logprobs": [], "delta": piece}
            for piece in draw(parts_of(text))
        ),
    ]
    return {**item, "content": [{**part, "text": text}]}, {**item, "content": []}, deltas


def call_item(draw: st.DrawFn, at: Event) -> tuple[Event, Event, list[Event]]:
    text = draw(arguments)
    item: Event = {"type": "function_call", "id": at["item_id"], "call_id": f"call_{at['output_index']}"}
    deltas: list[Event] = [
        {**at, "type": "response.function_call_arguments.delta", "delta": piece}
        for piece in draw(parts_of(text))
    ]
    # Some servers send a call whole.
    return (
        {**item, "name": "tool", "arguments": text},
        {**item, "name": "tool", "arguments": ""},
        deltas if draw(st.booleans()) else [],
    )


@st.composite
def response_items(draw: st.DrawFn) -> tuple[list[Event], list[Event]]:
    """Make the items of a response, and the events in which they come."""
    items: list[Event] = []
    events: list[Event] = []
    for make in draw(st.lists(st.sampled_from([reasoning_item, message_item, call_item]), max_size=4)):
        at: Event = {"output_index": len(items), "item_id": f"i{len(items)}"}
        item, begin, deltas = make(draw, at)
        place = {"output_index": len(items)}
        events.append({"type": "response.output_item.added", **place, "item": begin})
        events += deltas
        events.append({"type": "response.output_item.done", **place, "item": item})
        items.append(item)
    return items, events


@st.composite
def response_events(draw: st.DrawFn) -> list[Event]:
    items, inner = draw(response_items())
    head: Event = {"id": "r", "object": "response", "created_at": 1, "model": "m", "tools": []}
    head |= {"tool_choice": "auto", "parallel_tool_calls": True}
    usage = {
        "input_tokens": draw(counts),
        "output_tokens": draw(counts),
        "total_tokens": 0,
        "input_tokens_details": {"cached_tokens": draw(counts), "cache_write_tokens": draw(counts)},
        "output_tokens_details": {"reasoning_tokens": draw(counts)},
    }
    begin: Event = {**head, "status": "in_progress", "output": []}
    end = {**head, "status": "completed", "output": items, "usage": usage}
    events: list[Event] = [
        {"type": "response.created", "response": begin},
        {"type": "response.in_progress", "response": begin},
        *inner,
        {"type": "response.completed", "response": end},
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


@st.composite
def message_events(draw: st.DrawFn) -> list[Event]:
    usage = {
        "input_tokens": draw(counts),
        "output_tokens": 1,
        "cache_read_input_tokens": draw(st.none() | counts),
    }
    message: Event = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
    message |= {"stop_reason": None, "stop_sequence": None, "usage": usage}
    events: list[Event] = [{"type": "message_start", "message": message}, {"type": "ping"}]
    kinds = draw(st.lists(st.sampled_from(["thinking", "redacted_thinking", "text", "tool_use"]), max_size=4))
    for index, kind in enumerate(kinds):
        deltas: list[Event] = []
        match kind:
            case "thinking":
                block: Event = {"thinking": "", "signature": ""}
                deltas = [{"type": "thinking_delta", "thinking": piece} for piece in draw(pieces)]
                deltas.append({"type": "signature_delta", "signature": draw(texts) + "="})
            case "redacted_thinking":
                block = {"data": draw(texts)}
            case "text":
                block = {"text": draw(st.sampled_from(["", "I"])), "citations": None}
                deltas = [{"type": "text_delta", "text": piece} for piece in draw(pieces)]
            case _:
                whole = draw(st.booleans())
                text = draw(arguments)
                block = {"id": f"toolu_{index}", "name": "tool", "input": json.loads(text) if whole else {}}
                if not whole:
                    deltas = [
                        {"type": "input_json_delta", "partial_json": piece}
                        for piece in ["", *draw(parts_of(text))]
                    ]
        events.append(
            {"type": "content_block_start", "index": index, "content_block": {"type": kind, **block}}
        )
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    stops = ["tool_use"] if "tool_use" in kinds else ["end_turn", "max_tokens", "stop_sequence", "refusal"]
    delta = {"stop_reason": draw(st.sampled_from(stops)), "stop_sequence": None}
    told = {"output_tokens": draw(counts), "cache_creation_input_tokens": draw(st.none() | counts)}
    events.append({"type": "message_delta", "delta": delta, "usage": told})
    return [*events, {"type": "message_stop"}]


def chat_decoder() -> openai_answer.AnswerDecoder:
    return openai_answer.AnswerDecoder("test", lambda data: data)


def responses_decoder() -> responses_answer.AnswerDecoder:
    return responses_answer.AnswerDecoder("test", "m", lambda data: data)


def messages_decoder() -> anthropic_answer.AnswerDecoder:
    return anthropic_answer.AnswerDecoder("test", "m", lambda data: data)


def as_json(answer: openai.BaseModel | anthropic.BaseModel) -> bytes:
    """Spell what a stream added up to as an answer that is not streamed."""
    return answer.model_dump_json(warnings=False).encode()


@settings(max_examples=60, deadline=None)
@given(chat_events(), newlines, st.lists(st.integers(0), max_size=5))
def test_chat_completions_are_read_as_openais_sdk_reads_them(
    events: list[Event], newline: str, places: list[int]
) -> None:
    data = spelled(events, newline, named=False, done=True)

    ours = heard_by_us(chat_decoder(), cut_up(data, places))

    assert ours == heard_by_openai(data)
    assert ours == heard_whole_by_us(chat_decoder(), as_json(chat_completion(data)))


@settings(max_examples=60, deadline=None)
@given(response_events(), newlines, st.lists(st.integers(0), max_size=5))
def test_responses_are_read_as_openais_sdk_reads_them(
    events: list[Event], newline: str, places: list[int]
) -> None:
    data = spelled(events, newline, named=True, done=False)

    ours = heard_by_us(responses_decoder(), cut_up(data, places))

    assert ours == heard_by_openai_responses(data)
    assert ours == heard_whole_by_us(responses_decoder(), as_json(completed_response(data)))


@settings(max_examples=60, deadline=None)
@given(message_events(), newlines, st.lists(st.integers(0), max_size=5))
def test_messages_are_read_as_anthropics_sdk_reads_them(
    events: list[Event], newline: str, places: list[int]
) -> None:
    data = spelled(events, newline, named=True, done=False)

    ours = heard_by_us(messages_decoder(), cut_up(data, places))

    assert ours == heard_by_anthropic(data)
    assert ours == heard_whole_by_us(messages_decoder(), as_json(final_message(data)))


def test_a_call_of_a_tool_is_read_alike_by_all() -> None:
    chat = spelled(CHAT, "\n", named=False, done=True)
    messages = spelled(MESSAGES, "\n", named=True, done=False)

    heard = [
        heard_by_us(chat_decoder(), [chat]),
        heard_by_openai(chat),
        heard_by_us(messages_decoder(), [messages]),
        heard_by_anthropic(messages),
    ]

    assert heard[0] == heard[1]
    assert heard[2] == heard[3]
    calls = (("call_a", "get_weather", {"location": "San Francisco, CA"}),)
    assert [said.calls for said in heard] == [calls] * 4


# As the services' own documentation shows them.
CHUNK = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "service_tier": "default"}
GET_WEATHER = {"id": "call_a", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
DELTAS: list[Event] = [
    {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **GET_WEATHER}], "refusal": None},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"location": "San'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ' Francisco, CA"}'}}]},
]
CHAT: list[Event] = [
    *(
        {
            **CHUNK,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}],
            "usage": None,
        }
        for delta in DELTAS
    ),
    {**CHUNK, "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"}]},
    {**CHUNK, "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}},
]
MESSAGES: list[Event] = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": "m",
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 472, "output_tokens": 2},
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Let me see"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "call_a", "name": "get_weather", "input": {}},
    },
    *(
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": piece},
        }
        for piece in ("", '{"location":', ' "San Francisco, CA"}')
    ),
    {"type": "content_block_stop", "index": 1},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {"output_tokens": 89},
    },
    {"type": "message_stop"},
]
