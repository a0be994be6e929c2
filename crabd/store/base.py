"""What survives: the records of a session's log, what they add up to, and the interface of a store.

The log is the only truth. A session's meta is the sum of its records (``advance``), kept so that a list
need not read logs; a backend that finds the two apart believes the log.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeAlias, TypeVar

from msgspec import UNSET, Struct, UnsetType, structs

from crabd.events import ErrorInfo, SessionUsage
from crabd.messages import (
    SESSION_ID_PATTERN,
    AssistantBlock,
    Message,
    StopReason,
    Usage,
    UserBlock,
    UserMessage,
)

# A directory name may have 255 bytes; two slugs of this length and a number stay far below it.
MAX_SLUG_LENGTH = 48
# How long a request key is remembered, and how many of a session, or of deletions, are: the newest ones.
# Whoever has had no answer asks again within seconds, or after a night; a key takes a few hundred bytes.
KEY_AGE = timedelta(hours=24)
MAX_KEYS = 256


class Created(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="created"):
    """The first record of every log: who talks to whom, exactly as they spell themselves.

    ``request_key`` is here and elsewhere a client's name for the request that a record carries out.
    """

    session: str
    agent: str
    sender: str
    topic: str | None = None
    description: str | None = None
    cwd: str | None = None
    parent: str | None = None
    request_key: str | None = None


class Claimed(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="claimed"):
    """A request for the identity's session, of this ``topic`` or of any, was given this one."""

    request_key: str
    topic: str | None = None


class RunOpened(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="run_opened"):
    run: str
    request_key: str | None = None


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


class ModelCalled(Struct, frozen=True, tag_field="type", tag="model_called"):
    """One model call's usage. ``context_tokens`` is what the history now weighs, reply included."""

    run: str
    model: str
    purpose: Literal["reply", "summary"]
    usage: Usage
    context_tokens: int
    context_window: int | None


class RunClosed(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="run_closed"):
    """A run is over. One that was never opened was cancelled while its message waited."""

    run: str
    stop_reason: StopReason
    seconds: float
    usage: Usage
    error: ErrorInfo | None = None


class Compacted(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="compacted"):
    """History up to and including step ``upto`` is replaced by ``summary``, save for the message ``goal``.

    ``goal`` is the step of the first user message, kept word for word; null when there is none.
    """

    archive: str
    summary: str
    upto: int
    goal: int | None
    context_tokens: int
    request_key: str | None = None
    instructions: str | None = None


class Cleared(Struct, frozen=True, tag_field="type", tag="cleared"):
    """The model no longer sees what came before; the log still has it."""


class Configured(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="configured"):
    """Settings changed from here on; an unset field stays as it was, null returns it to its default."""

    title: str | UnsetType = UNSET
    model: str | None | UnsetType = UNSET
    thinking: bool | None | UnsetType = UNSET
    system_prompt: str | None | UnsetType = UNSET
    cwd: str | None | UnsetType = UNSET
    paused: bool | UnsetType = UNSET


Record: TypeAlias = (
    Created
    | Claimed
    | MessageQueued
    | RunOpened
    | MessageAdded
    | ModelCalled
    | RunClosed
    | Compacted
    | Cleared
    | Configured
)


class Step(Struct, frozen=True):
    """One durable record: the ``n``-th of its log, counted from 1."""

    n: int
    at: datetime
    record: Record


class Claim(Struct, frozen=True, omit_defaults=True):
    """A request that came with a ``key`` and was given this session, ``created`` for it or there before."""

    key: str
    at: datetime
    topic: str | None = None
    created: bool = False


class SessionMeta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a log adds up to. ``open_run`` has no ``RunClosed`` yet; ``queued`` lists messages that wait."""

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
    title: str = ""
    model: str | None = None
    thinking: bool | None = None
    system_prompt: str | None = None
    paused: bool = False
    message_count: int = 0
    runs: int = 0
    archives: int = 0
    open_run: str | None = None
    queued: tuple[str, ...] = ()
    last_run_at: datetime | None = None
    active_seconds: float = 0.0
    usage: SessionUsage = SessionUsage()
    claims: tuple[Claim, ...] = ()


class Deletion(Struct, frozen=True, omit_defaults=True):
    """A session that is gone, and the keys of what asked for it: its deletion, and its ``claims`` before."""

    session: str
    at: datetime
    request_key: str | None = None
    claims: tuple[str, ...] = ()


class Damage(Struct, frozen=True):
    """Something a store found broken: where, what, and what it did about it."""

    session: str
    problem: str


class Partial(Struct, frozen=True):
    """What has come of a reply of ``run``; the log's last step was ``after`` when its model was asked."""

    run: str
    after: int
    content: tuple[AssistantBlock, ...]


class Loaded(Struct, frozen=True):
    """A log made ready for writing, with everything in it."""

    log: SessionLog
    steps: tuple[Step, ...]
    partial: Partial | None = None


class SessionLog(Protocol):
    """The open log of one session. There is one at a time; whoever opened it closes it."""

    @property
    def meta(self) -> SessionMeta:
        """What the records acknowledged so far add up to."""
        ...

    @property
    def size(self) -> int:
        """How many bytes the acknowledged records take, about."""
        ...

    async def append(self, records: Sequence[Record]) -> tuple[Step, ...]:
        """Write records, all or none, and return them as numbered steps once they are durable.

        Concurrent calls are served in order. Not cancellable once it has begun: it ends with the disk's
        answer. Not to be called after ``close``.

        Raises:
          StoreError: nothing of it is acknowledged; the log stays as it was and may be tried again.
        """
        ...

    async def keep_partial(self, piece: Partial, *, is_first: bool) -> None:
        """Write a piece of a reply as it comes; ``is_first`` forgets what there was of an earlier reply.

        It is written and not synced: it survives SIGKILL, not a power cut. A closed log takes none.

        Raises:
          StoreError: the piece is not kept; the log is none the worse.
        """
        ...

    async def checkpoint(self) -> None:
        """Write the meta beside the log, for the next start's list. Losing it costs time, not data.

        Raises:
          StoreError: the old meta is still there.
        """
        ...

    async def aclose(self) -> None:
        """Checkpoint and give the files back. Never raises; a second call does nothing."""
        ...


class Store(Protocol):
    """Sessions on some medium. One process holds it at a time."""

    async def open(self) -> tuple[Damage, ...]:
        """Take the store, read every session's meta, and say what was found broken.

        Raises:
          StoreError: ``locked`` when another process holds it, naming the holder; ``io`` otherwise.
        """
        ...

    async def aclose(self) -> None:
        """Give the store back. A second call does nothing."""
        ...

    def metas(self) -> tuple[SessionMeta, ...]:
        """List all sessions, live or not, from memory, in no order."""
        ...

    def meta(self, session: str) -> SessionMeta | None:
        """Look one session up, from memory."""
        ...

    def damage(self) -> tuple[Damage, ...]:
        """List the sessions that cannot be loaded, and all that was cut or set aside since ``open``."""
        ...

    def is_damaged(self, session: str) -> bool:
        """Tell whether a session was found to be one that cannot be loaded."""
        ...

    async def create(
        self,
        agent: str,
        sender: str,
        *,
        topic: str | None = None,
        description: str | None = None,
        cwd: str | None = None,
        parent: str | None = None,
        request_key: str | None = None,
    ) -> Loaded:
        """Make a new session with an id that was never used before; it is durable on return.

        Raises:
          StoreError: there is no new session.
        """
        ...

    async def load(self, session: str) -> Loaded:
        """Open a stored session's log and read all of it.

        Raises:
          NotFound: no session of that id, or an id outside the grammar.
          StoreError: ``damaged`` when the log cannot be trusted, ``io`` when it cannot be read.
        """
        ...

    async def read(self, session: str, *, after: int = 0) -> tuple[Step, ...]:
        """Read the acknowledged steps that are numbered above ``after``, whoever has the log open.

        Raises:
          NotFound: no session of that id.
          StoreError: as ``load``.
        """
        ...

    def on_commit(self, notify: Callable[[str], None]) -> None:
        """Have ``notify`` called with a session's id after each commit of its log, and after its deletion.

        It is called once the caller of the commit can be answered, and must not block.
        """
        ...

    async def delete(self, session: str, *, request_key: str | None = None) -> bool:
        """Remove a session whose log is closed; false if there is none.

        With a key, or with claims that are still known, it is among the ``deletions`` from the same moment
        on in which it is gone, whatever dies then.

        Raises:
          StoreError: it may be partly removed; the next ``open`` removes the rest.
        """
        ...

    def deletions(self) -> tuple[Deletion, ...]:
        """List the deletions that keys still lead to, from memory, the oldest first."""
        ...


def ignore(_session: str) -> None:
    """Take no note of a commit."""


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


def slug(name: str) -> str:
    """Turn a name into its decoration in a session id: lower-case ASCII, runs of others as one dash.

    Many names share a slug, so it identifies nobody. A name with nothing left, or too much, becomes a hash.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if plain and len(plain) <= MAX_SLUG_LENGTH:
        return plain
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def is_session_id(text: str) -> bool:
    """Tell whether text is in the grammar of session ids, and so cannot leave the sessions root."""
    return re.match(SESSION_ID_PATTERN, text) is not None


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
        created_at=step.at,
        updated_at=step.at,
        steps=step.n,
        claims=(Claim(first.request_key, step.at, first.topic, created=True),) if first.request_key else (),
    )


def advance(meta: SessionMeta, step: Step) -> SessionMeta:
    """Add one step to the sum."""
    meta = structs.replace(meta, steps=step.n, updated_at=step.at)
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
            return structs.replace(meta, usage=_add_call(meta.usage, call))
        case Compacted(context_tokens=tokens):
            usage = structs.replace(meta.usage, context_tokens=tokens)
            return structs.replace(meta, archives=meta.archives + 1, usage=usage)
        case Cleared():
            return structs.replace(meta, usage=structs.replace(meta.usage, context_tokens=0))
        case Configured() as change:
            return structs.replace(meta, **_set_fields(change))
        case Claimed(request_key=key, topic=topic):
            claims = (*meta.claims, Claim(key, step.at, topic))
            return structs.replace(meta, claims=still_known(claims, step.at))
        case Created():
            return meta


def _without_queued(meta: SessionMeta, taken: str) -> SessionMeta:
    if taken not in meta.queued:
        return meta
    return structs.replace(meta, queued=tuple(id_ for id_ in meta.queued if id_ != taken))


def _add_call(usage: SessionUsage, call: ModelCalled) -> SessionUsage:
    return SessionUsage(
        context_tokens=call.context_tokens,
        context_window=call.context_window,
        calls=usage.calls + 1,
        total=usage.total + call.usage,
    )


def _set_fields(change: Configured) -> dict[str, object]:
    return {name: value for name, value in structs.asdict(change).items() if value is not UNSET}
