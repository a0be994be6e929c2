"""A daemon, the model server it asks, and links to it that measure them and not themselves."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import msgspec

from tests.bench.measure import Report, Samples
from tests.e2e.daemon import PATIENCE, Home, start_daemon
from tests.model_server import ModelServer, start_model_server

MAX_CONNECTIONS = 64
ANSWER = b'{"jsonrpc":"2.0","id":'
DIRECT, THROUGH = "model server, httpx", "through crabd"


class Link:
    """A blocking link that leaves events undecoded."""

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
        pieces: list[bytes] = []
        answers = 0
        while answers < len(requests):
            data = self._socket.recv(256 * 1024)
            assert data, "the daemon hung up"
            pieces.append(data)
            if b"\n" in data:
                *more, rest = b"".join(pieces).split(b"\n")
                pieces = [rest]
                answers += sum(line.startswith(ANSWER) for line in more)
                lines += more
        return lines

    def close(self) -> None:
        self._socket.close()


class Bench:
    """A daemon's link, and the model server that the daemon asks, at hand for asking it directly."""

    def __init__(self, link: Link, models: ModelServer, pid: int) -> None:
        self.link = link
        self.models = models
        self.pid = pid
        self._http = make_client()

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

    async def hang_up(self) -> None:
        """Close the direct connections. With every request httpx compares each idle one with all others."""
        await self._http.aclose()
        self._http = make_client()

    async def aclose(self) -> None:
        self.link.close()
        await self._http.aclose()

    async def last_body(self) -> bytes:
        """Spell the last request that the daemon made once more."""
        return msgspec.json.encode((await self.models.requests())[-1].body)


@asynccontextmanager
async def bench_at(home: Home) -> AsyncGenerator[Bench]:
    """Run a daemon and a model server for it."""
    async with start_model_server() as models:
        home.use_model_server(models.base_url)
        async with start_daemon(home) as daemon:
            bench = Bench(Link(daemon.home.socket), models, daemon.process.pid)
            yield bench
            await bench.aclose()


def make_client() -> httpx.AsyncClient:
    """Make a client that may ask for all sessions at once."""
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
    return httpx.AsyncClient(limits=limits, timeout=PATIENCE)


def request(number: int, method: str, **params: object) -> bytes:
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return msgspec.json.encode(message) + b"\n"


def sends(sessions: Sequence[str], content: str, *, events: bool = False) -> list[bytes]:
    return [
        request(n, "session/send", session=session, content=content, events=events)
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


def resident(pid: int) -> float:
    """Read what a process holds in memory, in MB."""
    return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def tell(report: Report, title: str, samples: Samples, *goals: str) -> None:
    """Print what going through the daemon costs; ``goals`` say a target and what came of it, a line each."""
    rows = [
        (
            name,
            f"{samples.median(name) * 1e3:.2f}",
            samples.difference(name, DIRECT).times(1e3),
            samples.ratio(name, DIRECT),
        )
        for name in (DIRECT, THROUGH)
    ]
    report("\n  ".join([title, *goals]), ("way", "ms", "more ms", "× direct"), rows)
