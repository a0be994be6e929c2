"""What every editor's client does with a daemon, and what has to come of it, whoever wrote the client.

A visit is a program in the editor's own language, in ``visits/``. It finds the socket in $XDG_RUNTIME_DIR
and runs in a folder of its own; where it knows several ways to connect, $WAY says which to take. It prints
one JSON object, ``Told``, and does this:

 1. Make itself known, and take a session of its own, whose events it subscribes to.
 2. ``echo Grüße, 🦀``, and wait for the answer.
 3. ``slow 600 50``; at its first word cancel the run, and see what both requests are answered.
 4. ``slow 600 50``; at its first word abandon the request, then cancel the run.
 5. ``slow 40 20``, without waiting; at its third word hang up, connect anew, and go on with what was missed.
 6. On a link of its own speak ACP: prompt for a command, and allow it when the daemon asks.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
import trio
from msgspec import Struct

from tests.e2e.daemon import PATIENCE, Client, Daemon, Home

HERE = Path(__file__).parent
VISITS = HERE / "visits"
MODULES = HERE / "node_modules"
INSTALL = f"run `npm install --no-package-lock` in {HERE}"
TEXT = "Grüße, 🦀"
# The number, type and text of an event.
BriefEvent = tuple[int, str, str]


class Told(Struct, frozen=True, forbid_unknown_fields=True):
    """What a visitor's library has given it.

    ``cancelled`` is what ``session/cancel`` said, ``ended`` how the request ended whose run that was, and
    ``abandoned`` the code of the error that the abandoned one got; null where the library keeps it to itself.
    ``prompted`` is the stop reason of the prompt.
    """

    server: str
    session: str
    text: str
    cancelled: str
    ended: str
    abandoned: int | None
    replay: str
    events: tuple[BriefEvent, ...]
    prompted: str


def needs(*programs: str) -> pytest.MarkDecorator:
    """Mark a test that is skipped where one of these programs is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"there is no {' and no '.join(missing)} here")


def needs_module(package: str) -> pytest.MarkDecorator:
    """Mark a test that is skipped where node, or this package for it, is missing."""
    is_there = shutil.which("node") is not None and (MODULES / package).is_dir()
    return pytest.mark.skipif(not is_there, reason=f"{package} for node is missing: {INSTALL}")


async def run_client(home: Home, *command: str, cwd: Path, **variables: str) -> bytes:
    """Run a client to its end, as a user of whom nothing is known but the home; returns what it printed."""
    environment = {**home.env, "TERM": "dumb", "LANG": "C.UTF-8", **variables}
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            command,
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
    return bytes(done.stdout)


async def visit(daemon: Daemon, *command: str, way: str = "") -> tuple[Told, tuple[BriefEvent, ...]]:
    """Run a visitor; returns what it tells, and the events of its session as one saw them who never left."""
    project = daemon.home.directory / "project"
    project.mkdir()
    witness = await daemon.connect()
    await witness.call("session/subscribe", all=True)
    printed = await run_client(daemon.home, *command, cwd=project, WAY=way)
    told = msgspec.json.decode(printed, type=Told)
    assert (project / "allowed").exists(), "what was allowed has not been done"
    return told, await _events_of(witness, told.session)


def check_visit(told: Told, events: tuple[BriefEvent, ...], *, abandoned: int | None = -32800) -> None:
    """Check that a visitor was told the truth."""
    assert told == Told(
        server="crabd",
        session=told.session,
        text=TEXT,
        cancelled="cancelled",
        ended="cancelled",
        abandoned=abandoned,
        replay="complete",
        events=events,
        prompted="end_turn",
    )


async def _events_of(witness: Client, session: str) -> tuple[BriefEvent, ...]:
    # Once this is answered, everything that was published before has come.
    await witness.call("daemon/ping")
    return tuple(
        (event["seq"], event["type"], event.get("text", ""))
        for event in witness.notifications
        if event["session"] == session
    )
