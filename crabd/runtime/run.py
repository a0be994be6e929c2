"""A run, as a machine without I/O: what has to happen next, and what follows from what happened.

The driver (``loop``) asks ``next_action`` and does it: save records, ask the model, call tools, end. It
reports back by the other methods, each of which returns the events that others should see. Nothing here
awaits, so a run can be stepped through by hand, and every order of chunks, steers and cancels can be tried.

The rules that live here and nowhere else: what is saved before what, when a steering joins, and how a run
that is cut short leaves a history that is valid. Who asks whom, time and cancellation do not belong here.

    READY ──ask──▶ REPLYING ──no calls──▶ ENDING ──▶ ENDED
      ▲               │  └── steered ──▶ READY
      └── results ── CALLING ◀── calls
    and from anywhere, cut short: ──▶ ENDING
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TypeAlias

from msgspec import Struct

from crabd import events
from crabd.errors import PROVIDER, BudgetSpent, CrabdError, NoRun, QueueFull
from crabd.events import AnyEvent, ErrorInfo
from crabd.messages import (
    AssistantMessage,
    Message,
    StopReason,
    ToolCall,
    ToolMessage,
    ToolStatus,
    Usage,
    UserBlock,
    UserMessage,
    clean_text,
    text_of,
    tool_calls_of,
    without_pictures,
)
from crabd.providers.base import Chunk
from crabd.runtime.agents import MAX_ROUNDS
from crabd.runtime.calls import CallWatch, Verdict
from crabd.runtime.reply import Reply
from crabd.store.record import MessageAdded, ModelCalled, Record, RunClosed, RunOpened

# Steerings that may wait for one boundary. A person types a few; a program that sends more has gone wrong.
MAX_STEERS = 16
CANCELLED_OUTPUT = "[cancelled before it had finished]"
UNMADE_OUTPUT = "[{status} while it waited for a person, so it was not made. This was asked: {asked}]"
NO_ANSWER = "the model answered with nothing, twice: say it in other words, or choose another model"
NOTHING_WRONG = Verdict({})


class State(enum.Enum):
    READY = enum.auto()
    REPLYING = enum.auto()
    CALLING = enum.auto()
    ENDING = enum.auto()
    ENDED = enum.auto()


class Save(Struct, frozen=True):
    """Make these records durable, then say ``saved``."""

    records: tuple[Record, ...]


class Ask(Struct, frozen=True):
    """Ask the model for the next reply; feed its chunks to ``receive``."""


class CallTools(Struct, frozen=True):
    """Run these calls at once; report each to ``tool_finished``."""

    calls: tuple[ToolCall, ...]


class End(Struct, frozen=True):
    """Nothing is left to do."""


Action: TypeAlias = Save | Ask | CallTools | End


class Steer(Struct, frozen=True):
    """A steering that waits; what is with its content goes into its records as it is."""

    id: str
    content: tuple[UserBlock, ...]
    request_key: str | None = None
    position: int = 0


# What a reply's end means for the run, when it asks for no tools.
STOP_REASONS: dict[str, StopReason] = {
    "end": "end_turn",
    "tool_calls": "end_turn",
    "max_tokens": "max_tokens",
    "refused": "refused",
}


class Run:
    """One run, from its user message to its end. Not shared between sessions, not used twice."""

    def __init__(
        self,
        run: str,
        content: tuple[UserBlock, ...],
        *,
        max_rounds: int = MAX_ROUNDS,
        request_key: str | None = None,
        guest: str = "",
    ) -> None:
        self.id = run
        self.guest = guest
        self.content = content
        self.usage = Usage()
        self.rounds = 0
        self.stop_reason: StopReason | None = None
        self.error: ErrorInfo | None = None
        self.text = ""
        self.reply = Reply(guest)
        self.max_rounds = max_rounds
        self._state = State.READY
        self._unsaved: list[Record] = [
            RunOpened(run, request_key, guest),
            MessageAdded(run, UserMessage(content)),
        ]
        self._steers: deque[Steer] = deque()
        self._steers_taken = 0
        self._is_summed_up = False
        self._calls: tuple[ToolCall, ...] = ()
        self._results: dict[str, ToolMessage] = {}
        # What a person is asked about a call, for as long as it waits for that.
        self._asked: dict[str, str] = {}
        self._watch = CallWatch()
        self._verdict = NOTHING_WRONG
        self._is_asked_again = False

    def __repr__(self) -> str:
        state, waiting = self._state.name.lower(), len(self._steers)
        return f"<Run {self.id} {state}, round {self.rounds}, {waiting} steers waiting>"

    @property
    def is_steerable(self) -> bool:
        """A steering taken now will join before the run ends."""
        return self._state not in (State.ENDING, State.ENDED)

    @property
    def steers_waiting(self) -> int:
        return len(self._steers)

    @property
    def is_asking(self) -> bool:
        """Some call waits for a person."""
        return bool(self._asked)

    @property
    def open_calls(self) -> tuple[ToolCall, ...]:
        """The calls of this round that have no result yet."""
        return tuple(call for call in self._calls if call.id not in self._results)

    @property
    def has_kept_reply(self) -> bool:
        """The reply is in the log, or there is none yet."""
        return self._state is not State.REPLYING and not any(
            isinstance(message, AssistantMessage) for message in self._unsaved_messages()
        )

    @property
    def results(self) -> tuple[ToolMessage, ...]:
        """The results of this round that are not in the log yet, in the order of their calls."""
        unsaved = [message for message in self._unsaved_messages() if isinstance(message, ToolMessage)]
        known = [self._results[call.id] for call in self._calls if call.id in self._results]
        return (*unsaved, *known)

    def steer(
        self,
        session: str,
        content: tuple[UserBlock, ...],
        request_key: str | None = None,
        *,
        is_sent: bool = False,
    ) -> tuple[Steer, int]:
        """Take a steering; returns it and its place in the queue, from 1.

        The place is recorded with a key, to be told again; of a message that was sent it is not told.

        Raises:
          NoRun: the run is ending, so it would come too late.
          QueueFull: ``MAX_STEERS`` are waiting.
        """
        if not self.is_steerable:
            raise NoRun(session)
        if len(self._steers) >= MAX_STEERS:
            raise QueueFull(session, "steers", MAX_STEERS)
        self._steers_taken += 1
        position = len(self._steers) + 1
        is_told_again = request_key is not None and not is_sent
        steer_id = f"{self.id}.s{self._steers_taken}"
        taken = Steer(steer_id, content, request_key, position if is_told_again else 0)
        self._steers.append(taken)
        return taken, position

    def has_waiting(self, steer: str) -> bool:
        """Tell whether a steering has not joined yet."""
        return any(waiting.id == steer for waiting in self._steers)

    def is_saving(self, steer: str) -> bool:
        """Tell whether a steering has joined and its message is not durable yet."""
        unsaved = self._unsaved_messages()
        return any(isinstance(message, UserMessage) and message.steer == steer for message in unsaved)

    def objection(self, call: ToolCall) -> str | None:
        """Tell why a call of this round is not made; null if it is."""
        return self._verdict.objections.get(call.id)

    def next_action(
        self, seconds: float, overspent: BudgetSpent | None = None
    ) -> tuple[Action, list[AnyEvent]]:
        """Say what has to happen now, ``seconds`` after the start, and what others should see of it.

        ``overspent`` is a budget that is spent by what is durable so far: no further round is begun.
        """
        seen: list[AnyEvent] = []
        if self._state is State.READY:
            seen = self._join_steers()
            if overspent is not None:
                seen.append(tell_spent(overspent))
                self._end("budget", tell_error(overspent))
            elif self.rounds >= self.max_rounds:
                self._end("max_rounds")
        if self._state is State.ENDING and not self._is_summed_up:
            self._is_summed_up = True
            self._unsaved.append(self._sum_up(seconds))
        if self._unsaved:
            return Save(tuple(self._unsaved)), seen
        match self._state:
            case State.READY:
                self._state = State.REPLYING
                self.rounds += 1
                self.reply = Reply(self.guest)
                return Ask(), seen
            case State.CALLING:
                return CallTools(self.open_calls), seen
            case State.ENDING | State.ENDED:
                self._state = State.ENDED
                return End(), seen
            case State.REPLYING:
                raise AssertionError("the model was asked and has not finished")

    def saved(self) -> None:
        """The records of the last ``Save`` are durable, or are somebody else's to write."""
        self._unsaved.clear()

    def receive(self, chunk: Chunk) -> list[AnyEvent]:
        """Take a piece of the reply."""
        return self.reply.receive(chunk)

    def reply_broke_off(self, call: ModelCalled) -> None:
        """The rest of the reply comes with another call: keep what this one has taken."""
        self.usage += call.usage
        self._unsaved.append(call)

    def reply_finished(self, call: ModelCalled) -> list[AnyEvent]:
        """The reply is complete: keep it, and go on to its calls, to a steering, or to the end."""
        seen = self.reply.close()
        finish = self.reply.finish
        assert finish is not None, "a stream without its last chunk is a ProviderError"
        # What was cut off, or refused, may have lost the calls that would have made sense of the others.
        is_whole = finish.reason in ("end", "tool_calls")
        message = self.reply.message(call.model, with_calls=is_whole)
        self.usage += call.usage
        self.text = text_of(message)
        self._calls, self._results = tool_calls_of(message), {}
        self._verdict = self._watch.judge(self._calls) if self._calls else NOTHING_WRONG
        is_empty = is_whole and not self._calls and not self.text.strip()
        if message.content and not is_empty:
            self._unsaved.append(MessageAdded(self.id, message))
        self._unsaved.append(call)
        if self._calls:
            self._state = State.CALLING
        elif self._steers or (is_empty and not self._is_asked_again):
            self._state = State.READY
        elif is_empty:
            self._end("error", ErrorInfo(PROVIDER, "bad_reply", NO_ANSWER))
        else:
            self._end(STOP_REASONS[finish.reason])
        self._is_asked_again = is_empty
        return seen

    def asks_person(self, call: str, asked: str) -> None:
        """A call waits for a person; if the run ends before ``was_answered`` it was never made."""
        self._asked[call] = asked

    def was_answered(self, call: str) -> None:
        """A call waits no more for a person."""
        self._asked.pop(call, None)

    def tool_finished(self, call: ToolCall, output: str, status: ToolStatus) -> None:
        """Take one result. With the last of them the round is complete; they are kept in call order."""
        self.was_answered(call.id)
        self._results[call.id] = ToolMessage(call.id, call.name, clean_text(output), status)
        if self.open_calls:
            return
        self._keep_results()
        self._state = State.READY
        # A word that waits is a new start: the model has not read it yet.
        if self._verdict.end is not None and not self._steers:
            self._end("error", ErrorInfo(PROVIDER, "bad_reply", self._verdict.end))

    def cut_short(
        self,
        reason: StopReason,
        model: str,
        error: ErrorInfo | None = None,
        call: ModelCalled | None = None,
    ) -> list[AnyEvent]:
        """End now, wherever the run is, keeping what there is.

        A reply that was whole already counts as such. Else the text streamed so far is kept and marked
        partial, and with it what is known of its ``call``. Calls that are still open are answered
        ``cancelled``; steerings that waited join the history, so that the next run reads them.
        """
        seen: list[AnyEvent] = []
        if self._state is State.REPLYING and self.reply.finish is not None and call is not None:
            seen = self.reply_finished(call)
        elif self._state is State.REPLYING:
            seen = self._keep_partial(model, call)
        if not self.is_steerable:
            return seen
        if self._state is State.CALLING:
            status: ToolStatus = "interrupted" if reason == "interrupted" else "cancelled"
            for call_left in self.open_calls:
                output = tell_unmade(self._asked.get(call_left.id), status) or CANCELLED_OUTPUT
                self._results[call_left.id] = ToolMessage(call_left.id, call_left.name, output, status)
            self._keep_results()
        seen += self._join_steers()
        self._end(reason, error)
        return seen

    def _unsaved_messages(self) -> list[Message]:
        return [record.message for record in self._unsaved if isinstance(record, MessageAdded)]

    def _keep_partial(self, model: str, call: ModelCalled | None) -> list[AnyEvent]:
        seen = self.reply.close()
        if not self.reply.is_empty:
            message = self.reply.message(model, with_calls=False, partial=True)
            self._unsaved.append(MessageAdded(self.id, message))
            self.text = text_of(message)
        if call is not None:
            self.usage += call.usage
            self._unsaved.append(call)
        return seen

    def _sum_up(self, seconds: float) -> RunClosed:
        assert self.stop_reason is not None, "only a run that is ending is summed up"
        return RunClosed(self.id, self.stop_reason, seconds, self.usage, self.error)

    def _end(self, reason: StopReason, error: ErrorInfo | None = None) -> None:
        self.stop_reason = reason
        self.error = error
        self._calls, self._results = (), {}
        self._state = State.ENDING

    def _keep_results(self) -> None:
        self._unsaved += [MessageAdded(self.id, self._results[call.id]) for call in self._calls]
        self._calls, self._results = (), {}

    def _join_steers(self) -> list[AnyEvent]:
        joined = list(self._steers)
        self._steers.clear()
        if joined:
            self._watch.forgive()
        self._unsaved += [
            MessageAdded(self.id, UserMessage(s.content, s.id), s.request_key, s.position) for s in joined
        ]
        return [events.Steered(s.id, without_pictures(s.content)) for s in joined]


def tell_spent(exc: BudgetSpent) -> events.BudgetSpent:
    """Make the event of a budget that is spent."""
    which: events.BudgetKind = "daily_budget" if exc.kind == "daily_budget" else "budget"
    return events.BudgetSpent(which, exc.limit, exc.allowed, exc.spent)


def tell_unmade(asked: str | None, status: ToolStatus) -> str | None:
    """Tell of a call that ended while a person was asked about it; null if nobody was."""
    return None if asked is None else UNMADE_OUTPUT.format(status=status, asked=asked)


def tell_error(exc: CrabdError) -> ErrorInfo:
    """Put an error into a result or an event."""
    return ErrorInfo(exc.code, exc.kind, clean_text(str(exc)))
