"""Commands on a session's course, and what it has changed: ``queue``, ``fork``, ``rewind``, ``diff``."""

from __future__ import annotations

import sys

from crabctl.commands.target import find, named, note, reach
from crabctl.render import as_json, columns, fit, harmless, one_line, plural, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crabctl.arguments import Args


def queue(args: Args) -> int:
    """Show the messages that wait for a busy session, or take one out."""
    run = args.get("remove")
    name = named(args)
    with reach(args) as link:
        session = find(link, args, name)
        if run is not None:
            result = link.call("queue/remove", {"session": session, "run": run}, limit=None)
            told = [f"{session}: {run} is taken out"]
        else:
            result = link.call("queue/list", {"session": session})
            told = [_waiting(message) for message in result["messages"]] or [f"{session}: nothing waits"]
    print(as_json(result) if args.has("json") else "\n".join(map(harmless, told)))
    return 0


def fork(args: Args) -> int:
    """Copy a session up to a step, and tell the copy's id."""
    at = args.number("at")
    name = named(args)
    with reach(args) as link:
        session = find(link, args, name)
        params = {"session": session} | ({"at": at} if at is not None else {})
        made = link.call("session/fork", params, limit=None)
    told = f"{made['id']} is a copy of {session} up to step {made['at']}: crabctl send -S {made['id']} …"
    print(as_json(made) if args.has("json") else harmless(told))
    return 0


def rewind(args: Args) -> int:
    """Take messages back, and show what the first of them said; on request restore files."""
    step = args.number("at")
    name = named(args)
    with reach(args) as link:
        session = find(link, args, name)
        params: dict[str, Any] = {"session": session} | ({"step": step} if step is not None else {})
        params |= {"restore_files": args.has("files"), "force": args.has("force")}
        done = link.call("session/rewind", params, limit=None)
    failed = args.has("files") and not all(file["done"] for file in done["files"])
    if args.has("json"):
        print(as_json(done))
        return int(failed)
    if done["messages"]:
        taken = plural(done["messages"], "message")
        print(f"{session}: {taken} taken back; the model sees what came up to step {done['step']}")
    else:
        print(f"{session}: nothing comes after step {done['step']}")
    for file in done["files"]:
        print(harmless(_file(file)))
    if done["files"] and not args.has("files"):
        note(f"these stay as they are: crabctl rewind {session} --at {done['step']} --files restores them")
    if done["messages"] and done["text"]:
        print(f"\n{harmless(done['text'])}")
    return int(failed)


def diff(args: Args) -> int:
    """Show what a session has changed in files."""
    name = named(args)
    with reach(args) as link:
        session = find(link, args, name)
        result = link.call("session/diff", {"session": session}, limit=None)
    if args.has("json"):
        print(as_json(result))
        return 0
    for file in result["files"]:
        if file["problem"]:
            note(harmless(f"{file['path']}: {file['problem']}"))
        else:
            print(harmless(file["diff"]), end="" if file["diff"].endswith("\n") else "\n")
    if result["cut"]:
        note("there is more: it is too long to be shown at once")
    elif not result["files"]:
        note(f"{session}: its tools have left no file different")
    return 0


def _file(file: dict[str, Any]) -> str:
    """Say what was done with a file, or would be."""
    if file["done"]:
        return f"{'removed' if file['action'] == 'remove' else 'restored'} {file['path']}"
    return f"left {file['path']}" + (f" ({file['problem']})" if file["problem"] else "")


def _waiting(message: dict[str, Any]) -> str:
    return fit(f"{message['run']}  {one_line(text_of(message['content']))}", columns(sys.stdout))
