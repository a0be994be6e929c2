"""What can be kept of a damaged journal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd.store.journal.line import encode_append, encode_step, scan
from crabd.store.journal.salvage import salvage
from crabd.store.record import Step
from tests.store.samples import a_turn, numbered, said


def lines_of(steps: list[Step]) -> list[bytes]:
    return [encode_step(step) for step in steps]


STEPS = numbered(*a_turn(), *a_turn("again"))
LINES = lines_of(STEPS)


def test_a_journal_that_is_whole_is_kept_as_it_is() -> None:
    data = LINES[0] + encode_append(STEPS[1:6]) + encode_append(STEPS[6:])

    kept = salvage(data, None)

    assert (kept.data, kept.lost, kept.lost_runs) == (data, 0, ())


@given(st.permutations(range(len(LINES))), st.lists(st.integers(0, len(LINES) - 1), max_size=3))
def test_no_disorder_loses_a_record(order: list[int], doubled: list[int]) -> None:
    kept = salvage(b"".join(LINES[n] for n in [*order, *doubled]), None)

    assert (list(kept.steps), kept.data, kept.lost) == (STEPS, b"".join(LINES), 0)


@given(st.binary(max_size=300), st.integers(0, len(LINES)))
def test_whatever_the_bytes_are_what_is_kept_can_be_read(rubbish: bytes, at: int) -> None:
    kept = salvage(b"".join(LINES[:at]) + rubbish + b"".join(LINES[at:]), None)

    assert scan(kept.data).steps == kept.steps
    assert scan(kept.data).problem is None
    assert list(kept.steps) == STEPS[: len(kept.steps)]
    assert len(kept.steps) >= at - 1


def test_of_an_append_that_lost_its_end_the_beginning_is_kept() -> None:
    data = LINES[0] + encode_append(STEPS[1:6])

    kept = salvage(data[:-200], None)

    assert 2 < len(kept.steps) < 6
    assert scan(kept.data).steps == tuple(STEPS[: len(kept.steps)])
    assert scan(kept.data).problem is None


def test_from_a_number_that_two_records_have_nothing_is_kept() -> None:
    other = encode_step(Step(5, STEPS[4].at, said("another")))

    kept = salvage(b"".join([*LINES[:5], other, *LINES[5:]]), None)

    assert list(kept.steps) == STEPS[:4]
    assert kept.lost == len(LINES) + 1 - 4


@pytest.mark.parametrize(("first", "expected"), [(None, 0), (STEPS[0], len(STEPS))])
def test_a_first_record_that_is_known_otherwise_is_put_in_its_place(
    first: Step | None, expected: int
) -> None:
    kept = salvage(b"damaged\n" + b"".join(LINES[1:]), first)

    assert list(kept.steps) == STEPS[:expected]
    assert kept.lost == (0 if first else len(LINES))
