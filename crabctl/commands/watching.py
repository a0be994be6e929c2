"""Commands that watch a session: ``attach`` to the end of its run, ``log -f`` for as long as one likes."""

from __future__ import annotations

import sys

from crabctl.commands.target import find, named, note, reach
from crabctl.conversation import history, written
from crabctl.follow import Follower
from crabctl.render import as_json
from crabctl.screen import Screen, ending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crabctl.arguments import Args
    from crabctl.asking import Asker
    from crabctl.client import Link

NOTHING: dict[str, list[object]] = {"content": []}


def attach(args: Args) -> int:
    """Watch the run that is going to its end; with none, show the last reply."""
    name = named(args)
    is_json = args.has("json")
    screen = Screen(sys.stdout, sys.stderr)
    with reach(args) as link:
        follower = Follower(link, find(link, args, name))
        run, queue = follower.snapshot["run"], follower.snapshot["queue"]
        if is_json:
            print(as_json(follower.snapshot), flush=True)
        elif run is not None:
            screen.picture(run)
        if run is None and not queue:
            return 0 if is_json else _last_reply(link, follower.session, screen)
        asker = None if is_json else _find_asker(link, screen)
        if asker is not None:
            for asked in (*follower.snapshot["confirmations"], *follower.snapshot["questions"]):
                asker.add(asked)
        for event in follower.events():
            if asker is None or not asker.shows(event):
                _show(screen, event, is_json=is_json)
            if asker is not None:
                asker.take(event)
            # A message that waited and was withdrawn ends a run too, but not the one that is watched.
            if event["type"] == "run_ended" and (run is None or event["run"] == run["run"]):
                screen.end_line()
                return _tell_ending(event, is_json=is_json)
            if event["type"] == "session_closed":
                return 1
    raise AssertionError("events go on until the link ends, which raises")


def log_on(args: Args, name: str | None, first: int | None, count: int | None) -> int:
    """Read the conversation, and go on with what is added to it until the session is closed."""
    is_json = args.has("json")
    screen = Screen(sys.stdout, sys.stdout)
    # The past comes over a link of its own, so that no event is lost meanwhile on the other.
    with reach(args) as link, reach(args) as past:
        follower = Follower(link, find(link, args, name))
        info, run = follower.snapshot["info"], follower.snapshot["run"]
        for entry in history(past, follower.session, first=first, count=count):
            # What is newer than the picture comes again as events.
            if entry["step"] <= info["steps"]:
                print(as_json(entry) if is_json else written(entry), flush=True)
        if run is not None and not is_json:
            screen.picture({**run, "reply": NOTHING} if run.get("reply_kept") else run)
        for event in follower.events():
            _show(screen, event, is_json=is_json)
            if not is_json:
                _mark_run(screen, event)
            if event["type"] == "session_closed":
                return 0
    raise AssertionError("events go on until the link ends, which raises")


def _find_asker(link: Link, screen: Screen) -> Asker | None:
    """Find whoever sits at the terminal; those who only look on are asked nothing."""
    # Imported here: reading a log needs none of it.
    from crabctl.asking import Asker, is_somebody_there

    return Asker(link, screen) if is_somebody_there() else None


def _show(screen: Screen, event: dict[str, Any], *, is_json: bool) -> None:
    if is_json:
        print(as_json(event), flush=True)
    else:
        screen.draw(event)


def _mark_run(screen: Screen, event: dict[str, Any]) -> None:
    """Show where a run begins and, if it did not end by itself, how it ended."""
    if event["type"] == "run_started":
        message = {"role": "user", "content": event["content"]}
        print(written({"at": event["at"], "step": event["step"], "message": message}), flush=True)
    elif event["type"] == "run_ended":
        _, problem = ending(event["stop_reason"], event.get("error"))
        if problem:
            screen.note(problem)


def _tell_ending(event: dict[str, Any], *, is_json: bool) -> int:
    code, problem = ending(event["stop_reason"], event.get("error"))
    if problem and not is_json:
        note(problem)
    return code


def _last_reply(link: Link, session: str, screen: Screen) -> int:
    page = link.call("session/history", {"session": session, "limit": 1, "roles": ["assistant"]})
    note(f"no run is going in {session}" + ("; its last reply:" if page["messages"] else ""))
    for entry in page["messages"]:
        screen.picture({"reply": entry["message"], "open_calls": []})
        screen.end_line()
    return 0
