"""Which sandbox this machine has, found out by running a command in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import structlog
import trio
from structlog.typing import FilteringBoundLogger

from crabd.tools.shell.process import run_command
from crabd.tools.shell.sandbox import Bubblewrap, Landlock, Nothing, Refusal, Sandbox, Walls
from crabd.tools.shell.telling import tell_end
from crabd.tools.shell.terminal import plain_text

# A sandbox is there in hundredths of a second, or something is wrong.
TRY_SECONDS = 10.0
MAX_TOLD = 300
# How long a start waits for that; a thread goes on with what is moved aside by then.
CLEAR_SECONDS = 2.0
# What container engines leave for who asks.
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")

log: FilteringBoundLogger = structlog.get_logger()


async def choose_sandbox(walls: Walls) -> Sandbox:
    """Choose the best sandbox that works here and now, within what the settings say; it tells what does not.

    Takes some hundredths of a second. It is for the start of the daemon alone, for it also removes what the
    commands of an earlier one had in their /tmp, or begins to.
    """
    with trio.move_on_after(CLEAR_SECONDS):
        await trio.to_thread.run_sync(_clear, walls, abandon_on_cancel=True)
    path = walls.environment.get("PATH")
    prlimit = shutil.which("prlimit", path=path)
    if walls.settings.mode == "off":
        return Nothing(walls, prlimit=prlimit)
    problems: list[str] = []
    bubblewrap = shutil.which("bwrap", path=path)
    if bubblewrap is None:
        problems.append("bubblewrap is not installed: install the package bubblewrap")
    else:
        # Older ones, before 0.8, cannot keep commands from making namespaces of their own.
        for is_old in (False, True):
            found = Bubblewrap(walls, bubblewrap, is_old=is_old, prlimit=prlimit)
            problem = await _try(found, walls)
            if problem is None:
                return found
        problems.append(f"bubblewrap does not work here: {problem}")
    problem = await _try(Landlock(walls, prlimit=prlimit), walls)
    if problem is None:
        return Landlock(walls, prlimit=prlimit, problems=problems)
    problems.append(f"Landlock does not work here: {problem}")
    if walls.settings.mode == "require":
        return Refusal(walls, prlimit=prlimit, problems=problems)
    if any(Path(mark).exists() for mark in CONTAINER_MARKS):
        problems.append("this is a container: what confines it is all that confines commands")
    return Nothing(walls, prlimit=prlimit, problems=problems)


def _clear(walls: Walls) -> None:
    try:
        walls.clear_temporary()
    except OSError as exc:
        log.warning("temporary_files_not_cleared", problem=str(exc))


async def _try(sandbox: Sandbox, walls: Walls) -> str | None:
    """Run nothing much in a sandbox; tell what was wrong."""
    try:
        cwd = await trio.to_thread.run_sync(walls.make_temporary, "/")
        argv = await trio.to_thread.run_sync(sandbox.wrap, ("sh", "-c", "exit 0"), cwd)
        ran = await run_command(argv, cwd=cwd, env=sandbox.environment(), seconds=TRY_SECONDS)
    except OSError as exc:
        return str(exc)
    if ran.exit_code == 0:
        return None
    told = " ".join(plain_text(ran.head).split())
    return told[:MAX_TOLD] or tell_end(ran.exit_code, TRY_SECONDS)
