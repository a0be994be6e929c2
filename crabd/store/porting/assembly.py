"""A session of crabtalk as a log of ours: its messages become runs, its boundaries compactions. Pure.

crabtalk writes a run's messages first and its trace behind them. So the log is taken in spans, each of some
messages and the trace that follows: the trace tells when they were said and how the run ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from msgspec import Struct, structs

from crabd.errors import PROVIDER
from crabd.events import ErrorInfo
from crabd.messages import (
    AssistantMessage,
    Message,
    StopReason,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
    text_of,
    tool_calls_of,
)
from crabd.store.base import Skipped
from crabd.store.porting.crabtalk import Boundary, Event, Line, Meta, Said, read_time
from crabd.store.record import (
    Cleared,
    Compacted,
    Configured,
    Created,
    MessageAdded,
    ModelCalled,
    Record,
    RunClosed,
    RunOpened,
    Step,
)

NO_RESULT = "[no result: the log that was imported has none for this call]"
PLACEHOLDER = "[archived context unavailable: {}]"
# A token is about four characters of English text.
CHARACTERS_PER_TOKEN = 4
STOP_REASONS: dict[str, StopReason] = {
    "text_response": "end_turn",
    "no_action": "end_turn",
    "max_iterations": "max_rounds",
    "max_tokens": "max_tokens",
    "cancelled": "cancelled",
}


class Found(Struct, frozen=True):
    """One line of a session, where it was, and when that place was last written."""

    where: str
    line: Line
    written_at: datetime


class Assembled(Struct, frozen=True):
    steps: tuple[Step, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


class Trace:
    """What the events behind some messages tell about them, and of how the run ended."""

    def __init__(self, found: Sequence[Found]) -> None:
        self.done: Event | None = None
        self.steers: dict[str, datetime | None] = {}
        self._times: dict[str, datetime | None] = {}
        self._last: Message | None = None
        for each in found:
            if isinstance(each.line, Event):
                self._add(each.line)
            elif isinstance(each.line, Said) and each.line.messages:
                self._last = each.line.messages[-1]

    def time_of(self, message: Message) -> datetime | None:
        """Tell when something was said; null where the trace does not know."""
        if isinstance(message, ToolMessage):
            return self._times.get(f"result {message.call}")
        if isinstance(message, UserMessage):
            return self.steers.get(text_of(message))
        if calls := tool_calls_of(message):
            return self._times.get(f"call {calls[0].id}")
        return read_time(self.done.ts) if self.done and message is self._last else None

    def _add(self, event: Event) -> None:
        at = read_time(event.ts)
        match event.event:
            case "tool_start":
                self._times |= {f"call {call.id}": at for call in event.calls}
            case "tool_result":
                self._times[f"result {event.call_id}"] = at
            case "user_steered":
                self.steers[event.content] = at
            case "done":
                self.done = event


class Assembly:
    """The log as it grows."""

    def __init__(self, created: Created, created_at: datetime) -> None:
        self.skipped: list[Skipped] = []
        self.guests: set[str] = set()
        self.missing: list[str] = []
        self.unanswered = self.timed = self.untimed = 0
        self._steps = [Step(1, created_at, created)]
        self._now = created_at
        self._run: str | None = None
        self._runs = self._steers = self._boundaries = 0
        self._open: dict[str, ToolCall] = {}
        self._last: Message | None = None
        self._characters = 0

    def add_span(self, found: Sequence[Found], archives: Mapping[str, str]) -> None:
        """Take in messages and boundaries, and the trace behind them."""
        trace = Trace(found)
        for each in found:
            match each.line:
                case Said() as said:
                    self._skip(each.where, *said.remarks)
                    self.guests |= {said.guest} - {""}
                    for message in said.messages:
                        self._add_message(each, message, trace)
                case Boundary() as boundary:
                    self._go_on_to(boundary.at, each.written_at)
                    self._cut(boundary, archives)
                case Event():
                    pass
        if trace.done:
            self._end(trace.done)

    def finish(self, title: str, seconds: float) -> tuple[Step, ...]:
        """Close the last run, which gets the ``seconds`` that all took together, and give the log."""
        self._close()
        for step in reversed(self._steps):
            if isinstance(step.record, RunClosed):
                record = structs.replace(step.record, seconds=seconds)
                self._steps[step.n - 1] = structs.replace(step, record=record)
                break
        if title:
            self._append(Configured(title=title))
        return tuple(self._steps)

    def _add_message(self, found: Found, message: Message, trace: Trace) -> None:
        if isinstance(message, ToolMessage):
            call = self._open.pop(message.call, None)
            if call is None:
                self._skip(found.where, f"it answers a call {message.call!r} that nothing before it makes")
                return
            message = structs.replace(message, name=message.name or call.name)
        else:
            self._answer_open()
        self._go_on_to(trace.time_of(message), found.written_at)
        if isinstance(message, UserMessage):
            message = self._join(message, trace)
        self._open |= {call.id: call for call in tool_calls_of(message)}
        self._append(MessageAdded(self._running(), message))
        self._last = message
        self._characters += len(text_of(message))

    def _join(self, message: UserMessage, trace: Trace) -> UserMessage:
        """Let a person's message begin a run, unless the trace says that it was put into one."""
        text = text_of(message)
        if self._run is not None and text in trace.steers:
            self._steers += 1
            return structs.replace(message, steer=f"{self._run}.s{self._steers}")
        self._close()
        return message

    def _cut(self, boundary: Boundary, archives: Mapping[str, str]) -> None:
        self._close()
        self._boundaries += 1
        name = boundary.archive
        summary = archives.get(name) if name else boundary.summary
        if summary is None:
            self.missing.append(name)
            summary = PLACEHOLDER.format(name)
        self._characters = len(summary)
        if summary:
            archive, tokens = name or f"compact-{self._boundaries}", len(summary) // CHARACTERS_PER_TOKEN
            self._append(Compacted(archive, summary, self._steps[-1].n, None, tokens))
        else:
            self._append(Cleared())

    def _running(self) -> str:
        """Tell the run that is going, or begin one."""
        if self._run is None:
            self._runs += 1
            self._steers = 0
            self._run = f"r{self._runs}"
            self._append(RunOpened(self._run))
        return self._run

    def _end(self, done: Event) -> None:
        """Close the run as its trace says."""
        self._answer_open()
        run = self._running()
        if at := read_time(done.ts):
            self._set_time(at)
        usage = _usage(done)
        if usage != Usage():
            tokens = self._characters // CHARACTERS_PER_TOKEN
            self._append(ModelCalled(run, done.model, "reply", usage, tokens, None))
        reason, error = _stop_reason(done.stop_reason)
        self._append(RunClosed(run, reason, 0.0, usage, error))
        self._run = None

    def _close(self) -> None:
        """Close a run that has no trace."""
        is_cut = bool(self._open)
        self._answer_open()
        if self._run is not None:
            is_whole = isinstance(self._last, AssistantMessage) and not is_cut
            self._append(RunClosed(self._run, "end_turn" if is_whole else "interrupted", 0.0, Usage()))
            self._run = None

    def _answer_open(self) -> None:
        """Give each call that has no result one that says so, as a request would have it."""
        for call in self._open.values():
            self.unanswered += 1
            self._append(
                MessageAdded(self._running(), ToolMessage(call.id, call.name, NO_RESULT, "interrupted"))
            )
        self._open = {}

    def _go_on_to(self, told: datetime | None, written_at: datetime) -> None:
        self.timed += told is not None
        self.untimed += told is None
        self._set_time(told or written_at)

    def _set_time(self, at: datetime) -> None:
        # Clocks are set back, and a log's time goes on all the same.
        self._now = max(self._now, at)

    def _append(self, record: Record) -> None:
        self._steps.append(Step(len(self._steps) + 1, self._now, record))

    def _skip(self, where: str, *problems: str) -> None:
        self.skipped += (Skipped(where, problem) for problem in problems)


def assemble(
    meta: Meta,
    found: Sequence[Found],
    archives: Mapping[str, str],
    *,
    created: Created,
    created_at: datetime | None,
    last_write: datetime,
) -> Assembled:
    """Make the log of a session of which ``found`` was found; ``archives`` are summaries by their names.

    Nothing is later than ``last_write``; ``created_at`` null is when the first of it was written.
    """
    found = _capped(found, last_write)
    notes: list[str] = []
    last = next((each.line for each in reversed(found) if isinstance(each.line, Boundary)), None)
    if last and last.archive and last.archive not in archives and meta.summary:
        archives = {**archives, last.archive: meta.summary}
        notes.append(f"the summary of archive {last.archive!r} is the one in the session's meta")
    assembly = Assembly(created, created_at or (found[0].written_at if found else last_write))
    for span in _spans(found):
        assembly.add_span(span, archives)
    steps = assembly.finish(meta.title, meta.uptime_secs)
    return Assembled(steps, tuple(assembly.skipped), (*notes, *_notes(assembly)))


def _capped(found: Sequence[Found], last_write: datetime) -> list[Found]:
    """Let nothing be written later than what follows it was noted: a file that was copied has a late time."""
    capped: list[Found] = []
    for each in reversed(found):
        match each.line:
            case Boundary(at=at):
                told = at
            case Event(ts=ts):
                told = read_time(ts)
            case Said():
                told = None
        last_write = min(last_write, told or last_write)
        capped.append(structs.replace(each, written_at=min(each.written_at, last_write)))
    return capped[::-1]


def _spans(found: Iterable[Found]) -> Iterator[list[Found]]:
    span: list[Found] = []
    for each in found:
        if span and isinstance(span[-1].line, Event) and not isinstance(each.line, Event):
            yield span
            span = []
        span.append(each)
    if span:
        yield span


def _notes(assembly: Assembly) -> Iterator[str]:
    for name in assembly.missing:
        yield f"archive {name!r} was not found, so a placeholder stands for it: give crabtalk's memory along"
    if assembly.guests:
        yield f"replies of guests carry their name in the text: {', '.join(sorted(assembly.guests))}"
    if assembly.unanswered:
        yield f"tool calls without a result, which got one that says so: {assembly.unanswered}"
    yield f"times: {assembly.timed} as crabtalk noted them, {assembly.untimed} from when files were written"


def _usage(done: Event) -> Usage:
    told = done.usage
    if told is None:
        return Usage()
    cached = told.prompt_cache_hit_tokens or 0
    return Usage(told.prompt_tokens, told.completion_tokens, cache_read_tokens=cached)


def _stop_reason(told: str) -> tuple[StopReason, ErrorInfo | None]:
    if told.startswith("error"):
        problem = told.partition(":")[2].strip() or told
        return "error", ErrorInfo(PROVIDER, "unavailable", problem)
    return STOP_REASONS.get(told, "end_turn"), None
