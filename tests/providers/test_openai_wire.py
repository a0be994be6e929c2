"""How a request looks on the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import structs

from crabd.messages import (
    AssistantMessage,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolMessage,
    ToolStatus,
    user_text,
)
from crabd.providers.base import ModelRequest
from crabd.providers.openai_wire import MAX_SPELLED, MIN_SPELLED, Spelling, spell, to_wire
from tests.providers.asking import READ, request_of


def wire(request: ModelRequest) -> dict[str, Any]:
    return dict(json.loads(to_wire(request)))


def history(*messages: Message) -> list[dict[str, Any]]:
    return list(wire(ModelRequest(model="m", system="", messages=messages))["messages"])


def test_a_plain_request_says_nothing_of_tools() -> None:
    assert wire(request_of("hi")) == {
        "model": "test-model",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_round_with_a_tool_call_keeps_call_and_result_together() -> None:
    calls = AssistantMessage(
        (ThinkingBlock("hm"), TextBlock("I look."), ToolCall("c1", "read", '{"path":"x"}')), partial=True
    )

    sent = history(user_text("look"), calls, ToolMessage("c1", "read", "found", "ok"))

    assert sent == [
        {"role": "user", "content": "look"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "read", "arguments": '{"path":"x"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
    ]


def test_a_reply_of_calls_alone_has_null_for_text() -> None:
    sent = history(AssistantMessage((ToolCall("c1", "read", "{}"),)))

    assert sent[0]["content"] is None


def test_a_reply_of_thinking_alone_is_not_sent() -> None:
    assert history(user_text("a"), AssistantMessage((ThinkingBlock("hm"),)), user_text("b")) == [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
    ]


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ("", "{}"),
        ('{"a": ', '{"invalid_arguments":"{\\"a\\": "}'),
        ("[1]", '{"invalid_arguments":"[1]"}'),
        ("[" * 9999, f'{{"invalid_arguments":"{"[" * 9999}"}}'),
    ],
)
def test_arguments_on_the_wire_are_always_an_object(written: str, sent: str) -> None:
    messages = history(AssistantMessage((ToolCall("c1", "read", written),)))

    assert messages[0]["tool_calls"][0]["function"]["arguments"] == sent


@pytest.mark.parametrize(
    ("status", "output", "content"),
    [
        ("ok", "an error of old", "an error of old"),
        ("error", "no such file", "[error] no such file"),
        ("error", "Error: no such file", "Error: no such file"),
        ("cancelled", "", "[cancelled]"),
        ("interrupted", "half", "[interrupted] half"),
    ],
)
def test_a_failed_call_says_so_once(status: ToolStatus, output: str, content: str) -> None:
    sent = history(ToolMessage("c1", "read", output, status))

    assert sent[0]["content"] == content


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ("read", {"type": "function", "function": {"name": "read"}}),
    ],
)
def test_tools_go_with_the_choice_among_them(choice: str, sent: object) -> None:
    request = structs.replace(request_of("hi", READ), tool_choice=choice)

    body = wire(request)

    assert body["tool_choice"] == sent
    assert body["tools"] == [
        {
            "type": "function",
            "function": {"name": "read", "description": "Read a file.", "parameters": READ.parameters},
        }
    ]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("llama3.2", "max_tokens"),
        ("gpt-4o", "max_tokens"),
        ("gpt-5-mini", "max_completion_tokens"),
        ("openai/o3", "max_completion_tokens"),
    ],
)
def test_the_token_limit_has_the_name_the_model_knows(model: str, name: str) -> None:
    body = wire(structs.replace(request_of("hi"), model=model, max_tokens=50))

    assert {key: value for key, value in body.items() if key.startswith("max_")} == {name: 50}


def test_thinking_is_asked_for_only_when_it_is_wanted() -> None:
    body = wire(structs.replace(request_of("hi"), thinking=True))

    assert body["reasoning_effort"] == "high"


def a_long_history(name: str, length: int) -> tuple[Message, ...]:
    """Make one with an answer of thinking alone in it, which is not sent."""
    thought = AssistantMessage((ThinkingBlock("hm"),))
    return (user_text(f"I am {name}"), thought, *(user_text(f"{name} {n}") for n in range(length - 2)))


def test_a_history_that_goes_on_is_spelled_as_if_it_were_new() -> None:
    spelling = Spelling()
    history = a_long_history("crab", MIN_SPELLED)
    steps = [history, (*history, user_text("more")), (*history, user_text("more"), user_text("and more"))]

    spelled = [spelling.spell(messages) for messages in steps]

    assert spelled == [spell(messages) for messages in steps]


def test_a_history_that_goes_another_way_is_spelled_anew() -> None:
    spelling = Spelling()
    history = a_long_history("crab", MIN_SPELLED)
    spelling.spell((*history, user_text("one")))
    others = [history, (*history, user_text("two")), (user_text("a summary"), *history[2:]), ()]

    spelled = [spelling.spell(messages) for messages in others]

    assert spelled == [spell(messages) for messages in others]


def test_many_histories_that_take_turns_are_told_apart() -> None:
    spelling = Spelling()
    histories = [a_long_history(f"number {n}", MIN_SPELLED) for n in range(MAX_SPELLED + 2)]

    spelled = [spelling.spell((*history, user_text("x"))) for _ in range(2) for history in histories]

    assert spelled == [spell((*history, user_text("x"))) for _ in range(2) for history in histories]


def test_a_request_is_the_same_however_its_history_is_spelled() -> None:
    request = structs.replace(request_of("go"), messages=a_long_history("crab", MIN_SPELLED))
    spelling = Spelling()

    wires = [to_wire(request, spell=spelling.spell) for _ in range(2)]

    assert wires == [to_wire(request)] * 2
