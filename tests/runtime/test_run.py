"""The run machine, stepped through by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd import events
from crabd.errors import NoRun, QueueFull
from crabd.messages import (
    AssistantMessage,
    Message,
    TextBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
    text_of,
    tool_calls_of,
    user_text,
)
from crabd.providers.base import Chunk, Finished, TextChunk, ThinkingChunk, ToolCallChunk
from crabd.runtime.prompt import History
from crabd.runtime.run import MAX_STEERS, Ask, CallTools, End, Run, Save
from crabd.store.record import MessageAdded, ModelCalled, Record, RunClosed, RunOpened

HELLO = (TextBlock("hello"),)
CALL = ModelCalled("r1", "m", "reply", Usage(1, 1), 2, None)


def text(value: str) -> tuple[TextBlock, ...]:
    return (TextBlock(value),)


class Stepper:
    """Plays the driver: saves whatever the machine asks for, and keeps it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.saved: list[Record] = []
        self.events: list[events.AnyEvent] = []

    def step(self) -> object:
        """Go to the next action that is not a save."""
        while True:
            action, seen = self.run.next_action(1.0)
            self.events += seen
            if not isinstance(action, Save):
                return action
            self.saved += action.records
            self.run.saved()

    def reply(self, *chunks: Chunk) -> None:
        for chunk in chunks:
            self.events += self.run.receive(chunk)
        self.events += self.run.reply_finished(CALL)

    @property
    def messages(self) -> list[Message]:
        return [record.message for record in self.saved if isinstance(record, MessageAdded)]


def begin(*, max_rounds: int = 50) -> Stepper:
    run = Run("r1", HELLO, request_key="k")
    run.max_rounds = max_rounds
    return Stepper(run)


def test_the_user_message_is_saved_before_the_model_is_asked() -> None:
    run = Run("r1", HELLO, request_key="k")

    first, _ = run.next_action(0.0)
    run.saved()
    second, _ = run.next_action(0.0)

    assert first == Save((RunOpened("r1", "k"), MessageAdded("r1", UserMessage(HELLO))))
    assert second == Ask()


def test_an_answer_and_the_end_of_the_run_are_saved_together() -> None:
    stepper = begin()
    stepper.step()
    stepper.reply(TextChunk("hi"), TextChunk(" there"), Finished("end"))

    action, _ = stepper.run.next_action(2.5)

    answer = AssistantMessage((TextBlock("hi there"),), "m")
    assert action == Save((MessageAdded("r1", answer), CALL, RunClosed("r1", "end_turn", 2.5, Usage(1, 1))))
    stepper.run.saved()
    assert stepper.run.next_action(2.5) == (End(), [])
    assert stepper.run.text == "hi there"


def test_segments_open_and_close_one_after_the_other() -> None:
    stepper = begin()
    stepper.step()

    stepper.reply(ThinkingChunk("hm"), TextChunk("a"), TextChunk("b"), ThinkingChunk("oh"), Finished("end"))

    assert stepper.events == [
        events.ThinkingStart(),
        events.ThinkingDelta("hm"),
        events.ThinkingEnd(),
        events.TextStart(),
        events.TextDelta("a"),
        events.TextDelta("b"),
        events.TextEnd(),
        events.ThinkingStart(),
        events.ThinkingDelta("oh"),
        events.ThinkingEnd(),
    ]


def test_calls_are_merged_by_index_and_one_without_a_name_is_dropped() -> None:
    stepper = begin()
    stepper.step()

    stepper.reply(
        ToolCallChunk(1, id="b", name="second"),
        ToolCallChunk(0, id="a", name="first", arguments='{"x"'),
        ToolCallChunk(0, arguments=":1}"),
        ToolCallChunk(2, id="c", arguments="{}"),
        Finished("tool_calls"),
    )
    action = stepper.step()

    assert action == CallTools((ToolCall("a", "first", '{"x":1}'), ToolCall("b", "second", "")))


def test_results_are_saved_in_call_order_whatever_order_they_come_in() -> None:
    stepper = begin()
    stepper.step()
    stepper.reply(
        ToolCallChunk(0, id="a", name="x"), ToolCallChunk(1, id="b", name="y"), Finished("tool_calls")
    )
    action = stepper.step()
    assert isinstance(action, CallTools)

    stepper.run.tool_finished(action.calls[1], "two", "ok")
    stepper.run.tool_finished(action.calls[0], "one", "error")
    after = stepper.step()

    assert after == Ask()
    assert stepper.messages[-2:] == [
        ToolMessage("a", "x", "one", "error"),
        ToolMessage("b", "y", "two", "ok"),
    ]


def test_the_calls_are_saved_before_any_of_them_runs() -> None:
    stepper = begin()
    stepper.step()
    stepper.reply(ToolCallChunk(0, id="a", name="x"), Finished("tool_calls"))

    action, _ = stepper.run.next_action(1.0)

    assert isinstance(action, Save)
    assert any(isinstance(r, MessageAdded) and tool_calls_of(r.message) for r in action.records)


def test_steers_join_in_order_before_the_next_model_call() -> None:
    stepper = begin()
    stepper.step()
    for word in ("one", "two", "three"):
        stepper.run.steer("s", text(word))
    stepper.reply(ToolCallChunk(0, id="a", name="x"), Finished("tool_calls"))
    action = stepper.step()
    assert isinstance(action, CallTools)
    stepper.run.tool_finished(action.calls[0], "done", "ok")

    after = stepper.step()

    assert after == Ask()
    assert [text_of(message) for message in stepper.messages[-3:]] == ["one", "two", "three"]
    assert [e.steer for e in stepper.events if isinstance(e, events.Steered)] == ["r1.s1", "r1.s2", "r1.s3"]


def test_a_steer_during_the_final_text_gives_one_more_round() -> None:
    stepper = begin()
    stepper.step()
    stepper.run.receive(TextChunk("final"))
    stepper.run.steer("s", text("wait"))

    stepper.reply(Finished("end"))
    after = stepper.step()

    assert after == Ask()
    assert text_of(stepper.messages[-1]) == "wait"


def test_a_steer_after_the_last_word_is_refused() -> None:
    stepper = begin()
    stepper.step()
    stepper.reply(TextChunk("final"), Finished("end"))

    with pytest.raises(NoRun):
        stepper.run.steer("s", text("too late"))


def test_more_steers_than_may_wait_are_refused() -> None:
    stepper = begin()
    for _ in range(MAX_STEERS):
        stepper.run.steer("s", HELLO)

    with pytest.raises(QueueFull):
        stepper.run.steer("s", HELLO)


def test_a_steer_that_waits_when_the_rounds_run_out_joins_the_history() -> None:
    stepper = begin(max_rounds=1)
    stepper.step()
    stepper.run.steer("s", text("wait"))
    stepper.reply(TextChunk("final"), Finished("end"))

    after = stepper.step()

    assert after == End()
    assert text_of(stepper.messages[-1]) == "wait"
    assert stepper.run.stop_reason == "max_rounds"


def test_a_cancel_in_the_stream_keeps_the_text_and_marks_it() -> None:
    stepper = begin()
    stepper.step()
    stepper.run.receive(TextChunk("half an ans"))
    stepper.run.receive(ToolCallChunk(0, id="a", name="x", arguments='{"hal'))

    seen = stepper.run.cut_short("cancelled", "m")
    after = stepper.step()

    assert seen == [events.TextEnd()]
    assert after == End()
    assert stepper.messages[-1] == AssistantMessage((TextBlock("half an ans"),), "m", partial=True)
    assert stepper.run.stop_reason == "cancelled"


def test_a_cancel_among_tools_answers_the_open_calls() -> None:
    stepper = begin()
    stepper.step()
    stepper.reply(
        ToolCallChunk(0, id="a", name="x"), ToolCallChunk(1, id="b", name="y"), Finished("tool_calls")
    )
    action = stepper.step()
    assert isinstance(action, CallTools)
    stepper.run.tool_finished(action.calls[1], "done", "ok")

    stepper.run.cut_short("cancelled", "m")
    stepper.step()

    results = [message for message in stepper.messages if isinstance(message, ToolMessage)]
    assert [(result.call, result.status) for result in results] == [("a", "cancelled"), ("b", "ok")]


def test_a_reply_cut_by_its_length_drops_its_calls() -> None:
    stepper = begin()
    stepper.step()

    stepper.reply(TextChunk("so"), ToolCallChunk(0, id="a", name="x", arguments='{"'), Finished("max_tokens"))
    after = stepper.step()

    assert after == End()
    assert stepper.run.stop_reason == "max_tokens"
    assert stepper.messages[-1] == AssistantMessage((TextBlock("so"),), "m")


def test_an_empty_answer_is_an_error_and_no_message() -> None:
    stepper = begin()
    stepper.step()

    stepper.reply(Finished("end"))
    after = stepper.step()

    assert after == End()
    assert stepper.run.stop_reason == "error"
    assert stepper.messages == [UserMessage(HELLO)]


def test_lone_surrogates_of_a_model_or_a_tool_are_made_harmless() -> None:
    stepper = begin()
    stepper.step()
    stepper.reply(TextChunk("a\ud800b"), ToolCallChunk(0, id="a", name="x"), Finished("tool_calls"))
    action = stepper.step()
    assert isinstance(action, CallTools)

    stepper.run.tool_finished(action.calls[0], "\udcff", "ok")
    stepper.step()

    assert [text_of(message) for message in stepper.messages[1:]] == ["a\ufffdb", "\ufffd"]


Move = st.sampled_from(["text", "calls", "end", "steer", "result", "cancel"])


@given(st.lists(Move, max_size=30))
def test_every_order_of_events_leaves_a_valid_history_with_every_user_text_once(moves: list[str]) -> None:
    stepper = begin()
    said = ["hello"]
    action = stepper.step()

    for i, move in enumerate(moves):
        if move == "steer" and stepper.run.is_steerable and stepper.run.steers_waiting < MAX_STEERS:
            stepper.run.steer("s", text(f"steer {i}"))
            said.append(f"steer {i}")
        elif move == "cancel":
            stepper.run.cut_short("cancelled", "m")
            action = stepper.step()
        elif isinstance(action, Ask):
            if move == "text":
                stepper.run.receive(TextChunk("word "))
            elif move == "calls":
                stepper.reply(
                    ToolCallChunk(0, id=f"a{i}", name="x"),
                    ToolCallChunk(1, id=f"b{i}", name="y"),
                    Finished("tool_calls"),
                )
                action = stepper.step()
            elif move == "end":
                stepper.reply(TextChunk("."), Finished("end"))
                action = stepper.step()
        elif isinstance(action, CallTools) and move == "result":
            stepper.run.tool_finished(stepper.run.open_calls[-1], "done", "ok")
            if not stepper.run.open_calls:
                action = stepper.step()
    stepper.run.cut_short("cancelled", "m")
    stepper.step()

    assert History(stepper.messages).messages() == stepper.messages
    assert [text_of(m) for m in stepper.messages if isinstance(m, UserMessage)] == said
    assert sum(isinstance(record, RunClosed) for record in stepper.saved) == 1


def test_pairing_answers_calls_where_they_were_asked_and_drops_strays() -> None:
    asked = AssistantMessage((ToolCall("a", "x", "{}"), ToolCall("b", "y", "{}")))
    stray = ToolMessage("z", "x", "?", "ok")
    known = ToolMessage("b", "y", "done", "ok")

    paired = History([stray, asked, known, user_text("next"), stray]).messages()

    assert [type(message).__name__ for message in paired] == [
        "AssistantMessage",
        "ToolMessage",
        "ToolMessage",
        "UserMessage",
    ]
    assert {message.call for message in paired if isinstance(message, ToolMessage)} == {"a", "b"}
