"""Clients that come, follow busy sessions, vanish and come back, and in the end have what the store has.

How long, with how many clients and sessions, is in ``CRABD_SOAK``: ``SECONDS CLIENTS SESSIONS``.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import trio

from tests.e2e.daemon import Daemon, Home, start_daemon
from tests.e2e.transcript import Json, Transcript, plain

SHORT = "5 20 5"
LONG = os.environ.get("CRABD_SOAK", "600 100 20")
# What a client does for how long at most, in seconds: read, not read, be away.
READS, RESTS, IS_AWAY = 4.0, 1.0, 2.0
# How long all of it may take to come to its end when nothing more is said.
SETTLES = 120.0
DIRECTIVES = (
    "echo {} and so on",
    "count {}",
    "slow 20 {}",
    "think {} about it",
    "script\nthink {}\n" + "{todo}",
)
TODO = 'call todo {"items": [{"text": "this"}]}\nsay done'


class Link:
    """One connection; what is told meanwhile is handed on in its place, before the answer."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._unread = b""
        self._lines: list[bytes] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, socket: Path) -> AsyncGenerator[Link]:
        async with await trio.open_unix_socket(str(socket)) as stream:
            yield cls(stream)

    async def call(self, method: str, told: list[Json], **params: object) -> Any:
        """Ask, and wait for the answer; what is told before it is added to ``told``."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        await self._stream.send_all(msgspec.json.encode(request) + b"\n")
        while True:
            message = await self.next()
            if "method" not in message:
                return message["result"]
            told.append(message["params"])

    async def next(self) -> Json:
        """Wait for the next message."""
        while not self._lines:
            data = await self._stream.receive_some(1 << 18)
            assert data, "the daemon hung up"
            *lines, self._unread = (self._unread + data).split(b"\n")
            self._lines = lines[::-1]
        message: Json = msgspec.json.decode(self._lines.pop())
        return message


class Visitor:
    """A client of some sessions that loses its link again and again."""

    def __init__(self, socket: Path, sessions: list[str], rng: Random) -> None:
        self.sessions = sessions
        self.returns = 0
        self.rebuilt = 0
        self.transcripts: dict[str, Transcript] = {}
        self._socket = socket
        self._rng = rng
        self._epoch = ""

    async def visit(self) -> None:
        """Come, follow, rest, vanish, until cancelled."""
        while True:
            with trio.move_on_after(self._rng.uniform(0.0, READS)):
                async with Link.open(self._socket) as link:
                    await self._follow(link)
            self.returns += 1
            await trio.sleep(self._rng.uniform(0.0, IS_AWAY))

    async def settle(self, last: dict[str, int]) -> None:
        """Come once more, and stay until all is there."""
        async with Link.open(self._socket) as link:
            for session in self.sessions:
                await self._subscribe(link, session)
            while any(self.transcripts[session].seq < last[session] for session in self.sessions):
                await self._take(link, await link.next())

    async def _follow(self, link: Link) -> None:
        for session in self.sessions:
            await self._subscribe(link, session)
        while True:
            if self._rng.random() < 0.01:
                await trio.sleep(self._rng.uniform(0.0, RESTS))
            await self._take(link, await link.next())

    async def _take(self, link: Link, message: Json) -> None:
        event = message["params"]
        if not self.transcripts[event["session"]].take(event):
            await self._subscribe(link, event["session"])

    async def _subscribe(self, link: Link, session: str) -> None:
        """Go on with a session from where this client is, or begin anew with what there is."""
        told: list[Json] = []
        known = self.transcripts.get(session)
        place = {} if known is None else {"after": known.seq, "epoch": self._epoch}
        answer = await link.call("session/subscribe", told, session=session, **place)
        for event in told:
            # What one session had lost before the answer is in it; of others nothing is asked for yet.
            other = self.transcripts.get(event["session"])
            if other is not None and event["session"] != session and not other.take(event):
                await self._subscribe(link, event["session"])
        if known is None or answer["replay"] == "partial":
            self.rebuilt += 1
            await self._rebuild(link, session, answer)
        self._epoch = answer["epoch"]

    async def _rebuild(self, link: Link, session: str, answer: Json) -> None:
        told: list[Json] = []
        history: list[Json] = []
        step: int | None = 1
        while step is not None:
            params = {"session": session, "from": step, "limit": 1000}
            page = await link.call("session/history", told, **params)
            history += page["messages"]
            step = page["next"]
        self.transcripts[session] = Transcript(answer["snapshot"], history)
        for event in told:
            if event["session"] in self.transcripts:
                await self._take(link, {"params": event})


async def chat(socket: Path, session: str, rng: Random, stop: trio.Event) -> None:
    """Keep a session busy until it is to stop."""
    async with Link.open(socket) as link:
        await link.call("session/configure", [], session=session, auto_compact=False, mode="full")
        while not stop.is_set():
            content = rng.choice(DIRECTIVES).replace("{todo}", TODO).replace("{}", str(rng.randrange(2, 60)))
            done = await link.call("session/send", [], session=session, content=content, events=False)
            assert done["stop_reason"] == "end_turn", done


def stored(home: Home, session: str) -> bytes:
    """Read the messages of a session from its journal."""
    lines = (home.state / "sessions" / session / "journal.jsonl").read_bytes().splitlines()
    records = [json.loads(line)["record"] for line in lines]
    return write([plain(record["message"]) for record in records if record["type"] == "message"])


def write(messages: list[Json]) -> bytes:
    """Spell messages in the one way that there is."""
    return msgspec.json.encode(messages, order="sorted")


async def soak(daemon: Daemon, seconds: float, clients: int, count: int) -> list[Visitor]:
    """Have clients come and go for so long; returns them when all has been told."""
    client, socket = await daemon.connect(), daemon.home.socket
    rng = Random(7)
    sessions = [
        (await client.call("session/get_or_create", agent="crab", sender=f"s{n}"))["id"] for n in range(count)
    ]
    visitors = [Visitor(socket, rng.sample(sessions, 2), Random(n)) for n in range(clients)]
    stop = trio.Event()
    async with trio.open_nursery() as visits:
        for visitor in visitors:
            visits.start_soon(visitor.visit)
        async with trio.open_nursery() as chats:
            for n, session in enumerate(sessions):
                chats.start_soon(chat, socket, session, Random(1000 + n), stop)
            await trio.sleep(seconds)
            stop.set()
        visits.cancel_scope.cancel()
    last = {each: (await client.call("session/get", session=each))["info"]["seq"] for each in sessions}
    with trio.fail_after(SETTLES):
        async with trio.open_nursery() as nursery:
            for visitor in visitors:
                nursery.start_soon(visitor.settle, last)
    return visitors


async def check(home: Home, shape: str) -> None:
    seconds, clients, count = map(int, shape.split())
    with trio.fail_after(seconds + 3 * SETTLES):
        async with start_daemon(home) as daemon:
            visitors = await soak(daemon, seconds, clients, count)
    texts = {session: stored(home, session) for visitor in visitors for session in visitor.sessions}
    returns, rebuilt = sum(v.returns for v in visitors), sum(v.rebuilt for v in visitors)
    size = sum(map(len, texts.values()))
    print(f"{returns} returns, {rebuilt} times anew, {size} bytes in {len(texts)} sessions")
    for visitor in visitors:
        for session, transcript in visitor.transcripts.items():
            assert write(transcript.messages) == texts[session]
    assert returns > 0


async def test_clients_that_come_and_go_have_in_the_end_what_the_store_has(home: Home) -> None:
    await check(home, SHORT)


@pytest.mark.long
async def test_very_many_clients_that_come_and_go_for_long_have_what_the_store_has(home: Home) -> None:
    await check(home, LONG)
