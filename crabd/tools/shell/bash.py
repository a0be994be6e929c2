"""The tool ``bash``: a command line of a shell in the session's directory, as confined as the context has it.

It knows neither rules nor sandboxes: what may run is decided before, and how it is confined is handed in.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeAlias

import trio
from msgspec import Meta

from crabd.tools.artifacts import Output
from crabd.tools.base import (
    BadArguments,
    Confinement,
    Intent,
    PreparedCall,
    Tool,
    ToolContext,
    ToolOutcome,
    ToolSpec,
)
from crabd.tools.shell.jobs import Jobs, TooManyJobs
from crabd.tools.shell.process import Ran, run_command
from crabd.tools.shell.telling import SHOWN_BYTES, add_note, is_kept_from, tell_end, tell_output
from crabd.tools.shell.terminal import PlainStream, show_controls
from crabd.tools.typed import Arguments, Call, read_arguments, schema_of

USUAL_SECONDS = 120.0
MAX_SECONDS = 3600.0
# The kernel takes 128 KiB as one argument; who writes more than this writes a file.
MAX_COMMAND = 100_000
# Of one output, so much is kept in a file. Nobody reads more of it, and it lies on the person's disk.
MAX_FILE_BYTES = 16 << 20
# People follow at this pace; what comes in between is reported in one piece, and of much only the end.
LIVE_SECONDS = 0.2
LIVE_BYTES = 4096
# A command that fails at once is seen at once.
STARTED_SECONDS = 0.5
# How long a disk that hangs may hold up the end of a call.
CLOSING_SECONDS = 2.0
TITLE_LENGTH = 100
# There is nobody to page through a text, to edit one or to answer.
ENVIRONMENT = {
    "TERM": "dumb",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "true",
    "GIT_TERMINAL_PROMPT": "0",
    "DEBIAN_FRONTEND": "noninteractive",
}

# Opens the file for the whole output of a call, by session and call; ``name`` is its path. May raise OSError.
OpenOutput: TypeAlias = Callable[[str, str], Output]


class BashArguments(Arguments, frozen=True, kw_only=True):
    command: Annotated[str, Meta(min_length=1, max_length=MAX_COMMAND, description="For bash.")]
    timeout: Annotated[
        float, Meta(gt=0, le=MAX_SECONDS, description="Seconds after which it is stopped.")
    ] = USUAL_SECONDS
    description: Annotated[
        str, Meta(max_length=200, description="What it is for, in a few words for the person.")
    ] = ""
    run_in_background: Annotated[
        bool,
        Meta(description="Return at once with the name of a job, for job_output and job_stop; no timeout."),
    ] = False


class Bash(Tool):
    """Runs command lines."""

    def __init__(self, jobs: Jobs, open_output: OpenOutput) -> None:
        self._jobs = jobs
        self._open_output = open_output

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(
            "bash",
            "Run a command line with bash in the session's directory. Each call is a shell of its own, and "
            "there is nobody to answer a prompt. stdout and stderr come together; of a long output you get "
            "both ends and the path of the whole. What a command leaves running is stopped when it ends: use "
            "run_in_background for servers and the like. Temporary files go to $TMPDIR.",
            schema_of(BashArguments),
        )

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        wanted = read_arguments(BashArguments, arguments)
        _check(wanted.command)
        if context.cwd is None:
            raise BadArguments("this session has no directory to run commands in: the person has to set one")
        run = self._start if wanted.run_in_background else self._run
        return Call(
            Intent(title=_title(wanted), command=wanted.command), partial(run, wanted, context.cwd, context)
        )

    async def _run(self, wanted: BashArguments, cwd: str, context: ToolContext) -> ToolOutcome:
        whole = _WholeOutput(partial(self._open_output, context.session, context.call))
        live = _Live(context.report)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(live.run)
                async with self._jobs.turns.command(cwd):
                    ran = await _attempt(wanted, cwd, context.confinement, live, whole)
                nursery.cancel_scope.cancel()
        finally:
            await whole.aclose()
        live.end()
        if isinstance(ran, ToolOutcome):
            return ran
        output = tell_output(ran.head, ran.tail, ran.dropped, whole.tell())
        return _tell(ran, output, wanted.timeout, context.confinement)

    async def _start(self, wanted: BashArguments, cwd: str, context: ToolContext) -> ToolOutcome:
        try:
            argv = await _confine(wanted.command, cwd, context.confinement)
            job = self._jobs.start(
                argv,
                title=_first_line(wanted.command),
                cwd=cwd,
                env=context.confinement.environment() | ENVIRONMENT,
            )
        except (OSError, TooManyJobs) as exc:
            return ToolOutcome(str(exc), is_error=True)
        with trio.move_on_after(STARTED_SECONDS):
            await job.ended.wait()
        return ToolOutcome(job.look())


async def _attempt(
    wanted: BashArguments,
    cwd: str,
    confinement: Confinement,
    live: _Live,
    whole: _WholeOutput,
) -> Ran | ToolOutcome:
    try:
        return await run_command(
            await _confine(wanted.command, cwd, confinement),
            cwd=cwd,
            env=confinement.environment() | ENVIRONMENT,
            seconds=wanted.timeout,
            on_output=live.feed,
            keep=whole.keep,
            max_bytes=SHOWN_BYTES,
        )
    except OSError as exc:
        return ToolOutcome(str(exc), is_error=True)


async def _confine(command: str, cwd: str, confinement: Confinement) -> tuple[str, ...]:
    return await trio.to_thread.run_sync(_wrap, command, cwd, confinement)


def _wrap(command: str, cwd: str, confinement: Confinement) -> tuple[str, ...]:
    if os.path.realpath(cwd) != cwd:
        raise OSError(f"{cwd} is not the directory any more that it was when this was allowed: try again")
    return confinement.wrap(("bash", "-c", command), cwd)


def _tell(ran: Ran, output: str, seconds: float, confinement: Confinement) -> ToolOutcome:
    end = tell_end(ran.exit_code, seconds)
    if not end:
        return ToolOutcome(output or "(no output)")
    notes = [end]
    if ran.timed_out:
        notes.append(f"give it a longer timeout, up to {MAX_SECONDS:g}, or run it in the background")
    elif is_kept_from(output):
        notes.append(f"it ran like this: {confinement.describe()}")
    return ToolOutcome(add_note(output, "; ".join(notes)), is_error=True)


def _check(command: str) -> None:
    """Refuse what cannot be handed to a shell as it is."""
    try:
        size = len(command.encode())
    except UnicodeEncodeError:
        raise BadArguments("`command`: it has half a character, a lone surrogate: leave it out") from None
    if "\0" in command:
        raise BadArguments("`command`: it has a zero byte, which no command line can: write \\0 with printf")
    if size > MAX_COMMAND:
        raise BadArguments(f"`command`: more than {MAX_COMMAND} bytes: write a script file and run that")


def _title(wanted: BashArguments) -> str:
    where = " in the background" if wanted.run_in_background else ""
    what_for = show_controls(f" ({wanted.description})" if wanted.description else "")
    return f"run{where}: {_first_line(wanted.command)}{what_for}"


def _first_line(command: str) -> str:
    first, *more = command.strip().split("\n")
    return show_controls(first[:TITLE_LENGTH]) + ("…" if more or len(first) > TITLE_LENGTH else "")


class _Live:
    """Reports an output while it comes, in plain text, so often and so much at a time."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._text = PlainStream()
        self._waiting = bytearray()
        self._skipped = 0
        self._news = trio.Event()

    def feed(self, data: bytes) -> None:
        self._waiting += data
        too_much = max(0, len(self._waiting) - LIVE_BYTES)
        self._skipped += too_much
        del self._waiting[:too_much]
        self._news.set()

    async def run(self) -> None:
        """Report now and then; runs until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            self._flush(is_end=False)
            await trio.sleep(LIVE_SECONDS)

    def end(self) -> None:
        """Report what is left."""
        self._flush(is_end=True)

    def _flush(self, *, is_end: bool) -> None:
        skipped = f"\n[… {self._skipped} bytes are not shown here …]\n" if self._skipped else ""
        text = skipped + self._text.feed(bytes(self._waiting), is_end=is_end)
        self._waiting.clear()
        self._skipped = 0
        if text:
            self._report(text)


class _WholeOutput:
    """Writes an output into a file as soon as it is too long to be shown."""

    def __init__(self, open_file: Callable[[], Output]) -> None:
        self._open = open_file
        self._file: Output | None = None
        self._waiting = bytearray()
        self._room = MAX_FILE_BYTES
        self._problem: OSError | None = None

    async def keep(self, data: bytes) -> None:
        if self._room <= 0 or self._problem:
            return
        self._waiting += data
        if self._file or len(self._waiting) > SHOWN_BYTES:
            data = bytes(self._waiting[: self._room])
            self._waiting.clear()
            self._room -= len(data)
            await trio.to_thread.run_sync(self._write, data)

    def _write(self, data: bytes) -> None:
        try:
            self._file = self._file or self._open()
            self._file.write(data)
        except OSError as exc:
            self._problem = exc

    def tell(self) -> str:
        """Say where the output is."""
        if self._problem or not self._file:
            return f"it could not be kept ({self._problem}): have the command write less"
        part = "all of it is" if self._room > 0 else f"the first {MAX_FILE_BYTES >> 20} MiB are"
        return f"{part} in {self._file.name}: see the part that you need with read or grep, not with bash"

    async def aclose(self) -> None:
        """Write what is left, cancelled or not: a word, or a key."""
        if self._file:
            with trio.move_on_after(CLOSING_SECONDS, shield=True):
                await trio.to_thread.run_sync(self._close, self._file, abandon_on_cancel=True)

    def _close(self, file: Output) -> None:
        try:
            file.close()
        except OSError as exc:
            self._problem = exc
