"""Reaching the daemon and the session that a command line means."""

from __future__ import annotations

import os
import sys

from crabctl.arguments import UsageError
from crabctl.client import Link, NoDaemon, RemoteError, dial
from crabd.api.address import socket_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crabctl.arguments import Args

DEFAULT_AGENT = "crab"
DEFAULT_SENDER = "user"
# How far back the active session of an identity is looked for among its sessions, the last used first.
LOOK_BACK = 200


def where(args: Args) -> str:
    """Find the socket's path."""
    return args.get("socket") or socket_path()


def is_asleep(path: str) -> bool:
    """Tell whether a service manager listens there and would start the daemon for whoever connects."""
    # Imported here: whoever may start the daemon need not know.
    from crabctl import systemd

    units = systemd.find(path)
    return units is not None and units.is_asleep


def reach(args: Args) -> Link:
    """Connect to the daemon; start it first if it is not running and may be started.

    Raises:
      NoDaemon: there is none.
    """
    path = where(args)
    if args.has("no-start") and is_asleep(path):
        raise NoDaemon("crabd is not running: crabctl start")
    link = dial(path)
    if link is not None:
        return link
    if args.has("no-start"):
        raise NoDaemon("crabd is not running: crabctl start")
    # Imported here: a plain call finds a daemon and needs none of it.
    from crabctl.spawn import start

    return start(path)


def here(args: Args) -> dict[str, Any]:
    """Name the directory that is meant: that of --cwd, else the one we stand in."""
    try:
        return {"cwd": os.path.abspath(args.get("cwd") or os.getcwd())}  # noqa: PTH100, PTH109  # pathlib costs a tenth of the start-up
    except FileNotFoundError:
        # It is gone; the daemon then chooses.
        return {}


def identity(args: Args) -> dict[str, Any]:
    """Gather who talks to whom, and about what, as ``get_or_create`` and ``list`` name it."""
    who = {
        "agent": args.get("agent") or os.environ.get("CRABD_AGENT") or DEFAULT_AGENT,
        "sender": args.get("sender") or DEFAULT_SENDER,
    }
    topic = args.get("topic")
    return who | {"topic": topic} if topic else who


def request_key(args: Args, session: str | None) -> dict[str, Any]:
    """Gather the request's name, if it was given one, for a session that is named too.

    Raises:
      UsageError: it is not, and the command could mean another session when it is repeated.
    """
    key = args.get("key")
    if not key:
        return {}
    if session is None:
        raise UsageError("--key needs the session's ID: without it the command may mean another next time")
    return {"request_key": key}


def named(args: Args, *, has_text: bool = False) -> str | None:
    """Take the session's id off the words, or from ``-S``; null if neither names one.

    With ``has_text`` other words may follow, and a first word that has the form of an id is one.

    Raises:
      UsageError: two sessions are named, or a word that is not an id stands where one would.
    """
    option = args.get("session")
    if not args.words or (has_text and not is_session_id(args.words[0])):
        return option
    word = args.words.pop(0)
    if not is_session_id(word):
        raise UsageError(f"{word!r} is not a session's id, as crab_user_1 is: crabctl ls lists them")
    if option not in (None, word):
        raise UsageError(f"two sessions: {option} and {word}")
    return word


def find(link: Link, args: Args, name: str | None) -> str:
    """Find the session that is meant: the one named, else the identity's; it is never made here.

    Raises:
      RemoteError: the identity has no session yet.
    """
    if name is not None:
        return name
    who = identity(args)
    sessions = link.call("session/list", who | {"limit": LOOK_BACK})["sessions"]
    if not sessions:
        # Imported here: only this failure needs it.
        from crabd.errors import NOT_FOUND

        topic = f" on the topic {who['topic']!r}" if "topic" in who else ""
        problem = f"{who['sender']} has no session with {who['agent']}{topic}"
        raise RemoteError(NOT_FOUND, problem, {"kind": "not_found", "what": "session", "name": ""})
    active = [session["id"] for session in sessions if session["active"]]
    return str((active or [sessions[0]["id"]])[0])


def is_session_id(word: str) -> bool:
    """Tell whether a word has the form of a session's id."""
    agent, _, rest = word.partition("_")
    sender, _, serial = rest.partition("_")
    slugs = (
        agent and sender and all(char in "abcdefghijklmnopqrstuvwxyz0123456789-" for char in agent + sender)
    )
    return bool(slugs) and serial.isascii() and serial.isdigit() and not serial.startswith("0")


def note(text: str) -> None:
    """Tell the person something that is not the answer."""
    print(f"crabctl: {text}", file=sys.stderr)
