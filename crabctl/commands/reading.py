"""Commands that read sessions and change nothing: ``ls``, ``show``, ``log``."""

from __future__ import annotations

import sys

from crabctl.arguments import UsageError
from crabctl.commands.spending import limits, spent
from crabctl.commands.target import find, named, note, reach
from crabctl.conversation import MAX_PAGE, history, written
from crabctl.render import (
    ago,
    as_json,
    columns,
    facts,
    local_time,
    number,
    plural,
    table,
    text_of,
)
from crabctl.screen import MARKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crabctl.arguments import Args
    from crabctl.client import Link

# What is listed unless more is asked for.
LIST_LENGTH = 50


def ls(args: Args) -> int:
    """List sessions, the last used first."""
    filters = {key: value for key in ("agent", "sender", "topic", "state") if (value := args.get(key))}
    if args.words:
        filters["text"] = args.words[0]
    with reach(args) as link:
        page = _list(link, filters, sys.maxsize if args.has("all") else args.number("limit") or LIST_LENGTH)
    sessions = page["sessions"]
    if args.has("json"):
        print(as_json(page))
    elif sessions:
        rows = [_row(info) for info in sessions]
        header = ["ID", "STATE", "TITLE", "MESSAGES", "LAST USED"]
        print(table(header, rows, width=columns(sys.stdout), elastic=2))
        if page["cursor"]:
            note("there are more: crabctl ls --all")
    else:
        note("no session is like that" if filters else 'no sessions yet: crabctl send "hello" starts one')
    return 0


def show(args: Args) -> int:
    """Tell everything about one session."""
    name = named(args)
    with reach(args) as link:
        snapshot = link.call("session/get", {"session": find(link, args, name)})
    print(as_json(snapshot) if args.has("json") else facts(_details(snapshot)))
    return 0


def log(args: Args) -> int:
    """Read the conversation, and with ``-f`` what is added to it."""
    name = named(args)
    count, first = args.number("limit"), 1 if args.has("all") else args.number("from")
    if first is None and count is not None and count > MAX_PAGE:
        raise UsageError(f"-n {count}: at most {MAX_PAGE}, or --all")
    if args.has("follow"):
        if first is not None and count is not None:
            raise UsageError("-f goes to the end: leave out -n, or --from")
        # Imported here: a log that ends needs none of it.
        from crabctl.commands.watching import log_on

        return log_on(args, name, first, count)
    with reach(args) as link:
        session = find(link, args, name)
        for entry in history(link, session, first=first, count=count):
            print(as_json(entry) if args.has("json") else written(entry))
    return 0


def _list(link: Link, filters: dict[str, Any], wanted: int) -> dict[str, Any]:
    """Gather pages until there are ``wanted`` sessions, or no more."""
    sessions: list[Any] = []
    cursor: str | None = None
    while True:
        params = filters | {"limit": min(wanted - len(sessions), MAX_PAGE)}
        page = link.call("session/list", params | ({"cursor": cursor} if cursor else {}))
        sessions += page["sessions"]
        cursor = page["cursor"]
        if cursor is None or len(sessions) >= wanted:
            return {"sessions": sessions, "cursor": cursor}


def _row(info: dict[str, Any]) -> list[str]:
    title = info["title"] or info["topic"] or ""
    state = info["state"] + ("*" if info["active"] else "")
    return [
        info["id"],
        state,
        title,
        str(info["message_count"]),
        ago(info["last_run_at"] or info["updated_at"]),
    ]


def _asking(asked: dict[str, Any]) -> str:
    if "questions" in asked:
        return f"{asked['id']}  {asked['questions'][0]['text']}"
    return f"{asked['id']}  {asked['tool']}: {asked['command'] or asked['title']}"


def _details(snapshot: dict[str, Any]) -> list[tuple[str, object]]:
    info, run = snapshot["info"], snapshot["run"]
    state = info["state"] + (", the active session of its agent and sender" if info["active"] else "")
    used = {
        "session": info["id"],
        "usage": info["usage"],
        "runs": None,
        "active_seconds": info["active_seconds"],
    }
    return [
        ("session", info["id"]),
        ("title", info["title"]),
        ("topic", info["topic"]),
        ("state", state),
        ("run", run and f"{run['run']}, round {run['round']}, began {ago(run['started_at'])}"),
        (
            "waiting",
            "\n".join(f"{queued['run']}  {text_of(queued['content'])}" for queued in snapshot["queue"]),
        ),
        ("asks", "\n".join(_asking(asked) for asked in (*snapshot["confirmations"], *snapshot["questions"]))),
        ("plan", "\n".join(f"{MARKS[item['status']]} {item['text']}" for item in snapshot["plan"])),
        ("agent", info["agent"]),
        ("sender", info["sender"]),
        ("parent", info["parent"]),
        ("copy of", info.get("forked_from")),
        ("model", info["model"] or "the default"),
        ("directory", info["cwd"]),
        ("mode", snapshot.get("mode")),
        ("stored", "no: it is ephemeral" if info["ephemeral"] else f"{plural(info['steps'], 'step')}"),
        ("messages", number(info["message_count"])),
        *spent(used),
        *limits(snapshot.get("budget")),
        ("created", local_time(info["created_at"])),
        ("last run", info["last_run_at"] and local_time(info["last_run_at"])),
    ]
