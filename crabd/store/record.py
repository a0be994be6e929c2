"""What is kept: the records of a session's log, the only truth there is about it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType, structs

from crabd.events import Budget, ErrorInfo, Mode, PlanItem, Resolution, RuleLists
from crabd.messages import Message, StopReason, Usage, UserBlock

# What a model was called for.
Purpose: TypeAlias = Literal["reply", "summary", "title", "guest"]


class Source(Struct, frozen=True):
    """Where a session was before: its ``name`` there, a ``key`` that stays, a ``digest`` of all it had."""

    name: str
    key: str
    digest: str


class Created(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="created"):
    """The first record of every log: who talks to whom, exactly as they spell themselves.

    ``source`` is that of a session which another program began. ``request_key`` is here and elsewhere a
    client's name for the request that a record carries out.
    """

    session: str
    agent: str
    sender: str
    topic: str | None = None
    description: str | None = None
    cwd: str | None = None
    parent: str | None = None
    source: Source | None = None
    request_key: str | None = None


class Claimed(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="claimed"):
    """A request for the identity's session, of this ``topic`` or of any, was given this one."""

    request_key: str
    topic: str | None = None


class RunOpened(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="run_opened"):
    """A run has begun: that of another agent, if it is a ``guest``'s."""

    run: str
    request_key: str | None = None
    guest: str = ""


class MessageQueued(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="queued"):
    """A message was accepted and waits: for its own run, or, with ``steer``, for a boundary of this one.

    It joins the history with the ``MessageAdded`` that has the same run or steer. ``position`` is its place
    in line as it was told, from 1, for a steering with a key; 0 for a message that was sent.
    """

    run: str
    content: tuple[UserBlock, ...]
    steer: str = ""
    request_key: str | None = None
    position: int = 0

    @property
    def id(self) -> str:
        """What the meta's ``queued`` calls it."""
        return self.steer or self.run


class MessageAdded(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="message"):
    """A message joined the history. Key and position are a steering's, which may not have been queued."""

    run: str
    message: Message
    request_key: str | None = None
    position: int = 0


class ModelCalled(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="model_called"):
    """One model call's usage, ``estimated`` if the server did not tell it.

    ``context_tokens`` is what the history weighs after a reply, that included. The times are from the request
    to the end, and to the first piece of the answer.
    """

    run: str
    model: str
    purpose: Purpose
    usage: Usage
    context_tokens: int
    context_window: int | None
    duration_ms: int | None = None
    first_token_ms: int | None = None
    estimated: bool = False


class Asked(Struct, frozen=True, tag_field="type", tag="asked"):
    """A call waits for a person: for leave, or for answers. ``text`` is what is asked, in a few lines."""

    run: str
    call: str
    tool: str
    text: str


class Answered(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="answered"):
    """A person has said something to a call: what was decided, or null where a question was answered.

    ``by`` names who it was. A call that was asked about and has neither this nor a result was never made.
    """

    run: str
    call: str
    decision: Resolution | None
    by: str
    reason: str = ""
    rules: tuple[str, ...] = ()


class Planned(Struct, frozen=True, tag_field="type", tag="planned"):
    """The agent has another plan."""

    run: str
    plan: tuple[PlanItem, ...]


class RunClosed(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="run_closed"):
    """A run is over. One that was never opened was cancelled while its message waited."""

    run: str
    stop_reason: StopReason
    seconds: float
    usage: Usage
    error: ErrorInfo | None = None


class Task(Struct, frozen=True):
    """What a person asked for at ``step``, kept beside a summary because it is not done yet."""

    step: int
    text: str


class Compacted(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="compacted"):
    """History up to and including step ``upto`` is replaced by ``summary``, save for the message ``goal``.

    ``goal`` is the step of the first user message, kept word for word, or as head and tail when it has more
    than ``goal_length`` characters; null when there is none. ``tasks`` are what the open run is about, and
    ``plan`` is the agent's as it was then, in words, unless nothing of it was left to do.
    """

    archive: str
    summary: str
    upto: int
    goal: int | None
    context_tokens: int
    request_key: str | None = None
    instructions: str | None = None
    goal_length: int | None = None
    tasks: tuple[Task, ...] = ()
    plan: str = ""


class Shortened(Struct, frozen=True, tag_field="type", tag="shortened"):
    """Of tool results up to step ``upto`` the model sees at most ``length`` characters, head and tail."""

    upto: int
    length: int
    context_tokens: int


class Rewound(Struct, frozen=True, tag_field="type", tag="rewound"):
    """The model no longer sees what came after ``step`` and before this; the log still has it."""

    step: int
    context_tokens: int


class Forked(Struct, frozen=True, tag_field="type", tag="forked"):
    """What comes before this is a copy of ``session`` up to its ``step``."""

    session: str
    step: int


class Cleared(Struct, frozen=True, tag_field="type", tag="cleared"):
    """The model no longer sees what came before; the log still has it."""


class Configured(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="configured"):
    """Settings changed from here on; an unset field stays as it was, null returns it to its default."""

    title: str | UnsetType = UNSET
    model: str | None | UnsetType = UNSET
    thinking: bool | None | UnsetType = UNSET
    system_prompt: str | None | UnsetType = UNSET
    cwd: str | None | UnsetType = UNSET
    auto_compact: bool | None | UnsetType = UNSET
    paused: bool | UnsetType = UNSET
    budget: Budget | UnsetType = UNSET
    mode: Mode | None | UnsetType = UNSET
    permissions: RuleLists | UnsetType = UNSET


class FileKept(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="file_kept"):
    """A call is about to change a file, whose content ``before``, by its digest, is kept; null is no file.

    Without a run it was no call but a person who had files restored.
    """

    run: str
    call: str
    path: str
    before: str | None
    mode: int | None = None


class FileChanged(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="file_changed"):
    """What a call has left of a file: ``after`` is the digest of its content, null is no file."""

    run: str
    call: str
    path: str
    after: str | None


Record: TypeAlias = (
    Created
    | Claimed
    | MessageQueued
    | RunOpened
    | MessageAdded
    | ModelCalled
    | Asked
    | Answered
    | Planned
    | RunClosed
    | Compacted
    | Shortened
    | Rewound
    | Forked
    | Cleared
    | Configured
    | FileKept
    | FileChanged
)


class Step(Struct, frozen=True):
    """One durable record: the ``n``-th of its log, counted from 1."""

    n: int
    at: datetime
    record: Record


def check_log(steps: Sequence[Step]) -> Created:
    """Make sure that steps are a log, numbered from 1 without a gap and begun by its one ``Created``.

    Raises:
      ValueError: they are not.
    """
    for n, step in enumerate(steps, 1):
        if step.n != n or isinstance(step.record, Created) is not (n == 1):
            raise ValueError(f"step {step.n}, {type(step.record).__name__}, is no step {n} of a log")
    if not steps or not isinstance(steps[0].record, Created):
        raise ValueError("it has no steps")
    return steps[0].record


def rename_log(steps: Sequence[Step], session: str) -> tuple[Step, ...]:
    """Give a log that ``check_log`` has passed another session's id."""
    first = structs.replace(steps[0], record=structs.replace(steps[0].record, session=session))
    return (first, *steps[1:])


def run_number(run: str) -> int:
    """Find the number in a run's id; 0 for one that is not spelled as ours are."""
    found = re.fullmatch(r"r([1-9][0-9]{0,15})", run)
    return int(found[1]) if found else 0
