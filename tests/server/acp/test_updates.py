"""What a client is told: each thing once, whatever it is read from, and in whatever pieces it comes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd import events
from crabd.events import AnyEvent, ErrorInfo, RunPicture
from crabd.messages import (
    AssistantMessage,
    Message,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolMessage,
    Usage,
    user_text,
    utc_now,
)
from crabd.runtime.history import StoredMessage
from crabd.server.acp import schema as acp
from crabd.server.acp.replay import catch_up, replay
from crabd.server.acp.updates import STOPPED, Teller

CALL = ToolCall("c", "bash", '{"command": "ls"}')
# A run as its log has it, and the events that told of it.
LOG: tuple[Message, ...] = (
    user_text("do it"),
    AssistantMessage((ThinkingBlock("hm"), TextBlock("first"), CALL)),
    ToolMessage("c", "bash", "a b", "ok"),
    user_text("faster", steer="r1.s1"),
    # The same id once more: it is free again.
    AssistantMessage((TextBlock("second"), CALL)),
    ToolMessage("c", "bash", "no", "error"),
    AssistantMessage((TextBlock("done"),)),
)
EVENTS: tuple[AnyEvent, ...] = (
    events.RunStarted((TextBlock("do it"),), 2),
    events.ThinkingDelta("h"),
    events.ThinkingDelta("m"),
    events.TextDelta("fir"),
    events.TextDelta("st"),
    events.ToolCalled("c", "bash", CALL.arguments),
    events.ToolResult("c", "bash", "ok", "a b", 1),
    events.Steered("r1.s1", (TextBlock("faster"),)),
    events.TextDelta("second"),
    events.ToolCalled("c", "bash", CALL.arguments),
    events.ToolResult("c", "bash", "error", "no", 1),
    events.TextDelta("do"),
    events.TextDelta("ne"),
)
ENDED = events.RunEnded("end_turn", Usage(), True)


def store(messages: Sequence[Message], run: str = "r1", first: int = 2) -> list[StoredMessage]:
    return [StoredMessage(n, run, utc_now(), message) for n, message in enumerate(messages, first)]


def take(teller: Teller, told: Sequence[AnyEvent]) -> list[acp.Update]:
    return [update for event in told for update in teller.take(event, "r1")]


def join(updates: Sequence[acp.Update]) -> list[tuple[str, ...]]:
    """Put together what is of one message, and leave out how it was cut."""
    joined: list[tuple[str, ...]] = []
    for update in updates:
        if isinstance(update, acp.Chunk):
            assert isinstance(update.content, acp.Text)
            kind, text = type(update).__name__, update.content.text
            if joined and joined[-1][:2] == (kind, update.message_id):
                text = joined.pop()[2] + text
            joined.append((kind, update.message_id, text))
        elif isinstance(update, acp.ToolCall | acp.ToolCallUpdate):
            joined.append((type(update).__name__, update.tool_call_id, str(update.status)))
    return joined


WHOLE = [
    ("UserChunk", "r1.user", "do it"),
    ("ThoughtChunk", "r1.1.thought", "hm"),
    ("AgentChunk", "r1.1.text", "first"),
    ("ToolCall", "r1/c", "pending"),
    ("ToolCallUpdate", "r1/c", "completed"),
    ("UserChunk", "r1.s1.user", "faster"),
    ("AgentChunk", "r1.2.text", "second"),
    ("ToolCall", "r1/c/2", "pending"),
    ("ToolCallUpdate", "r1/c/2", "failed"),
    ("AgentChunk", "r1.3.text", "done"),
]


def test_a_log_tells_the_same_as_the_events_did() -> None:
    by_events, by_log = Teller("/p"), Teller("/p")

    told = take(by_events, EVENTS), list(replay(by_log, store(LOG)))

    assert join(told[0]) == join(told[1]) == WHOLE


def test_what_was_told_is_not_told_again() -> None:
    teller = Teller("/p")
    take(teller, EVENTS)

    teller.go_back()
    again = list(replay(teller, store(LOG)))

    assert again == []


@given(st.integers(0, len(EVENTS)))
def test_whatever_was_missed_is_told_after_the_gap_and_nothing_twice(heard: int) -> None:
    teller = Teller("/p")
    before = take(teller, EVENTS[:heard])

    teller.go_back()
    after = [*replay(teller, store(LOG)), *take(teller, [ENDED])]

    assert join([*before, *after]) == WHOLE


@given(st.integers(0, 6), st.integers(0, 6))
def test_a_picture_of_the_reply_and_its_deltas_overlap_by_nothing(before: int, drawn: int) -> None:
    text = "second"
    first, last = sorted((before, drawn))
    teller = Teller("/p")
    told = take(teller, EVENTS[:1])
    told += take(teller, [events.TextDelta(text[:first])])
    reply = AssistantMessage((TextBlock(text[:last]),), partial=True)

    teller.go_back()
    told += replay(teller, store(LOG[:1]))
    told += catch_up(teller, RunPicture("r1", utc_now(), 1, reply, (), 0), 9)
    told += take(teller, [events.TextDelta(text[last:])])

    assert "".join(said for kind, _, said in join(told) if kind == "AgentChunk") == text


def test_calls_that_have_begun_are_in_the_picture_and_end_with_events() -> None:
    teller = Teller("/p")
    other = ToolCall("d", "read", '{"path": "x", "offset": 3}')
    messages = store([LOG[0], AssistantMessage((CALL, other))])
    result = ToolMessage("c", "bash", "a b", "ok")
    picture = RunPicture("r1", utc_now(), 1, AssistantMessage(()), (other,), 0, True, (result,))

    told = [*replay(teller, messages), *catch_up(teller, picture, 3)]
    told += take(teller, [events.ToolResult("d", "read", "ok", "text", 1)])

    assert join(told)[1:] == [
        ("ToolCall", "r1/c", "pending"),
        ("ToolCall", "r1/d", "pending"),
        ("ToolCallUpdate", "r1/c", "completed"),
        ("ToolCallUpdate", "r1/d", "completed"),
    ]


def test_the_words_of_a_client_are_not_told_to_itself() -> None:
    teller = Teller("/p")
    teller.own |= {"r1", "r1.s1"}

    told = take(teller, [*EVENTS, ENDED])

    assert not [update for update in told if isinstance(update, acp.UserChunk)]
    assert teller.own == set()


def test_what_was_taken_back_is_not_told() -> None:
    gone = [StoredMessage(n, "r1", utc_now(), message, rewound=True) for n, message in enumerate(LOG, 2)]

    told = list(replay(Teller("/p"), [*gone, *store([user_text("again")], "r2", 20)]))

    assert join(told) == [("UserChunk", "r2.user", "again")]


def test_a_call_that_is_cut_off_has_failed() -> None:
    teller = Teller("/p")
    take(teller, EVENTS[:6])

    (update,) = take(teller, [events.RunEnded("cancelled", Usage(), True)])

    assert isinstance(update, acp.ToolCallUpdate)
    assert update.status == "failed"
    assert update.content is not None
    assert STOPPED in str(update.content)


def test_what_a_command_prints_is_shown_as_it_comes_and_not_without_end() -> None:
    teller = Teller("/p")
    take(teller, EVENTS[:6])

    shown = take(teller, [events.ToolOutput("c", "one\n"), events.ToolOutput("c", "x" * 9000 + "end")])

    first, second = (str(u.content) for u in shown if isinstance(u, acp.ToolCallUpdate))
    assert "one" in first
    assert len(second) < 5000
    assert "end" in second


@pytest.mark.parametrize(
    ("is_own", "reason", "is_told"), [(True, "error", False), (True, "budget", True), (False, "error", True)]
)
def test_why_a_run_failed_is_told_where_no_answer_tells_it(
    is_own: bool, reason: StopReason, is_told: bool
) -> None:
    teller = Teller("/p")
    teller.own |= {"r1"} if is_own else set()
    take(teller, EVENTS[:1])

    told = take(teller, [events.RunEnded(reason, Usage(), True, ErrorInfo(-32003, "budget", "raise it"))])

    assert ("raise it" in str(told)) is is_told
