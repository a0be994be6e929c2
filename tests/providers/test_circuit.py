"""When a server that keeps failing is left alone, and when it is asked again."""

from __future__ import annotations

from crabd.providers.circuit import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, Attempt, Circuit, Trouble


def begin(circuit: Circuit, now: float) -> Attempt:
    attempt = circuit.begin(now)
    assert attempt is not None, circuit
    return attempt


def opened() -> Circuit:
    """Make a circuit that has opened at 0."""
    circuit = Circuit("https://a")
    for _ in range(FAILURES):
        begin(circuit, 0).failed("gone", 0)
    return circuit


def test_a_server_is_asked_until_it_has_failed_too_often() -> None:
    circuit = Circuit("https://a")

    allowed: list[bool] = []
    for _ in range(FAILURES + 1):
        attempt = circuit.begin(0)
        allowed.append(attempt is not None)
        if attempt:
            attempt.failed("gone", 0)

    assert allowed == [True] * FAILURES + [False]


def test_an_answer_in_between_makes_it_begin_anew() -> None:
    circuit = Circuit("https://a")
    for _ in range(FAILURES - 1):
        begin(circuit, 0).failed("gone", 0)

    begin(circuit, 0).answered()
    begin(circuit, 0).failed("gone", 0)

    assert circuit.begin(0) is not None


def test_after_the_pause_one_tries_for_all() -> None:
    circuit = opened()

    during, probe, other = (circuit.begin(now) for now in (FIRST_PAUSE - 0.1, FIRST_PAUSE, FIRST_PAUSE))

    assert (during, other) == (None, None)
    assert probe is not None


def test_the_one_that_tries_opens_the_way_for_the_others() -> None:
    circuit = opened()
    begin(circuit, FIRST_PAUSE).answered()

    attempts = [circuit.begin(FIRST_PAUSE) for _ in range(3)]

    assert None not in attempts
    assert circuit.trouble(FIRST_PAUSE) is None


def test_each_try_that_fails_doubles_the_pause_up_to_a_minute() -> None:
    circuit = opened()
    now = 0.0
    pauses: list[float] = []
    for _ in range(6):
        trouble = circuit.trouble(now)
        assert trouble is not None
        pauses.append(trouble.seconds)
        now += trouble.seconds
        begin(circuit, now).failed("gone", now)

    assert pauses == [5, 10, 20, 40, LONGEST_PAUSE, LONGEST_PAUSE]


def test_a_try_that_was_cancelled_leaves_its_place_to_the_next() -> None:
    circuit = opened()

    begin(circuit, FIRST_PAUSE).end()

    assert circuit.begin(FIRST_PAUSE) is not None


def test_requests_from_before_the_pause_make_it_no_longer_and_their_answer_ends_it() -> None:
    circuit = Circuit("https://a")
    failing, answering = begin(circuit, 0), begin(circuit, 0)
    for _ in range(FAILURES):
        begin(circuit, 0).failed("gone", 0)

    failing.failed("gone", 4)
    before = circuit.trouble(4)
    answering.answered()

    assert before is not None
    assert before.seconds == 1
    assert circuit.trouble(4) is None


def test_a_request_has_one_verdict() -> None:
    circuit = Circuit("https://a")
    attempt = begin(circuit, 0)

    attempt.answered()
    attempt.failed("gone", 0)
    attempt.end()

    assert circuit.trouble(0) is None


def test_the_trouble_is_told_in_every_state() -> None:
    circuit = Circuit("https://a")
    begin(circuit, 0).failed("gone", 0)
    closed = circuit.trouble(0)
    for _ in range(FAILURES - 1):
        begin(circuit, 0).failed("gone", 0)
    is_open = circuit.trouble(1)
    begin(circuit, FIRST_PAUSE)
    half_open = circuit.trouble(FIRST_PAUSE)

    assert closed == Trouble(server="https://a", state="closed", failures=1, problem="gone", seconds=0)
    assert is_open == Trouble(
        server="https://a", state="open", failures=FAILURES, problem="gone", seconds=FIRST_PAUSE - 1
    )
    assert half_open == Trouble(
        server="https://a", state="half_open", failures=FAILURES, problem="gone", seconds=0
    )
