"""Commands that run in the background of a session, and the tools to look at them and to stop them.

They live as long as the session's toolbox. Nothing here knows what a shell is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import structlog
import trio
from msgspec import Meta
from structlog.typing import FilteringBoundLogger

from crabd.tools.base import BadArguments, Intent, PreparedCall, Tool, ToolContext, ToolOutcome, ToolSpec
from crabd.tools.shell.excerpt import Excerpt
from crabd.tools.shell.process import END_SECONDS, run_command
from crabd.tools.shell.telling import SHOWN_BYTES, add_note, tell_end, tell_output
from crabd.tools.turns import Turns
from crabd.tools.typed import Arguments, Call, read_arguments, schema_of

# Who needs more at once is better served by one script that starts them.
MAX_RUNNING = 8
# Of those that have ended, so many are remembered.
MAX_ENDED = 16
MAX_WAIT = 300.0

log: FilteringBoundLogger = structlog.get_logger()


class TooManyJobs(Exception):
    """The bound on jobs is reached; the text says what to do."""


class Job:
    """A command in the background. What it writes is kept until somebody looks, both ends of it."""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.title = title
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        # How it ended, in words.
        self.end: str | None = None
        self._began = trio.current_time()
        self._unseen = Excerpt(SHOWN_BYTES)
        self._news = trio.Event()

    def __repr__(self) -> str:
        return f"<Job {self.name}, {self.end or 'running'}>"

    async def run(self, argv: Sequence[str], cwd: str, env: Mapping[str, str], turns: Turns) -> None:
        """Run the command to its end; cancelling the scope stops it."""
        try:
            with self.scope:
                async with turns.command(cwd):
                    ran = await run_command(
                        argv, cwd=cwd, env=env, seconds=math.inf, on_output=self._take, max_bytes=0
                    )
                self.end = tell_end(ran.exit_code, math.inf) or "exit code 0"
        except OSError as exc:
            self.end = f"could not be started: {exc}"
        except Exception:
            # A job has no caller, and its end must not be the daemon's.
            log.exception("job_failed", job=self.name)
            self.end = "failed; this is a fault in crabd"
        finally:
            self.end = self.end or "stopped"
            self.ended.set()
            self._news.set()

    def _take(self, data: bytes) -> None:
        self._unseen.feed(data)
        self._news.set()

    async def wait(self, seconds: float) -> None:
        """Wait for news, its output or its end, but not for ever."""
        with trio.move_on_after(seconds):
            await self._news.wait()

    def look(self) -> str:
        """Give what it has written since the last look, and how it is."""
        unseen, self._unseen = self._unseen, Excerpt(SHOWN_BYTES)
        if self.end is None:
            self._news = trio.Event()
        written = tell_output(unseen.head, unseen.tail, unseen.dropped, "what was in between is gone")
        return add_note(written or "(nothing new)", self.describe())

    def describe(self) -> str:
        lasted = trio.current_time() - self._began
        return f"{self.name}: {self.end or f'running for {lasted:.0f} s'}: {self.title}"


class Jobs:
    """The jobs of one session. They run in ``nursery``, which outlives it."""

    def __init__(self, nursery: trio.Nursery, turns: Turns | None = None) -> None:
        self.turns = turns or Turns()
        self._nursery = nursery
        self._jobs: dict[str, Job] = {}
        self._started = 0
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Jobs, {len(self._running())} running of {len(self._jobs)}>"

    @property
    def is_busy(self) -> bool:
        return bool(self._running())

    def start(self, argv: Sequence[str], *, title: str, cwd: str, env: Mapping[str, str]) -> Job:
        """Start a command and leave it running.

        Raises:
          TooManyJobs: stop one first; or the session is being closed.
        """
        if self._is_closed:
            raise TooManyJobs("the session is being closed: nothing can be left running")
        running = self._running()
        if len(running) >= MAX_RUNNING:
            names = ", ".join(job.name for job in running)
            raise TooManyJobs(f"{MAX_RUNNING} jobs run already ({names}): stop one with job_stop first")
        self._started += 1
        job = self._jobs[f"job_{self._started}"] = Job(f"job_{self._started}", title)
        self._forget_old()
        self._nursery.start_soon(job.run, argv, cwd, env, self.turns)
        return job

    def list(self) -> tuple[Job, ...]:
        return tuple(self._jobs.values())

    def find(self, name: str) -> Job:
        """Find a job.

        Raises:
          BadArguments: there is none of that name.
        """
        if name not in self._jobs:
            known = ", ".join(self._jobs) or "none"
            raise BadArguments(f"there is no job {name!r}; the jobs are: {known}")
        return self._jobs[name]

    async def aclose(self) -> None:
        """Stop all of them; afterwards none can be started. Bounded in time."""
        self._is_closed = True
        running = self._running()
        for job in running:
            job.scope.cancel()
        with trio.move_on_after(END_SECONDS, shield=True):
            for job in running:
                await job.ended.wait()

    def _running(self) -> Sequence[Job]:
        return [job for job in self._jobs.values() if job.end is None]

    def _forget_old(self) -> None:
        ended = [job for job in self._jobs.values() if job.end is not None]
        for job in ended[:-MAX_ENDED]:
            del self._jobs[job.name]


class ListArguments(Arguments, frozen=True, kw_only=True):
    pass


class OutputArguments(Arguments, frozen=True, kw_only=True):
    job: Annotated[str, Meta(description="Its name, such as job_1.")]
    wait: Annotated[
        float, Meta(ge=0, le=MAX_WAIT, description="Seconds to wait for news, if there is none.")
    ] = 0.0


class StopArguments(Arguments, frozen=True, kw_only=True):
    job: Annotated[str, Meta(description="Its name, such as job_1.")]


class JobList(Tool):
    """Lists the session's jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(
            "jobs",
            "List the commands that run in the background, and how those have ended that did.",
            schema_of(ListArguments),
            is_read_only=True,
            is_idempotent=True,
        )

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        read_arguments(ListArguments, arguments)
        return Call(Intent(title="list the jobs in the background"), self._run)

    async def _run(self) -> ToolOutcome:
        return ToolOutcome("\n".join(job.describe() for job in self._jobs.list()) or "there are no jobs")


class JobOutput(Tool):
    """Looks at what a job has written."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(
            "job_output",
            "Read what a command in the background has written since you looked last, and whether it still "
            "runs. With wait, returns as soon as there is something new.",
            schema_of(OutputArguments),
            is_read_only=True,
        )

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        wanted = read_arguments(OutputArguments, arguments)
        job = self._jobs.find(wanted.job)
        return Call(Intent(title=f"look at {job.name}: {job.title}"), partial(self._run, job, wanted.wait))

    async def _run(self, job: Job, wait: float) -> ToolOutcome:
        await job.wait(wait)
        return ToolOutcome(job.look())


class JobStop(Tool):
    """Stops a job."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(
            "job_stop",
            "Stop a command in the background, and all that it has started; gives the rest of its output.",
            schema_of(StopArguments),
            is_idempotent=True,
        )

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        wanted = read_arguments(StopArguments, arguments)
        job = self._jobs.find(wanted.job)
        return Call(Intent(title=f"stop {job.name}: {job.title}"), partial(self._run, job))

    async def _run(self, job: Job) -> ToolOutcome:
        job.scope.cancel()
        with trio.move_on_after(END_SECONDS, shield=True):
            await job.ended.wait()
        return ToolOutcome(job.look())
