"""Commands about the daemon itself: ``status``, ``start``, ``stop``, ``restart``, ``reload``."""

from __future__ import annotations

import sys

from crabctl import systemd
from crabctl.client import NoDaemon, dial
from crabctl.commands.target import is_asleep, note, reach, where
from crabctl.render import as_json, duration, facts, harmless, local_time, number, plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crabctl.arguments import Args
    from crabctl.client import Link

# What stopping takes beside the grace the runs are given: cancelling them and flushing the store, in seconds.
STOP_MARGIN = 30
# The grace a daemon is configured with is not known here; this is the longest that is waited for it.
STOP_LIMIT = 120


def status(args: Args) -> int:
    """Tell how the daemon is."""
    with reach(args) as link:
        told = link.call("daemon/status", {})
    print(as_json(told) if args.has("json") else facts(_details(told)))
    return 0


def start(args: Args) -> int:
    """Start the daemon; one that runs already is left alone."""
    path = where(args)
    link = None if is_asleep(path) else dial(path)
    return _tell_started(args, link, path)


def stop(args: Args) -> int:
    """Let runs finish, then stop the daemon; answers when it is gone."""
    path = where(args)
    units = systemd.find(path)
    pid = end(args, path)
    # Where the service manager listens, it starts the daemon for whoever connects next.
    is_service = units is not None and units.pid == pid
    if args.has("json"):
        print(as_json({"stopped": pid is not None, "pid": pid, "service": is_service}))
    else:
        again = "; whoever connects next starts it again" if is_service else ""
        print("crabd is not running" if pid is None else f"crabd has stopped (pid {pid}){again}")
    return 0


def restart(args: Args) -> int:
    """Stop the daemon, if it runs, and start it."""
    path = where(args)
    units = systemd.find(path)
    if units is not None and units.pid and args.get("grace") is None:
        # The manager also ends a daemon that hangs. One that does not start says why to those who connect.
        systemd.run("restart", systemd.SERVICE, limit=systemd.JOB_LIMIT)
    else:
        end(args, path)
    return _tell_started(args, None, path)


def reload(args: Args) -> int:
    """Read configuration and agents again; what could not be read is told and left as it was."""
    with reach(args) as link:
        done = link.call("daemon/reload", {})
    if args.has("json"):
        print(as_json(done))
    else:
        print(harmless(f"agents: {', '.join(done['agents'])}"))
        for problem in done["problems"]:
            note(harmless(problem))
    return 1 if done["problems"] else 0


def end(args: Args, path: str) -> int | None:
    """Stop the daemon and wait until its process has ended; returns its pid, or null if there is none."""
    grace = args.number("grace", least=0)
    link = None if is_asleep(path) else dial(path)
    if link is None:
        return None
    with link:
        done = link.call("daemon/shutdown", {} if grace is None else {"grace": grace})
        pid: int = done["pid"]
        if done["runs"] and sys.stderr.isatty():
            note(f"waits for {plural(done['runs'], 'run')} to finish")
        limit = STOP_LIMIT if grace is None else grace + STOP_MARGIN
        if not _wait_ended(pid, limit) or not link.wait_closed(STOP_MARGIN):
            raise NoDaemon(f"crabd (pid {pid}) has been stopping for {limit} s; its log tells why it lingers")
    return pid


def _tell_started(args: Args, link: Link | None, path: str) -> int:
    """Tell about the daemon that runs, after it has been started if there is none."""
    is_new = link is None
    if link is None:
        # Imported here: only a missing daemon needs it.
        from crabctl.spawn import start as spawn

        link = spawn(path)
    with link:
        told = link.call("daemon/status", {})
    if args.has("json"):
        print(as_json({"started": is_new, "pid": told["pid"], "socket": told["socket"]}))
    else:
        print(f"crabd {'has started' if is_new else 'is already running'} (pid {told['pid']})")
    return 0


def _wait_ended(pid: int, limit: float) -> bool:
    """Wait until a process has ended; false if it has not by then. Runs outlive the link to a client."""
    # Imported here: a plain call ends nobody.
    import os
    from select import POLLIN, poll

    if not hasattr(os, "pidfd_open"):
        return True
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        waiting = poll()
        waiting.register(process, POLLIN)
        return bool(waiting.poll(limit * 1000))
    finally:
        os.close(process)


def _details(told: dict[str, Any]) -> list[tuple[str, object]]:
    return [
        ("crabd", f"{told['version']}, pid {told['pid']}, up {duration(told['uptime'])}"),
        ("model", told["model"]["id"]),
        ("because", told["model"]["why"]),
        ("trouble", "\n".join(_trouble(server) for server in told["model_servers"])),
        ("sessions", f"{number(told['sessions'])}, {told['live']} live"),
        ("runs", f"{told['runs']} going"),
        ("clients", told["clients"]),
        ("memory", f"{told['memory'] / 2**20:.0f} MB"),
        ("socket", told["socket"]),
        ("config", told["config"]),
        ("store", f"{told['store']['name']} in {told['store']['path']}"),
        ("search", _search(told["index"])),
        ("sandbox", "\n".join([told["sandbox"]["told"], *told["sandbox"]["problems"]])),
        ("problems", "\n".join([*told["store"]["problems"], *told["problems"]])),
    ]


def _trouble(server: dict[str, Any]) -> str:
    """Tell what is wrong with a model server, and whether it is asked all the same."""
    until = server["until"]
    asked = f"left alone until {local_time(until)}" if until else "asked all the same"
    if server["state"] == "half_open":
        asked = "being tried"
    times = plural(server["failures"], "failure")
    return f"{server['server']}: {times} in a row, {asked}; {server['problem']}"


def _search(index: dict[str, Any]) -> str:
    """Tell what is not as it should be with search, if anything is."""
    state = index["state"]
    told = [f"{plural(index['waiting'], 'session')} to be indexed yet"] if state == "indexing" else []
    problem = index["problem"]
    return "; ".join([*told, *([f"{state}: {problem}" if state == "off" else problem] if problem else [])])
