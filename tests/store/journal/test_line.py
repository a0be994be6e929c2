"""The journal's lines: what is written reads back, and nothing else is believed."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, cast
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crabd.messages import ToolMessage, Usage, user_text
from crabd.store.journal.line import BadLine, Scan, decode_line, encode_append, encode_step, scan
from crabd.store.record import Cleared, Created, MessageAdded, Record, RunClosed, Step
from tests.store.samples import AT, a_turn, numbered, records, said

CREATED = Created(session="a_b_1", agent="a", sender="b")


def reseal(line: bytes, old: bytes, new: bytes) -> bytes:
    """Write a line as another crabd might have: with a checksum that holds."""
    body = line.removesuffix(b"\n")[: -len(b',"crc":"00000000"}')].replace(old, new)
    return body + b',"crc":"%08x"}\n' % crc32(body)


def journal(*appends: list[Step]) -> list[bytes]:
    return [encode_append(steps) for steps in appends]


def test_a_line_is_one_flat_object_with_its_checksum_last() -> None:
    line = encode_step(Step(12, AT, Cleared()))

    body = b'{"v":1,"n":12,"at":"2026-01-31T08:00:00Z","record":{"type":"cleared"}'
    assert line == body + b',"crc":"%08x"}\n' % crc32(body)
    assert json.loads(line)["record"] == {"type": "cleared"}


def test_records_appended_together_say_so() -> None:
    lines = encode_append([Step(n, AT, Cleared()) for n in (2, 3)]).splitlines()

    assert [json.loads(line)["append"] for line in lines] == [[2, 3], [2, 3]]


@given(record=records, n=st.integers(1, 10**9), later=st.timedeltas(timedelta(0), timedelta(days=3650)))
@settings(deadline=None)
def test_any_step_reads_back_as_it_was(record: Record, n: int, later: timedelta) -> None:
    step = Step(n, AT + later, record)

    line = encode_step(step)

    assert line.count(b"\n") == 1
    assert decode_line(line.removesuffix(b"\n"), n) == step


def test_every_flipped_bit_is_noticed() -> None:
    line = encode_step(Step(1, AT, CREATED)).removesuffix(b"\n")

    for position in range(len(line) * 8):
        flipped = bytearray(line)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(BadLine, match="checksum"):
            decode_line(bytes(flipped), 1)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (b'"v":1', b'"v":2', "newer crabd .*format 2"),
        (b'"v":1,"n":1,"at"', b'"v":2,"n":"one","when"', "newer crabd .*format 2"),
        (b'"type":"created"', b'"type":"dream"', "newer crabd .*record type 'dream'"),
        (b'"n":1', b'"n":7', "its number is 7, not 1"),
        (b'"agent":"a",', b"", "no valid record: .*agent"),
        (b'{"v":1', b"[1", "it is no record"),
    ],
)
def test_a_line_that_holds_and_is_not_ours_says_why(old: bytes, new: bytes, problem: str) -> None:
    line = reseal(encode_step(Step(1, AT, CREATED)), old, new)

    with pytest.raises(BadLine, match=problem) as caught:
        decode_line(line.removesuffix(b"\n"), 1)

    assert caught.value.is_sealed
    assert scan(line) == Scan((), 0, f"record 1 at byte 0: {caught.value.problem}", is_torn=False)


@pytest.mark.parametrize(
    "record",
    [
        RunClosed("r1", "end_turn", float("nan"), Usage()),
        MessageAdded("r1", ToolMessage("c1", "shell", cast(Any, None), "ok")),
        MessageAdded("r1", user_text("\ud800")),
    ],
)
def test_what_could_not_be_read_back_is_refused_before_it_is_written(record: Record) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its text is msgspec's or Python's
        encode_append([Step(2, AT, record)])


def test_an_empty_journal_holds_nothing_and_has_no_problem() -> None:
    assert scan(b"") == Scan((), 0)


def test_a_whole_journal_is_read_to_its_end() -> None:
    steps = numbered(*a_turn())
    data = b"".join(journal(steps[:1], steps[1:5], steps[5:]))

    result = scan(data)

    assert result == Scan(tuple(steps), len(data))


def test_every_cut_leaves_whole_appends_and_a_torn_tail() -> None:
    steps = numbered(*a_turn(), said("more"), Cleared())
    appends = [steps[:1], steps[1:3], steps[3:6], steps[6:]]
    parts = journal(*appends)
    data = b"".join(parts)
    ends = [sum(map(len, parts[:n])) for n in range(len(parts) + 1)]

    for cut in range(len(data)):
        whole = max(n for n, end in enumerate(ends) if end <= cut)
        result = scan(data[:cut])
        assert result.steps == tuple(step for part in appends[:whole] for step in part)
        assert result.good_length == ends[whole]
        assert result.is_torn == (result.problem is not None) == (cut != ends[whole])


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\0\n\0\n", b"{}\n", b'{"v":1', b"\n", b"\xff\n\n\xfe"])
def test_rubbish_behind_the_last_record_is_a_torn_tail(tail: bytes) -> None:
    steps = numbered(said("hello"))
    good = b"".join(journal(steps[:1], steps[1:]))

    result = scan(good + tail)

    assert (result.steps, result.good_length, result.is_torn) == (tuple(steps), len(good), True)


def test_a_bad_line_with_good_ones_behind_it_is_damage() -> None:
    steps = numbered(said("one"), said("two"))
    first, second, third = journal(steps[:1], steps[1:2], steps[2:])

    result = scan(first + second.replace(b"one", b"0ne") + third)

    problem = f"record 2 at byte {len(first)}: its checksum does not match"
    assert result == Scan((steps[0],), len(first), problem, is_torn=False)


def test_a_missing_line_is_damage() -> None:
    steps = numbered(said("one"), said("two"))
    first, _, third = journal(steps[:1], steps[1:2], steps[2:])

    result = scan(first + third)

    assert result.problem == f"record 2 at byte {len(first)}: its number is 3, not 2"
    assert not result.is_torn


@pytest.mark.parametrize("hole", [0, 1, 2])
def test_a_hole_in_the_last_append_is_torn_though_good_lines_follow(hole: int) -> None:
    steps = numbered(said("one"), said("two"), said("three"))
    first, last = journal(steps[:1], steps[1:])
    lines = last.splitlines(keepends=True)
    lines[hole] = b"\0" * (len(lines[hole]) - 1) + b"\n"

    result = scan(first + b"".join(lines))

    assert (result.steps, result.good_length, result.is_torn) == ((steps[0],), len(first), True)


def test_a_hole_in_an_append_before_the_last_is_damage() -> None:
    steps = numbered(said("one"), said("two"), said("three"))
    first, middle, last = journal(steps[:1], steps[1:3], steps[3:])

    result = scan(first + middle.replace(b"one", b"0ne") + last)

    assert (result.steps, result.good_length, result.is_torn) == ((steps[0],), len(first), False)


@given(data=st.binary(max_size=300), keep=st.integers(0, 1000))
@settings(deadline=None)
def test_no_bytes_make_the_scan_fail(data: bytes, keep: int) -> None:
    steps = numbered(said("one"), said("two"))
    good = b"".join(journal(steps[:1], steps[1:]))[:keep]

    result = scan(good + data)

    assert result.good_length <= len(good) + len(data)
    assert list(result.steps) == steps[: len(result.steps)]
