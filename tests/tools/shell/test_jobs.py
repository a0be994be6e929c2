from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from crabd.tools.artifacts import Output
from crabd.tools.base import BadArguments, Tool
from crabd.tools.shell.bash import Bash
from crabd.tools.shell.jobs import MAX_ENDED, MAX_RUNNING, JobList, JobOutput, Jobs, JobStop
from tests.tools.context import Surroundings
from tests.tools.processes import Token

# For what takes tenths of a second on a quiet machine.
PATIENCE = 60


class Session:
    """The tools of one session that have to do with jobs."""

    def __init__(self, nursery: trio.Nursery, folder: Path) -> None:
        self.jobs = Jobs(nursery)
        self._surroundings = Surroundings(str(folder))
        self._tools: dict[str, Tool] = {
            tool.spec.name: tool
            for tool in (
                Bash(self.jobs, self._open),
                JobList(self.jobs),
                JobOutput(self.jobs),
                JobStop(self.jobs),
            )
        }

    def _open(self, session: str, call: str) -> Output:
        raise AssertionError("a job's output is in no file")

    async def call(self, name: str, **arguments: Any) -> str:
        with trio.fail_after(PATIENCE):
            return (await self._surroundings.call(self._tools[name], **arguments)).output

    async def start(self, command: str) -> str:
        return await self.call("bash", command=command, run_in_background=True)


@pytest.fixture
async def session(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[Session]:
    session = Session(nursery, tmp_path)
    yield session
    await session.jobs.aclose()


async def test_a_job_runs_on_and_tells_what_is_new_each_time(session: Session, tmp_path: Path) -> None:
    started = await session.start("mkfifo gate; echo one; read line < gate; echo $line; sleep 1000")
    with trio.fail_after(PATIENCE):
        await trio.to_thread.run_sync((tmp_path / "gate").write_text, "two\n")

    later = await session.call("job_output", job="job_1", wait=PATIENCE)
    last = await session.call("job_output", job="job_1")

    assert started.startswith("one\n[job_1: running for ")
    assert started.endswith(": mkfifo gate; echo one; read line < gate; echo $line; sleep 1000]")
    assert later.startswith("two\n[job_1: running for ")
    assert last.startswith("(nothing new)\n[job_1: running for ")


async def test_a_job_that_fails_at_once_is_told_at_once(session: Session) -> None:
    assert await session.start("echo no; exit 3") == ("no\n[job_1: exit code 3: echo no; exit 3]")
    assert not session.jobs.is_busy


async def test_waiting_ends_with_the_job(session: Session, tmp_path: Path) -> None:
    await session.start("mkfifo gate; read line < gate")
    (tmp_path / "gate").write_text("go on\n")

    told = await session.call("job_output", job="job_1", wait=PATIENCE)

    assert told == "(nothing new)\n[job_1: exit code 0: mkfifo gate; read line < gate]"


async def test_jobs_are_listed(session: Session) -> None:
    nothing = await session.call("jobs")
    await session.start("sleep 1000")
    await session.start("true")

    listed = (await session.call("jobs")).splitlines()

    assert nothing == "there are no jobs"
    assert listed[0].startswith("job_1: running for ")
    assert listed[1] == "job_2: exit code 0: true"
    assert session.jobs.is_busy


async def test_a_job_that_is_stopped_tells_its_last_words_and_leaves_nothing(session: Session) -> None:
    token = Token()
    await session.start(
        f"trap 'echo bye; exit' TERM; setsid sleep {token.text} & while :; do sleep 0.01; done"
    )

    told = await session.call("job_stop", job="job_1")
    again = await session.call("job_stop", job="job_1")

    assert "\n[job_1: stopped: " in told
    assert again.startswith("(nothing new)\n[job_1: stopped: ")
    assert token.living() == []


async def test_closing_stops_all_jobs_and_lets_none_start(session: Session) -> None:
    token = Token()
    for _ in range(3):
        await session.start(f"trap '' TERM; setsid sleep {token.text}; sleep 1000")

    with trio.fail_after(PATIENCE):
        await session.jobs.aclose()

    assert token.living() == []
    assert not session.jobs.is_busy
    assert await session.start("true") == "the session is being closed: nothing can be left running"


async def test_jobs_end_with_the_daemon(tmp_path: Path) -> None:
    token = Token()

    async with trio.open_nursery() as daemon:
        session = Session(daemon, tmp_path)
        await session.start(f"setsid sleep {token.text} & wait")
        daemon.cancel_scope.cancel()

    assert token.living() == []
    assert not session.jobs.is_busy


async def test_the_number_of_jobs_is_bounded(session: Session) -> None:
    for _ in range(MAX_RUNNING):
        await session.start("sleep 1000")

    refused = await session.start("sleep 1000")

    assert refused.startswith(f"{MAX_RUNNING} jobs run already (job_1, job_2, ")
    assert refused.endswith("stop one with job_stop first")


async def test_old_jobs_are_forgotten(session: Session) -> None:
    for number in range(1, MAX_ENDED + 4):
        await session.start("true")
        await session.call("job_output", job=f"job_{number}", wait=PATIENCE)

    with pytest.raises(BadArguments, match="there is no job 'job_1'; the jobs are: job_"):
        await session.call("job_output", job="job_1")
    assert len(session.jobs.list()) <= MAX_ENDED + 1


async def test_what_nobody_looks_at_is_bounded(session: Session) -> None:
    await session.start("seq 1 1000000; echo done")

    told = ""
    while "exit code 0" not in told:
        told = await session.call("job_output", job="job_1", wait=PATIENCE)
        assert len(told) < 25_000


async def test_a_job_in_a_directory_that_has_gone_is_told(session: Session, tmp_path: Path) -> None:
    tmp_path.rmdir()

    assert "could not be started: " in await session.start("true")
