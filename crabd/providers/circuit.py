"""Whether a model server that keeps failing is asked at all. Pure: the clock is an argument.

A server that is gone makes every session find out for itself, each with its retries and its deadlines. Here
they share what they have found out::

    CLOSED ──FAILURES in a row──▶ OPEN ──the pause is over, one may try──▶ HALF OPEN
      ▲                            ▲ └────────── it failed: twice the pause ──────┘ │
      └── any answer, of whatever request that is under way ────────────────────────┘

What counts as a failure is decided where requests are made; a refusal is an answer.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

State: TypeAlias = Literal["closed", "open", "half_open"]

# More than the tries of one request, so that one unlucky session does not speak for all.
FAILURES = 5
# In seconds, doubled with every try that fails: a server that is started anew is found soon, one that is gone
# costs a request a minute.
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 60.0


class Trouble(Struct, frozen=True, kw_only=True):
    """A server that has failed since it answered last. ``seconds`` is how long it is left alone yet."""

    server: str
    state: State
    failures: int
    problem: str
    seconds: float


class Circuit:
    """What is known of one server: how often it has failed in a row, and until when it is left alone."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._failures = 0
        self._problem = ""
        self._pause = 0.0
        self._until = 0.0
        self._probe: Attempt | None = None

    def __repr__(self) -> str:
        state = "half open" if self._probe else "open" if self._pause else "closed"
        return f"<Circuit {self._server} {state}, {self._failures} failures>"

    def trouble(self, now: float) -> Trouble | None:
        """Tell how the server is doing; null when nothing is wrong."""
        if not self._failures:
            return None
        seconds = max(0.0, self._until - now) if self._pause else 0.0
        state: State = "closed" if not self._pause else "half_open" if self._probe else "open"
        return Trouble(
            server=self._server,
            state=state,
            failures=self._failures,
            problem=self._problem,
            seconds=seconds,
        )

    def begin(self, now: float) -> Attempt | None:
        """Begin a request; null means: leave the server alone. Whoever gets an attempt ends it."""
        if not self._pause:
            return Attempt(self)
        if self._probe or now < self._until:
            return None
        self._probe = Attempt(self)
        return self._probe

    def answered(self) -> None:
        """The server lives, whatever it has said."""
        self._failures = 0
        self._problem = ""
        self._pause = 0.0
        self._probe = None

    def failed(self, attempt: Attempt, problem: str, now: float) -> None:
        """The server did not answer. A request from before the pause does not make it longer."""
        self._failures += 1
        self._problem = problem
        if attempt is self._probe:
            self._probe = None
            self._leave_alone(min(2 * self._pause, LONGEST_PAUSE), now)
        elif not self._pause and self._failures >= FAILURES:
            self._leave_alone(FIRST_PAUSE, now)

    def dropped(self, attempt: Attempt) -> None:
        """Nobody waits for the answer any more; if it was to tell how the server is, the next one will."""
        if attempt is self._probe:
            self._probe = None

    def _leave_alone(self, pause: float, now: float) -> None:
        self._pause = pause
        self._until = now + pause


class Attempt:
    """One request to a server. Its first verdict counts; ending it without one says nothing of the server."""

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit
        self._is_settled = False

    def answered(self) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._circuit.answered()

    def failed(self, problem: str, now: float) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._circuit.failed(self, problem, now)

    def end(self) -> None:
        """The request is over. A second call does nothing."""
        if not self._is_settled:
            self._is_settled = True
            self._circuit.dropped(self)
