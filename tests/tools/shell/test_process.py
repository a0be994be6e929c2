from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
import trio

from crabd.tools.shell.process import Ran, open_command, run_command
from tests.tools.processes import Token, members, wait_for_file, wait_until_gone

# For what takes tenths of a second on a quiet machine.
PATIENCE = 60
ENV = {"PATH": os.environ["PATH"]}
# A user that has nothing, and an ordinary limit of processes.
SOMEBODY = 42_424


async def bash(
    command: str, *, seconds: float = PATIENCE, stdin: bytes = b"", max_bytes: int = 1 << 20
) -> Ran:
    with trio.fail_after(PATIENCE):
        return await run_command(
            ["bash", "-c", command], cwd="/", env=ENV, seconds=seconds, stdin=stdin, max_bytes=max_bytes
        )


async def test_output_and_errors_come_as_one_stream_in_order() -> None:
    ran = await bash("echo one; echo two >&2; echo three; exit 7")

    assert ran == Ran(exit_code=7, head=b"one\ntwo\nthree\n", tail=b"", dropped=0)


async def test_errors_are_kept_apart_where_that_is_wanted() -> None:
    command = ["bash", "-c", "echo out; echo err >&2"]

    ran = await run_command(command, cwd="/", env=ENV, seconds=PATIENCE, has_own_errors=True)

    assert (ran.head, ran.errors) == (b"out\n", b"err\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGPIPE])
async def test_a_command_that_a_signal_ends_is_told_so(number: signal.Signals) -> None:
    ran = await bash(f"kill -{number} $$")

    assert ran.exit_code == -number


async def test_a_command_reads_what_it_is_given_and_need_not_read_it_all() -> None:
    whole = await bash("wc -c", stdin=b"x" * 3_000_000)
    nothing = await bash("exec 0<&-; echo done", stdin=b"x" * 3_000_000)

    assert (whole.head.strip(), nothing.head) == (b"3000000", b"done\n")


async def test_without_input_there_is_an_end_at_once() -> None:
    assert (await bash("cat; readlink /proc/self/fd/0")).head == b"/dev/null\n"


async def test_a_program_that_is_not_there_is_told_as_a_shell_does(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")

    missing = await run_command(["no-such-program"], cwd="/", env=ENV, seconds=PATIENCE)
    refused = await run_command([str(plain)], cwd="/", env=ENV, seconds=PATIENCE)

    assert missing == Ran(
        exit_code=127, head=b"no-such-program: No such file or directory\n", tail=b"", dropped=0
    )
    assert refused.exit_code == 126


async def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await run_command(["true"], cwd=str(tmp_path / "gone"), env=ENV, seconds=PATIENCE)


async def test_a_long_output_keeps_its_head_and_its_tail() -> None:
    ran = await bash("seq 1 100000", max_bytes=20)

    assert (ran.head, ran.tail, ran.dropped) == (b"1\n2\n3\n4\n5\n", b"99\n100000\n"[-10:], 588_895 - 20)


async def test_memory_stays_bounded_whatever_is_written() -> None:
    code = (
        "import resource, trio\n"
        "from functools import partial\n"
        "from crabd.tools.shell.process import run_command\n"
        "command = ['head', '-c', '1000000000', '/dev/zero']\n"
        f"run = partial(run_command, command, cwd='/', env={ENV!r}, seconds={PATIENCE})\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "ran = trio.run(run)\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(ran.dropped, grown < 20_000, grown)\n"
    )

    with trio.fail_after(2 * PATIENCE):
        done = await trio.run_process([sys.executable, "-c", code], capture_stdout=True)

    dropped, is_bounded, grown = done.stdout.split()
    assert (int(dropped), is_bounded) == (1_000_000_000 - (1 << 20), b"True"), grown


async def test_an_endless_output_ends_with_the_time() -> None:
    ran = await bash("yes", seconds=0.5, max_bytes=1000)

    assert ran.timed_out
    assert ran.head == b"y\n" * 250
    assert ran.dropped > 0


async def test_a_reader_that_takes_its_time_holds_the_command_back() -> None:
    seen = bytearray()

    async def keep(data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        seen.extend(data)

    ran = await run_command(
        ["seq", "1", "100000"], cwd="/", env=ENV, seconds=PATIENCE, keep=keep, max_bytes=2
    )

    assert len(seen) == 588_895
    assert bytes(seen[:1] + seen[-1:]) == ran.head + ran.tail


async def test_a_command_may_tidy_up_when_its_time_is_over() -> None:
    ran = await bash("trap 'echo tidied; exit 0' TERM; echo ready; while :; do sleep 0.01; done", seconds=0.5)

    assert ran.timed_out
    assert ran.head.endswith(b"tidied\n")


# Each leaves a process with the token behind, or tries to.
LEFTOVERS = {
    "a job in the background": "sleep {token} & echo started",
    "a daemon": "setsid sh -c '(sleep {token} &) ; exit' & wait; echo started",
    "a daemon without environment": "env -i setsid /bin/sh -c '(/bin/sleep {token} & /bin/sleep {token}) &'",
    "a daemon that ignores being asked": "(trap '' TERM HUP INT; setsid sleep {token} &); echo started",
    "one that holds the output open": "nohup setsid sleep {token} 2>&1 & echo started",
    "a stopped process": "sleep {token} & kill -STOP $!; echo started",
    "one that kills its keeper": "(trap '' TERM; setsid sleep {token} &); echo started; kill -KILL $PPID",
}


@pytest.mark.parametrize("command", LEFTOVERS.values(), ids=LEFTOVERS)
async def test_nothing_is_left_of_a_command_that_has_ended(command: str) -> None:
    token = Token()

    await bash(command.format(token=token.text))

    assert token.living() == []


@pytest.mark.parametrize("command", LEFTOVERS.values(), ids=LEFTOVERS)
async def test_nothing_is_left_of_a_command_whose_time_is_over(command: str) -> None:
    token = Token()

    await bash(
        f"{command.format(token=token.text)}; trap '' TERM; sleep {token.text}; sleep 1000", seconds=0.5
    )

    assert token.living() == []


@pytest.mark.parametrize("command", LEFTOVERS.values(), ids=LEFTOVERS)
async def test_nothing_is_left_of_a_command_that_is_cancelled(command: str, tmp_path: Path) -> None:
    token, ready = Token(), tmp_path / "ready"
    # Ready before it kills its keeper, for then there is no telling how far it comes.
    before, kill, after = command.format(token=token.text).partition("kill -KILL")
    whole = f"{before}; echo $$ > {ready}; {kill}{after}; trap '' TERM; sleep {token.text}; sleep 1000"

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bash, whole.replace("; ;", ";"))
            group = int(await wait_for_file(ready))
            nursery.cancel_scope.cancel()

    assert token.living() == []
    assert members(group) == []


async def test_a_bomb_of_forks_is_put_out() -> None:
    token = Token()
    # Nobody has a limit who is root.
    somebody = ["setpriv", f"--reuid={SOMEBODY}", "--clear-groups"] if os.getuid() == 0 else []
    tasks = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    limited = [*somebody, "prlimit", f"--nproc={50 if somebody else tasks + 50}"]
    command = f": {token.text}; b() {{ b | b & }}; trap '' TERM; b; sleep {token.text}"

    with trio.fail_after(PATIENCE):
        ran = await run_command([*limited, "bash", "-c", command], cwd="/", env=ENV, seconds=1)

    assert ran.timed_out
    assert token.living() == []


@pytest.mark.long
@pytest.mark.skipif(os.getuid() != 0, reason="who is not root has a limit of the kernel's")
async def test_a_crowd_of_roots_is_sent_away() -> None:
    """No bomb, so that a failure does not take the machine with it."""
    token = Token()

    ran = await bash(f"for i in $(seq 6000); do sleep {token.text} & done; echo all; wait")

    assert (ran.exit_code, ran.head) == (-signal.SIGKILL, b"")
    assert token.living() == []


async def test_a_command_dies_with_the_daemon(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    command = f"trap '' TERM HUP; setsid sh -c 'echo $$ > {ready}; exec sleep 86400'"
    code = (
        "import trio\n"
        "from functools import partial\n"
        "from crabd.tools.shell.process import run_command\n"
        f"trio.run(partial(run_command, ['bash', '-c', {command!r}], cwd='/', env={ENV!r}, seconds=86400))\n"
    )

    with trio.fail_after(PATIENCE):
        daemon = await trio.lowlevel.open_process([sys.executable, "-c", code])
        process = int(await wait_for_file(ready))
        daemon.kill()
        await daemon.wait()
        await wait_until_gone(process)


async def test_an_output_that_a_stranger_holds_open_is_not_waited_for(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "stranger = socket.socket(socket.AF_UNIX)\n"
        f"stranger.connect({str(tmp_path / 's')!r})\n"
        "socket.send_fds(stranger, [b'x'], [1])\n"
        "print('given away')\n"
    )

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with trio.fail_after(PATIENCE):
            ran = await run_command([sys.executable, "-c", code], cwd="/", env=ENV, seconds=PATIENCE)
        taken, _ = listener.accept()
        with taken:
            _, given, _, _ = socket.recv_fds(taken, 1, 1)
    for descriptor in given:
        os.close(descriptor)

    assert ran.head == b"given away\n"


async def test_a_command_begins_as_programs_expect_it() -> None:
    ran = await bash(
        "ls /proc/self/fd; ulimit -Sn; yes | head -n 1; echo ${PIPESTATUS[0]}; ps -o sid= -p $$; echo $$"
    )

    *descriptors, files, _, pipe_status, session, own = ran.head.decode().split()
    # The last one is that of the directory which is being listed.
    assert descriptors == ["0", "1", "2", "3"]
    assert (files, pipe_status) == ("1024", str(128 + signal.SIGPIPE))
    assert session == own


async def test_many_commands_run_at_once_and_none_holds_another_up() -> None:
    ends: list[bytes] = []

    async def one(number: int) -> None:
        ends.append((await bash(f"echo {number}")).head)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)

    assert sorted(ends, key=int) == [b"%d\n" % number for number in range(20)]


async def test_descriptors_are_not_used_up() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(3):
        await bash("echo")

    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_descriptors_are_not_used_up_by_what_is_cancelled(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    argv = ["bash", "-c", f"echo ready > {ready}; cat"]
    before = len(list(Path("/proc/self/fd").iterdir()))

    with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
        async with open_command(argv, cwd="/", env=ENV):
            await wait_for_file(ready)
            scope.cancel()
            await trio.sleep_forever()

    assert len(list(Path("/proc/self/fd").iterdir())) == before
