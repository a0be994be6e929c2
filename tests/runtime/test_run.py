"""The run machine, stepped through by hand."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd import events
from crabd.errors import BudgetSpent, NoRun, QueueFull
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


def test_an_empty_answer_is_asked_for_once_more() -> None:
    stepper = begin()
    stepper.step()

    stepper.reply(Finished("end"))
    again = stepper.step()
    stepper.reply(TextChunk("here I am"), Finished("end"))
    after = stepper.step()

    assert (again, after) == (Ask(), End())
    assert stepper.run.stop_reason == "end_turn"
    assert [text_of(message) for message in stepper.messages] == ["hello", "here I am"]
    assert stepper.run.usage == Usage(2, 2)


def test_a_second_empty_answer_ends_the_run_as_an_error_that_says_so() -> None:
    stepper = begin()
    stepper.step()

    stepper.reply(ThinkingChunk("hm"), Finished("end"))
    stepper.step()
    stepper.reply(TextChunk(" \n"), Finished("end"))
    after = stepper.step()

    assert after == End()
    assert stepper.run.stop_reason == "error"
    assert stepper.run.error is not None
    assert stepper.run.error.kind == "bad_reply"
    assert "answered with nothing, twice" in stepper.run.error.message
    assert stepper.messages == [UserMessage(HELLO)]


@pytest.mark.parametrize("reason", ["refused", "max_tokens"])
def test_an_answer_that_was_refused_or_cut_off_before_its_first_word_is_not_asked_for_again(
    reason: Literal["refused", "max_tokens"],
) -> None:
    stepper = begin()
    stepper.step()

    stepper.reply(Finished(reason))
    after = stepper.step()

    assert after == End()
    assert stepper.run.stop_reason == reason


def test_a_refusal_drops_its_calls() -> None:
    stepper = begin()
    stepper.step()

    stepper.reply(TextChunk("I will not"), ToolCallChunk(0, id="a", name="x"), Finished("refused"))
    after = stepper.step()

    assert after == End()
    assert stepper.run.stop_reason == "refused"
    assert stepper.messages[-1] == AssistantMessage((TextBlock("I will not"),), "m")


def call_round(stepper: Stepper, n: int, *arguments: str) -> object:
    """Have the model ask for ``x`` with these arguments, answer what is asked, and go on."""
    stepper.reply(
        *(ToolCallChunk(i, id=f"r{n}c{i}", name="x", arguments=text) for i, text in enumerate(arguments)),
        Finished("tool_calls"),
    )
    action = stepper.step()
    assert isinstance(action, CallTools)
    for call in action.calls:
        objection = stepper.run.objection(call)
        stepper.run.tool_finished(call, objection or "done", "error" if objection else "ok")
    return stepper.step()


def test_malformed_arguments_are_answered_twice_in_a_row_and_end_the_run_the_third_time() -> None:
    stepper = begin()
    stepper.step()

    after = [call_round(stepper, n, '{"half', f'{{"n": {n}}}') for n in range(3)]

    assert after == [Ask(), Ask(), End()]
    results = [message for message in stepper.messages if isinstance(message, ToolMessage)]
    assert [result.status for result in results] == ["error", "ok"] * 3
    assert "its arguments are not a JSON object" in results[0].output
    assert stepper.run.stop_reason == "error"
    assert stepper.run.error is not None
    assert "wrote the arguments of x wrongly 3 times in a row" in stepper.run.error.message


def test_a_call_that_is_well_formed_again_is_a_new_start() -> None:
    stepper = begin()
    stepper.step()

    after = [call_round(stepper, n, "[]" if n % 3 else f'{{"n": {n}}}') for n in range(10)]

    assert after == [Ask()] * 10


def test_a_call_that_repeats_itself_is_not_made_a_fourth_time_and_ends_the_run_the_fifth() -> None:
    stepper = begin()
    stepper.step()

    after = [
        call_round(stepper, n, arguments)
        for n, arguments in enumerate(['{"a":1,"b":2}', '{"b":2, "a":1}', '{"a":1,"b":2}'] * 2)
        if n < 5
    ]

    assert after == [Ask(), Ask(), Ask(), Ask(), End()]
    results = [message.status for message in stepper.messages if isinstance(message, ToolMessage)]
    assert results == ["ok", "ok", "ok", "error", "error"]
    assert stepper.run.error is not None
    assert "the same call of x again and again" in stepper.run.error.message


def test_a_repeated_call_ends_no_run_that_gets_on_beside_it() -> None:
    stepper = begin()
    stepper.step()

    after = [call_round(stepper, n, "{}", f'{{"n": {n}}}') for n in range(8)]

    assert after == [Ask()] * 8


def test_a_word_of_a_person_gives_a_repeated_call_a_new_start() -> None:
    stepper = begin()
    stepper.step()
    for n in range(4):
        call_round(stepper, n, "{}")

    stepper.run.steer("s", text("once more, please"))
    after = [call_round(stepper, n, "{}") for n in range(4, 8)]

    assert after == [Ask()] * 4
    results = [message.status for message in stepper.messages if isinstance(message, ToolMessage)]
    assert results == ["ok"] * 3 + ["error"] * 2 + ["ok"] * 3


def test_a_budget_that_is_spent_begins_no_further_round_and_says_so() -> None:
    stepper = begin()
    stepper.step()
    stepper.reply(ToolCallChunk(0, id="a", name="x"), Finished("tool_calls"))
    action = stepper.step()
    assert isinstance(action, CallTools)
    stepper.run.tool_finished(action.calls[0], "done", "ok")

    spent = BudgetSpent("budget", "s", "a", limit="tokens", allowed=1, spent=2)
    action, seen = stepper.run.next_action(1.0, spent)

    assert isinstance(action, Save)
    assert [type(record) for record in action.records] == [MessageAdded, RunClosed]
    assert seen == [events.BudgetSpent("budget", "tokens", 1, 2)]
    assert stepper.run.stop_reason == "budget"
    assert stepper.run.error is not None
    assert stepper.run.error.kind == "budget"


def test_a_reply_that_was_whole_when_the_cancel_came_is_kept_whole() -> None:
    stepper = begin()
    stepper.step()
    stepper.run.receive(TextChunk("all of it"))
    stepper.run.receive(Finished("end"))

    stepper.run.cut_short("cancelled", "m", call=CALL)
    after = stepper.step()

    assert after == End()
    assert stepper.run.stop_reason == "end_turn"
    assert stepper.messages[-1] == AssistantMessage((TextBlock("all of it"),), "m")


def test_calls_that_were_whole_when_the_cancel_came_are_answered_cancelled() -> None:
    stepper = begin()
    stepper.step()
    stepper.run.receive(ToolCallChunk(0, id="a", name="x"))
    stepper.run.receive(Finished("tool_calls"))

    stepper.run.cut_short("cancelled", "m", call=CALL)
    after = stepper.step()

    assert after == End()
    assert stepper.run.stop_reason == "cancelled"
    assert [type(message).__name__ for message in stepper.messages[1:]] == ["AssistantMessage", "ToolMessage"]


def test_what_a_cut_reply_has_cost_is_kept_with_it() -> None:
    stepper = begin()
    stepper.step()
    stepper.run.receive(TextChunk("half"))

    stepper.run.cut_short("cancelled", "m", call=CALL)
    stepper.step()

    assert CALL in stepper.saved
    assert stepper.run.usage == CALL.usage
    assert stepper.saved[-1] == RunClosed("r1", "cancelled", 1.0, CALL.usage)


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


def test_pairing_leaves_out_a_second_call_of_one_id() -> None:
    first, second = ToolCall("a", "x", "{}"), ToolCall("a", "x", "{}")
    done = ToolMessage("a", "x", "done", "ok")

    paired = History([AssistantMessage((TextBlock("so"), first, second)), done, done]).messages()

    assert paired == [AssistantMessage((TextBlock("so"), first)), done]
