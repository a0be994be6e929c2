"""All sessions at a glance: who is told what, and when."""

from __future__ import annotations

import json
from typing import Any

from crabd.events import Counts, SessionGlance, SessionUsage
from crabd.messages import utc_now
from crabd.runtime.overview import MOST_AT_ONCE, Overview
from crabd.runtime.pace import MERGE_BACKLOG

NOW = utc_now()


def glance(session: str, title: str, seq: int = 1) -> SessionGlance:
    return SessionGlance(
        id=session,
        agent="crab",
        sender="user",
        topic=None,
        title=title,
        state="idle",
        active=True,
        ephemeral=False,
        cwd=None,
        model=None,
        created_at=NOW,
        updated_at=NOW,
        last_run_at=None,
        message_count=0,
        steps=1,
        active_seconds=0.0,
        queue=0,
        usage=SessionUsage(),
        seq=seq,
        confirmations=0,
        questions=0,
    )


class Reader:
    """Somebody who looks at it, and reads as it is told to."""

    def __init__(self) -> None:
        self.backlog = 0
        self.told: list[dict[str, Any]] = []

    def post(self, payload: bytes) -> None:
        self.told.append(json.loads(payload))

    def post_at_once(self, bundle: object) -> bool:
        return False

    def close(self) -> None:
        raise AssertionError("nobody is hung up on for this")

    @property
    def titles(self) -> list[list[str]]:
        return [[session["title"] for session in one["sessions"]] for one in self.told]


class House:
    """Sessions by their titles, and who looks at them."""

    def __init__(self) -> None:
        self.sessions: dict[str, SessionGlance] = {}
        self.news = 0
        self.overview = Overview("epoch", self.sessions.get, lambda: Counts(len(self.sessions), 0, 0, 0))
        self.overview.on_news = self._hear

    def change(self, session: str, title: str, seq: int = 1) -> None:
        self.sessions[session] = glance(session, title, seq)
        self.overview.touch(session)

    def remove(self, session: str) -> None:
        del self.sessions[session]
        self.overview.touch(session)

    def enter(self) -> Reader:
        reader = Reader()
        self.overview.subscribe(reader)
        return reader

    def _hear(self) -> None:
        self.news += 1


def test_a_session_that_changes_often_is_told_once_as_it_is_then() -> None:
    house = House()
    reader = house.enter()

    for title in ("one", "two", "three"):
        house.change("a_b_1", title)
    house.change("a_b_2", "other")
    house.overview.tell()
    house.overview.tell()

    assert reader.titles == [["three", "other"]]
    assert reader.told[0]["counts"]["sessions"] == 2
    assert house.news == 2


def test_one_that_is_gone_is_told_by_its_name() -> None:
    house = House()
    reader = house.enter()
    house.change("a_b_1", "one")
    house.overview.tell()

    house.remove("a_b_1")
    house.overview.tell()

    assert (reader.told[1]["sessions"], reader.told[1]["removed"]) == ([], ["a_b_1"])


def test_what_looks_as_before_is_not_told() -> None:
    house = House()
    reader = house.enter()
    house.change("a_b_1", "one", seq=1)
    house.overview.tell()

    house.change("a_b_1", "one", seq=7)
    house.overview.tell()

    assert reader.titles == [["one"]]


def test_one_that_does_not_read_is_told_the_latest_when_it_has_drained() -> None:
    house = House()
    slow, prompt = house.enter(), house.enter()
    slow.backlog = MERGE_BACKLOG + 1
    for title in ("one", "two"):
        house.change("a_b_1", title)
        house.overview.tell()

    slow.backlog = 0
    house.overview.drained(slow)
    house.overview.drained(slow)

    assert (slow.titles, prompt.titles) == ([["two"]], [["one"], ["two"]])


def test_a_change_that_is_undone_after_somebody_came_is_told_to_him() -> None:
    house = House()
    house.enter()
    house.change("a_b_1", "one")
    house.overview.tell()

    house.change("a_b_1", "two")
    late = house.enter()
    house.change("a_b_1", "one")
    house.overview.tell()

    assert late.titles == [["one"]]


def test_very_many_are_told_in_several_pieces() -> None:
    house = House()
    reader = house.enter()

    for number in range(MOST_AT_ONCE + 1):
        house.change(f"a_b_{number + 1}", "new")
    house.overview.tell()

    assert [len(titles) for titles in reader.titles] == [MOST_AT_ONCE, 1]


def test_nothing_is_kept_while_nobody_looks() -> None:
    house = House()
    reader = house.enter()
    house.change("a_b_1", "one")

    left = (house.overview.unsubscribe(reader), house.overview.unsubscribe(reader))
    house.change("a_b_1", "two")
    house.overview.tell()

    assert left == (True, False)
    assert reader.told == []
    assert repr(house.overview) == "<Overview 0 look at it, 0 changed>"
