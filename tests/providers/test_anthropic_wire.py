"""How a request to Anthropic's API looks on the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd.messages import (
    AssistantMessage,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolMessage,
    user_text,
)
from crabd.providers.anthropic_wire import DEFAULT_MAX_TOKENS, MOST_MAX_TOKENS, Variant, to_wire
from crabd.providers.base import ModelRequest
from tests.providers.asking import READ, request_of

CACHED = {"cache_control": {"type": "ephemeral"}}
PLAIN = Variant(caching=False)


def wire(request: ModelRequest, **options: Any) -> dict[str, Any]:
    return dict(json.loads(to_wire(request, provider="test", **options)))


def turns(*messages: Message) -> list[dict[str, Any]]:
    request = ModelRequest(model="m", system="", messages=messages)
    return list(wire(request, variant=PLAIN)["messages"])


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def test_a_plain_request_marks_prompt_and_question_for_the_cache() -> None:
    assert wire(request_of("hi")) == {
        "model": "test-model",
        "max_tokens": DEFAULT_MAX_TOKENS,
        "system": [{**text("Be brief."), **CACHED}],
        "messages": [{"role": "user", "content": [{**text("hi"), **CACHED}]}],
        "stream": True,
    }


def test_a_round_with_tool_calls_is_two_turns() -> None:
    calls = AssistantMessage(
        (TextBlock("I look."), ToolCall("a", "read", '{"path":"x"}'), ToolCall("b", "read", ""))
    )

    sent = turns(
        user_text("look"),
        calls,
        ToolMessage("a", "read", "found", "ok"),
        ToolMessage("b", "read", "", "error"),
        user_text("and now?"),
    )

    assert sent == [
        {"role": "user", "content": [text("look")]},
        {
            "role": "assistant",
            "content": [
                text("I look."),
                {"type": "tool_use", "id": "a", "name": "read", "input": {"path": "x"}},
                {"type": "tool_use", "id": "b", "name": "read", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "found"},
                {"type": "tool_result", "tool_use_id": "b", "content": "[error]", "is_error": True},
                text("and now?"),
            ],
        },
    ]


def test_thinking_goes_back_to_the_model_that_signed_it_and_to_no_other() -> None:
    thought = AssistantMessage(
        (
            ThinkingBlock("mine", "sig", "test/m"),
            ThinkingBlock("", "redacted:data", "test/m"),
            ThinkingBlock("another's", "sig", "test/n"),
            ThinkingBlock("nobody's"),
            TextBlock("So."),
        )
    )

    sent = turns(user_text("why"), thought)

    assert sent[1]["content"] == [
        {"type": "thinking", "thinking": "mine", "signature": "sig"},
        {"type": "redacted_thinking", "data": "data"},
        text("So."),
    ]


def test_a_server_that_takes_no_signatures_gets_none() -> None:
    thought = AssistantMessage((ThinkingBlock("mine", "sig", "test/m"), TextBlock("So.")))
    request = ModelRequest(model="m", system="", messages=(user_text("why"), thought))

    sent = wire(request, variant=Variant(caching=False, signatures=False))

    assert sent["messages"][1]["content"] == [text("So.")]


@pytest.mark.parametrize(
    ("messages", "roles"),
    [
        ((), ["user"]),
        ((AssistantMessage((TextBlock("hi"),)),), ["user", "assistant"]),
        ((user_text("a"), AssistantMessage((ThinkingBlock("hm"),)), user_text("b")), ["user"]),
        ((user_text("a"), user_text(" \n"), user_text("b")), ["user"]),
    ],
)
def test_turns_alternate_and_the_users_comes_first(messages: tuple[Message, ...], roles: list[str]) -> None:
    assert [turn["role"] for turn in turns(*messages)] == roles


def test_an_answer_to_be_continued_does_not_end_with_space() -> None:
    sent = turns(user_text("go"), AssistantMessage((TextBlock("One, \n"),), partial=True))

    assert sent[1]["content"] == [text("One,")]


def test_ids_are_spelled_as_the_api_takes_them_and_each_once() -> None:
    call = AssistantMessage((ToolCall("functions.read:0", "read", "{}"),))
    result = ToolMessage("functions.read:0", "read", "x", "ok")

    sent = turns(user_text("a"), call, result, call, result)

    ids = [turn["content"][0].get("id") or turn["content"][0]["tool_use_id"] for turn in sent[1:]]
    assert ids == ["functions_read_0", "functions_read_0", "functions_read_0_2", "functions_read_0_2"]


def test_arguments_that_are_no_object_are_shown_as_they_were() -> None:
    sent = turns(user_text("a"), AssistantMessage((ToolCall("c", "read", '{"path":'),)))

    assert sent[1]["content"][0]["input"] == {"invalid_arguments": '{"path":'}


@pytest.mark.parametrize(
    ("model", "thinking"),
    [
        ("claude-sonnet-5-5", {"type": "adaptive", "display": "summarized"}),
        ("claude-opus-4-6", {"type": "adaptive", "display": "summarized"}),
        ("claude-haiku-4-5-20251001", {"type": "enabled", "budget_tokens": 4096}),
        ("claude-opus-4-20250514", {"type": "enabled", "budget_tokens": 4096}),
        ("claude-3-7-sonnet-latest", {"type": "enabled", "budget_tokens": 4096}),
    ],
)
def test_a_model_is_asked_to_think_in_its_own_way(model: str, thinking: dict[str, Any]) -> None:
    request = ModelRequest(model=model, system="", messages=(user_text("a"),), thinking=True)

    assert wire(request)["thinking"] == thinking


def test_no_thinking_is_asked_for_where_it_would_be_refused() -> None:
    request = ModelRequest(
        model="claude-sonnet-5", system="", messages=(), tools=(READ,), tool_choice="read", thinking=True
    )
    short = ModelRequest(model="claude-haiku-4-5", system="", messages=(), thinking=True, max_tokens=1000)

    assert "thinking" not in wire(request)
    assert "thinking" not in wire(short)


@pytest.mark.parametrize(
    ("asked", "known", "sent"),
    [
        (100, 64_000, 100),
        (None, 4096, 4096),
        (None, 128_000, MOST_MAX_TOKENS),
        (None, None, DEFAULT_MAX_TOKENS),
    ],
)
def test_an_answer_has_a_bound(asked: int | None, known: int | None, sent: int) -> None:
    request = ModelRequest(model="m", system="", messages=(), max_tokens=asked)

    assert wire(request, max_output=known)["max_tokens"] == sent


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ("read", {"type": "tool", "name": "read"}),
    ],
)
def test_a_tool_choice_has_this_apis_words(choice: str, sent: dict[str, Any]) -> None:
    request = ModelRequest(model="m", system="", messages=(), tools=(READ,), tool_choice=choice)

    assert wire(request)["tool_choice"] == sent
    assert wire(request)["tools"][0]["input_schema"]["type"] == "object"


def test_a_growing_history_keeps_what_was_cached_at_the_beginning() -> None:
    answer = AssistantMessage((TextBlock("yes"),))
    first = (user_text("a"), answer, user_text("b"))
    second = (*first, answer, user_text("c"))

    before = wire(ModelRequest(model="m", system="s", messages=first))["messages"]
    after = wire(ModelRequest(model="m", system="s", messages=second))["messages"]

    # The last turn of the one request is marked in the next one, so that its entry is found.
    assert after[2] == before[2]
    assert [bool("cache_control" in turn["content"][-1]) for turn in after] == [
        False,
        False,
        True,
        False,
        True,
    ]


words = st.sampled_from(["", " ", "a", "b c\n"])
blocks = (
    st.builds(TextBlock, words)
    | st.builds(ThinkingBlock, words, words, st.sampled_from(["", "test/m"]))
    | st.builds(ToolCall, st.sampled_from(["", "a", "a.b", "a:b"]), st.just("read"), words)
)
messages = st.builds(user_text, words) | st.builds(AssistantMessage, st.lists(blocks, max_size=4).map(tuple))


@given(st.lists(messages, max_size=6))
def test_every_history_keeps_the_rules_of_the_api(history: list[Message]) -> None:
    sent = turns(*history)

    roles = [turn["role"] for turn in sent]
    assert roles == ["user" if number % 2 == 0 else "assistant" for number in range(len(roles))]
    assert roles
    found = [block for turn in sent for block in turn["content"]]
    assert all(turn["content"] for turn in sent)
    assert all(block["text"].strip() for block in found if block["type"] == "text")
    ids = [block["id"] for block in found if block["type"] == "tool_use"]
    assert len(set(ids)) == len(ids)
    assert all(id_.replace("_", "").isalnum() or id_ == "_" for id_ in ids)
