"""What the request keys of a session lead to, as long as it lives and out of its log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
import trio

from crabd.errors import CrabdError, RequestKeyReused, StoreError
from crabd.messages import AssistantMessage, TextBlock, Usage, user_text, utc_now
from crabd.runtime.keys import Content, Keys, recall_keys
from crabd.runtime.ticket import Admission, Compacting, Compaction, Deed, Outcome, Steering, Ticket
from crabd.store.meta import KEY_AGE, MAX_KEYS, Claim
from crabd.store.record import (
    Claimed,
    Compacted,
    Created,
    MessageAdded,
    MessageQueued,
    ModelCalled,
    Record,
    RunClosed,
    RunOpened,
    Step,
)

NOW = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)
CREATED = Created(session="crab_user_1", agent="crab", sender="user", topic="t", request_key="k0")
HELLO = (TextBlock("hello"),)
OTHER = (TextBlock("other"),)
CLOSED = RunClosed("r1", "end_turn", 1.0, Usage(7, 7))


def admission() -> Admission:
    return Admission(Ticket("r1", HELLO, request_key="k", tool_choice="auto"), "started")


def recall(*records: Record) -> Keys:
    """Read the keys of a log whose records are as young as can be."""
    now = utc_now()
    return recall_keys([Step(n, now, record) for n, record in enumerate((CREATED, *records), 1)], now)


def run_of(run: str, key: str | None, *texts: str) -> list[Record]:
    """Make the records of a finished run with these replies."""
    replies: list[Record] = [MessageAdded(run, AssistantMessage((TextBlock(text),))) for text in texts]
    opened: list[Record] = [RunOpened(run, key), MessageAdded(run, user_text("hello"))]
    return [*opened, *replies, RunClosed(run, "end_turn", 1.0, Usage(7, 7))]


def outcome_of(found: Admission | None) -> Outcome:
    assert found is not None
    assert found.ticket.outcome is not None
    assert found.ticket.settled.is_set()
    return found.ticket.outcome


def test_the_same_request_is_found_by_its_key_and_only_by_it() -> None:
    keys, first = Keys(), admission()
    keys.add("k", HELLO, first)
    keys.add(None, HELLO, admission())

    found = [keys.find(key, Admission, HELLO) for key in ("k", "other", None)]

    assert found == [first, None, None]
    assert repr(keys) == "<Keys 1>"


@pytest.mark.parametrize(
    ("kind", "content"), [(Admission, OTHER), (Steering, HELLO), (Compacting, None), (Compacting, "hello")]
)
def test_another_request_with_the_key_is_refused_and_told_whose_it_is(
    kind: type[Admission | Steering | Compacting], content: Content
) -> None:
    keys = Keys()
    keys.add("k", HELLO, admission())

    with pytest.raises(RequestKeyReused) as refused:
        keys.find("k", kind, content)

    assert (refused.value.request_key, refused.value.method) == ("k", "session/send")
    with pytest.raises(RequestKeyReused):
        keys.refuse("k")


def test_the_oldest_keys_are_forgotten_beyond_the_bound() -> None:
    keys = Keys()

    for number in range(MAX_KEYS + 1):
        keys.add(f"k{number}", HELLO, admission())

    assert keys.find("k0", Admission, HELLO) is None
    assert keys.find("k1", Admission, HELLO) is not None


def test_a_key_is_forgotten_when_it_is_old_and_free_for_another_request() -> None:
    keys = Keys()
    keys.add("old", HELLO, admission(), utc_now() - KEY_AGE - timedelta(seconds=1))
    keys.add("young", HELLO, admission(), utc_now() - KEY_AGE + timedelta(hours=1))

    found = [keys.find(key, Admission, HELLO) for key in ("old", "young")]

    assert found[0] is None
    assert found[1] is not None
    keys.refuse("old")


def test_what_came_to_nothing_is_dropped_and_may_be_tried_again() -> None:
    keys = Keys()
    keys.add("k", HELLO, admission())

    keys.drop("k")
    keys.drop("k")
    keys.drop(None)

    assert keys.find("k", Steering, OTHER) is None


def test_a_finished_run_is_recalled_with_its_last_reply() -> None:
    keys = recall(*run_of("r1", "k1", "first", "last"), *run_of("r2", None, "no key"))

    outcome = outcome_of(keys.find("k1", Admission, HELLO))

    assert outcome == Outcome(
        run="r1",
        stop_reason="end_turn",
        text="last",
        usage=Usage(7, 7),
        persisted=True,
        error=None,
        first_seq=0,
        last_seq=0,
    )
    with pytest.raises(RequestKeyReused):
        keys.find("k1", Admission, OTHER)


def test_a_run_that_has_not_ended_is_not_recalled() -> None:
    keys = recall(RunOpened("r1", "k1"), MessageAdded("r1", user_text("hello")))

    assert keys.find("k1", Admission, HELLO) is None


def test_a_message_that_was_cancelled_while_it_waited_is_recalled_as_such() -> None:
    keys = recall(MessageQueued("r1", HELLO, request_key="k1"), RunClosed("r1", "cancelled", 0.0, Usage()))

    outcome = outcome_of(keys.find("k1", Admission, HELLO))

    assert (outcome.run, outcome.stop_reason) == ("r1", "cancelled")


@pytest.mark.parametrize(
    "steered",
    [
        [MessageQueued("r1", OTHER, "r1.s1", "k2"), MessageAdded("r1", user_text("other", steer="r1.s1"))],
        [MessageAdded("r1", user_text("other", steer="r1.s1"), "k2")],
    ],
    ids=["waited", "joined at once"],
)
def test_a_message_that_joined_a_run_is_recalled_with_the_outcome_of_that_run(
    steered: Sequence[Record],
) -> None:
    opened: list[Record] = [RunOpened("r1", "k1"), MessageAdded("r1", user_text("hello"))]

    keys = recall(*opened, *steered, CLOSED)

    assert outcome_of(keys.find("k2", Admission, OTHER)).run == "r1"
    assert outcome_of(keys.find("k1", Admission, HELLO)).run == "r1"


@pytest.mark.parametrize(
    "steered",
    [
        [MessageQueued("r1", OTHER, "r1.s1", "k2", 3)],
        [
            MessageQueued("r1", OTHER, "r1.s1", "k2", 3),
            MessageAdded("r1", user_text("other", steer="r1.s1"), "k2", 3),
        ],
        [MessageAdded("r1", user_text("other", steer="r1.s1"), "k2", 3), CLOSED],
    ],
    ids=["waited", "joined", "joined at once"],
)
def test_a_steering_is_recalled_as_it_was_told_whatever_its_run_has_come_to(
    steered: Sequence[Record],
) -> None:
    keys = recall(RunOpened("r1"), MessageAdded("r1", user_text("hello")), *steered)

    found = keys.find("k2", Steering, OTHER)

    assert found is not None
    assert (found.record.steer, found.record.run, found.position) == ("r1.s1", "r1", 3)
    assert not found.is_unrecorded


async def test_a_compaction_is_recalled_with_its_result() -> None:
    keys = recall(
        ModelCalled("r1", "m", "reply", Usage(), 90, None),
        ModelCalled("", "m", "summary", Usage(), 100, None),
        Compacted("crab_user_1/1", "they met", 7, None, 20, "k1", "be brief"),
    )

    found = keys.find("k1", Compacting, "be brief")

    assert found is not None
    with trio.fail_after(10):
        assert await found.wait() == Compaction("crab_user_1/1", "they met", 100, 20)
    with pytest.raises(RequestKeyReused, match="session/compact"):
        keys.find("k1", Compacting, None)


def test_keys_that_claimed_the_session_are_taken() -> None:
    keys = recall(Claimed("k1"))

    claims = [keys.find("k0", Claim, "t"), keys.find("k1", Claim, None)]

    assert [claim and claim.created for claim in claims] == [True, False]
    for key in ("k0", "k1"):
        with pytest.raises(RequestKeyReused, match="session/get_or_create"):
            keys.find(key, Admission, HELLO)


def test_of_many_runs_the_newest_are_recalled() -> None:
    records = [record for number in range(MAX_KEYS + 2) for record in run_of(f"r{number}", f"k{number}")]

    keys = recall(*records)

    assert repr(keys) == f"<Keys {MAX_KEYS}>"
    assert keys.find("k1", Admission, HELLO) is None
    assert keys.find("k2", Admission, HELLO) is not None


def test_of_an_old_log_only_what_is_young_is_recalled() -> None:
    old, young = NOW - KEY_AGE - timedelta(seconds=1), NOW - timedelta(hours=1)
    records = [(old, record) for record in (CREATED, *run_of("r1", "old"))]
    records += [(young, record) for record in run_of("r2", "young")]

    keys = recall_keys([Step(n, at, record) for n, (at, record) in enumerate(records, 1)], NOW)

    assert repr(keys) == "<Keys 1>"


def test_a_log_from_before_there_were_such_keys_has_none() -> None:
    keys = recall_keys([Step(1, NOW, Created(session="a_b_1", agent="a", sender="b"))], NOW)

    assert repr(keys) == "<Keys 0>"


async def test_a_deed_has_one_outcome_for_all_who_wait() -> None:
    done: Deed[str] = Deed()
    failed: Deed[str] = Deed()

    done.settle("done")
    done.settle(CrabdError("too late"))
    failed.settle(StoreError("full", "make room"))

    with trio.fail_after(10):
        assert [await done.wait() for _ in range(2)] == ["done", "done"]
        for _ in range(2):
            with pytest.raises(StoreError, match="make room"):
                await failed.wait()
    assert (done.has_failed, failed.has_failed) == (False, True)
