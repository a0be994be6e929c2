"""What went wrong, for people and scripts: the sentence, the next step, the exit code. Decides only."""

from __future__ import annotations

from crabctl.arguments import UsageError
from crabctl.client import NoDaemon, RemoteError
from crabctl.render import harmless
from crabd import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

USAGE = 2
NO_DAEMON = 3

EXIT_CODES = {
    errors.INVALID_PARAMS: USAGE,
    errors.METHOD_NOT_FOUND: USAGE,
    errors.NOT_STARTED: NO_DAEMON,
    errors.NOT_FOUND: 4,
    errors.REFUSED: 5,
}

WHERE_LISTED = {"session": "crabctl ls", "agent": "crabctl agents", "model": "crabctl models"}

# By the kind the daemon tells; {…} are the facts it gives with it.
NEXT_STEPS = {
    "no_run": 'crabctl send "…"',
    "paused": "crabctl resume {session}",
    "budget": "crabctl set {session} budget.{limit}=MORE",
    "busy": "crabctl attach {session} to watch, crabctl cancel {session} to stop it",
    "damaged": "crabctl doctor tells what can be kept of it",
    "shutting_down": "crabctl start, once it has stopped",
    "auth": "set the key and crabctl restart, or choose another model: crabctl models",
    "internal": "crabd's log has the details",
}


def describe(exc: UsageError | NoDaemon | RemoteError) -> tuple[int, dict[str, Any], str]:
    """Give a failure's exit code, its error object for scripts and its sentence for people."""
    if isinstance(exc, RemoteError):
        wire = {"code": exc.code, "message": exc.message, "data": exc.data}
        return EXIT_CODES.get(exc.code, 1), wire, harmless(sentence(exc.message, exc.data))
    code, exit_code, kind = (
        (errors.INVALID_PARAMS, USAGE, "usage")
        if isinstance(exc, UsageError)
        else (errors.NOT_STARTED, NO_DAEMON, "no_daemon")
    )
    return exit_code, {"code": code, "message": str(exc), "data": {"kind": kind}}, harmless(str(exc))


def sentence(message: str, data: dict[str, Any]) -> str:
    """Add to the daemon's sentence which command goes on from here, if one does."""
    kind = str(data.get("kind"))
    step = WHERE_LISTED.get(str(data.get("what"))) if kind == "not_found" else NEXT_STEPS.get(kind)
    return f"{message}\n  next: {step.format_map(_Facts(data))}" if step else message


class _Facts(dict[str, object]):
    """Facts the daemon may have left out."""

    def __missing__(self, name: str) -> str:
        return name.upper()
