"""The records that close a log whose daemon died, wherever it died."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from crabd.errors import SHUTTING_DOWN
from crabd.events import ErrorInfo
from crabd.messages import (
    AssistantMessage,
    Message,
    TextBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
    text_of,
    user_text,
)
from crabd.runtime.prompt import History
from crabd.runtime.recovery import INTERRUPTED_OUTPUT, close_interrupted, leave_unanswered
from crabd.store.base import Partial
from crabd.store.meta import SessionMeta, advance, begin_meta
from crabd.store.record import (
    Answered,
    Asked,
    Created,
    MessageAdded,
    MessageQueued,
    ModelCalled,
    Record,
    RunClosed,
    RunOpened,
    Step,
)

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
CREATED = Created(session="crab_user_1", agent="crab", sender="user")
ASKED = AssistantMessage((TextBlock("I look"), ToolCall("a", "grep", "{}"), ToolCall("b", "read", "{}")), "m")
FOUND = ToolMessage("a", "grep", "found", "ok")
READ = ToolMessage("b", "read", "text", "ok")
CALLED = ModelCalled("r1", "m", "reply", Usage(1, 1), 2, None)


def text(value: str) -> tuple[TextBlock, ...]:
    return (TextBlock(value),)


def steps_of(records: Sequence[Record]) -> tuple[Step, ...]:
    """Make a log, a second from step to step."""
    return tuple(Step(n, BEGIN + timedelta(seconds=n), record) for n, record in enumerate(records, 1))


def meta_of(steps: Sequence[Step]) -> SessionMeta:
    meta = begin_meta(steps[0])
    for step in steps[1:]:
        meta = advance(meta, step)
    return meta


def close(*records: Record) -> tuple[Record, ...]:
    steps = steps_of([CREATED, *records])
    return close_interrupted(meta_of(steps), steps)


def messages_of(records: Sequence[Record]) -> list[Message]:
    return [record.message for record in records if isinstance(record, MessageAdded)]


# A run with a round of tools, a steering that joins, a message that gets its run and one that waits on.
# Records of one row are written together, all or none.
LOG: list[list[Record]] = [
    [CREATED],
    [RunOpened("r1", "k1"), MessageAdded("r1", user_text("go"))],
    [MessageQueued("r1", text("mind this"), "r1.s1")],
    [MessageAdded("r1", ASKED), CALLED],
    [MessageQueued("r2", text("second"), request_key="k2")],
    [MessageAdded("r1", FOUND), MessageAdded("r1", READ)],
    [MessageQueued("r3", text("third"))],
    [MessageAdded("r1", user_text("mind this", steer="r1.s1"))],
    [
        MessageAdded("r1", AssistantMessage(text("done"), "m")),
        CALLED,
        RunClosed("r1", "end_turn", 9.0, Usage()),
    ],
    [RunOpened("r2", "k2"), MessageAdded("r2", user_text("second"))],
    [MessageQueued("r2", text("and this"), "r2.s1")],
    [MessageAdded("r2", AssistantMessage(text("also done"), "m"))],
    [MessageAdded("r2", user_text("and this", steer="r2.s1")), RunClosed("r2", "cancelled", 1.0, Usage())],
]


def test_a_log_in_which_nothing_is_open_is_left_as_it_is() -> None:
    closed = close(
        RunOpened("r1"), MessageAdded("r1", user_text("go")), RunClosed("r1", "end_turn", 1.0, Usage())
    )

    assert closed == ()


def test_a_run_that_was_going_ends_as_interrupted_after_the_time_it_had() -> None:
    closed = close(RunOpened("r1"), MessageAdded("r1", user_text("go")), CALLED)

    assert closed == (RunClosed("r1", "interrupted", 2.0, Usage()),)


def test_calls_without_a_result_get_one_that_says_why_in_call_order() -> None:
    closed = close(RunOpened("r1"), MessageAdded("r1", user_text("go")), MessageAdded("r1", ASKED))

    assert messages_of(closed) == [
        ToolMessage("a", "grep", INTERRUPTED_OUTPUT, "interrupted"),
        ToolMessage("b", "read", INTERRUPTED_OUTPUT, "interrupted"),
    ]


def test_a_call_that_waited_for_a_person_is_told_apart_from_one_that_was_made() -> None:
    closed = close(
        RunOpened("r1"),
        MessageAdded("r1", ASKED),
        Asked("r1", "a", "grep", "grep the disk"),
        Asked("r1", "b", "read", "read the disk"),
        Answered("r1", "b", "allow", "nvim"),
    )

    outputs = [message.output for message in messages_of(closed) if isinstance(message, ToolMessage)]
    assert outputs == [
        "[interrupted while it waited for a person, so it was not made. This was asked: grep the disk]",
        INTERRUPTED_OUTPUT,
    ]


def test_a_result_that_was_kept_is_not_made_again() -> None:
    closed = close(RunOpened("r1"), MessageAdded("r1", ASKED), MessageAdded("r1", READ))

    assert messages_of(closed) == [ToolMessage("a", "grep", INTERRUPTED_OUTPUT, "interrupted")]


def test_a_call_of_an_earlier_round_is_not_answered_where_it_would_be_too_late() -> None:
    closed = close(
        RunOpened("r1"), MessageAdded("r1", ASKED), MessageAdded("r1", AssistantMessage(text("so"), "m"))
    )

    assert messages_of(closed) == []


def test_a_steering_that_waited_joins_behind_the_results_and_before_the_end() -> None:
    closed = close(
        RunOpened("r1"), MessageAdded("r1", ASKED), MessageQueued("r1", text("mind this"), "r1.s1")
    )

    assert [type(record).__name__ for record in closed] == [
        "MessageAdded",
        "MessageAdded",
        "MessageAdded",
        "RunClosed",
    ]
    assert messages_of(closed)[-1] == user_text("mind this", steer="r1.s1")


def test_messages_that_waited_join_unanswered_each_as_a_run_of_its_own() -> None:
    closed = close(
        RunOpened("r1"),
        MessageQueued("r2", text("second"), request_key="k2"),
        MessageQueued("r3", text("third")),
    )

    assert closed == (
        RunClosed("r1", "interrupted", 2.0, Usage()),
        RunOpened("r2", "k2"),
        MessageAdded("r2", user_text("second")),
        RunClosed("r2", "interrupted", 0.0, Usage()),
        RunOpened("r3", None),
        MessageAdded("r3", user_text("third")),
        RunClosed("r3", "interrupted", 0.0, Usage()),
    )


def test_messages_that_waited_for_no_run_join_all_the_same() -> None:
    closed = close(MessageQueued("r1", text("first")))

    assert [type(record).__name__ for record in closed] == ["RunOpened", "MessageAdded", "RunClosed"]


def test_what_waited_joins_in_the_order_in_which_it_came_however_it_was_recorded() -> None:
    closed = close(
        RunOpened("r1"),
        MessageQueued("r10", text("tenth")),
        MessageQueued("r1", text("mind that"), "r1.s2"),
        MessageQueued("r2", text("second")),
        MessageQueued("r1", text("mind this"), "r1.s1"),
    )

    assert list(map(text_of, messages_of(closed))) == ["mind this", "mind that", "second", "tenth"]


def test_a_steering_of_a_run_that_was_not_opened_yet_joins_all_the_same() -> None:
    closed = close(MessageQueued("r1", text("mind this"), "r1.s1"))

    assert closed == (
        RunOpened("r1"),
        MessageAdded("r1", user_text("mind this", steer="r1.s1")),
        RunClosed("r1", "interrupted", 0.0, Usage()),
    )


def test_a_steering_of_a_run_whose_message_still_waited_joins_behind_that() -> None:
    closed = close(
        MessageQueued("r1", text("mind this"), "r1.s1"), MessageQueued("r1", text("go"), request_key="k")
    )

    assert closed == (
        RunOpened("r1", "k"),
        MessageAdded("r1", user_text("go")),
        MessageAdded("r1", user_text("mind this", steer="r1.s1")),
        RunClosed("r1", "interrupted", 0.0, Usage()),
    )


def test_a_clock_that_was_set_back_gives_no_negative_time() -> None:
    opened, later = Step(2, BEGIN, RunOpened("r1")), Step(3, BEGIN - timedelta(hours=1), CALLED)
    steps = (*steps_of([CREATED]), opened, later)

    (closed,) = close_interrupted(meta_of(steps), steps)

    assert closed == RunClosed("r1", "interrupted", 0.0, Usage())


@pytest.mark.parametrize("length", range(1, len(LOG) + 1))
def test_a_log_that_ends_anywhere_is_made_whole_and_keeps_every_word_of_a_person(length: int) -> None:
    before = [record for row in LOG[:length] for record in row]
    steps = steps_of(before)

    whole = steps_of([*before, *close_interrupted(meta_of(steps), steps)])

    meta, history = meta_of(whole), messages_of([step.record for step in whole])
    said = {text_of(message) for message in messages_of(before) if isinstance(message, UserMessage)}
    said |= {text_of(UserMessage(record.content)) for record in before if isinstance(record, MessageQueued)}
    assert (meta.open_run, meta.queued) == (None, ())
    assert History(history).messages() == history
    assert sorted(text_of(m) for m in history if isinstance(m, UserMessage)) == sorted(said)
    assert close_interrupted(meta, whole) == ()


def test_a_message_that_is_left_unanswered_says_why() -> None:
    stopped = ErrorInfo(SHUTTING_DOWN, "shutting_down", "stopped")

    records = leave_unanswered("r7", text("hello"), "k", "interrupted", stopped)

    assert records == (
        RunOpened("r7", "k"),
        MessageAdded("r7", user_text("hello")),
        RunClosed("r7", "interrupted", 0.0, Usage(), stopped),
    )


def test_a_part_of_a_reply_is_kept_and_marked_behind_the_results_that_were_missing() -> None:
    steps = steps_of([CREATED, RunOpened("r1"), MessageAdded("r1", user_text("go"))])
    partial = Partial("r1", 3, text("half"))

    records = close_interrupted(meta_of(steps), steps, partial)

    assert messages_of(records) == [AssistantMessage(text("half"), partial=True)]


@pytest.mark.parametrize("partial", [Partial("r1", 3, text("half")), Partial("r0", 9, text("half"))])
def test_a_part_of_a_reply_that_the_log_has_whole_or_of_another_run_is_not_kept(partial: Partial) -> None:
    whole = AssistantMessage(text("half of it, and the rest"), "m")
    steps = steps_of(
        [CREATED, RunOpened("r1"), MessageAdded("r1", user_text("go")), MessageAdded("r1", whole)]
    )

    records = close_interrupted(meta_of(steps), steps, partial)

    assert messages_of(records) == []
