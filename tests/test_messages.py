"""What a conversation is made of."""

from __future__ import annotations

import re
from datetime import UTC

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd.messages import (
    SESSION_ID_PATTERN,
    AssistantMessage,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
    clean_text,
    text_of,
    tool_calls_of,
    user_text,
    utc_now,
)

REPLY = AssistantMessage(
    (
        ThinkingBlock("hm"),
        TextBlock("one "),
        ToolCall("a", "x", "{}"),
        TextBlock("two"),
        ToolCall("b", "y", ""),
    ),
    "m",
)
RESULT = ToolMessage("a", "x", "done", "ok")


@pytest.mark.parametrize("session", ["crab_user_1", "a-b_c-1_10", "0_-_999"])
def test_an_id_in_the_grammar_is_one(session: str) -> None:
    assert re.search(SESSION_ID_PATTERN, session)


@pytest.mark.parametrize(
    "session", ["", "a_b", "a_b_0", "a_b_01", "A_b_1", "../a_b_1", "a_b_1\n", "a__1", "ä_b_1"]
)
def test_what_is_outside_the_grammar_is_no_id(session: str) -> None:
    assert not re.search(SESSION_ID_PATTERN, session)


@pytest.mark.parametrize(
    ("message", "text"), [(user_text("hello"), "hello"), (REPLY, "one two"), (RESULT, "done")]
)
def test_the_text_of_a_message_is_what_people_see_of_it(message: Message, text: str) -> None:
    assert text_of(message) == text


def test_only_a_reply_has_calls_and_they_keep_their_order() -> None:
    assert tool_calls_of(REPLY) == (ToolCall("a", "x", "{}"), ToolCall("b", "y", ""))
    assert tool_calls_of(user_text("a")) == tool_calls_of(RESULT) == ()


@pytest.mark.parametrize("message", [user_text("hi"), user_text("hi", steer="r1.s1"), REPLY, RESULT])
def test_a_message_is_read_back_as_it_was_written(message: Message) -> None:
    assert msgspec.json.decode(msgspec.json.encode(message), type=Message) == message


def test_a_plain_message_is_written_without_its_defaults() -> None:
    written = msgspec.json.decode(msgspec.json.encode(UserMessage((TextBlock("hi"),))))

    assert written == {"role": "user", "content": [{"type": "text", "text": "hi"}]}


def test_usages_add_up_field_by_field() -> None:
    assert Usage(1, 2, 3, 4, 5) + Usage(10, 20, 30, 40, 50) == Usage(11, 22, 33, 44, 55)


@pytest.mark.parametrize(
    ("one", "other", "total"), [(None, None, None), (0.5, None, 0.5), (None, 0.0, 0.0), (0.5, 0.25, 0.75)]
)
def test_a_cost_is_unknown_only_when_no_part_of_it_is_known(
    one: float | None, other: float | None, total: float | None
) -> None:
    assert (Usage(cost=one) + Usage(cost=other)).cost == total


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain", "plain"),
        ("naïve 漢 🦀", "naïve 漢 🦀"),
        ("a\ud83eb", "a\ufffdb"),
        ("\udcff", "\ufffd"),
        ("\ud83e\udd80", "🦀"),
        ("\udd80\ud83e", "\ufffd\ufffd"),
    ],
)
def test_half_a_pair_is_replaced_and_two_halves_become_one(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


@given(st.text(st.characters(codec=None, categories=["Ll", "Lo", "Cs", "So"])))
def test_cleaned_text_can_be_encoded_and_stays_as_it_is(text: str) -> None:
    cleaned = clean_text(text)

    assert cleaned.encode().decode() == cleaned == clean_text(cleaned)


@given(st.text())
def test_text_that_is_clean_is_not_touched(text: str) -> None:
    assert clean_text(text) == text


def test_the_time_is_aware_and_in_utc() -> None:
    assert utc_now().tzinfo is UTC


def test_thinking_that_nobody_signed_is_written_as_it_always_was() -> None:
    old = b'{"type":"thinking","text":"hm"}'

    assert msgspec.json.decode(old, type=ThinkingBlock) == ThinkingBlock("hm")
    assert msgspec.json.encode(ThinkingBlock("hm")) == old
