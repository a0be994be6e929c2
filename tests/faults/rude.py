"""A daemon under siege: rude clients on raw sockets, a polite one that must not notice, and a stocktaking."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import trio
from msgspec import Struct

from tests.e2e.daemon import PATIENCE, Client, Daemon, Home, start_daemon
from tests.rpc.cases import Framing, read_texts

MIB = 1024 * 1024
# The longest message that the daemon takes, as ``initialize`` tells.
MESSAGE_BYTES = 16 * MIB
# Parts of the daemon that it keeps once it has needed them: threads for its disk, room for text to come.
SLACK_BYTES = 8 * MIB
# What grows may have to be moved, and is there twice meanwhile.
ONE_MESSAGE = 2 * MESSAGE_BYTES + SLACK_BYTES
POLITE_SESSION = "crab_polite_1"
PING = b'{"jsonrpc":"2.0","id":0,"method":"daemon/ping"}'
PONG = {"jsonrpc": "2.0", "id": 0, "result": {"pong": True}}


class Footprint(Struct, frozen=True):
    """What clients may hold of a daemon, and must give back by leaving."""

    clients: int
    # What /proc names them: the path of a file, the number of a socket.
    descriptors: tuple[str, ...]


class Polite:
    """A client that pings and has runs streamed to it, round after round, and minds every word of them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._rounds = 0
        self._news = trio.Condition()

    async def carry_on(self) -> None:
        """Go round until cancelled."""
        while True:
            for _ in range(5):
                assert await self._client.call("daemon/ping") == {"pong": True}
            self._client.notifications.clear()
            result = await self._client.call("session/send", session=POLITE_SESSION, content="slow 10 1")
            told = "".join(event["text"] for event in self._client.events("text_delta"))
            assert (told, result["persisted"]) == (result["text"], True)
            assert told == "1 2 3 4 5 6 7 8 9 10"
            async with self._news:
                self._rounds += 1
                self._news.notify_all()

    async def rounds(self, count: int = 3) -> None:
        """Wait until so many more have begun and ended well."""
        enough = self._rounds + 1 + count
        with trio.fail_after(PATIENCE):
            async with self._news:
                while self._rounds < enough:
                    await self._news.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Go round until something is so."""
        with trio.fail_after(PATIENCE):
            while not condition():
                await self.rounds(1)


class Siege:
    """A daemon under attack, the polite client in it, and a link for whoever asks how it fares."""

    def __init__(self, daemon: Daemon, polite: Polite, client: Client) -> None:
        self.daemon = daemon
        self.polite = polite
        self.client = client
        self.pid = daemon.process.pid

    @asynccontextmanager
    async def link(self) -> AsyncGenerator[trio.SocketStream]:
        """Open a raw link; it is closed with the block."""
        stream = await trio.open_unix_socket(str(self.daemon.home.socket))
        async with stream:
            yield stream

    async def exchange(self, data: bytes) -> list[Any]:
        """Say something, half-close, and read what is answered until the daemon hangs up."""
        async with self.link() as stream, trio.open_nursery() as nursery:
            nursery.start_soon(say_and_end, stream, data)
            return await read_to_end(stream)

    @asynccontextmanager
    async def session(self, sender: str) -> AsyncGenerator[str]:
        """Make a session; what it holds is given back with the block."""
        session: str = (await self.client.call("session/get_or_create", agent="crab", sender=sender))["id"]
        yield session
        await self.client.call("session/close", session=session, cancel=True)

    def log(self, event: str) -> list[dict[str, Any]]:
        """List the lines of the log with this event."""
        return [line for line in read_log(self.daemon.home) if line["event"] == event]

    async def footprint(self) -> Footprint:
        status = await self.client.call("daemon/status")
        # The polite one's own files come and go with its rounds.
        others = [name for name in descriptors_of(self.pid) if f"/{POLITE_SESSION}" not in name]
        return Footprint(status["clients"], tuple(sorted(others)))


@asynccontextmanager
async def besieged(directory: Path, *, memory: int = SLACK_BYTES) -> AsyncGenerator[Siege]:
    """Run a daemon and a polite client beside the block, and take stock afterwards.

    It must never have grown by more than ``memory`` bytes, must hold nothing of those who have left, must
    have logged no error, and must still stop in order.
    """
    home = Home(directory)
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        await client.call("session/get_or_create", agent="crab", sender="polite")
        async with trio.open_nursery() as nursery:
            siege = Siege(daemon, Polite(await daemon.connect()), client)
            nursery.start_soon(siege.polite.carry_on)
            await siege.polite.rounds()
            before = await siege.footprint()
            lowest = forget_peak(siege.pid)
            yield siege
            await siege.polite.rounds()
            grown = peak_bytes(siege.pid) - lowest
            with trio.fail_after(PATIENCE):
                while await siege.footprint() != before:
                    await siege.polite.rounds(1)
            nursery.cancel_scope.cancel()
        print(f"grew by {grown / MIB:.1f} MiB of {memory / MIB:.0f}")
        assert grown <= memory
        assert await daemon.stop() == 0
    assert [line for line in read_log(home) if line["level"] == "error"] == []


async def say(stream: trio.SocketStream, pieces: Iterable[bytes]) -> None:
    """Write until all is said, or the daemon has had enough."""
    with suppress(trio.BrokenResourceError):
        for piece in pieces:
            await stream.send_all(piece)


async def say_and_end(stream: trio.SocketStream, data: bytes) -> None:
    with suppress(trio.BrokenResourceError):
        await stream.send_all(data)
        await stream.send_eof()


async def read_to_end(stream: trio.SocketStream) -> list[Any]:
    """Read until the daemon hangs up, in either framing; every text must be JSON."""
    received = b""
    while piece := await receive(stream):
        received += piece
    framing: Framing = "headers" if received.startswith(b"Content-Length") else "lines"
    return [msgspec.json.decode(text) for text in read_texts(received, framing)]


async def read_lines(stream: trio.SocketStream, count: int) -> list[Any]:
    """Read so many messages, behind which nothing may come."""
    received = bytearray()
    unread = count
    while unread and (piece := await receive(stream)):
        received += piece
        unread -= piece.count(b"\n")
    assert unread == 0
    return [msgspec.json.decode(line) for line in bytes(received).splitlines()]


async def receive(stream: trio.SocketStream) -> bytes:
    """Read what there is; nothing is the end, be it a reset."""
    # Longer than the daemon itself waits for the rest of a message.
    with trio.fail_after(2 * PATIENCE), suppress(trio.BrokenResourceError):
        return bytes(await stream.receive_some())
    return b""


def read_log(home: Home) -> list[dict[str, Any]]:
    """Read the daemon's log. A line that is none of it, as a traceback is, fails."""
    lines = (home.directory / "crabd.log").read_bytes().splitlines()
    return [msgspec.json.decode(line) for line in lines]


def descriptors_of(pid: int) -> list[str]:
    """Name what a process has open."""
    found: list[str] = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        # It may just have been closed.
        with suppress(FileNotFoundError):
            found.append(str(link.readlink()))
    return found


def forget_peak(pid: int) -> int:
    """Begin to measure the most memory a process holds from now on; returns what it holds now, in bytes."""
    # proc(5): 5 resets the peak.
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _memory(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """Tell the most memory a process has held since ``forget_peak``."""
    return _memory(pid, "VmHWM")


def resident_bytes(pid: int) -> int:
    """Tell the memory that a process holds."""
    return _memory(pid, "VmRSS")


def _memory(pid: int, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found, field
    return int(found[1]) * 1024
