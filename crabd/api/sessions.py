"""Parameters and results of ``session/*``."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from crabd.events import (
    BudgetState,
    ErrorInfo,
    Mode,
    RuleLists,
    SessionInfo,
    SessionState,
    SessionUsage,
    Snapshot,
)
from crabd.messages import SESSION_ID_PATTERN, Message, StopReason, Time, Usage, UserBlock

SessionId: TypeAlias = Annotated[
    str, Meta(pattern=SESSION_ID_PATTERN, max_length=128, examples=["crab_user_1"])
]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
RequestKey: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
Text: TypeAlias = Annotated[str, Meta(min_length=1)]
Content: TypeAlias = Text | Annotated[tuple[UserBlock, ...], Meta(min_length=1)]
AbsolutePath: TypeAlias = Annotated[str, Meta(pattern="^/", max_length=4096)]
Limit: TypeAlias = Annotated[int, Meta(ge=1, le=1000)]
Role: TypeAlias = Literal["user", "assistant", "tool"]


class Params(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of all parameters: a field that is not known is refused by name."""


class OfSession(Params, frozen=True):
    """Names the session."""

    session: SessionId


class GetOrCreate(Params, frozen=True):
    """``topic`` titles a session of its own; ``cwd`` is where the agent works, for a new session.

    Repeated with its key it gets the same session with the same ``created``, also when another one is active
    by now, and not_found when that session is gone. No other request may have this key, in any session. The
    key of an ephemeral session lives no longer than the daemon, as the session does.
    """

    agent: Name
    sender: Name = "user"
    topic: Name | None = None
    description: str | None = None
    ephemeral: bool = False
    cwd: AbsolutePath | None = None
    request_key: RequestKey | None = None


class GotOrCreated(SessionInfo, frozen=True, kw_only=True):
    """The session, and whether it is a new one."""

    created: bool


class Send(OfSession, frozen=True):
    """With ``wait`` the answer comes when the run has ended, and with ``events`` its events before it.

    With a ``guest`` that agent answers in place of the session's own, once and without tools. ``allow`` are
    permission rules for the run that this message starts, and for that alone. Repeated with its key it
    attaches to the run of the first, or gets that run's result.
    """

    content: Content
    request_key: RequestKey | None = None
    when_busy: Literal["queue", "steer", "reject"] = "queue"
    guest: Name | None = None
    tool_choice: Name = "auto"
    allow: Annotated[tuple[Text, ...], Meta(max_length=100)] = ()
    wait: bool = True
    events: bool = True


class Accepted(Struct, frozen=True):
    """No event of the run comes before ``first_seq``: subscribe ``after`` the one before it."""

    run: str
    first_seq: int
    disposition: Literal["started", "queued", "steered", "attached"]


class RunResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``text`` is the final reply's; ``persisted`` says that every record of the run is durable."""

    run: str
    stop_reason: StopReason
    text: str
    usage: Usage
    persisted: bool
    first_seq: int
    last_seq: int
    error: ErrorInfo | None = None


class Steer(OfSession, frozen=True):
    """Repeated with its key it gets the first answer again, also when the run is over."""

    content: Content
    request_key: RequestKey | None = None


class SteerQueued(Struct, frozen=True):
    """``position`` counts from 1; the event ``steered`` says when it joined the run."""

    steer: str
    run: str
    status: Literal["queued"]
    position: int


class Cancel(OfSession, frozen=True):
    """Without ``run``: whatever is going, and only that."""

    run: str | None = None


class Cancelled(Struct, frozen=True):
    """How the run ended; ``run`` is null if it was a compaction."""

    run: str | None
    stop_reason: StopReason


class Compact(OfSession, frozen=True):
    """``instructions`` tells the summary what matters.

    Repeated with its key it waits for the same compaction, or gets its result again; one that failed has
    changed nothing and is tried again.
    """

    instructions: str | None = None
    request_key: RequestKey | None = None


class CompactResult(Struct, frozen=True):
    """``usage_*`` are tokens of context; after is an estimate until the next model call.

    One that was ``cancelled`` has changed nothing: there is no archive, and no summary.
    """

    archive: str
    summary: str
    usage_before: int
    usage_after: int
    stop_reason: Literal["end_turn", "cancelled"] = "end_turn"


class Close(OfSession, frozen=True):
    """Refused while a run is going, unless it is to ``cancel`` that."""

    cancel: bool = False


class Closed(Struct, frozen=True):
    """Says that it is unloaded."""

    closed: bool


class Delete(OfSession, frozen=True):
    """Repeated with its key it is answered as the first was; without one the session is not found.

    No other request may have this key, in any session.
    """

    request_key: RequestKey | None = None


class Deleted(Struct, frozen=True):
    """Says that it is gone."""

    deleted: bool


class List(Params, frozen=True):
    """``text`` is looked for in titles, topics and ids. Newest use first."""

    agent: Name | None = None
    sender: Name | None = None
    topic: Name | None = None
    state: SessionState | None = None
    text: str | None = None
    cursor: str | None = None
    limit: Limit = 50


class SessionPage(Struct, frozen=True):
    """``cursor`` asks for the next page; null is the end."""

    sessions: tuple[SessionInfo, ...]
    cursor: str | None


class Search(Params, frozen=True):
    """Words must all be in one message or, where there is none, in one session; case does not count.

    ``"a phrase"`` is looked for as it stands, ``begin*`` is how a word begins, ``-not`` must not be there.
    The other fields name the sessions to look in; with ``session`` every message is a hit of its own.
    """

    query: Annotated[str, Meta(min_length=1, max_length=1000)]
    agent: Name | None = None
    sender: Name | None = None
    topic: Name | None = None
    session: SessionId | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class Hit(Struct, frozen=True, kw_only=True):
    """A session, and the ``step`` of the message, summary or title that shows best what was found in it.

    ``snippet`` is text in pieces: every second one, from the second on, is what was looked for. ``matches``
    is how many messages of the session have it, as far as they were ranked.
    """

    session: str
    title: str
    step: int
    role: Literal["user", "assistant", "tool", "summary", "title"]
    at: Time
    snippet: tuple[str, ...]
    score: float
    matches: int


class Hits(Struct, frozen=True):
    """The best hits; ``cursor`` asks for more, null is the end.

    While ``indexing`` there may be others, in the ``waiting`` sessions that are not indexed yet.
    """

    hits: tuple[Hit, ...]
    cursor: str | None
    indexing: bool
    waiting: int


class History(OfSession, frozen=True, rename={"from_": "from"}):
    """Messages from step ``from`` on, or the last ``limit`` of them when it is left out."""

    from_: Annotated[int, Meta(ge=1)] | None = None
    limit: Limit = 100
    roles: tuple[Role, ...] | None = None


class HistoryEntry(Struct, frozen=True, omit_defaults=True):
    """A message of the log; the model sees no more of one that is ``rewound``."""

    step: int
    run: str
    at: Time
    message: Message
    rewound: bool = False


class HistoryPage(Struct, frozen=True):
    """``next`` is the step to go on from; null is the end."""

    messages: tuple[HistoryEntry, ...]
    next: int | None


class Subscribe(Params, frozen=True):
    """One session, or ``all``. With ``after`` and its ``epoch`` what was missed is sent again first.

    An ``after`` without its ``epoch`` is taken to be of this life of the daemon.
    """

    session: SessionId | None = None
    all: bool = False
    after: Annotated[int, Meta(ge=0)] | None = None
    epoch: str | None = None


class Subscribed(Struct, frozen=True):
    """The picture as of ``seq``. ``replay`` is ``partial`` when something before ``seq`` was missed for good.

    Right behind it comes what waits for a person, told once more as it was told, with the ``seq`` it had:
    ``confirmation_requested`` and ``question_asked``. Then, with ``after``, comes what was missed.
    With ``all`` there is a list of the live sessions in place of the picture, and ``seq`` is 0.
    """

    snapshot: Snapshot | None
    sessions: tuple[SessionInfo, ...]
    epoch: str
    seq: int
    replay: Literal["complete", "partial"]


class Unsubscribe(Params, frozen=True):
    """One session, or ``all``: as it was subscribed."""

    session: SessionId | None = None
    all: bool = False


class Unsubscribed(Struct, frozen=True):
    """Says that no more events come."""

    unsubscribed: bool


class BudgetChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on all that a session uses: input and output tokens, US dollars, model calls, seconds of runs.

    One left out stays as it is; null returns it to the agent's. A call whose price is unknown costs nothing.
    """

    tokens: Annotated[int, Meta(ge=1)] | None | UnsetType = UNSET
    cost: Annotated[float, Meta(gt=0)] | None | UnsetType = UNSET
    rounds: Annotated[int, Meta(ge=1)] | None | UnsetType = UNSET
    seconds: Annotated[float, Meta(gt=0)] | None | UnsetType = UNSET


class Configure(OfSession, frozen=True):
    """A field left out stays as it is; null returns it to the agent's or the daemon's default.

    ``auto_compact`` false keeps a long history as it is until it is compacted on request, or does not fit.
    ``mode`` is what may be done without asking; ``permissions`` take the place of the session's own rules.
    """

    title: Annotated[str, Meta(max_length=200)] | UnsetType = UNSET
    model: Name | None | UnsetType = UNSET
    thinking: bool | None | UnsetType = UNSET
    system_prompt: str | None | UnsetType = UNSET
    cwd: AbsolutePath | None | UnsetType = UNSET
    auto_compact: bool | None | UnsetType = UNSET
    budget: BudgetChange | None | UnsetType = UNSET
    mode: Mode | None | UnsetType = UNSET
    permissions: RuleLists | None | UnsetType = UNSET


class UsageOf(Params, frozen=True):
    """Of one ``session``, or of all that are stored and that the other fields name; ``by`` shares it out."""

    session: SessionId | None = None
    agent: Name | None = None
    sender: Name | None = None
    topic: Name | None = None
    by: Literal["agent", "day", "model"] | None = None


class UsageShare(Struct, frozen=True, kw_only=True):
    """What was used under one ``key``: an agent, a day (UTC, as 2026-01-31) or a model.

    The cost of ``unpriced`` calls is unknown and not in that of ``usage``; the tokens of ``estimated`` ones
    were not told. ``duration_ms`` is the time that models took.
    """

    key: str
    sessions: int
    calls: int
    usage: Usage
    unpriced: int
    estimated: int
    duration_ms: int


class UsageResult(Struct, frozen=True):
    """``session`` is null where it is of several; then there is no context, which is that of one session.

    ``budget`` is null when nothing limits the session. Days come in their order, other shares the dearest
    first.
    """

    session: str | None
    usage: SessionUsage
    runs: int
    active_seconds: float
    sessions: int
    shares: tuple[UsageShare, ...]
    budget: BudgetState | None = None
