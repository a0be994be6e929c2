"""``crabctl acp`` as an editor runs it, against a bare socket: what is carried, and every way it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.crabctl.program import PATIENCE, ROOT, crabctl, home

MIB = 1 << 20
# More than pipes and sockets hold between them.
PLENTY = 4 * MIB


class Pumped:
    """A pump that runs, and the daemon's end of its link."""

    def __init__(self, process: trio.Process, link: trio.SocketStream) -> None:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        self.process = process
        self.entry = process.stdin
        self.out = process.stdout
        self.link = link

    async def ending(self) -> tuple[int, str]:
        """Wait for its end; returns the exit code and what it said on stderr."""
        assert self.process.stderr
        said = b"".join([piece async for piece in self.process.stderr])
        return await self.process.wait(), said.decode()


@asynccontextmanager
async def open_pump(directory: Path) -> AsyncGenerator[Pumped]:
    """Run ``crabctl acp`` and take its link; whatever is left of it is killed at the end."""
    path = directory / "s"
    with trio.fail_after(PATIENCE), trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(path))
        listener.listen()
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "crabctl", "acp", "--socket", str(path), "--no-start"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=home(directory),
        )
        try:
            accepted, _ = await listener.accept()
            async with trio.SocketStream(accepted) as link:
                pumped = Pumped(process, link)
                # From the first byte on it carries, and signals are not those of a program that starts.
                await link.send_all(b"!")
                assert await pumped.out.receive_some() == b"!"
                yield pumped
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


@pytest.fixture
async def pumped(tmp_path: Path) -> AsyncIterator[Pumped]:
    async with open_pump(tmp_path) as pumped:
        yield pumped


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([piece async for piece in stream])


async def answers_to_end(pumped: Pumped, said: bytes) -> bytes:
    """Have the daemon say something and hang up; returns what came of it."""

    async def say() -> None:
        await pumped.link.send_all(said)
        await pumped.link.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say)
        return await read_to_end(pumped.out)


async def read_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.receive_some(count - len(data))
        assert piece, f"it ended after {len(data)} of {count} bytes"
        data += piece
    return data


@asynccontextmanager
async def stuffed(*streams: trio.abc.SendStream) -> AsyncGenerator[list[trio.abc.SendStream]]:
    """Write to these until the kernel and the pump take no more; gives those that took everything."""
    done: list[trio.abc.SendStream] = []

    async def stuff(stream: trio.abc.SendStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(bytes(PLENTY))
            done.append(stream)

    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(stuff, stream)
        await trio.testing.wait_all_tasks_blocked(0.1)
        yield done
        nursery.cancel_scope.cancel()


async def test_bytes_go_both_ways_as_they_are(pumped: Pumped) -> None:
    with trio.fail_after(PATIENCE):
        await pumped.entry.send_all(b"\x00asks\xff\r\n")
        asked = await read_exactly(pumped.link, 8)
        await pumped.link.send_all("antwortet ß\n".encode() + b"\xfe")
        answered = await read_exactly(pumped.out, 14)

    assert asked == b"\x00asks\xff\r\n"
    assert answered == "antwortet ß\n".encode() + b"\xfe"


async def test_a_message_of_fifteen_mebibytes_comes_whole_in_both_directions_at_once(pumped: Pumped) -> None:
    message = bytes(range(256)) * (15 * MIB // 256)
    got: dict[str, bytes] = {}

    async def take(name: str, stream: trio.abc.ReceiveStream) -> None:
        got[name] = await read_exactly(stream, len(message))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pumped.entry.send_all, message)
            nursery.start_soon(pumped.link.send_all, message)
            nursery.start_soon(take, "asked", pumped.link)
            nursery.start_soon(take, "answered", pumped.out)

    assert got["asked"] == got["answered"] == message


async def test_answers_that_come_after_the_last_word_are_delivered(pumped: Pumped) -> None:
    with trio.fail_after(PATIENCE):
        await pumped.entry.send_all(b"ask")
        await pumped.entry.aclose()
        asked = await read_to_end(pumped.link)
        answered = await answers_to_end(pumped, b"answer" * MIB)
        ending = await pumped.ending()

    assert (asked, answered, ending) == (b"ask", b"answer" * MIB, (0, ""))


async def test_a_daemon_that_goes_away_is_told_after_its_last_word(pumped: Pumped) -> None:
    with trio.fail_after(PATIENCE):
        answered = await answers_to_end(pumped, b"last word" * MIB)
        code, said = await pumped.ending()

    assert answered == b"last word" * MIB
    assert (code, said.count("\n")) == (3, 1)
    assert "crabd has ended the link" in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)])
async def test_what_was_said_before_a_signal_arrives(
    number: signal.Signals, code: int, pumped: Pumped
) -> None:
    with trio.fail_after(PATIENCE):
        await pumped.entry.send_all(b"cancel")
        pumped.process.send_signal(number)
        asked = await read_to_end(pumped.link)
        await pumped.link.aclose()
        ending = await pumped.ending()

    assert (asked, ending) == (b"cancel", (code, ""))


async def test_a_signal_ends_it_though_neither_end_reads(pumped: Pumped) -> None:
    with trio.fail_after(PATIENCE):
        async with stuffed(pumped.link, pumped.entry):
            pumped.process.send_signal(signal.SIGTERM)
            code = await pumped.process.wait()

    assert code == 0


async def test_it_ends_with_its_reader_and_delivers_the_last_word(pumped: Pumped) -> None:
    with trio.fail_after(PATIENCE):
        await pumped.entry.send_all(b"last word")
        await pumped.out.aclose()
        asked = await read_to_end(pumped.link)
        await pumped.link.aclose()
        ending = await pumped.ending()

    assert (asked, ending) == (b"last word", (0, ""))


async def test_a_program_that_does_not_read_holds_up_the_daemon_and_is_still_heard(pumped: Pumped) -> None:
    with trio.fail_after(PATIENCE):
        async with stuffed(pumped.link) as done, trio.open_nursery() as nursery:
            nursery.start_soon(pumped.entry.send_all, bytes(PLENTY))
            asked = await read_exactly(pumped.link, PLENTY)

    assert done == []
    assert asked == bytes(PLENTY)


async def test_a_daemon_that_does_not_read_holds_up_the_program_and_is_still_heard(pumped: Pumped) -> None:
    with trio.fail_after(PATIENCE):
        async with stuffed(pumped.entry) as done, trio.open_nursery() as nursery:
            nursery.start_soon(pumped.link.send_all, bytes(PLENTY))
            answered = await read_exactly(pumped.out, PLENTY)

    assert done == []
    assert answered == bytes(PLENTY)


def test_without_a_daemon_it_says_so_in_a_line(tmp_path: Path) -> None:
    done = crabctl("acp", "--no-start", env=home(tmp_path))

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "crabctl: crabd is not running: crabctl start\n"
