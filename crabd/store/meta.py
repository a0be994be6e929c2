"""What records add up to: a session's meta, and what of its log is needed to go on with it. Pure.

The meta is the sum of a log (``advance``), kept so that a list need not read logs. A backend that finds the
two apart believes the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from functools import reduce
from typing import Protocol, TypeVar

from msgspec import UNSET, Struct, structs

from crabd.events import Budget, Mode, PlanItem, RuleLists, SessionUsage
from crabd.messages import Usage, UserMessage
from crabd.store.record import (
    Answered,
    Asked,
    Claimed,
    Cleared,
    Compacted,
    Configured,
    Created,
    FileChanged,
    FileKept,
    Forked,
    MessageAdded,
    MessageQueued,
    ModelCalled,
    Planned,
    Rewound,
    RunClosed,
    RunOpened,
    Shortened,
    Source,
    Step,
    run_number,
)

# How long a request key is remembered, and how many of a session, or of deletions, are: the newest ones.
# Whoever has had no answer asks again within seconds, or after a night; a key takes a few hundred bytes.
KEY_AGE = timedelta(hours=24)
MAX_KEYS = 256
# Days and models that are told apart in a session's sum; before them days go together. A year of one model.
MAX_SPENT = 366


class Claim(Struct, frozen=True, omit_defaults=True):
    """A request that came with a ``key`` and was given this session, ``created`` for it or there before."""

    key: str
    at: datetime
    topic: str | None = None
    created: bool = False


class Spent(Struct, frozen=True, gc=False, omit_defaults=True):
    """What the calls of one ``model`` on one ``day`` (UTC) came to; ``duration_ms`` as far as it is known."""

    day: date
    model: str
    calls: int
    usage: Usage
    unpriced: int = 0
    estimated: int = 0
    duration_ms: int = 0

    def __add__(self, other: Spent) -> Spent:
        """Add up, on the day of the first."""
        return Spent(
            self.day,
            self.model,
            self.calls + other.calls,
            self.usage + other.usage,
            self.unpriced + other.unpriced,
            self.estimated + other.estimated,
            self.duration_ms + other.duration_ms,
        )


class SessionMeta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a log adds up to. ``open_run`` has no ``RunClosed`` yet; ``queued`` lists messages that wait.

    ``last_run`` is the largest number that a run's id has had.
    """

    id: str
    agent: str
    sender: str
    created_at: datetime
    updated_at: datetime
    steps: int
    topic: str | None = None
    description: str | None = None
    cwd: str | None = None
    parent: str | None = None
    forked_from: str | None = None
    title: str = ""
    model: str | None = None
    thinking: bool | None = None
    system_prompt: str | None = None
    auto_compact: bool | None = None
    paused: bool = False
    message_count: int = 0
    runs: int = 0
    archives: int = 0
    last_run: int = 0
    open_run: str | None = None
    queued: tuple[str, ...] = ()
    last_run_at: datetime | None = None
    active_seconds: float = 0.0
    usage: SessionUsage = SessionUsage()
    source: Source | None = None
    claims: tuple[Claim, ...] = ()
    budget: Budget = Budget()
    mode: Mode | None = None
    permissions: RuleLists = RuleLists()
    spent: tuple[Spent, ...] = ()
    plan: tuple[PlanItem, ...] = ()


class Deletion(Struct, frozen=True, omit_defaults=True):
    """A session that is gone, and the keys of what asked for it: its deletion, and its ``claims`` before."""

    session: str
    at: datetime
    request_key: str | None = None
    claims: tuple[str, ...] = ()


class Tail(Struct, frozen=True):
    """The part of a log that is needed to go on with it: the steps from ``first`` on, and the step ``goal``.

    It has what the model still sees, and all that belongs to a run that is open or to messages that wait.
    """

    first: int
    goal: int | None = None


def begin_meta(step: Step) -> SessionMeta:
    """Start the sum with a log's first step.

    Raises:
      ValueError: the step is no ``Created``.
    """
    first = step.record
    if not isinstance(first, Created):
        raise ValueError(f"step {step.n} is {type(first).__name__}, not Created")
    return SessionMeta(
        id=first.session,
        agent=first.agent,
        sender=first.sender,
        topic=first.topic,
        description=first.description,
        cwd=first.cwd,
        parent=first.parent,
        source=first.source,
        created_at=step.at,
        updated_at=step.at,
        steps=step.n,
        claims=(Claim(first.request_key, step.at, first.topic, created=True),) if first.request_key else (),
    )


def advance(meta: SessionMeta, step: Step) -> SessionMeta:
    """Add one step to the sum."""
    meta = structs.replace(meta, steps=step.n, updated_at=step.at)
    if isinstance(step.record, MessageQueued | RunOpened | RunClosed):
        meta = structs.replace(meta, last_run=max(meta.last_run, run_number(step.record.run)))
    match step.record:
        case MessageQueued() as waiting:
            return structs.replace(meta, queued=(*meta.queued, waiting.id))
        case MessageAdded(message=message):
            steer = message.steer if isinstance(message, UserMessage) else ""
            meta = _without_queued(meta, steer)
            return structs.replace(meta, message_count=meta.message_count + 1)
        case RunOpened(run=run):
            meta = _without_queued(meta, run)
            return structs.replace(meta, runs=meta.runs + 1, open_run=run, last_run_at=step.at)
        case RunClosed(run=run, seconds=seconds):
            meta = _without_queued(meta, run)
            still_open = None if meta.open_run == run else meta.open_run
            active = meta.active_seconds + seconds
            return structs.replace(meta, open_run=still_open, active_seconds=active)
        case ModelCalled() as call:
            spent = _add_spent(meta.spent, _spent_by(call, step.at.date()))
            return structs.replace(meta, usage=_add_call(meta.usage, call), spent=spent)
        case Compacted(context_tokens=tokens):
            usage = structs.replace(meta.usage, context_tokens=tokens)
            return structs.replace(meta, archives=meta.archives + 1, usage=usage)
        case Shortened(context_tokens=tokens):
            return structs.replace(meta, usage=structs.replace(meta.usage, context_tokens=tokens))
        case Rewound(context_tokens=tokens):
            # What was planned may be what was taken back.
            usage = structs.replace(meta.usage, context_tokens=tokens)
            return structs.replace(meta, usage=usage, plan=())
        case Planned(plan=plan):
            return structs.replace(meta, plan=plan)
        case Forked(session=session):
            return structs.replace(meta, forked_from=session)
        case Cleared():
            return structs.replace(meta, usage=structs.replace(meta.usage, context_tokens=0), plan=())
        case Configured() as change:
            return structs.replace(meta, **_set_fields(change))
        case Claimed(request_key=key, topic=topic):
            claims = (*meta.claims, Claim(key, step.at, topic))
            return structs.replace(meta, claims=still_known(claims, step.at))
        case Answered(decision="allow_session", rules=rules):
            allow = tuple(dict.fromkeys((*meta.permissions.allow, *rules)))
            return structs.replace(meta, permissions=structs.replace(meta.permissions, allow=allow))
        case Created() | Asked() | Answered() | FileKept() | FileChanged():
            return meta


def add_up(steps: Sequence[Step]) -> SessionMeta:
    """Sum up a whole log.

    Raises:
      ValueError: as ``begin_meta``.
    """
    return reduce(advance, steps[1:], begin_meta(steps[0]))


def tail_of(steps: Iterable[Step], meta: SessionMeta) -> Tail:
    """Find what is needed of a log that adds up to ``meta``; ``steps`` are its last ones, from a tail on."""
    first, pinned, goal = 1, None, None
    for step in steps:
        match step.record:
            case Compacted(upto=upto):
                first, goal = max(first, min(upto + 1, step.n)), step.record.goal
            case Cleared():
                first, goal = step.n, None
            case MessageQueued() as waiting if pinned is None and waiting.id in meta.queued:
                pinned = step.n
            case RunOpened(run=run) if pinned is None and run == meta.open_run:
                pinned = step.n
            case _:
                pass
    return Tail(first if pinned is None else min(first, pinned), goal)


def _without_queued(meta: SessionMeta, taken: str) -> SessionMeta:
    if taken not in meta.queued:
        return meta
    return structs.replace(meta, queued=tuple(id_ for id_ in meta.queued if id_ != taken))


def _add_call(usage: SessionUsage, call: ModelCalled) -> SessionUsage:
    # Only a reply's call has seen the history as the next one will.
    is_reply = call.purpose == "reply"
    return SessionUsage(
        context_tokens=call.context_tokens if is_reply else usage.context_tokens,
        context_window=call.context_window if is_reply else usage.context_window,
        calls=usage.calls + 1,
        total=usage.total + call.usage,
        rounds=usage.rounds + is_reply,
        unpriced=usage.unpriced + (call.usage.cost is None),
        estimated=usage.estimated + call.estimated,
    )


def _spent_by(call: ModelCalled, day: date) -> Spent:
    return Spent(
        day,
        call.model,
        1,
        call.usage,
        unpriced=int(call.usage.cost is None),
        estimated=int(call.estimated),
        duration_ms=call.duration_ms or 0,
    )


def _add_spent(spent: tuple[Spent, ...], more: Spent) -> tuple[Spent, ...]:
    """Add a call's; the newest day is last."""
    for place in range(len(spent) - 1, -1, -1):
        if spent[place].day == more.day and spent[place].model == more.model:
            return (*spent[:place], spent[place] + more, *spent[place + 1 :])
    return (*(spent if len(spent) < MAX_SPENT else _fold(spent)), more)


def _fold(spent: tuple[Spent, ...]) -> tuple[Spent, ...]:
    """Put the oldest days that one model has two of together; all are kept if each is another model's."""
    for place, one in enumerate(spent):
        for later in range(place + 1, len(spent)):
            if spent[later].model == one.model:
                return (*spent[:place], *spent[place + 1 : later], spent[later] + one, *spent[later + 1 :])
    return spent


def _set_fields(change: Configured) -> dict[str, object]:
    return {name: value for name, value in structs.asdict(change).items() if value is not UNSET}


class Dated(Protocol):
    """Something that happened once."""

    @property
    def at(self) -> datetime: ...


DatedT = TypeVar("DatedT", bound=Dated)


def still_known(remembered: Sequence[DatedT], now: datetime) -> tuple[DatedT, ...]:
    """Leave out what is older than ``KEY_AGE``, and all but the newest ``MAX_KEYS``; the oldest are first."""
    return tuple(each for each in remembered if now - each.at <= KEY_AGE)[-MAX_KEYS:]


def note_deletion(
    session: str, meta: SessionMeta | None, request_key: str | None, now: datetime
) -> Deletion | None:
    """Make the note of a deletion; null when no key leads to it."""
    claims = tuple(claim.key for claim in still_known(meta.claims, now)) if meta else ()
    return Deletion(session, now, request_key, claims) if request_key or claims else None
