"""Server-sent events, wherever the network cuts them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crabd.providers.sse import MAX_EVENT_BYTES, EventParser, EventTooLong

NEWLINES = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
# An event is its data lines; noise is what a parser has to skip.
EVENTS = st.lists(LINES, min_size=1, max_size=3)
NOISE = st.sampled_from([b": a comment", b"event: message", b"id: 7", b"retry: 10", b"data-like: x", b":"])


def parse(stream: bytes, cuts: list[int]) -> list[bytes]:
    parser = EventParser()
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    return [event for piece in pieces for event in parser.feed(piece)]


def feed_many(piece: bytes) -> list[bytes]:
    """Feed a piece of about a kilobyte until the bound must be passed."""
    parser = EventParser()
    return [event for _ in range(MAX_EVENT_BYTES // 1024 + 1) for event in parser.feed(piece)]


@settings(deadline=None)
@given(st.lists(st.tuples(EVENTS, NOISE)), NEWLINES, st.lists(st.integers(min_value=0), max_size=20))
def test_events_are_the_same_however_they_are_cut(
    events: list[tuple[list[str], bytes]], newline: bytes, cuts: list[int]
) -> None:
    lines: list[bytes] = []
    for data, noise in events:
        lines += [noise, *(b"data: " + line.encode() for line in data), b""]
    stream = b"".join(line + newline for line in lines)

    parsed = parse(stream, cuts)

    assert parsed == ["\n".join(data).encode() for data, _ in events]


@settings(deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(min_value=0), max_size=20))
def test_any_bytes_parse_the_same_whole_and_in_pieces(stream: bytes, cuts: list[int]) -> None:
    assert parse(stream, cuts) == parse(stream, [])


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data\n\n", [b""]),
        (b"data: a\rdata: b\r\n\r\n", [b"a\nb"]),
        (b": ping\n\n\n\n", []),
        (b"data: never ended\n", []),
    ],
)
def test_lines_become_events_as_the_specification_says(stream: bytes, events: list[bytes]) -> None:
    assert EventParser().feed(stream) == events


def test_a_carriage_return_ends_its_line_before_more_has_come() -> None:
    parser = EventParser()

    events = parser.feed(b"data: a\r\r")

    assert events == [b"a"]
    assert parser.feed(b"\ndata: b\n\n") == [b"b"]


def test_a_newline_cut_in_two_is_still_one() -> None:
    parser = EventParser()

    events = parser.feed(b"data: a\r") + parser.feed(b"\ndata: b\r") + parser.feed(b"\n\r\n")

    assert events == [b"a\nb"]


def test_an_endless_line_is_refused() -> None:
    with pytest.raises(EventTooLong):
        feed_many(b"x" * 1024)


def test_an_endless_event_is_refused() -> None:
    with pytest.raises(EventTooLong):
        feed_many(b"data: " + b"x" * 1024 + b"\n")


def test_comments_without_end_are_no_event_and_no_harm() -> None:
    parser = EventParser()

    events = [
        event for _ in range(MAX_EVENT_BYTES // 1024 + 1) for event in parser.feed(b":" * 1024 + b"\n\n")
    ]

    assert events == []
