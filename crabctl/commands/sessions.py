"""Commands that change a session: ``cancel``, ``compact``, ``set``, ``rm`` and the like."""

from __future__ import annotations

import os
import sys

from crabctl.arguments import UsageError
from crabctl.client import RemoteError
from crabctl.commands.target import find, is_session_id, named, note, reach, request_key
from crabctl.render import as_json, harmless, number
from crabctl.screen import CANCELLED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from crabctl.arguments import Args
    from crabctl.client import Link

SWITCH = {"on": True, "true": True, "off": False, "false": False}
LIMITS = ("tokens", "cost", "rounds", "seconds")
SETTINGS = (
    *("title", "model", "thinking", "system_prompt", "cwd", "auto_compact", "mode", "budget"),
    *(f"budget.{name}" for name in LIMITS),
)


def cancel(args: Args) -> int:
    """Stop the run that is going; answers when it has settled."""
    return _act(args, "session/cancel", lambda name, done: f"{name}: run {done['run']} {done['stop_reason']}")


def pause(args: Args) -> int:
    """Keep a session from starting runs."""
    return _act(args, "session/pause", lambda name, _: f"{name} is paused: crabctl resume {name}")


def resume(args: Args) -> int:
    """Let a paused session start runs again."""
    return _act(args, "session/resume", lambda name, info: f"{name} is {info['state']}")


def clear(args: Args) -> int:
    """Start over with an empty history."""
    return _act(
        args, "session/clear", lambda name, _: f"{name} starts over; crabctl log {name} --all has what was"
    )


def close(args: Args) -> int:
    """Unload a session; it stays stored."""
    said = {True: "is closed", False: "was not open"}
    return _act(
        args,
        "session/close",
        lambda name, done: f"{name} {said[done['closed']]}",
        {"cancel": args.has("cancel")},
    )


def compact(args: Args) -> int:
    """Replace old history by a summary, and show it."""
    name = named(args, has_text=True)
    instructions = {"instructions": " ".join(args.words)} if args.words else {}
    params = instructions | request_key(args, name)
    with reach(args) as link:
        session = find(link, args, name)
        done = link.call("session/compact", {"session": session} | params, limit=None)
    is_cancelled = done["stop_reason"] == "cancelled"
    if is_cancelled and not args.has("json"):
        note("the compaction was cancelled: nothing was changed")
    else:
        print(as_json(done) if args.has("json") else harmless(_compacted(session, done)))
    return CANCELLED if is_cancelled else 0


def configure(args: Args) -> int:
    """Change a session's settings."""
    name = named(args, has_text=True)
    if not args.words:
        raise UsageError(f"nothing to set: give KEY=VALUE; the keys are {', '.join(SETTINGS)}")
    changes = dict(_setting(word) for word in args.words)
    told = ", ".join(changes)
    return _on(args, name, "session/configure", lambda name, _: f"{name}: set {told}", _nested(changes))


def rm(args: Args) -> int:
    """Remove a session for good, when the person is sure."""
    name = named(args)
    is_asked = sys.stdin.isatty() and not args.has("yes")
    if not (is_asked or args.has("yes") or name):
        raise UsageError("which session? Give its ID, or -y for the session of the agent, sender and topic")
    key = request_key(args, name)
    with reach(args) as link:
        session = find(link, args, name)
        info = _look_up(link, session, is_repeatable=bool(key)) if is_asked else None
        if info is not None and not _is_sure(session, info):
            note("nothing was removed")
            return 1
        deleted = link.call("session/delete", {"session": session} | key, limit=None)
    print(as_json(deleted) if args.has("json") else f"{session} is gone")
    return 0


def _act(
    args: Args, method: str, tell: Callable[[str, Any], str], params: dict[str, Any] | None = None
) -> int:
    return _on(args, named(args), method, tell, params or {})


def _on(
    args: Args, name: str | None, method: str, tell: Callable[[str, Any], str], params: dict[str, Any]
) -> int:
    """Call a method on the session that is meant, and tell its result; it may take as long as a run."""
    with reach(args) as link:
        session = find(link, args, name)
        result = link.call(method, {"session": session} | params, limit=None)
    print(as_json(result) if args.has("json") else harmless(tell(session, result)))
    return 0


def _compacted(name: str, done: dict[str, Any]) -> str:
    before, after = number(done["usage_before"]), number(done["usage_after"])
    return f"{name}: {before} → {after} tokens of context (archive {done['archive']})\n\n{done['summary']}"


def _setting(word: str) -> tuple[str, object]:
    key, sign, value = word.partition("=")
    if is_session_id(word):
        raise UsageError(f"two sessions, or no value for {word!r}: give KEY=VALUE")
    if not sign or key not in SETTINGS:
        raise UsageError(f"{word!r}: give KEY=VALUE; the keys are {', '.join(SETTINGS)}")
    if key == "title":
        return key, value
    if not value:
        return key, None
    if key.startswith("budget"):
        return key, _limit(key, value)
    if key in ("thinking", "auto_compact"):
        if value not in SWITCH:
            raise UsageError(f"{key}={value}: say on or off")
        return key, SWITCH[value]
    return key, os.path.abspath(value) if key == "cwd" else value  # noqa: PTH100  # pathlib costs a tenth of the start-up


def _limit(key: str, value: str) -> float:
    try:
        amount = float(value.replace("_", ""))
    except ValueError:
        amount = 0.0
    if key == "budget" or not 0 < amount < float("inf"):
        names = ", ".join(f"budget.{name}" for name in LIMITS)
        raise UsageError(f"{key}={value}: give one of {names} a number above 0, or nothing for no limit")
    return amount if amount % 1 else int(amount)


def _nested(changes: dict[str, object]) -> dict[str, object]:
    """Put the limits of a budget into one object."""
    plain = {key: value for key, value in changes.items() if not key.startswith("budget.")}
    limits = {key.removeprefix("budget."): value for key, value in changes.items() if key not in plain}
    return plain | {"budget": limits} if limits else plain


def _look_up(link: Link, session: str, *, is_repeatable: bool) -> dict[str, Any] | None:
    """Get what there is to remove; null if it is gone, maybe by this very command."""
    try:
        info: dict[str, Any] = link.call("session/get", {"session": session})["info"]
    except RemoteError as exc:
        # Imported here: only this failure needs it.
        from crabd.errors import NOT_FOUND

        if exc.code == NOT_FOUND and is_repeatable:
            return None
        raise
    return info


def _is_sure(session: str, info: dict[str, Any]) -> bool:
    what = f"{session} ({info['title'] or info['topic'] or 'untitled'}, {info['message_count']} messages)"
    print(f"Remove {harmless(what)} for good? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
