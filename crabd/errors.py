"""Everything that can go wrong, as one tree: a class is one cause.

    CrabdError
    ├── BadRequest       -32602  well-formed, but means nothing here
    ├── NotFound         -32002  no such session, agent, model
    ├── Refused          -32003  not allowed now
    │   ├── SessionPaused
    │   ├── BudgetSpent
    │   ├── HookBlocked
    │   └── CalledFromTool
    ├── NoRun            -32004  steer or cancel with nothing going
    ├── Conflict         -32005  the session is in a state that forbids it
    │   ├── SessionBusy
    │   ├── QueueFull
    │   ├── NothingToCompact
    │   ├── TrustStale
    │   ├── AlreadyAnswered
    │   └── RequestKeyReused
    ├── ProviderError    -32010  the model server failed
    │   └── ServerLeftAlone
    ├── StoreError       -32020  the session store failed
    ├── ShuttingDown     -32030  the daemon is stopping
    ├── RequestCancelled -32800  somebody stopped what was being waited for
    └── ConfigError              a file a person wrote; never on the wire

An error stores what happened as fields, tells it in ``__str__`` as a sentence that ends with what to do
next, and gives the same facts to programs as ``data``. A failure that is none of these is a bug.

This module imports nothing, so that crabctl can name the codes at the speed of bare Python.
"""

from __future__ import annotations

# ``typing`` costs a client as much as all its other imports; type checkers know this name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Literal

    ProviderErrorKind = Literal[
        "rate_limited", "auth", "context_too_long", "unavailable", "bad_reply", "left_alone"
    ]
    StoreErrorKind = Literal["io", "full", "damaged", "locked"]
    BudgetKind = Literal["budget", "daily_budget"]
    BudgetLimit = Literal["tokens", "cost", "rounds", "seconds"]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
NOT_STARTED = -32000
OVERLOADED = -32001
NOT_FOUND = -32002
REFUSED = -32003
NO_RUN = -32004
CONFLICT = -32005
PROVIDER = -32010
STORE = -32020
SHUTTING_DOWN = -32030
CANCELLED = -32800


class CrabdError(Exception):
    """The root. ``code`` is the JSON-RPC code, ``kind`` the cause in one word."""

    code: ClassVar[int] = INTERNAL_ERROR
    kind: str = "internal"

    @property
    def data(self) -> dict[str, object]:
        """The error's facts for programs: ``kind`` and every field that is set."""
        facts = {name: value for name, value in vars(self).items() if value is not None}
        return {"kind": self.kind, **facts}


class BadRequest(CrabdError):
    """A parameter has the right type and still means nothing here. ``path`` names it, as ``$.field``."""

    code = INVALID_PARAMS
    kind = "invalid_params"

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class NotFound(CrabdError):
    """``what`` (session, agent, model, run) has no member of that ``name``."""

    code = NOT_FOUND
    kind = "not_found"

    def __init__(self, what: str, name: str, *, hint: str | None = None) -> None:
        self.what = what
        self.name = name
        self.hint = hint

    def __str__(self) -> str:
        tail = f": {self.hint}" if self.hint else ""
        return f"there is no {self.what} {self.name!r}{tail}"


class Refused(CrabdError):
    """A rule forbids it."""

    code = REFUSED
    kind = "refused"


class SessionPaused(Refused):
    kind = "paused"

    def __init__(self, session: str) -> None:
        self.session = session

    def __str__(self) -> str:
        return f"session {self.session} is paused: resume it first (session/resume)"


class BudgetSpent(Refused):
    """A session's budget, or what all sessions of its agent may use in a day, has come to its ``limit``.

    What is ``allowed`` and ``spent`` is in tokens, US dollars, model calls or seconds.
    """

    def __init__(
        self, kind: BudgetKind, session: str, agent: str, *, limit: BudgetLimit, allowed: float, spent: float
    ) -> None:
        self.kind = kind
        self.session = session
        self.agent = agent
        self.limit: BudgetLimit = limit
        self.allowed = allowed
        self.spent = spent

    def __str__(self) -> str:
        figures = f"{self.limit}: {self.spent:.10g} of {self.allowed:.10g}"
        if self.kind == "budget":
            return f"the budget of session {self.session} is spent ({figures}): raise it (session/configure)"
        advice = "wait until 00:00 UTC, or raise daily_budget in the agent's file and reload"
        return f"today's budget of agent {self.agent} is spent ({figures}): {advice}"


class HookBlocked(Refused):
    """A hook ``on`` a point of the session has said no, or has failed where nothing may go on without it."""

    kind = "hook_blocked"

    def __init__(self, session: str, on: str, reason: str) -> None:
        self.session = session
        self.on = on
        self.reason = reason

    def __str__(self) -> str:
        return f"a {self.on} hook stops it in session {self.session}: {self.reason}"


class CalledFromTool(Refused):
    """Who connected was started by this daemon, for an agent."""

    kind = "called_from_a_tool"

    def __str__(self) -> str:
        return (
            "a tool may not drive the daemon that runs it, nor may a hook, or what either has started: "
            "ask the person to do it"
        )


class NoRun(CrabdError):
    """Steering or cancelling needs a run that is going."""

    code = NO_RUN
    kind = "no_run"

    def __init__(self, session: str, run: str | None = None) -> None:
        self.session = session
        self.run = run

    def __str__(self) -> str:
        which = f"run {self.run} is not" if self.run else "no run is"
        return f"{which} going in session {self.session}: send a message to start one (session/send)"


class Conflict(CrabdError):
    """What was asked does not go together with the state the session is in."""

    code = CONFLICT
    kind = "conflict"


class SessionBusy(Conflict):
    kind = "busy"

    def __init__(self, session: str, run: str | None, advice: str) -> None:
        self.session = session
        self.run = run
        self.advice = advice

    def __str__(self) -> str:
        what = f"run {self.run}" if self.run else "a compaction"
        return f"session {self.session} is busy with {what}: {self.advice}"


class QueueFull(Conflict):
    kind = "queue_full"

    def __init__(self, session: str, what: str, limit: int) -> None:
        self.session = session
        self.what = what
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"session {self.session} has {self.limit} {self.what} waiting already: wait for one to be taken"
        )


class NothingToCompact(Conflict):
    kind = "nothing_to_compact"

    def __init__(self, session: str) -> None:
        self.session = session

    def __str__(self) -> str:
        return (
            f"session {self.session} has nothing yet that a summary would make shorter: go on with it first"
        )


class TrustStale(Conflict):
    """Files that were to be trusted are not, or no longer, as they were shown."""

    kind = "trust_stale"

    def __init__(self, files: tuple[str, ...]) -> None:
        self.files = list(files)

    def __str__(self) -> str:
        return f"{', '.join(self.files)}: not as it was shown, so nothing is trusted: look again (trust/list)"


class AlreadyAnswered(Conflict):
    """Somebody was quicker: ``by`` says who, ``answer`` what."""

    kind = "already_answered"

    def __init__(self, session: str, call: str, *, by: str, answer: str) -> None:
        self.session = session
        self.call = call
        self.by = by
        self.answer = answer

    def __str__(self) -> str:
        return f"{self.by} was first and said {self.answer} to call {self.call} of session {self.session}"


class RequestKeyReused(Conflict):
    """``method`` is that of the request which came with the key first."""

    kind = "request_key_reused"

    def __init__(self, request_key: str, method: str) -> None:
        self.request_key = request_key
        self.method = method

    def __str__(self) -> str:
        return (
            f"request key {self.request_key!r} belongs to another request ({self.method}): "
            "repeat that one word for word, or take a new key"
        )


class ProviderError(CrabdError):
    """The model server failed, translated once at the providers' wall.

    ``retry_after`` is in seconds, as the server asked for.
    """

    code = PROVIDER

    def __init__(
        self,
        kind: ProviderErrorKind,
        problem: str,
        *,
        provider: str,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.kind = kind
        self.problem = problem
        self.provider = provider
        self.status = status
        self.retry_after = retry_after

    def __str__(self) -> str:
        wait = f" (try again in {self.retry_after:.0f} s)" if self.retry_after else ""
        return f"{self.provider}: {self.problem}{wait}"


class ServerLeftAlone(ProviderError):
    """The server has failed so often that it is not asked for ``retry_after`` seconds, ``until`` a time.

    Without one another request is trying it just now. ``last`` is what it failed with.
    """

    def __init__(
        self, last: str, *, provider: str, failures: int, retry_after: float | None, until: str | None
    ) -> None:
        now = f"is left alone until {until}" if until else "is being tried by another request"
        problem = (
            f"its server has failed {failures} times in a row and {now}: "
            f"wait, or run `crabctl reload` to try at once. The last failure: {last}"
        )
        super().__init__("left_alone", problem, provider=provider, retry_after=retry_after)
        self.last = last
        self.failures = failures
        self.until = until

    def __str__(self) -> str:
        return f"{self.provider}: {self.problem}"


class StoreError(CrabdError):
    """The session store failed. What was being saved is not acknowledged."""

    code = STORE

    def __init__(self, kind: StoreErrorKind, problem: str, *, session: str | None = None) -> None:
        self.kind = kind
        self.problem = problem
        self.session = session

    def __str__(self) -> str:
        where = f" (session {self.session})" if self.session else ""
        return f"{self.problem}{where}"


class ShuttingDown(CrabdError):
    code = SHUTTING_DOWN
    kind = "shutting_down"

    def __str__(self) -> str:
        return "the daemon is stopping: ask again when it is back"


class RequestCancelled(CrabdError):
    code = CANCELLED
    kind = "cancelled"

    def __init__(self, what: str) -> None:
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} was cancelled: nothing was changed"


class ConfigError(CrabdError):
    """A configuration or agent file says something that cannot be meant."""

    kind = "config"

    def __init__(self, file: str, problem: str) -> None:
        self.file = file
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"
