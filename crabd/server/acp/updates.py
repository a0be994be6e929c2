"""From events to updates: what a client is told of a session, each thing once. Pure.

A ``Teller`` remembers what one client was told of the run that is going. So the log, a picture of the run and
its events may be gone through one after the other, and again after a gap: only what is new comes out. It must
not know who listens, nor where steps and events come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crabd import events
from crabd.events import AnyEvent, ErrorInfo, PlanItem, SessionUsage
from crabd.messages import ToolStatus, UserBlock
from crabd.server.acp import schema as acp
from crabd.server.acp.calls import MAX_LIVE, describe_call, describe_result, show
from crabd.server.acp.content import show_block

PLAN_STATUSES: dict[events.PlanStatus, acp.PlanStatus] = {
    "pending": "pending",
    "in_progress": "in_progress",
    "done": "completed",
}
STOPPED = "[stopped before it had finished]"


class Teller:
    """What a client was told of one session, which works in ``cwd``."""

    def __init__(self, cwd: str | None) -> None:
        self.cwd = cwd
        # The first step of the run, from which on the log is gone through again after a gap.
        self.anchor = 1
        self.run = ""
        # The client's own words, runs and steerings, which it shows by itself.
        self.own: set[str] = set()
        self._said: set[str] = set()
        # Characters of text and of thinking in all of the run that were gone through, and that were told.
        self._seen: dict[type[acp.Chunk], int] = {}
        self._told: dict[type[acp.Chunk], int] = {}
        # A message ends where a call, or somebody's word, comes between.
        self._message = 0
        self._is_between = True
        self._calls = _Calls()

    def __repr__(self) -> str:
        return f"<Teller in {self.run or 'no run'}, message {self._message}, {self._calls!r}>"

    def take(self, event: AnyEvent, run: str | None) -> Iterator[acp.Update]:
        """Take an event of the session, of a run or of none."""
        match event:
            case events.RunStarted(content=content, step=step):
                self.begin(run or "", step)
                yield from self.say(self.run, content)
            case events.Steered(steer=steer, content=content):
                yield from self.say(steer, content)
            case events.TextDelta(text=text):
                yield from self.add(acp.AgentChunk, text)
            case events.ThinkingDelta(text=text):
                yield from self.add(acp.ThoughtChunk, text)
            case events.ToolCalled(call=call, name=name, arguments=arguments):
                yield from self.call(call, name, arguments)
            case events.ToolStarted():
                yield from self._calls.start(event)
            case events.ToolOutput(call=call, text=text):
                yield from self._calls.print(call, text)
            case events.ToolResult(call=call, output=output, status=status):
                yield from self.end_call(call, output, status)
            case events.RunEnded(stop_reason=reason, error=error):
                yield from self._end(run or "", reason, error)
            case events.PlanChanged(plan=plan):
                yield tell_plan(plan)
            case events.TitleChanged(title=title):
                yield acp.InfoUpdate(title=title)
            case events.UsageReported(total=total):
                yield from tell_usage(total)
            case _:
                yield from tell_notice(event)

    def begin(self, run: str, step: int) -> None:
        """Begin a run, at a step of the log; one that has begun goes on."""
        if run == self.run:
            return
        self.run, self.anchor = run, step
        self._said.clear()
        self._told = {}
        self._calls = _Calls()
        self.go_back()

    def go_back(self) -> None:
        """Go through the run once more, from its first step."""
        self._seen = {}
        self._message, self._is_between = 0, True
        self._calls.go_back()

    def say(self, id_: str, content: Iterable[UserBlock]) -> Iterator[acp.Update]:
        """Tell what somebody has said, unless that was the client."""
        self._is_between = True
        if id_ in self._said or id_ in self.own:
            return
        self._said.add(id_)
        for block in content:
            yield acp.UserChunk(content=show_block(block), message_id=f"{id_}.user")

    def add(self, kind: type[acp.AgentChunk] | type[acp.ThoughtChunk], text: str) -> Iterator[acp.Update]:
        """Tell what has not been told yet of the next piece of what the agent says or thinks."""
        if not text:
            return
        if self._is_between:
            self._is_between = False
            self._message += 1
        self._seen[kind] = seen = self._seen.get(kind, 0) + len(text)
        fresh = seen - self._told.get(kind, 0)
        if fresh > 0:
            self._told[kind] = seen
            part = "text" if kind is acp.AgentChunk else "thought"
            id_ = f"{self.run}.{self._message}.{part}"
            yield kind(content=acp.Text(text=text[-fresh:]), message_id=id_)

    def call(self, call: str, name: str, arguments: str) -> Iterator[acp.Update]:
        """Tell that the agent calls a tool."""
        self._is_between = True
        yield from self._calls.open(f"{self.run}/{call}", call, name, arguments, self.cwd)

    def end_call(self, call: str, output: str, status: ToolStatus) -> Iterator[acp.Update]:
        """Tell how a call ended."""
        yield from self._calls.end(call, output, is_ok=status == "ok")

    def id_of_call(self, call: str) -> str | None:
        """Tell what the client knows a call of the run by; null if it knows it not."""
        return self._calls.id_of(call)

    @property
    def open_calls(self) -> tuple[acp.ToolCall, ...]:
        """The calls of the run that have no result yet."""
        return self._calls.still_open

    def _end(self, run: str, reason: str, error: ErrorInfo | None) -> Iterator[acp.Update]:
        if run == self.run:
            yield from self._calls.stop()
        # A prompt's failure is its answer; all else has no other place to be told.
        if error is not None and not (run in self.own and reason == "error"):
            yield acp.AgentChunk(content=acp.Text(text=f"\n\n[{error.message}]"), message_id=f"{run}.end")
        self.own = {id_ for id_ in self.own if id_ != run and not id_.startswith(f"{run}.")}


class _Calls:
    """The calls of a run: a model may use an id again once the call that had it has its result."""

    def __init__(self) -> None:
        # By the model's id: the one that was called last.
        self._latest: dict[str, acp.ToolCall] = {}
        self._told: dict[str, acp.ToolCall] = {}
        self._ended: set[str] = set()
        self._output: dict[str, str] = {}
        # Of what is gone through: how often an id was used, and which calls have their results.
        self._uses: dict[str, int] = {}
        self._closed: set[str] = set()

    def __repr__(self) -> str:
        return f"{len(self._told) - len(self._ended)} calls open"

    def go_back(self) -> None:
        self._latest.clear()
        self._uses.clear()
        self._closed.clear()

    @property
    def still_open(self) -> tuple[acp.ToolCall, ...]:
        return tuple(told for id_, told in self._told.items() if id_ not in self._ended)

    def id_of(self, call: str) -> str | None:
        known = self._latest.get(call)
        return known.tool_call_id if known is not None else None

    def open(self, id_: str, call: str, name: str, arguments: str, cwd: str | None) -> Iterator[acp.Update]:
        if call in self._latest and call not in self._closed:
            return
        self._closed.discard(call)
        self._uses[call] = uses = self._uses.get(call, 0) + 1
        id_ = id_ if uses == 1 else f"{id_}/{uses}"
        told = self._told.get(id_)
        self._latest[call] = told or describe_call(id_, name, arguments, cwd)
        if told is None:
            self._told[id_] = self._latest[call]
            yield self._latest[call]

    def start(self, event: events.ToolStarted) -> Iterator[acp.Update]:
        known = self._latest.get(event.call)
        if known is not None and known.tool_call_id not in self._ended:
            paths = dict.fromkeys((*event.reads, *event.writes))
            yield acp.ToolCallUpdate(
                tool_call_id=known.tool_call_id,
                status="in_progress",
                title=event.title,
                locations=known.locations or tuple(acp.Location(path=path) for path in paths) or None,
            )

    def print(self, call: str, text: str) -> Iterator[acp.Update]:
        known = self._latest.get(call)
        if known is not None and known.tool_call_id not in self._ended:
            output = (self._output.get(known.tool_call_id, "") + text)[-MAX_LIVE:]
            self._output[known.tool_call_id] = output
            yield acp.ToolCallUpdate(tool_call_id=known.tool_call_id, content=show(output))

    def end(self, call: str, output: str, *, is_ok: bool) -> Iterator[acp.Update]:
        known = self._latest.get(call)
        if known is None:
            return
        self._closed.add(call)
        if known.tool_call_id not in self._ended:
            self._ended.add(known.tool_call_id)
            self._output.pop(known.tool_call_id, None)
            yield describe_result(known, output, is_ok=is_ok)

    def stop(self) -> Iterator[acp.Update]:
        """End what has no result, and will not be told of one."""
        for call in tuple(self._latest):
            if call not in self._closed:
                yield from self.end(call, STOPPED, is_ok=False)


def tell_plan(plan: Iterable[PlanItem]) -> acp.Plan:
    """Tell all that the agent means to do."""
    entries = (
        acp.PlanEntry(content=item.text, status=PLAN_STATUSES[item.status], priority="medium")
        for item in plan
    )
    return acp.Plan(entries=tuple(entries))


def tell_usage(usage: SessionUsage) -> Iterator[acp.UsageUpdate]:
    """Tell how full the context is, where it is known how much it holds."""
    if usage.context_window is not None:
        cost = usage.total.cost
        yield acp.UsageUpdate(
            used=usage.context_tokens,
            size=usage.context_window,
            cost=acp.Cost(amount=cost, currency="USD") if cost is not None else None,
        )


def tell_notice(event: AnyEvent) -> Iterator[acp.Notice]:
    """Tell what people should know and no other update says."""
    match event:
        case events.Retrying(problem=problem, seconds=seconds, model=model):
            plan = f"asking {model} instead" if model else f"trying again in {seconds:g} s"
            yield acp.Notice(
                severity="warning", title=f"No answer from the model: {plan}", description=problem
            )
        case events.Compacted(usage_before=before, usage_after=after):
            yield acp.Notice(severity="info", title=f"Older history summarised: {before} → {after} tokens")
        case events.CompactionFailed(error=error):
            yield acp.Notice(severity="warning", title="No summary could be made", description=error.message)
        case events.PersistenceFailed(error=error):
            yield acp.Notice(severity="error", title="Not saved yet", description=error.message)
        case events.ProjectUntrusted(files=files):
            names = "\n".join(file.path for file in files)
            title = "Files of this directory are left out until you trust them: crabctl trust"
            yield acp.Notice(severity="warning", title=title, description=names)
        case _:
            pass
