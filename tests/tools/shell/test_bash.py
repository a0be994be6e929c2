from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from crabd.masking import Masker
from crabd.tools.artifacts import Output
from crabd.tools.base import BadArguments
from crabd.tools.shell.bash import MAX_COMMAND, Bash
from crabd.tools.shell.jobs import Jobs
from crabd.tools.shell.telling import SHOWN_BYTES
from tests.tools.context import Surroundings
from tests.tools.processes import Token, wait_for_file

# For what takes tenths of a second on a quiet machine.
PATIENCE = 60


class Shell:
    """The tool in a directory of its own, with its long outputs beside it."""

    def __init__(self, nursery: trio.Nursery, folder: Path) -> None:
        self.cwd = folder / "project"
        self.cwd.mkdir()
        self.surroundings = Surroundings(str(self.cwd))
        self.jobs = Jobs(nursery)
        self.tool = Bash(self.jobs, self._open)
        self._folder = folder

    def output_of(self, call: str) -> Path:
        return self._folder / f"{call}.txt"

    def _open(self, session: str, call: str) -> Output:
        return Output(self.output_of(call).open("wb"), Masker())

    async def run(self, command: str, *, timeout: float = PATIENCE) -> str:
        with trio.fail_after(PATIENCE):
            return (await self.surroundings.call(self.tool, command=command, timeout=timeout)).output


@pytest.fixture
def shell(nursery: trio.Nursery, tmp_path: Path) -> Shell:
    return Shell(nursery, tmp_path)


async def test_a_command_runs_in_the_directory_and_tells_nothing_but_its_output(shell: Shell) -> None:
    assert await shell.run("pwd; echo err >&2") == f"{shell.cwd}\nerr\n"
    assert await shell.run("true") == "(no output)"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("echo no; exit 3", "no\n[exit code 3]"),
        ("printf no; exit 3", "no\n[exit code 3]"),
        ("false", "[exit code 1]"),
        ("kill -SEGV $$", "[ended by SIGSEGV]"),
        ("bash -c 'kill -KILL $$'; exit $?", "[exit code 137, as of SIGKILL]"),
        ("exit 255", "[exit code 255]"),
        ("no-such-program", "bash: line 1: no-such-program: command not found\n[exit code 127]"),
    ],
)
async def test_a_failure_is_told(shell: Shell, command: str, told: str) -> None:
    outcome = await shell.surroundings.call(shell.tool, command=command)

    assert outcome.is_error
    assert outcome.output.endswith(told)


async def test_a_command_that_was_kept_from_something_tells_by_what(shell: Shell) -> None:
    told = await shell.run("echo 'Read-only file system'; false")

    assert told.endswith("[exit code 1; it ran like this: nothing is confined]")


async def test_a_command_whose_time_is_over_tells_what_it_had_written(shell: Shell) -> None:
    told = await shell.run("echo begun; sleep 1000", timeout=0.5)

    assert told.startswith("begun\n[stopped, because its time of 0.5 s was over; give it a longer timeout")


async def test_a_long_output_is_in_a_file_and_both_its_ends_are_told(shell: Shell) -> None:
    told = await shell.run("seq 1 20000")

    written = "".join(f"{number}\n" for number in range(1, 20001))
    assert shell.output_of("call_1").read_text() == written
    head, note, tail = told.partition("\n[… ")
    left_out, where = note + tail[: tail.index("…]")], tail[tail.index("…]") + 3 :]
    assert written.startswith(head)
    assert written.endswith(where)
    assert f"{len(written) - len(head) - len(where)} bytes are left out here" in left_out
    assert f"all of it is in {shell.output_of('call_1')}" in left_out
    assert len(told) < SHOWN_BYTES + 500


async def test_a_short_output_leaves_no_file(shell: Shell) -> None:
    await shell.run("seq 1 100")

    assert not shell.output_of("call_1").exists()


async def test_a_file_that_cannot_be_written_is_told_and_costs_only_the_middle(shell: Shell) -> None:
    shell.output_of("call_1").mkdir()

    told = await shell.run("seq 1 20000")

    assert "it could not be kept (" in told
    assert told.startswith("1\n2\n")
    assert told.endswith("20000\n")


async def test_what_a_terminal_would_do_is_not_done(shell: Shell) -> None:
    told = await shell.run(r"printf '\033[31mred\033[0m \033]0;title\007and 10%%\r100%%\n'")

    assert told == "100%\n"
    assert "\x1b" not in "".join(shell.surroundings.said)


async def test_binary_output_is_told_as_such(shell: Shell) -> None:
    assert (await shell.run("head -c 5000 /dev/urandom")).startswith("(binary output of 5000 bytes")


async def test_output_is_reported_while_it_comes(shell: Shell, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shell.run, f"echo first; read line < {gate}; echo $line")
        with trio.fail_after(PATIENCE):
            while not shell.surroundings.said:
                await trio.lowlevel.checkpoint()
        early = list(shell.surroundings.said)
        gate.write_text("second\n")

    assert early == ["first\n"]
    assert "".join(shell.surroundings.said) == "first\nsecond\n"


async def test_live_output_is_bounded(shell: Shell) -> None:
    await shell.run("yes | head -c 50000000")

    said = shell.surroundings.said
    assert any("bytes are not shown here" in each for each in said)
    assert max(map(len, said)) < 5000
    assert sum(map(len, said)) < 1_000_000


async def test_there_is_nobody_to_answer(shell: Shell) -> None:
    assert await shell.run("read line || echo nobody; test -t 0 || echo no terminal; tty") == (
        "nobody\nno terminal\nnot a tty\n[exit code 1]"
    )


async def test_git_waits_for_no_editor_and_no_pager(shell: Shell) -> None:
    commit = "git -c user.name=Crab -c user.email=crab@example.org commit -q --allow-empty"

    told = await shell.run(f"git init -q . && {commit} -m one && {commit} --amend && git log --format=%s")

    assert told == "one\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"command": "true\0"}, "a zero byte"),
        ({"command": "true \ud800"}, "half a character"),
        ({"command": "ü" * (MAX_COMMAND // 2 + 1)}, "write a script file"),
        ({"command": ""}, "command"),
        ({"command": "true", "timeout": 3601}, "timeout"),
        ({"command": "true", "timeout": 0}, "timeout"),
        ({"cmd": "true"}, "command"),
    ],
)
async def test_arguments_that_make_no_command_are_refused(
    shell: Shell, arguments: dict[str, object], problem: str
) -> None:
    with pytest.raises(BadArguments, match=problem):
        await shell.tool.prepare(arguments, shell.surroundings.context())


async def test_without_a_directory_nothing_runs(shell: Shell) -> None:
    with pytest.raises(BadArguments, match="no directory"):
        await shell.tool.prepare({"command": "true"}, Surroundings(None).context())


async def test_a_directory_that_has_gone_is_told(shell: Shell) -> None:
    shell.cwd.rmdir()

    outcome = await shell.surroundings.call(shell.tool, command="true")

    assert outcome.is_error
    assert "No such file or directory" in outcome.output


async def test_a_directory_that_became_a_link_to_another_runs_nothing(shell: Shell, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    prepared = await shell.tool.prepare({"command": "touch mark"}, shell.surroundings.context())

    shell.cwd.rmdir()
    shell.cwd.symlink_to(other)
    outcome = await prepared.run()

    assert outcome.is_error
    assert "is not the directory any more that it was when this was allowed" in outcome.output
    assert list(other.iterdir()) == []


async def test_the_title_cannot_be_turned_around(shell: Shell) -> None:
    hostile = {"command": "rm -rf ~ # \u202e\x1b[2K\rls", "description": "look\raround"}

    call = await shell.tool.prepare(hostile, shell.surroundings.context())

    assert call.intent.title == "run: rm -rf ~ # \ufffd\u241b[2K\u240dls (look\u240daround)"
    assert call.intent.command == hostile["command"]


async def test_a_cancelled_command_leaves_nothing_running(shell: Shell, tmp_path: Path) -> None:
    token, ready = Token(), tmp_path / "ready"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            shell.run, f"sleep {token.text} & echo $! > {ready}; trap '' TERM; sleep {token.text}"
        )
        with trio.fail_after(PATIENCE):
            await wait_for_file(ready)
        nursery.cancel_scope.cancel()

    assert token.living() == []
