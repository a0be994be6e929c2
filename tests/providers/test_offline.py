"""The offline provider says what it is, and does what it is told."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from trio.testing import MockClock

from crabd.errors import ProviderError
from crabd.messages import AssistantMessage, Message, ToolCall, ToolMessage, ToolStatus, Usage, user_text
from crabd.providers.base import Finished, ModelRequest, TextChunk, ThinkingChunk, ToolCallChunk
from crabd.providers.offline import NOTICE, Offline
from tests.providers.asking import READ, ask, fail, joined, request_of

OFFLINE = Offline()


def asked(*messages: Message) -> ModelRequest:
    return ModelRequest(model="echo", system="", messages=messages, tools=(READ,))


async def test_a_plain_message_is_answered_with_the_notice_and_an_echo() -> None:
    chunks = await ask(OFFLINE, request_of("what is a crab?"))

    assert joined(chunks) == f"{NOTICE}\n\nYou said: what is a crab?"


async def test_a_long_message_is_echoed_in_part() -> None:
    chunks = await ask(OFFLINE, request_of("x" * 500))

    assert joined(chunks).endswith(f"You said: {'x' * 200}…")


async def test_the_notice_names_every_way_to_a_real_model() -> None:
    assert all(way in NOTICE for way in ("config.toml", "[providers.NAME]", "OPENAI_API_KEY", "Ollama"))


async def test_text_comes_word_by_word_with_its_space() -> None:
    chunks = await ask(OFFLINE, request_of("echo  one\n two  three "))

    assert chunks[:-1] == [TextChunk("one\n "), TextChunk("two  "), TextChunk("three ")]


async def test_counting_counts() -> None:
    assert joined(await ask(OFFLINE, request_of("count 3"))) == "1 2 3"


async def test_counting_slowly_pauses_before_each_chunk(mock_clock: MockClock) -> None:
    mock_clock.autojump_threshold = 0
    start = mock_clock.current_time()

    chunks = await ask(OFFLINE, request_of("slow 3 500"))

    assert joined(chunks) == "1 2 3"
    # Three numbers, the end, and the look beyond it.
    assert mock_clock.current_time() - start == pytest.approx(2.5)


@pytest.mark.parametrize("text", ["count lots", "slow 3 fast", "count 99999999999", "count -1"])
async def test_a_count_without_a_number_is_explained(text: str) -> None:
    assert "whole numbers" in joined(await ask(OFFLINE, request_of(text)))


async def test_thinking_is_thought_before_it_is_told() -> None:
    chunks = await ask(OFFLINE, request_of("think about it"))

    assert chunks[:2] == [ThinkingChunk("about "), ThinkingChunk("it")]
    assert joined(chunks) == "I have thought about it."


@pytest.mark.parametrize("kind", ["rate_limited", "auth", "context_too_long", "unavailable", "bad_reply"])
async def test_it_fails_as_it_is_told(kind: str) -> None:
    error, chunks = await fail(OFFLINE, request_of(f"fail {kind}"))

    assert (type(error), error.kind, chunks) == (ProviderError, kind, [])


async def test_an_unknown_failure_is_explained() -> None:
    assert "rate_limited" in joined(await ask(OFFLINE, request_of("fail badly")))


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("call read", [ToolCallChunk(0, "call_1", "read", "{}")]),
        ('call read {"path": "x"}', [ToolCallChunk(0, "call_1", "read", '{"path": "x"}')]),
        ("call read {broken", [ToolCallChunk(0, "call_1", "read", "{broken")]),
        (
            'call read {"a": 1}\ncall write',
            [ToolCallChunk(0, "call_1", "read", '{"a": 1}'), ToolCallChunk(1, "call_2", "write", "{}")],
        ),
        ('call read {\n"a": 1}', [ToolCallChunk(0, "call_1", "read", '{\n"a": 1}')]),
        ('call read\n{"a": 1}', [ToolCallChunk(0, "call_1", "read", '{"a": 1}')]),
    ],
)
async def test_it_calls_tools_as_it_is_told(text: str, calls: list[ToolCallChunk]) -> None:
    *pieces, end = await ask(OFFLINE, request_of(text, READ))

    assert pieces == calls
    assert isinstance(end, Finished)
    assert end.reason == "tool_calls"


@pytest.mark.parametrize(
    "request_", [request_of("call read"), structs.replace(request_of("call read", READ), tool_choice="none")]
)
async def test_without_tools_it_calls_none(request_: ModelRequest) -> None:
    assert joined(await ask(OFFLINE, request_)) == "I have no tools to call here."


@pytest.mark.parametrize(
    ("status", "said"), [("ok", "read answered: found"), ("error", "read answered (error): found")]
)
async def test_it_tells_what_a_tool_answered(status: ToolStatus, said: str) -> None:
    call = AssistantMessage((ToolCall("call_1", "read", "{}"),))

    chunks = await ask(
        OFFLINE, asked(user_text("call read"), call, ToolMessage("call_1", "read", "found", status))
    )

    assert joined(chunks) == said


async def test_a_second_call_in_a_session_has_another_id() -> None:
    call = AssistantMessage((ToolCall("call_7", "read", "{}"),))
    result = ToolMessage("call_7", "read", "found", "ok")

    chunks = await ask(OFFLINE, asked(user_text("call read"), call, result, user_text("call read")))

    assert chunks[0] == ToolCallChunk(0, "call_8", "read", "{}")


async def test_usage_is_estimated_from_both_sides() -> None:
    chunks = await ask(OFFLINE, request_of("echo 12345678"))

    # "Be brief." and "echo 12345678" are 22 bytes.
    assert chunks[-1] == Finished("end", Usage(input_tokens=6, output_tokens=2))


async def test_a_request_without_a_user_is_answered() -> None:
    assert joined(await ask(OFFLINE, asked())).endswith("You said: ")


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip() != ""))
def test_an_echo_says_exactly_what_it_was_given(text: str) -> None:
    chunks = trio.run(ask, OFFLINE, request_of(f"echo {text}"))

    assert joined(chunks) == text.lstrip()


SCRIPT = """script
say I look first.
call read {"path": "a"}
and read {"path": "b"}

call read {"path": "the file of $result"}
say It says: $result
say That is all.
"""


async def play(script: str, *results: str) -> tuple[list[str], list[list[str]]]:
    """Play a script to its end; returns the texts and the arguments of each round."""
    messages: list[Message] = [user_text(script)]
    texts, rounds, left = list[str](), list[list[str]](), list(results)
    while True:
        chunks = await ask(OFFLINE, asked(*messages))
        calls = [chunk for chunk in chunks if isinstance(chunk, ToolCallChunk)]
        texts.append(joined(chunks))
        rounds.append([call.arguments for call in calls])
        blocks = tuple(ToolCall(call.id, call.name, call.arguments) for call in calls)
        messages.append(AssistantMessage(blocks))
        messages += [ToolMessage(call.id, call.name, left.pop(0), "ok") for call in blocks]
        messages.append(user_text("meanwhile", steer="r1.s1"))
        if not calls:
            return texts, rounds


async def test_a_script_is_played_round_by_round_with_what_was_answered() -> None:
    texts, rounds = await play(SCRIPT, "one", 'two "2"', "three")

    assert texts == ["I look first.", "", "It says: three\nThat is all."]
    assert rounds == [
        ['{"path": "a"}', '{"path": "b"}'],
        ['{"path": "the file of two \\"2\\""}'],
        [],
    ]


async def test_a_script_that_ends_with_a_call_says_that_it_is_over() -> None:
    texts, _ = await play('script\ncall read {"path": "a"}', "x")

    assert texts == ["", "The script is over."]


@pytest.mark.parametrize("lines", ["dance", "and read {}", "say"])
async def test_a_script_that_makes_no_sense_is_explained(lines: str) -> None:
    texts, _ = await play(f"script\n{lines}")

    assert "A script has lines of" in texts[0]
