"""``doctor``: what is wrong, how bad it is, and what to do about it."""

from __future__ import annotations

import json
import os
import sys

from crabctl import systemd
from crabctl.client import NoDaemon, RemoteError, dial
from crabctl.commands.target import is_asleep, where
from crabctl.render import as_json, dim, harmless, plural
from crabd import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crabctl.arguments import Args

# How long a daemon that may hang is asked how it is, in seconds.
ASK_LIMIT = 10.0
# How long it may take to look at everything: ten thousand sessions on a slow disk, in seconds.
LOOK_LIMIT = 1800.0


def doctor(args: Args) -> int:
    """Have everything looked at, by the daemon if one runs, and tell what was found."""
    path = os.path.abspath(where(args))  # noqa: PTH100  # links stay
    repair = args.has("repair")
    daemon, found = _ask_daemon(path)
    found += _look_at_service(path, daemon)
    link = dial(path) if daemon is not None else None
    if link is None:
        told = _look_without_daemon(path, repair=repair)
    else:
        with link:
            told = link.call("daemon/doctor", {"repair": repair}, limit=LOOK_LIMIT)
    told["findings"] = found + told["findings"]
    told["problems"] += sum(finding["grade"] == "problem" for finding in found)
    print(as_json(told) if args.has("json") else _report(told))
    return 1 if told["problems"] else 0


def _ask_daemon(path: str) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Ask the daemon how it is, without starting one; returns what it says, and what to tell of it."""
    if is_asleep(path):
        return None, [_finding("daemon", "ok", path, "none runs; systemd starts it for who connects")]
    try:
        link = dial(path)
        if link is None:
            return None, [_nobody(path)]
        with link:
            status = link.call("daemon/status", {}, limit=ASK_LIMIT)
    except (NoDaemon, RemoteError) as exc:
        if isinstance(exc, RemoteError) and exc.code != errors.NOT_STARTED:
            raise
        advice = "mend what is told here, then crabctl restart"
        return None, [_finding("daemon", "problem", path, str(exc), advice)]
    told = f"{status['version']} runs (pid {status['pid']})"
    return status, [_finding("daemon", "ok", path, told)]


def _nobody(path: str) -> dict[str, Any]:
    if os.path.lexists(path):
        told = "nobody listens at it: a daemon that was killed has left it"
        return _finding("daemon", "notice", path, told, "nothing: the next start replaces it")
    return _finding("daemon", "ok", path, "none runs; crabctl starts it when it is needed")


def _look_at_service(path: str, daemon: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Look at the units, if crabd is a service here."""
    # Imported here: most machines have no units of crabd.
    from crabctl.commands.service import advice_on_state

    units = systemd.find(path)
    if units is None:
        return []
    grade = "problem" if units.is_given_up else "notice"
    found = [
        _finding("service", grade, systemd.SERVICE, "it is not as it should be", advice)
        for advice in advice_on_state(units, path, daemon)
    ]
    return found or [_finding("service", "ok", systemd.SERVICE, "systemd listens for it and starts it")]


def _look_without_daemon(path: str, *, repair: bool) -> dict[str, Any]:
    """Have a crabd that serves nobody look at everything.

    Raises:
      NoDaemon: it could not.
    """
    import subprocess

    from crabctl.spawn import environment

    words = [sys.executable, "-m", "crabd", "--socket", path, "--doctor", *(["--repair"] if repair else [])]
    try:
        done = subprocess.run(  # noqa: S603  # our own module, in our own interpreter
            words,
            env=environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LOOK_LIMIT,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NoDaemon(f"crabd --doctor did not get to its end: {exc}") from exc
    try:
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError as exc:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise NoDaemon(f"crabd --doctor failed: please report it\n{said}") from exc
    return told


def _finding(area: str, grade: str, place: str, told: str, advice: str | None = None) -> dict[str, Any]:
    """Make a finding of our own, in the form of the daemon's."""
    finding = {"area": area, "grade": grade, "kind": area if advice else "ok", "where": place}
    return finding | {"told": told, "advice": advice, "mended": None}


def _report(told: dict[str, Any]) -> str:
    """Lay the findings out for a person, the worst first."""
    order = ["problem", "notice", "ok"]
    worst_first = sorted(told["findings"], key=lambda finding: order.index(finding["grade"]))
    lines = [line for finding in worst_first for line in _lines(finding)]
    notices = sum(finding["grade"] == "notice" and not finding["mended"] for finding in worst_first)
    mended = sum(finding["mended"] is not None for finding in worst_first)
    counts = [(told["problems"], "problem"), (notices, "notice")]
    summary = [plural(count, noun) for count, noun in counts if count]
    summary += [f"{mended} mended"] if mended else []
    return "\n".join([*lines, "", ", ".join(summary) or "all is sound"])


def _lines(finding: dict[str, Any]) -> list[str]:
    word = "mended" if finding["mended"] else finding["grade"]
    head = f"{word:7}  {finding['area']:13}  {finding['where']}"
    if finding["grade"] == "ok":
        return [dim(harmless(f"{head}: {finding['told']}"), sys.stdout)]
    rest = [finding["told"]]
    rest += [f"done: {finding['mended']}"] if finding["mended"] else [f"next: {finding['advice']}"]
    return [
        harmless(line).replace("\n", "\n" + " " * 11) for line in (head, *(" " * 9 + each for each in rest))
    ]
