"""The list of sessions: its order, its pages, and what it leaves out."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from crabd.runtime.listing import Filter, Listing, Place
from crabd.store.meta import SessionMeta, begin_meta
from crabd.store.record import Created, Step
from tests.store.samples import AT


def place(session: str, minute: int) -> Place:
    return AT + timedelta(minutes=minute), session


def meta(title: str, topic: str) -> SessionMeta:
    first = Step(1, AT, Created(session="a_b_1", agent="a", sender="b", topic=topic))
    return structs.replace(begin_meta(first), title=title)


def test_the_last_used_is_first() -> None:
    listing = Listing([place("one", 1), place("three", 3), place("two", 2)])

    listing.note("one", AT + timedelta(minutes=4))
    listing.note("new", AT)

    assert list(listing.newest()) == ["one", "three", "two", "new"]


def test_what_is_gone_is_not_listed() -> None:
    listing = Listing([place("one", 1), place("two", 2)])

    listing.note("two", None)
    listing.note("never there", None)

    assert list(listing.newest()) == ["one"]


def test_a_page_goes_on_behind_the_last_place_whatever_happens_meanwhile() -> None:
    listing = Listing([place(name, minute) for minute, name in enumerate("abcdef")])
    first = list(listing.newest())[:2]

    listing.note("f", AT + timedelta(minutes=9))
    listing.note("e", None)
    listing.note("g", AT + timedelta(minutes=8))

    assert first == ["f", "e"]
    assert list(listing.newest(place("e", 4))) == ["d", "c", "b", "a"]


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(0, 5))))
def test_it_is_as_if_it_was_sorted_anew(changes: list[tuple[int, int | None]]) -> None:
    listing = Listing([])
    places: dict[str, Place] = {}

    for number, minute in changes:
        session = f"s{number}"
        listing.note(session, None if minute is None else place(session, minute)[0])
        places.pop(session, None)
        if minute is not None:
            places[session] = place(session, minute)

    assert list(listing.newest()) == [session for _, session in sorted(places.values(), reverse=True)]


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (Filter(), True),
        (Filter(agent="a", sender="b", topic="Deploy"), True),
        (Filter(agent="A"), False),
        (Filter(topic="deploy"), False),
        (Filter(text="DEPLOY"), True),
        (Filter(text="build"), True),
        (Filter(text="a_b_1"), True),
        (Filter(text="else"), False),
    ],
)
def test_names_are_compared_exactly_and_text_is_looked_for(wanted: Filter, matches: bool) -> None:
    assert wanted.matches(meta("Fix the build", "Deploy")) is matches
