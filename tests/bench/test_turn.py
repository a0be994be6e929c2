"""What the daemon adds to a model's answer, against asking the same server directly with the same bytes.

The figures are for reading: that the answers are right is all that is asserted.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import httpx
import msgspec
import pytest
import trio

from tests.bench.measure import Report, Samples, turns
from tests.e2e.daemon import PATIENCE, Home, start_daemon
from tests.model_server import ModelServer, Raw, says, start_model_server

SESSIONS = 64
BURST = 2000
ANSWER = b'{"jsonrpc":"2.0","id":'
DIRECT, THROUGH = "model server, httpx", "through crabd"


class Link:
    """A blocking link that leaves events undecoded, so that it measures the daemon and not itself."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(str(path))

    def call(self, method: str, **params: object) -> Any:
        """Ask one thing and return its result."""
        line = self.exchange([request(0, method, **params)])[-1]
        return msgspec.json.decode(line)["result"]

    def exchange(self, requests: Sequence[bytes]) -> list[bytes]:
        """Send requests and read on until all are answered; returns every line that came."""
        self._socket.sendall(b"".join(requests))
        lines: list[bytes] = []
        rest = b""
        answers = 0
        while answers < len(requests):
            data = self._socket.recv(256 * 1024)
            assert data, "the daemon hung up"
            *more, rest = (rest + data).split(b"\n")
            answers += sum(line.startswith(ANSWER) for line in more)
            lines += more
        return lines

    def close(self) -> None:
        self._socket.close()


class Bench:
    """A daemon's link, and the model server that the daemon asks, at hand for asking it directly."""

    def __init__(self, link: Link, models: ModelServer, http: httpx.AsyncClient) -> None:
        self.link = link
        self.models = models
        self._http = http

    def open_sessions(self, count: int) -> list[str]:
        names = [f"sender {n}" for n in range(count)]
        return [self.link.call("session/get_or_create", agent="crab", sender=name)["id"] for name in names]

    async def ask_directly(self, body: bytes) -> None:
        """Stream one answer and read it to its end."""
        async with self._http.stream(
            "POST", f"{self.models.base_url}/chat/completions", content=body
        ) as answer:
            pieces = [piece async for piece in answer.aiter_raw()]
        assert pieces[-1].endswith(b"data: [DONE]\n\n")

    async def last_body(self) -> bytes:
        """Spell the last request that the daemon made once more."""
        return msgspec.json.encode((await self.models.requests())[-1].body)


@asynccontextmanager
async def bench_at(directory: Path) -> AsyncGenerator[Bench]:
    home = Home(directory)
    limits = httpx.Limits(max_connections=SESSIONS, max_keepalive_connections=SESSIONS)
    async with (
        start_model_server() as models,
        httpx.AsyncClient(limits=limits, timeout=PATIENCE) as http,
    ):
        home.use_model_server(models.base_url)
        async with start_daemon(home) as daemon:
            link = Link(daemon.home.socket)
            yield Bench(link, models, http)
            link.close()


def request(number: int, method: str, **params: object) -> bytes:
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return msgspec.json.encode(message) + b"\n"


def sends(sessions: Sequence[str], content: str) -> list[bytes]:
    return [
        request(n, "session/send", session=session, content=content, events=False)
        for n, session in enumerate(sessions)
    ]


def results(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Decode the answers among the lines."""
    return [msgspec.json.decode(line)["result"] for line in lines if line.startswith(ANSWER)]


def count_missed(lines: Sequence[bytes]) -> int:
    """Count the events that a gap stands for, and make sure that none is missing without one."""
    shown = [msgspec.json.decode(line)["params"] for line in lines if not line.startswith(ANSWER)]
    spans = [(event.get("merged_from", event.get("from", event["seq"])), event["seq"]) for event in shown]
    assert all(first == last + 1 for (_, last), (first, _) in pairwise(spans))
    return sum(event["to"] - event["from"] + 1 for event in shown if event["type"] == "lagged")


async def seconds(work: Callable[[], Awaitable[object]]) -> float:
    start = perf_counter()
    await work()
    return perf_counter() - start


def tell(report: Report, title: str, samples: Samples) -> None:
    direct = samples.median(DIRECT)
    rows = [
        (
            name,
            f"{samples.median(name) * 1e3:.2f}",
            f"{(samples.median(name) - direct) * 1e3:.2f}",
            samples.ratio(name, DIRECT),
        )
        for name in (DIRECT, THROUGH)
    ]
    report(title, ("way", "ms", "more ms", "× direct"), rows)


@pytest.mark.bench
async def test_a_warm_turn(tmp_path: Path, report: Report) -> None:
    words = "one two three four five six seven eight"
    async with bench_at(tmp_path) as bench:
        [session] = bench.open_sessions(1)
        bench.link.exchange(sends([session], words))
        body = await bench.last_body()
        samples = Samples()
        for name in turns([DIRECT, THROUGH], 40):
            if name == DIRECT:
                samples.add(name, await seconds(lambda: bench.ask_directly(body)))
                continue
            # The history goes, so that the daemon always asks with the same bytes.
            bench.link.call("session/clear", session=session)
            start = perf_counter()
            lines = bench.link.exchange(sends([session], words))
            samples.add(name, perf_counter() - start)
            [result] = results(lines)
            assert (result["text"], result["persisted"]) == (words, True)

    tell(report, "a warm, durable turn of 8 chunks", samples)


@pytest.mark.bench
async def test_many_sessions_at_once(tmp_path: Path, report: Report) -> None:
    words = " ".join(f"word{n}" for n in range(50))
    async with bench_at(tmp_path) as bench:
        sessions = bench.open_sessions(SESSIONS)
        bench.link.exchange(sends(sessions, words))
        body = await bench.last_body()

        async def ask_all() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(SESSIONS):
                    nursery.start_soon(bench.ask_directly, body)

        samples = Samples()
        for name in turns([DIRECT, THROUGH], 5):
            if name == DIRECT:
                samples.add(name, await seconds(ask_all))
                continue
            for session in sessions:
                bench.link.call("session/clear", session=session)
            start = perf_counter()
            lines = bench.link.exchange(sends(sessions, words))
            samples.add(name, perf_counter() - start)
            assert [(one["text"], one["persisted"]) for one in results(lines)] == [(words, True)] * SESSIONS

    tell(report, f"{SESSIONS} sessions at once, 50 chunks each", samples)


@pytest.mark.bench
async def test_a_burst_of_chunks(tmp_path: Path, report: Report) -> None:
    chunk = msgspec.json.encode({"choices": [{"index": 0, "delta": {"content": "word "}}]})
    # In one piece, so that the server's own pace is no limit.
    answer = says(Raw(b"data: %b\n\n" % chunk * BURST))
    rounds = 9
    async with bench_at(tmp_path) as bench:
        await bench.models.script(*[answer] * (2 * rounds + 1))
        [session] = bench.open_sessions(1)
        bench.link.call("session/subscribe", session=session)
        bench.link.exchange(sends([session], "go"))
        body = await bench.last_body()
        samples = Samples()
        missed: list[int] = []
        for name in turns([DIRECT, THROUGH], rounds):
            if name == DIRECT:
                samples.add(name, await seconds(lambda: bench.ask_directly(body)))
                continue
            bench.link.call("session/clear", session=session)
            start = perf_counter()
            lines = bench.link.exchange(sends([session], "go"))
            samples.add(name, perf_counter() - start)
            [result] = results(lines)
            assert result["text"] == "word " * BURST
            missed.append(count_missed(lines))

    title = f"a burst of {BURST} chunks, of which a subscriber is told that it missed {median(missed):.0f}"
    tell(report, title, samples)
