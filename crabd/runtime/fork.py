"""A fork: the log of a session up to some step, as the log of another one. Pure.

The copy has all that was said, and the settings. It has paid for nothing, and knows no request: what was
spent, which requests were answered and what still waits is the affair of the session it was copied from.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import UNSET, structs

from crabd.messages import ToolMessage, Usage, tool_calls_of
from crabd.runtime.recovery import close_interrupted
from crabd.store.meta import add_up
from crabd.store.record import (
    Claimed,
    Compacted,
    Configured,
    Created,
    FileChanged,
    FileKept,
    Forked,
    MessageAdded,
    MessageQueued,
    ModelCalled,
    Record,
    Rewound,
    RunClosed,
    RunOpened,
    Shortened,
    Step,
)


def fork_log(steps: Sequence[Step], now: datetime, request_key: str | None = None) -> tuple[Step, ...]:
    """Make the log of a fork of the first steps of a log, as far as rounds in them are complete.

    A run that is open there is closed. The first record has the key of the request for it, and the last tells
    what it is a copy of.
    """
    steps = steps[: last_boundary(steps)]
    created = steps[0].record
    assert isinstance(created, Created), "every log begins with it"
    told = max((step.n for step in steps if _is_weight(step.record)), default=0)
    # Where the first steps of the one are in the other.
    places = [0]
    copied: list[Step] = []
    for step in steps:
        if not _is_left_behind(step, told):
            copied.append(Step(len(copied) + 1, step.at, _copy(step.record, places)))
        places.append(len(copied))
    copied[0] = Step(1, now, structs.replace(_begin_anew(created), request_key=request_key))
    ends = (*close_interrupted(add_up(copied), copied), Forked(created.session, steps[-1].n))
    return (*copied, *(Step(n, now, end) for n, end in enumerate(ends, len(copied) + 1)))


def last_boundary(steps: Sequence[Step]) -> int:
    """Count the steps up to the last that parts no call from its result."""
    waiting: set[str] = set()
    count = 0
    for index, step in enumerate(steps, 1):
        if isinstance(step.record, MessageAdded):
            message = step.record.message
            if isinstance(message, ToolMessage):
                waiting.discard(message.call)
            else:
                waiting = {call.id for call in tool_calls_of(message)}
        if not waiting:
            count = index
    return count


def _is_weight(record: Record) -> bool:
    return isinstance(record, ModelCalled) and record.purpose == "reply"


def _is_left_behind(step: Step, told: int) -> bool:
    """Tell whether a record has no place in a copy; of the model's calls the last tells what all weighs."""
    if isinstance(step.record, ModelCalled):
        return step.n != told
    # What was kept of files belongs to the session that has changed them.
    return isinstance(step.record, Claimed | MessageQueued | Forked | FileKept | FileChanged)


def _begin_anew(created: Created) -> Created:
    return structs.replace(created, topic=None, source=None, request_key=None)


def _copy(record: Record, places: Sequence[int]) -> Record:
    match record:
        case Created():
            return _begin_anew(record)
        case RunOpened():
            return structs.replace(record, request_key=None)
        case MessageAdded():
            return structs.replace(record, request_key=None, position=0)
        case ModelCalled():
            return structs.replace(record, usage=Usage())
        case RunClosed():
            return structs.replace(record, usage=Usage(), seconds=0.0)
        case Compacted(upto=upto, goal=goal, tasks=tasks):
            moved = tuple(structs.replace(task, step=places[task.step]) for task in tasks)
            first = None if goal is None else places[goal]
            return structs.replace(record, upto=places[upto], goal=first, tasks=moved, request_key=None)
        case Shortened(upto=upto):
            return structs.replace(record, upto=places[upto])
        case Rewound(step=step):
            return structs.replace(record, step=places[step])
        case Configured():
            return structs.replace(record, paused=UNSET)
        case _:
            return record
