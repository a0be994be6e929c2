"""How a request to OpenAI's Responses API looks on the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest

from crabd.messages import (
    AssistantMessage,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolMessage,
    user_text,
)
from crabd.providers.base import ModelRequest
from crabd.providers.responses_wire import Variant, to_wire
from tests.providers.asking import READ, request_of

SIGNATURE = '{"id":"rs_1","encrypted_content":"secret"}'


def wire(request: ModelRequest, **options: Any) -> dict[str, Any]:
    return dict(json.loads(to_wire(request, provider="test", **options)))


def items(*messages: Message, **options: Any) -> list[dict[str, Any]]:
    return list(wire(ModelRequest(model="m", system="", messages=messages), **options)["input"])


def said(role: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": text}


def test_a_plain_request_leaves_nothing_with_the_server() -> None:
    assert wire(request_of("hi")) == {
        "model": "test-model",
        "instructions": "Be brief.",
        "input": [said("user", "hi")],
        "stream": True,
        "store": False,
    }


def test_a_round_with_a_tool_call_is_a_list_of_items() -> None:
    thought = ThinkingBlock("hm", SIGNATURE, "test/m")
    answer = AssistantMessage((thought, TextBlock("I look."), ToolCall("c", "read", '{"path":"x"}')))

    sent = items(user_text("look"), answer, ToolMessage("c", "read", "found", "ok"))

    assert sent == [
        said("user", "look"),
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "secret",
        },
        said("assistant", "I look."),
        {"type": "function_call", "call_id": "c", "name": "read", "arguments": '{"path":"x"}'},
        {"type": "function_call_output", "call_id": "c", "output": "found"},
    ]


@pytest.mark.parametrize(
    "blocks",
    [
        (ThinkingBlock("hm", SIGNATURE, "test/m"),),
        (ThinkingBlock("hm", SIGNATURE, "test/other"), TextBlock("")),
        (ThinkingBlock("hm"),),
    ],
)
def test_reasoning_that_nothing_follows_or_another_signed_is_left_out(blocks: tuple[Any, ...]) -> None:
    assert items(user_text("a"), AssistantMessage(blocks)) == [said("user", "a")]


def test_reasoning_is_left_out_where_it_was_refused() -> None:
    answer = AssistantMessage((ThinkingBlock("hm", SIGNATURE, "test/m"), TextBlock("So.")))

    assert items(answer, variant=Variant(signatures=False)) == [said("assistant", "So.")]


def test_an_id_is_no_longer_than_the_api_takes() -> None:
    long = "call_" + "x" * 100
    call, output = items(
        AssistantMessage((ToolCall(long, "read", "{}"),)), ToolMessage(long, "read", "", "cancelled")
    )

    assert call["call_id"] == output["call_id"] == "x" * 64
    assert output["output"] == "[cancelled]"


@pytest.mark.parametrize(
    ("model", "thinking", "variant", "extras"),
    [
        ("gpt-4.1", False, Variant(), {}),
        ("gpt-5.4", False, Variant(), {"include": ["reasoning.encrypted_content"]}),
        (
            "gpt-5.4",
            True,
            Variant(),
            {"include": ["reasoning.encrypted_content"], "reasoning": {"effort": "high", "summary": "auto"}},
        ),
        ("gpt-5.4", True, Variant(encrypted=False, summary=False), {"reasoning": {"effort": "high"}}),
        ("gpt-5.4", True, Variant(encrypted=False, summary=False, effort=False), {}),
    ],
)
def test_reasoning_is_asked_for_as_far_as_the_model_takes_it(
    model: str, thinking: bool, variant: Variant, extras: dict[str, Any]
) -> None:
    request = ModelRequest(model=model, system="", messages=(), thinking=thinking)

    sent = wire(request, variant=variant)

    assert {name: sent[name] for name in ("include", "reasoning") if name in sent} == extras


@pytest.mark.parametrize(
    ("choice", "sent"), [("required", "required"), ("read", {"type": "function", "name": "read"})]
)
def test_a_tool_is_offered_without_a_wrapping(choice: str, sent: object) -> None:
    request = ModelRequest(model="m", system="", messages=(), tools=(READ,), tool_choice=choice, max_tokens=4)

    body = wire(request)

    assert body["tools"] == [
        {
            "type": "function",
            "name": "read",
            "description": READ.description,
            "parameters": READ.parameters,
            "strict": False,
        }
    ]
    assert (body["tool_choice"], body["max_output_tokens"]) == (sent, 16)
