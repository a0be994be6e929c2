"""What a run emits as it goes, and the picture of a session that these events keep up to date.

An event is told once and never changed. Its envelope (session, epoch, seq, run, at) is added where it is
published. The picture and the events share their words, so that a client that attaches late draws the
picture and goes on with the events.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType, field

from crabd.messages import (
    AssistantMessage,
    StopReason,
    TextBlock,
    Time,
    ToolCall,
    ToolMessage,
    ToolStatus,
    Usage,
)

PlanStatus: TypeAlias = Literal["pending", "in_progress", "done"]
PLAN_MARKS: dict[PlanStatus, str] = {"pending": "[ ]", "in_progress": "[>]", "done": "[x]"}
# How a confirmation ends. One that was ``cancelled`` ended with its run.
Resolution: TypeAlias = Literal["allow", "allow_session", "allow_always", "deny", "cancelled"]
SessionState: TypeAlias = Literal["idle", "running", "waiting", "paused", "stored", "damaged"]


ProjectFileKind: TypeAlias = Literal["instructions", "agent", "skill", "hooks", "mcp", "permissions"]
ProjectFileState: TypeAlias = Literal["trusted", "untrusted", "changed", "gone"]

# What a session's agent may do without asking; ``plan`` is ``read-only`` with a plan for its end.
Mode: TypeAlias = Literal["read-only", "ask", "accept-edits", "full", "plan"]
Decision: TypeAlias = Literal["allow", "ask", "deny"]
BudgetKind: TypeAlias = Literal["budget", "daily_budget"]
BudgetLimit: TypeAlias = Literal["tokens", "cost", "rounds", "seconds"]


class SessionUsage(Struct, frozen=True, gc=False):
    """``context_tokens`` is the size of the last model call, not a sum; ``total`` is the sum of all calls.

    Of the ``calls``, ``rounds`` were for a reply, and others for a summary or a title. The cost of
    ``unpriced`` ones is unknown; of ``estimated`` ones the tokens were not told either, but estimated.
    """

    context_tokens: int = 0
    context_window: int | None = None
    calls: int = 0
    total: Usage = Usage()
    rounds: int = 0
    unpriced: int = 0
    estimated: int = 0


class DailyBudget(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How much may be used in a day (UTC): input and output tokens, US dollars; null sets no limit."""

    tokens: Annotated[int, Meta(ge=1)] | None = None
    cost: Annotated[float, Meta(gt=0)] | None = None


class Budget(DailyBudget, frozen=True, kw_only=True):
    """How much a session may use in all: also so many model calls for replies, and so many seconds of runs.

    With no price known of a model call, it counts as nothing in a cost.
    """

    rounds: Annotated[int, Meta(ge=1)] | None = None
    seconds: Annotated[float, Meta(gt=0)] | None = None


class RuleLists(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Permission rules, ``tool`` or ``tool(pattern)``: looked at in the order deny, allow, ask."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()


class SessionInfo(Struct, frozen=True, kw_only=True):
    """A session at a glance. ``seq`` is the number of its newest event in this life of the daemon.

    Without a ``mode`` of its own it has its agent's, or the configuration's.
    """

    id: str
    agent: str
    sender: str
    topic: str | None
    title: str
    state: SessionState
    active: bool
    ephemeral: bool
    cwd: str | None
    model: str | None
    parent: str | None = None
    forked_from: str | None = None
    created_at: Time
    updated_at: Time
    last_run_at: Time | None
    message_count: int
    steps: int
    active_seconds: float
    queue: int
    usage: SessionUsage
    seq: int
    mode: Mode | None = None


class SessionGlance(SessionInfo, frozen=True, kw_only=True):
    """A session in a list or a status bar: also how many calls and questions in it wait for a person."""

    confirmations: int
    questions: int


class Counts(Struct, frozen=True):
    """How many sessions are stored, are live, have something going, and wait for a person."""

    sessions: int
    live: int
    running: int
    waiting: int


class Changes(Struct, frozen=True, tag_field="type", tag="sessions_changed"):
    """The sessions that are new or not as they were told last, and those that are gone for good.

    Each is told as it is now, not step by step.
    """

    epoch: str
    sessions: tuple[SessionGlance, ...]
    removed: tuple[str, ...]
    counts: Counts


class ProjectFile(Struct, frozen=True):
    """A file that a directory brings along for its agents, which count it only as it was when it was trusted.

    ``changed`` is one that was trusted with another ``digest``. ``about`` is what it says it would do, in the
    words of whoever wrote it.
    """

    path: str
    kind: ProjectFileKind
    digest: str
    state: ProjectFileState
    about: str


class ErrorInfo(Struct, frozen=True):
    """A failure told inside a result or an event, with the code it would have as an error."""

    code: int
    kind: str
    message: str


class QueuedMessage(Struct, frozen=True):
    """A message that waits for a busy session; ``run`` is the one that it will have.

    Here and in events words stand for a picture, which the history has.
    """

    run: str
    content: tuple[TextBlock, ...]


class RunPicture(Struct, frozen=True):
    """A run in progress: the reply streamed so far, and the tool calls that have no result yet.

    With ``reply_kept`` the reply is in the history already, as a message with its calls. The ``results`` of
    these will be when all are there.
    """

    run: str
    started_at: Time
    round: int
    reply: AssistantMessage
    open_calls: tuple[ToolCall, ...]
    steers_waiting: int
    reply_kept: bool = False
    results: tuple[ToolMessage, ...] = ()


class Question(Struct, frozen=True, rename={"is_multiple": "multiple"}):
    """What a model asks a person. With ``options`` they may be chosen from; another answer is always free."""

    text: str
    options: tuple[str, ...] = ()
    is_multiple: bool = False


class Waiting(Struct, frozen=True, kw_only=True):
    """A tool call that waits for a person. ``id`` is this waiting's; models may repeat that of a ``call``."""

    id: str
    session: str
    run: str
    call: str
    tool: str
    since: Time


class Confirmation(Waiting, frozen=True, kw_only=True):
    """A call that may be made or not, and all there is to decide by.

    ``arguments`` is JSON, ``diff`` what would change in files, ``rule`` what asked, ``reason`` why.
    ``sandbox`` says what confines a command. ``suggestions`` are the rules that would allow it from then on;
    with none there is no allowing it for more than this time.
    """

    title: str
    arguments: str
    command: str | None
    diff: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    url: str | None
    cwd: str | None
    rule: str
    reason: str
    sandbox: str
    suggestions: tuple[str, ...]


class PendingQuestion(Waiting, frozen=True, kw_only=True):
    """A call that goes on with a person's answers."""

    questions: tuple[Question, ...]


class PlanItem(Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that an agent means to do."""

    text: str
    status: PlanStatus = "pending"


def write_plan(plan: Iterable[PlanItem]) -> str:
    """Write a plan as a model reads it, an item in a line; empty if there is none."""
    return "\n".join(f"{PLAN_MARKS[item.status]} {item.text}" for item in plan)


class BudgetState(Struct, frozen=True):
    """What a session may use, by its own settings and its agent's definition, and what it has used.

    The cost of ``unpriced`` calls is unknown, and no limit on ``cost`` can count it.
    """

    limits: Budget
    tokens: int
    cost: float | None
    rounds: int
    seconds: float
    unpriced: int


class Snapshot(Struct, frozen=True):
    """A session as it is between two events: ``seq`` of the info is the last event it contains.

    ``budget`` is null when nothing limits the session; ``mode`` is the one in force. ``confirmations`` and
    ``questions`` wait for a person; ``plan`` is what the agent means to do.
    """

    info: SessionInfo
    run: RunPicture | None
    queue: tuple[QueuedMessage, ...]
    budget: BudgetState | None = None
    mode: Mode = "ask"
    confirmations: tuple[Confirmation, ...] = ()
    questions: tuple[PendingQuestion, ...] = ()
    plan: tuple[PlanItem, ...] = ()


class Event(Struct, frozen=True, gc=False, tag_field="type"):
    """The base of all events."""


class RunStarted(Event, frozen=True, tag="run_started"):
    """A message is being answered: with this ``content``, which is ``step`` of the log."""

    content: tuple[TextBlock, ...]
    step: int


class TextStart(Event, frozen=True, tag="text_start"):
    """Text of the reply begins."""


class TextDelta(Event, frozen=True, tag="text_delta"):
    """More of the text, to be put behind what came before."""

    text: str


class TextEnd(Event, frozen=True, tag="text_end"):
    """The text is whole."""


class ThinkingStart(Event, frozen=True, tag="thinking_start"):
    """The model begins to think."""


class ThinkingDelta(Event, frozen=True, tag="thinking_delta"):
    """More of what it thinks, to be put behind what came before."""

    text: str


class ThinkingEnd(Event, frozen=True, tag="thinking_end"):
    """It has thought."""


class ToolCalled(Event, frozen=True, tag="tool_call"):
    """The model asks for a call of the tool ``name``; ``arguments`` is JSON as it wrote it, valid or not."""

    call: str
    name: str
    arguments: str


class ToolStarted(Event, frozen=True, tag="tool_started"):
    """A call that may be made is made now; what it touches is as in a confirmation."""

    call: str
    title: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    command: str | None
    url: str | None


class ToolOutput(Event, frozen=True, tag="tool_output"):
    """What a tool prints while it works."""

    call: str
    text: str


class ToolResult(Event, frozen=True, tag="tool_result"):
    """A call has ended; ``output`` is what the model reads of it."""

    call: str
    name: str
    status: ToolStatus
    output: str
    duration_ms: int


class ConfirmationRequested(Event, frozen=True, tag="confirmation_requested"):
    """A call waits for a person to allow it."""

    confirmation: Confirmation


class ConfirmationResolved(Event, frozen=True, tag="confirmation_resolved"):
    """``by`` names who decided; ``rules`` are those that were added, for the session or always."""

    id: str
    call: str
    decision: Resolution
    by: str
    reason: str
    rules: tuple[str, ...]


class QuestionAsked(Event, frozen=True, tag="question_asked"):
    """A call waits for a person's answers."""

    question: PendingQuestion


class QuestionAnswered(Event, frozen=True, tag="question_answered"):
    """``answers`` are in the questions' order, null when there are none."""

    id: str
    call: str
    answers: tuple[str, ...] | None
    by: str


class PlanChanged(Event, frozen=True, tag="plan_changed"):
    """The agent's whole plan, as it is from here on."""

    plan: tuple[PlanItem, ...]


class Steered(Event, frozen=True, tag="steered"):
    """A steering joined the run; ``steer`` is the id its acknowledgement gave."""

    steer: str
    content: tuple[TextBlock, ...]


class Queued(Event, frozen=True, tag="queued"):
    """A message waits its turn; ``position`` counts from 1."""

    position: int
    content: tuple[TextBlock, ...]


class Compacted(Event, frozen=True, tag="compacted"):
    """From here on the model reads the ``summary`` in place of what was said before."""

    archive: str
    summary: str
    usage_before: int
    usage_after: int


class ResultsShortened(Event, frozen=True, tag="results_shortened"):
    """Of long tool results the model sees head and tail from now on; the log has all of them."""

    usage_before: int
    usage_after: int


class CompactionFailed(Event, frozen=True, tag="compaction_failed"):
    """The run goes on as it is. With ``gives_up`` it is not tried again until the context has grown."""

    error: ErrorInfo
    gives_up: bool


class TitleChanged(Event, frozen=True, tag="title_changed"):
    """The session has another title."""

    title: str


class ProjectUntrusted(Event, frozen=True, tag="project_untrusted"):
    """These files of the session's directory count for nothing until a person trusts them (trust/add)."""

    files: tuple[ProjectFile, ...]


class FailedServer(Struct, frozen=True):
    """A server of tools, and why it is not there, in a sentence that says what to mend."""

    name: str
    problem: str


class ServersFailed(Event, frozen=True, tag="servers_failed"):
    """The run goes on without the tools of these servers (mcp/list), which mcp/reconnect starts anew."""

    servers: tuple[FailedServer, ...]


class UsageReported(Event, frozen=True, tag="usage"):
    """One model call was paid for; ``total`` is what the session has come to with it.

    ``estimated`` are tokens that the server did not tell, as it is when a reply is cut off. Times are in
    milliseconds, that of the first token from the request on.
    """

    model: str
    usage: Usage
    total: SessionUsage
    duration_ms: int | None = None
    first_token_ms: int | None = None
    estimated: bool = False


class Retrying(Event, frozen=True, tag="retrying"):
    """The model gave no answer; in ``seconds`` it is asked again, or, at once, the fallback ``model``."""

    problem: str
    seconds: float
    model: str = ""


class BudgetSpent(Event, frozen=True, tag="budget_spent"):
    """The session's budget, or its agent's of the day, is spent: the run ends.

    What is ``allowed`` and ``spent`` is in tokens, US dollars, model calls or seconds.
    """

    budget: BudgetKind
    limit: BudgetLimit
    allowed: float
    spent: float


class PersistenceFailed(Event, frozen=True, tag="persistence_failed"):
    """Records wait in memory: they are written before anything later is."""

    error: ErrorInfo
    unsaved: int


class RunEnded(Event, frozen=True, tag="run_ended"):
    """The last event of a run. ``persisted`` says whether everything it said is in the store."""

    stop_reason: StopReason
    usage: Usage
    persisted: bool
    error: ErrorInfo | None = None


class SessionChanged(Event, frozen=True, tag="session_changed"):
    """The session's settings or state are other ones; ``info`` has them all."""

    info: SessionInfo


class SessionClosed(Event, frozen=True, tag="session_closed"):
    """The session is no longer live, and sends no more events until it is loaded."""

    reason: Literal["closed", "deleted"]


class Lagged(Event, frozen=True, tag="lagged", rename={"from_": "from"}):
    """This subscriber was too slow for the events ``from`` … ``to``: subscribe again with ``after``."""

    from_: int
    to: int


AnyEvent: TypeAlias = (
    RunStarted
    | TextStart
    | TextDelta
    | TextEnd
    | ThinkingStart
    | ThinkingDelta
    | ThinkingEnd
    | ToolCalled
    | ToolStarted
    | ToolOutput
    | ToolResult
    | ConfirmationRequested
    | ConfirmationResolved
    | QuestionAsked
    | QuestionAnswered
    | PlanChanged
    | Steered
    | Queued
    | Compacted
    | ResultsShortened
    | CompactionFailed
    | TitleChanged
    | ProjectUntrusted
    | ServersFailed
    | Retrying
    | UsageReported
    | BudgetSpent
    | PersistenceFailed
    | RunEnded
    | SessionChanged
    | SessionClosed
    | Lagged
)


class Envelope(Struct, frozen=True, gc=False, omit_defaults=True):
    """What every event carries besides its own fields; on the wire the two are one flat object.

    Deltas that a slow subscriber gets as one stand for the events ``merged_from`` … ``seq``.
    """

    session: str
    epoch: str
    seq: int
    at: Time
    run: str | UnsetType = field(default=UNSET)
    merged_from: int | UnsetType = field(default=UNSET)
