"""Recovery: the records that close what a crash, or a stop, left open in a log. Pure.

Nothing that was acknowledged is dropped: calls that were running get a result that says so, and messages that
were waiting join the history unanswered, so that the next run reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from crabd.events import ErrorInfo
from crabd.messages import (
    AssistantMessage,
    StopReason,
    ToolCall,
    ToolMessage,
    Usage,
    UserBlock,
    UserMessage,
    tool_calls_of,
)
from crabd.runtime.run import tell_unmade
from crabd.store.base import Partial
from crabd.store.meta import SessionMeta
from crabd.store.record import (
    Answered,
    Asked,
    MessageAdded,
    MessageQueued,
    Record,
    RunClosed,
    RunOpened,
    Step,
)

INTERRUPTED_OUTPUT = "[interrupted: the daemon stopped while this call was running; it may have had effects]"


def close_interrupted(
    meta: SessionMeta, steps: Sequence[Step], partial: Partial | None = None
) -> tuple[Record, ...]:
    """Make the records that close a log whose daemon died; none when nothing is open.

    ``partial`` is what there was of a reply; it counts unless the log has that reply whole.
    """
    records: list[Record] = []
    queued = {q.id: q for step in steps if isinstance(q := step.record, MessageQueued)}
    # Each was recorded for its own client, so their records may stand in another order than they came in.
    waiting = sorted((queued[id_] for id_ in meta.queued), key=_place)
    if meta.open_run is not None:
        run = meta.open_run
        records += [MessageAdded(run, result) for result in _missing_results(steps)]
        if partial is not None and partial.run == run and partial.after >= _last_reply(run, steps):
            reply = AssistantMessage(partial.content, partial=True, agent=_guest_of(run, steps))
            records.append(MessageAdded(run, reply))
        records += [MessageAdded(run, UserMessage(q.content, q.steer)) for q in waiting if q.run == run]
        records.append(RunClosed(run, "interrupted", _seconds_open(run, steps), Usage()))
    never_opened = [message for message in waiting if message.run != meta.open_run]
    for name, group in groupby(never_opened, key=lambda message: message.run):
        records += _leave_run(name, tuple(group))
    return tuple(records)


def answer_calls(steps: Sequence[Step]) -> tuple[Record, ...]:
    """Make results for the calls at a log's end that have none, though their run is closed."""
    for place in range(len(steps) - 1, -1, -1):
        added = steps[place].record
        if isinstance(added, MessageAdded) and not isinstance(added.message, ToolMessage):
            return tuple(MessageAdded(added.run, result) for result in _missing_results(steps[place:]))
    return ()


def leave_unanswered(
    run: str,
    content: tuple[UserBlock, ...],
    request_key: str | None,
    reason: StopReason,
    error: ErrorInfo | None = None,
) -> tuple[Record, ...]:
    """Make the records of a run that ended before it began: its message joins the history."""
    return (
        RunOpened(run, request_key),
        MessageAdded(run, UserMessage(content)),
        RunClosed(run, reason, 0.0, Usage(), error),
    )


def _place(message: MessageQueued) -> tuple[int, int]:
    """Tell the place of a message that waits among all, by its run, and in that by its steering."""
    run, _, steer = message.id.partition(".s")
    return int(run.removeprefix("r")), int(steer or 0)


def _leave_run(run: str, messages: Sequence[MessageQueued]) -> tuple[Record, ...]:
    """Close a run that never began. A word to it may be here without its own message, which never was."""
    key = next((message.request_key for message in messages if not message.steer), None)
    added = [MessageAdded(run, UserMessage(message.content, message.steer)) for message in messages]
    return (RunOpened(run, key), *added, RunClosed(run, "interrupted", 0.0, Usage()))


def _missing_results(steps: Sequence[Step]) -> list[ToolMessage]:
    open_calls: dict[str, ToolCall] = {}
    asked: dict[str, str] = {}
    for step in steps:
        match step.record:
            case MessageAdded(message=AssistantMessage() as message):
                open_calls, asked = {call.id: call for call in tool_calls_of(message)}, {}
            case MessageAdded(message=ToolMessage(call=call)):
                open_calls.pop(call, None)
            case Asked(call=call, text=text):
                asked[call] = text
            case Answered(call=call):
                asked.pop(call, None)
            case _:
                pass
    told = {id_: tell_unmade(asked.get(id_), "interrupted") or INTERRUPTED_OUTPUT for id_ in open_calls}
    return [ToolMessage(id_, call.name, told[id_], "interrupted") for id_, call in open_calls.items()]


def _last_reply(run: str, steps: Sequence[Step]) -> int:
    """Find the step of the run's last whole reply; 0 if there is none."""
    return max(
        (
            step.n
            for step in steps
            if isinstance(added := step.record, MessageAdded)
            and added.run == run
            and isinstance(added.message, AssistantMessage)
        ),
        default=0,
    )


def _guest_of(run: str, steps: Sequence[Step]) -> str:
    return next(
        opened.guest for step in steps if isinstance(opened := step.record, RunOpened) and opened.run == run
    )


def _seconds_open(run: str, steps: Sequence[Step]) -> float:
    opened = next(step.at for step in steps if isinstance(step.record, RunOpened) and step.record.run == run)
    # The wall clock may have been set back meanwhile.
    return max(0.0, (steps[-1].at - opened).total_seconds())
