"""Commands that change a session's course: ``queue``, ``fork``, ``rewind``."""

from __future__ import annotations

import sys

from crabctl.commands.target import find, named, reach
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
    """Take messages back, and show what the first of them said."""
    step = args.number("at")
    name = named(args)
    with reach(args) as link:
        session = find(link, args, name)
        params = {"session": session} | ({"step": step} if step is not None else {})
        done = link.call("session/rewind", params, limit=None)
    if args.has("json"):
        print(as_json(done))
    elif done["messages"]:
        taken = plural(done["messages"], "message")
        print(f"{session}: {taken} taken back; the model sees what came up to step {done['step']}")
        if done["text"]:
            print(f"\n{harmless(done['text'])}")
    else:
        print(f"{session}: nothing comes after step {done['step']}")
    return 0


def _waiting(message: dict[str, Any]) -> str:
    return fit(f"{message['run']}  {one_line(text_of(message['content']))}", columns(sys.stdout))
