"""Which errors a method may be answered with, each as it stands on the wire: code, sentence and facts."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from crabd import errors
from crabd.api.scenery import FILE, SESSION, STATE
from crabd.rpc.methods import Method

# In place of names of methods: all of them, those that take a session, and those that may be repeated.
ALL = "*"
WITH_SESSION = "session"
WITH_KEY = "request_key"


class Failure(Struct, frozen=True):
    """An error as an example shows it. ``methods`` are names, or one of the words above."""

    code: int
    message: str
    data: dict[str, object]
    methods: tuple[str, ...]

    def told(self) -> dict[str, object]:
        """Write it as the document has it."""
        return {"code": self.code, "message": self.message, "data": self.data}

    def concerns(self, method: Method[Any, Any]) -> bool:
        """Tell whether a method may be answered with it."""
        fields = {WITH_SESSION, WITH_KEY}.intersection(method.params.__struct_fields__)
        return not fields.union({ALL, method.name}).isdisjoint(self.methods)


def _failing(error: errors.CrabdError, *methods: str) -> Failure:
    return Failure(error.code, str(error), error.data, methods)


FAILURES = {
    "InvalidParams": _failing(errors.BadRequest("$.session", "contains unknown field `sesion`"), ALL),
    "InternalError": Failure(errors.INTERNAL_ERROR, "internal error", {"kind": "internal"}, (ALL,)),
    "Overloaded": Failure(
        errors.OVERLOADED,
        "256 requests are in flight: try again later",
        {"kind": "overloaded", "limit": 256},
        (ALL,),
    ),
    "Abandoned": Failure(errors.CANCELLED, "the request was cancelled", {"kind": "cancelled"}, (ALL,)),
    "CalledFromTool": _failing(errors.CalledFromTool(), ALL),
    "NotFound": _failing(
        errors.NotFound("session", "crab_user_9", hint="session/list tells which there are"),
        WITH_SESSION,
        "session/get_or_create",
    ),
    "ShuttingDown": _failing(
        errors.ShuttingDown(), WITH_SESSION, "session/get_or_create", "session/import", "daemon/prune"
    ),
    "StoreError": _failing(
        errors.StoreError("full", f"the disk of {STATE} is full: make room, then go on", session=SESSION),
        WITH_SESSION,
        "session/get_or_create",
        "session/search",
        "session/import",
        "trust/list",
        "trust/add",
        "trust/remove",
        "permission/set",
        "daemon/prune",
    ),
    "RequestKeyReused": _failing(errors.RequestKeyReused("write-1", "session/send"), WITH_KEY),
    "SessionPaused": _failing(errors.SessionPaused(SESSION), "session/send"),
    "BudgetSpent": _failing(
        errors.BudgetSpent("budget", SESSION, "crab", limit="cost", allowed=2.5, spent=2.51), "session/send"
    ),
    "HookBlocked": _failing(
        errors.HookBlocked(SESSION, "before_compact", "not while the tests run"), "session/compact"
    ),
    "NoRun": _failing(errors.NoRun(SESSION), "session/steer", "session/cancel"),
    "SessionBusy": _failing(
        errors.SessionBusy(SESSION, "r4", "wait for it, or cancel it"),
        "session/send",
        "session/compact",
        "session/close",
        "session/clear",
        "session/rewind",
        "queue/remove",
    ),
    "QueueFull": _failing(errors.QueueFull(SESSION, "messages", 16), "session/send", "session/steer"),
    "NothingToCompact": _failing(errors.NothingToCompact(SESSION), "session/compact"),
    "TrustStale": _failing(errors.TrustStale((FILE,)), "trust/add"),
    "AlreadyAnswered": _failing(
        errors.AlreadyAnswered(SESSION, "call_1", by="crabctl", answer="deny"),
        "confirmation/reply",
        "question/reply",
    ),
    "ProviderError": _failing(
        errors.ProviderError(
            "rate_limited", "too many requests", provider="openai", status=429, retry_after=20.0
        ),
        "session/compact",
    ),
    "ServerLeftAlone": _failing(
        errors.ServerLeftAlone(
            "it answered 503", provider="openai", failures=5, retry_after=30.0, until="09:00:30"
        ),
        "session/compact",
    ),
    "RequestCancelled": _failing(errors.RequestCancelled("the compaction"), "session/compact"),
}


def failures_of(method: Method[Any, Any]) -> list[str]:
    """Name the errors that a method may be answered with."""
    return [name for name, failure in FAILURES.items() if failure.concerns(method)]
