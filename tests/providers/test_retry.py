"""What a failure means, and whether to ask again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crabd.errors import ProviderError
from crabd.providers.retry import MAX_TRIES, MAX_WAIT, ConnectionLost, retry_after, wait_before_retry

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def failure(status: int | None, after: float | None = None) -> ProviderError:
    return ProviderError("unavailable", "x", provider="test", status=status, retry_after=after)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:09 GMT"}, 9),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:09 -0000"}, 9),
        ({"retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e99"}, None),
    ],
)
def test_how_long_to_wait_is_read_from_the_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


@settings(deadline=None)
@given(st.text())
def test_no_header_is_strange_enough_to_raise(text: str) -> None:
    seconds = retry_after({"retry-after": text, "retry-after-ms": text}, NOW)

    assert seconds is None or seconds >= 0


def test_waits_double_and_are_spread() -> None:
    waits = [wait_before_retry(failure(503), tries, jitter) for tries in (1, 2) for jitter in (0.0, 0.5)]

    assert waits == [0.25, 0.5, 0.5, 1.0]


@pytest.mark.parametrize(
    "error",
    [
        failure(400),
        failure(401),
        failure(404),
        failure(None),
        failure(503, MAX_WAIT + 1),
        ProviderError("context_too_long", "x", provider="test", status=500),
    ],
)
def test_what_would_not_pass_by_itself_is_not_tried_again(error: ProviderError) -> None:
    assert wait_before_retry(error, 1, 0.5) is None


def test_the_wait_is_never_shorter_than_asked_for() -> None:
    assert wait_before_retry(failure(429, MAX_WAIT), 1, 0.0) == MAX_WAIT


def test_a_lost_connection_is_tried_again_until_the_tries_are_used_up() -> None:
    lost = ConnectionLost("unavailable", "x", provider="test")

    waits = [wait_before_retry(lost, tries, 0.5) is not None for tries in range(1, MAX_TRIES + 1)]

    assert waits == [True, True, False]
