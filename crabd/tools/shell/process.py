"""Running one command to its end, with its output bounded and nothing of it left behind.

Whoever starts processes for a model, or for a person's hooks, starts them here. It knows no tool, and no
sandbox: it runs the command line that it is given, and a sandbox is a part of that.

Each command runs under a keeper, a process of its own that keeps hold of all that the command starts: see
``keeper``. What it leaves when it is killed itself is found by a mark in the environment.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT

import trio
from msgspec import Struct

from crabd.tools.shell.excerpt import Excerpt

KEEPER = Path(__file__).with_name("keeper.py")
# The variable by which a process is known to be a command's, whatever has become of its ancestors.
MARK = "CRABD_COMMAND"
# A little more than the keeper takes at its slowest; mostly it needs hundredths of a second.
END_SECONDS = 25.0
# One pass over /proc takes milliseconds, and a second pass mostly finds nobody.
SWEEP_SECONDS = 1.0
# How long an output may stay open when all who could write to it should be gone: somebody else has it.
DRAIN_SECONDS = 1.0
CHUNK_BYTES = 1 << 16
# Enough to see how an output began and what it came to, and never much of a machine's memory.
MAX_BYTES = 1 << 20


class Ran(Struct, frozen=True, kw_only=True):
    """How a command ended, and what it wrote.

    ``exit_code`` is negative for the signal that ended it, and null when it was stopped because its time was
    over. Between ``head`` and ``tail`` are ``dropped`` bytes. ``errors`` is what came on stderr, when that
    was kept apart: no more than its beginning.
    """

    exit_code: int | None
    head: bytes
    tail: bytes
    dropped: int
    errors: bytes = b""

    @property
    def timed_out(self) -> bool:
        return self.exit_code is None


async def run_command(
    argv: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    seconds: float,
    stdin: bytes = b"",
    on_output: Callable[[bytes], None] | None = None,
    keep: Callable[[bytes], Awaitable[None]] | None = None,
    max_bytes: int = MAX_BYTES,
    has_own_errors: bool = False,
) -> Ran:
    """Run a command in a session of its own, and give its output when it has ended.

    ``on_output`` gets each piece as it comes, and so does ``keep``, which may take its time: the command
    waits. stdout and stderr are one stream, in order, unless it ``has_own_errors``. When the command ends,
    is cancelled or has run for so many ``seconds``, whatever it has started is ended too: first with
    SIGTERM, a second later with SIGKILL. A daemon that is killed takes its commands with it.

    A program that cannot be run is told as a shell does, by exit code 127 or 126 and a line on stderr.

    Raises:
      OSError: the directory is not there, or no process can be started.
    """
    excerpt, errors = Excerpt(max_bytes), Excerpt(2 * max_bytes)

    async def take(data: bytes) -> None:
        excerpt.feed(data)
        if on_output is not None:
            on_output(data)
        if keep is not None:
            await keep(data)

    async def take_error(data: bytes) -> None:
        errors.feed(data)

    async with (
        _open_kept(argv, cwd, env, bool(stdin), has_own_errors) as kept,
        trio.open_nursery() as streams,
    ):
        process = kept.process
        assert process.stdout is not None
        streams.start_soon(_read, process.stdout, take)
        if process.stderr is not None:
            streams.start_soon(_read, process.stderr, take_error)
        if process.stdin is not None:
            streams.start_soon(_write, process.stdin, stdin)
        with trio.move_on_after(seconds) as limit:
            await process.wait()
        await kept.end()
        streams.cancel_scope.deadline = trio.current_time() + DRAIN_SECONDS
    return Ran(
        exit_code=None if limit.cancelled_caught else process.returncode,
        head=excerpt.head,
        tail=excerpt.tail,
        dropped=excerpt.dropped,
        errors=errors.head,
    )


@asynccontextmanager
async def open_command(
    argv: Sequence[str], *, cwd: str, env: Mapping[str, str]
) -> AsyncGenerator[trio.Process]:
    """Start a command to talk with, as ``run_command`` does; its three streams are the caller's to use.

    With the block whatever it has started is ended, too: within ``END_SECONDS``, cancelled or not.

    Raises:
      OSError: as ``run_command``.
    """
    async with _open_kept(argv, cwd, env, has_input=True, has_own_errors=True) as kept:
        yield kept.process


class _Kept:
    """A command under its keeper."""

    def __init__(self, process: trio.Process, lifeline: int, mark: str) -> None:
        self.process = process
        self._lifeline: int | None = lifeline
        self._mark = mark

    async def end(self) -> None:
        """End the command and all that it started, unless that is done. Bounded in time, and shielded."""
        if self._lifeline is None:
            return
        os.close(self._lifeline)
        self._lifeline = None
        with trio.move_on_after(END_SECONDS, shield=True):
            await self.process.wait()
        if self.process.returncode in (None, -signal.SIGKILL):
            # Perhaps it was the keeper that was killed, and it could not do its work.
            self.process.kill()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(kill_marked, self._mark)
                await self.process.wait()


@asynccontextmanager
async def _open_kept(
    argv: Sequence[str], cwd: str, env: Mapping[str, str], has_input: bool, has_own_errors: bool
) -> AsyncGenerator[_Kept]:
    mark = secrets.token_hex(8)
    end_of_keeper, lifeline = os.pipe()
    try:
        process = await trio.lowlevel.open_process(
            # Without site and what the environment says, so that it starts fast and is nobody else's code.
            [sys.executable, "-I", "-S", str(KEEPER), str(end_of_keeper), "--", *argv],
            cwd=cwd,
            env={**env, MARK: mark},
            stdin=PIPE if has_input else DEVNULL,
            stdout=PIPE,
            stderr=PIPE if has_own_errors else STDOUT,
            start_new_session=True,
            pass_fds=[end_of_keeper],
        )
    except BaseException:
        os.close(lifeline)
        raise
    finally:
        os.close(end_of_keeper)
    kept = _Kept(process, lifeline, mark)
    try:
        yield kept
    finally:
        await kept.end()
        # Shielded, for else a cancelled caller would close the first of them alone. It takes no time.
        with trio.CancelScope(shield=True):
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    await trio.aclose_forcefully(stream)


async def _read(stream: trio.abc.ReceiveStream, take: Callable[[bytes], Awaitable[None]]) -> None:
    async for data in stream:
        await take(bytes(data))


async def _write(stream: trio.abc.SendStream, data: bytes) -> None:
    try:
        async with stream:
            await stream.send_all(data)
    except trio.BrokenResourceError:
        # It did not want to read all of it, which is its own affair.
        pass


def kill_marked(mark: str) -> None:
    """Kill every process with that mark in its environment, until there is none left or a second is over."""
    wanted = f"{MARK}={mark}".encode()
    deadline = time.monotonic() + SWEEP_SECONDS
    looks_without_any = 0
    # Twice, because a program that is just being started has no environment for a moment.
    while looks_without_any < 2 and time.monotonic() < deadline:
        found = [process for process in _processes() if wanted in _environment(process)]
        looks_without_any = 0 if found else looks_without_any + 1
        for process in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)


def _processes() -> list[int]:
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdigit()]


def _environment(process: int) -> list[bytes]:
    """Read what a process was started with; nothing where that may not be seen, or of one that has gone."""
    try:
        return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
