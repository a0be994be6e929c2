"""What a failure means, and whether to ask again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crabd.errors import ProviderError
from crabd.providers.retry import (
    MAX_TRIES,
    MAX_WAIT,
    ConnectionLost,
    is_down,
    kind_of,
    retry_after,
    wait_before_retry,
)

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


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens"),
        (400, '{"error":{"code":"context_length_exceeded"}}'),
        (400, "prompt is too long: 210000 tokens > 200000 maximum"),
        (400, "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"),
        (400, "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."),
        (400, "the request exceeds the available context size, try increasing it"),
        (500, "the request exceeds the available context size, try increasing it"),
        (400, "Please reduce the length of the messages or completion."),
        (400, "Input is too long for requested model."),
        (400, "This model's maximum prompt length is 131072 but the request contains 537812 tokens."),
        (400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
        (400, "prompt token count of 130000 exceeds the limit of 128000"),
        (400, "`inputs` tokens + `max_new_tokens` must be <= 4097"),
        (400, "Invalid request: Your request exceeded model token limit: 262144"),
        (400, "Trying to keep the first 4921 tokens when context the overflows: context overflow"),
        (413, "Prompt too large: too many tokens"),
        (422, "context window exceeds limit (2013)"),
    ],
)
def test_every_server_has_its_own_words_for_a_conversation_that_is_too_long(status: int, words: str) -> None:
    assert kind_of(status, words) == "context_too_long"


@pytest.mark.parametrize(
    "words",
    [
        '[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key."}}]',
        '{"code":"Client specified an invalid argument","error":"Incorrect API key provided: na***ys."}',
        '{"error":{"message":"No connected db.","type":"no_db_connection","param":null,"code":"400"}}',
    ],
)
def test_some_servers_refuse_a_key_as_if_the_request_were_wrong(words: str) -> None:
    assert kind_of(400, words) == "auth"


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (
            429,
            "Request too large: limit 30000 tokens per min, reduce the length of the messages",
            "rate_limited",
        ),
        (400, "max_tokens must be at most 8192", "bad_reply"),
        (400, "temperature must be below 2", "bad_reply"),
        (413, "Request Entity Too Large", "bad_reply"),
        (401, "prompt is too long", "auth"),
        (503, "prompt is too long", "unavailable"),
    ],
)
def test_what_only_sounds_like_it_is_something_else(status: int, words: str, kind: str) -> None:
    assert kind_of(status, words) == kind


@pytest.mark.parametrize(
    ("status", "is_gone"), [(500, False), (429, False), (200, False), (502, True), (529, True)]
)
def test_some_statuses_speak_of_the_server_and_not_of_the_request(status: int, is_gone: bool) -> None:
    assert is_down(status) is is_gone
