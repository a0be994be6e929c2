"""What a doctor finds, and whether a log that can be read makes sense: runs end, calls have results. Pure.

Nothing that is found here keeps a session from loading. It tells of a crash that nobody has tidied up after
yet, or of a mistake in whoever wrote the log. Nothing here knows how a log is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct, structs

from crabd.messages import AssistantMessage, ToolMessage, UserMessage, tool_calls_of
from crabd.store.meta import KEY_AGE
from crabd.store.record import (
    Answered,
    Asked,
    Claimed,
    Cleared,
    Compacted,
    Created,
    MessageAdded,
    MessageQueued,
    Rewound,
    RunClosed,
    RunOpened,
    Step,
)

Grade: TypeAlias = Literal["notice", "problem"]
# Mends a flaw, durably, and says what it has done. It raises OSError, or ValueError, if it cannot.
Mend: TypeAlias = Callable[[], str]

REPAIR = "crabctl doctor --repair"
# Kinds of what is left open at a log's end, and closed by a few more records.
OPEN_ENDS = frozenset({"open_run", "open_call"})


class Flaw(Struct, frozen=True, kw_only=True):
    """Something that is not as it should be: a ``notice`` can wait, a ``problem`` cannot.

    ``where`` is a session's id or a path, ``kind`` the cause in one word. ``advice`` says what to do, and
    ``mended``, once that is so, what was done.
    """

    kind: str
    grade: Grade
    where: str
    problem: str
    advice: str
    mended: str | None = None


class Chart:
    """What was found. With ``repairs`` each flaw that can be mended is, as it is found."""

    def __init__(self, *, repairs: bool) -> None:
        self.flaws: list[Flaw] = []
        # How many records were read.
        self.records = 0
        self._repairs = repairs

    def __repr__(self) -> str:
        return f"<Chart {len(self.flaws)} flaws, {self.records} records>"

    def add(self, flaw: Flaw, mend: Mend | None = None) -> bool:
        """Note a flaw, and tell whether it is mended."""
        mended = None
        if mend is not None and self._repairs:
            try:
                mended = mend()
            except (OSError, ValueError) as exc:
                flaw = structs.replace(flaw, problem=f"{flaw.problem}; mending it has failed: {exc}")
        self.flaws.append(structs.replace(flaw, mended=mended))
        return mended is not None


def find_flaws(session: str, steps: Sequence[Step], *, is_live: bool) -> Iterator[Flaw]:
    """Go through the whole log of a session. What is open at its end is odd unless the session is live."""
    check = _Check(session)
    for step in steps:
        yield from check.take(step)
    if not is_live:
        yield from check.end()


class _Check:
    """Reads a log step by step."""

    def __init__(self, session: str) -> None:
        self.open_run: str | None = None
        # The calls that have no result yet, with the step that asked for them.
        self.open_calls: dict[str, int] = {}
        self._session = session
        self._runs: set[str] = set()
        self._waiting: list[str] = []
        self._keys: dict[str, tuple[str, Step]] = {}

    def take(self, step: Step) -> Iterator[Flaw]:
        """Take in the next step."""
        match step.record:
            case Created(request_key=key) if step.n == 1:
                yield from self._take_key(step, key, "the session")
            case Created():
                yield self._odd(step, "order", "it begins the session once more")
            case Claimed(request_key=key):
                yield from self._take_key(step, key, "the session")
            case MessageQueued() as queued:
                self._waiting.append(queued.id)
                yield from self._take_key(step, queued.request_key, queued.id)
            case RunOpened(run=run, request_key=key):
                yield from self._open(step, run)
                yield from self._take_key(step, key, run)
            case RunClosed(run=run):
                self._runs.add(run)
                self._forget(run)
                self.open_run = None if self.open_run == run else self.open_run
            case MessageAdded() as added:
                yield from self._take_message(step, added)
            case Compacted(upto=upto, goal=goal, request_key=key):
                if upto >= step.n or (goal or 0) > upto:
                    yield self._odd(step, "boundary", f"it replaces the history up to step {upto}")
                yield from self._take_key(step, key, f"compaction {step.n}")
                self._drop_calls(upto)
            case Rewound(step=last):
                if last >= step.n:
                    yield self._odd(step, "boundary", f"it goes back to step {last}")
                self.open_calls = {call: asked for call, asked in self.open_calls.items() if asked <= last}
            case Cleared():
                self._drop_calls(step.n)
            case Asked(call=call) | Answered(call=call) if call not in self.open_calls:
                yield self._odd(step, "stray_question", f"it is about no open call ({call})")
            case _:
                pass

    def end(self) -> Iterator[Flaw]:
        """Look at what the log leaves open."""
        left = [f"run {self.open_run} was interrupted"] if self.open_run is not None else []
        if self._waiting:
            left.append(f"nobody has answered {', '.join(self._waiting)}")
        if left:
            advice = f"the next start of the daemon closes it, and so does {REPAIR}"
            yield self._flaw("open_run", "; ".join(left), advice)
        elif self.open_calls:
            advice = f"{REPAIR} adds results that say so"
            yield self._flaw("open_call", f"{self._calls()} no result", advice, grade="problem")

    def _open(self, step: Step, run: str) -> Iterator[Flaw]:
        if run in self._runs:
            yield self._odd(step, "order", f"it opens run {run} once more")
        if self.open_run is not None:
            yield self._odd(step, "order", f"it opens run {run}, and {self.open_run} has not ended")
        self._runs.add(run)
        self._forget(run)
        self.open_run = run

    def _take_message(self, step: Step, added: MessageAdded) -> Iterator[Flaw]:
        message = added.message
        if isinstance(message, ToolMessage):
            if self.open_calls.pop(message.call, None) is None:
                yield self._odd(step, "stray_result", f"it answers no open call ({message.call})")
            return
        if self.open_calls:
            yield self._odd(step, "no_result", f"{self._calls()} no result before it")
        self.open_calls = {call.id: step.n for call in tool_calls_of(message)}
        if isinstance(message, UserMessage) and message.steer:
            self._forget(message.steer)
            yield from self._take_key(step, added.request_key, message.steer)
        elif isinstance(message, AssistantMessage) and len(self.open_calls) < len(tool_calls_of(message)):
            yield self._odd(step, "order", "two of its calls have the same id")

    def _take_key(self, step: Step, key: str | None, led_to: str) -> Iterator[Flaw]:
        """Note what a request has led to: for a day, a key leads to one thing."""
        if key is None:
            return
        before, first = self._keys.setdefault(key, (led_to, step))
        if before != led_to and step.at - first.at <= KEY_AGE:
            yield self._odd(step, "key", f"request key {key!r} has led to {before} and to {led_to}")
        self._keys[key] = (led_to, step)

    def _forget(self, id_: str) -> None:
        self._waiting = [other for other in self._waiting if other != id_]

    def _drop_calls(self, upto: int) -> None:
        self.open_calls = {call: asked for call, asked in self.open_calls.items() if asked > upto}

    def _calls(self) -> str:
        calls = ", ".join(self.open_calls)
        return f"tool calls {calls} have" if len(self.open_calls) > 1 else f"tool call {calls} has"

    def _odd(self, step: Step, kind: str, problem: str) -> Flaw:
        advice = "nothing is lost and nothing to do; it tells of a mistake in what wrote it: please report it"
        return self._flaw(kind, f"step {step.n}: {problem}", advice)

    def _flaw(self, kind: str, problem: str, advice: str, *, grade: Grade = "notice") -> Flaw:
        return Flaw(kind=kind, grade=grade, where=self._session, problem=problem, advice=advice)
