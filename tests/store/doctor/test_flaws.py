"""What is odd about a log that can be read, and what is not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec import structs

from crabd.messages import AssistantMessage, TextBlock, ToolCall, ToolMessage, Usage, user_text
from crabd.store.doctor.flaws import find_flaws
from crabd.store.meta import KEY_AGE
from crabd.store.record import (
    Answered,
    Asked,
    Claimed,
    Cleared,
    Compacted,
    Created,
    MessageAdded,
    MessageQueued,
    Record,
    RunClosed,
    RunOpened,
)
from tests.store.samples import a_turn, numbered, said

ASKS = MessageAdded("r1", AssistantMessage((ToolCall("c1", "shell", "{}"), ToolCall("c2", "shell", "{}"))))
FIRST = MessageAdded("r1", ToolMessage("c1", "shell", "", "ok"))
SECOND = MessageAdded("r1", ToolMessage("c2", "shell", "", "ok"))
ASKED = Asked("r1", "c2", "shell", "make it")
ANSWERED = Answered("r1", "c2", "allow", "nvim")
ENDS = RunClosed("r1", "end_turn", 0.5, Usage())
TEXT = (TextBlock("and?"),)


def kinds(*records: Record, is_live: bool = False) -> list[str]:
    return [flaw.kind for flaw in find_flaws("a_b_1", numbered(*records), is_live=is_live)]


def problem(*records: Record) -> str:
    (flaw,) = find_flaws("a_b_1", numbered(*records), is_live=False)
    return flaw.problem


@pytest.mark.parametrize(
    "records",
    [
        a_turn(),
        [RunOpened("r1"), said("go"), ASKS, SECOND, FIRST, ENDS],
        [
            MessageQueued("r2", TEXT, request_key="k"),
            *a_turn(),
            RunOpened("r2", "k"),
            RunClosed("r2", "error", 0, Usage()),
        ],
        [MessageQueued("r1", TEXT), RunClosed("r1", "cancelled", 0, Usage())],
        [
            RunOpened("r1"),
            MessageQueued("r1", TEXT, "r1.s1", "k", 1),
            MessageAdded("r1", user_text("and?", steer="r1.s1"), "k", 1),
            ENDS,
        ],
        [Claimed("k", "t"), Claimed("k", "t")],
        [RunOpened("r1"), said("go"), ASKS, FIRST, Cleared(), ENDS],
        [RunOpened("r1"), ASKS, ASKED, FIRST, ANSWERED, SECOND, ENDS],
        [*a_turn(), Compacted("a1", "sum", 3, 3, 10)],
    ],
)
def test_what_a_daemon_writes_is_not_odd(records: list[Record]) -> None:
    assert kinds(*records) == []


@pytest.mark.parametrize(
    ("kind", "records", "told"),
    [
        ("open_run", [RunOpened("r1"), said("go")], "run r1 was interrupted"),
        ("open_run", [MessageQueued("r1", TEXT)], "nobody has answered r1"),
        ("open_call", [RunOpened("r1"), ASKS, FIRST, ENDS], "tool call c2 has no result"),
        (
            "no_result",
            [RunOpened("r1"), ASKS, said("go"), ENDS],
            "step 4: tool calls c1, c2 have no result before it",
        ),
        ("stray_result", [RunOpened("r1"), FIRST, ENDS], "step 3: it answers no open call (c1)"),
        (
            "stray_result",
            [RunOpened("r1"), ASKS, FIRST, SECOND, FIRST, ENDS],
            "step 6: it answers no open call (c1)",
        ),
        ("stray_question", [RunOpened("r1"), ASKED, ENDS], "step 3: it is about no open call (c2)"),
        (
            "stray_question",
            [RunOpened("r1"), ASKS, FIRST, SECOND, ANSWERED, ENDS],
            "step 6: it is about no open call (c2)",
        ),
        ("order", [*a_turn(), RunOpened("r1"), ENDS], "step 7: it opens run r1 once more"),
        (
            "order",
            [Created(session="a_b_1", agent="a", sender="b")],
            "step 2: it begins the session once more",
        ),
        (
            "order",
            [RunOpened("r1"), RunOpened("r2"), RunClosed("r2", "end_turn", 0, Usage())],
            "step 3: it opens run r2, and r1 has not ended",
        ),
        ("boundary", [Compacted("a1", "sum", 9, None, 10)], "step 2: it replaces the history up to step 9"),
        (
            "key",
            [RunOpened("r1", "k"), ENDS, RunOpened("r2", "k"), RunClosed("r2", "end_turn", 0, Usage())],
            "step 4: request key 'k' has led to r1 and to r2",
        ),
    ],
)
def test_what_is_odd_is_told_with_its_step(kind: str, records: list[Record], told: str) -> None:
    assert kinds(*records) == [kind]
    assert problem(*records) == told


def test_what_is_open_in_a_live_session_is_not_odd() -> None:
    assert kinds(RunOpened("r1"), said("go"), ASKS, MessageQueued("r2", TEXT), is_live=True) == []


def test_a_key_is_free_after_a_day() -> None:
    steps = numbered(
        RunOpened("r1", "k"), ENDS, RunOpened("r2", "k"), RunClosed("r2", "end_turn", 0, Usage())
    )
    later = KEY_AGE + timedelta(seconds=1)
    steps[3:] = [structs.replace(step, at=step.at + later) for step in steps[3:]]

    assert list(find_flaws("a_b_1", steps, is_live=False)) == []
