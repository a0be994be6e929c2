"""What a request costs, against servers that do nothing with it. The client sends bytes and counts them."""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter

import pytest
from msgspec import Struct

from tests.bench.measure import Report, Samples, cpu_seconds, on_one_core, turns
from tests.e2e.daemon import ROOT, Daemon, Home, start_daemon

ROUNDS = 7
SLICE_SECONDS = 0.1
# Connections and the requests on each that go out together, with the least share of the bare echo's requests
# per second: about half of what was measured, as a machine that does other things meanwhile takes a third.
LEAST = {(1, 1): 0.2, (1, 16): 0.1, (1, 256): 0.02, (64, 1): 0.2}
# What a task of its own costs a request, as a multiple of answering at once: measured 2 to 6. Less would mean
# that answering at once has lost its point.
LEAST_OF_TASK = 1.3
HEAD = ("shape", "server", "req/s", "× echo", "CPU µs", "CPU × echo", "CPU × trio echo")
SOURCE = Path(__file__).with_name("echo.c")


class Server(Struct, frozen=True):
    """Who is asked what. ``links`` are blocking connections to it."""

    pid: int
    method: str
    links: tuple[socket.socket, ...]


class Slice(Struct, frozen=True):
    """Seconds that one request took, on the clock and of the server's processor."""

    wall: float
    cpu: float


def requests(method: str, count: int) -> bytes:
    """Spell requests ahead. All ids have the same length, so that all answers do."""
    line = '{"jsonrpc":"2.0","id":%d,"method":"%s","params":{}}\n'
    return b"".join((line % (1000 + n, method)).encode() for n in range(count))


def take(link: socket.socket, size: int) -> None:
    """Read an answer of that size."""
    while size > 0:
        data = link.recv(65536)
        assert data, "the server hung up"
        size -= len(data)


def ask_one(link: socket.socket, burst: bytes, size: int, until: float) -> int:
    """Send a burst whenever the last one is answered; returns how many there were."""
    count = 0
    while perf_counter() < until:
        link.sendall(burst)
        take(link, size)
        count += 1
    return count


def ask_many(links: Sequence[socket.socket], burst: bytes, size: int, until: float) -> int:
    """Do that on many links, each by itself."""
    poll = select.epoll()
    by_number = {link.fileno(): link for link in links}
    for number, link in by_number.items():
        poll.register(number, select.EPOLLIN)
        link.sendall(burst)
    count = 0
    while perf_counter() < until:
        for number, _ in poll.poll():
            take(by_number[number], size)
            by_number[number].sendall(burst)
            count += 1
    for link in links:
        take(link, size)
    poll.close()
    return count + len(links)


def answer_size(link: socket.socket, burst: bytes) -> int:
    """Learn how long the answer to a burst is: all of it is here once the last line is."""
    link.sendall(burst)
    answer = b""
    while answer.count(b"\n") < burst.count(b"\n"):
        answer += link.recv(65536)
    assert b'"error"' not in answer, answer
    return len(answer)


def measure(server: Server, connections: int, depth: int) -> Slice:
    burst = requests(server.method, depth)
    links = server.links[:connections]
    size = answer_size(links[0], burst)
    cpu, start = cpu_seconds(server.pid), perf_counter()
    until = start + SLICE_SECONDS
    bursts = (
        ask_one(links[0], burst, size, until) if connections == 1 else ask_many(links, burst, size, until)
    )
    wall, cpu = perf_counter() - start, cpu_seconds(server.pid) - cpu
    return Slice(wall / bursts / depth, cpu / bursts / depth)


def connect(path: Path, count: int, stack: ExitStack) -> tuple[socket.socket, ...]:
    links = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(count)]
    for link in links:
        link.settimeout(10)
        link.connect(str(path))
    return tuple(links)


@contextmanager
def running(*command: str | Path) -> Generator[int]:
    """Run a server of the bench until the block ends; yields its process id once it listens."""
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"READY\n"
            yield process.pid
        finally:
            process.kill()


def echo_command(directory: Path) -> tuple[str, list[str | Path]]:
    """Build the C echo; without a compiler there is one in Python."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "Python echo", [sys.executable, "-m", "tests.bench.rpc_servers", "echo", directory]
    program = directory / "echo"
    subprocess.run([compiler, "-O2", "-o", program, SOURCE], check=True)
    return "C echo", [program, directory / "echo.sock"]


@contextmanager
def bench_servers(directory: Path, daemon: Daemon) -> Generator[dict[str, Server]]:
    """Run what the daemon is compared with; the first of the servers is the bare echo."""
    most = max(connections for connections, _ in LEAST)
    name, command = echo_command(directory)
    links_command = (sys.executable, "-m", "tests.bench.rpc_servers", "links", directory)
    with ExitStack() as stack:
        echo = stack.enter_context(running(*command))
        links = stack.enter_context(running(*links_command))
        floor, peer = (connect(directory / f"{place}.sock", most, stack) for place in ("floor", "peer"))
        yield {
            name: Server(echo, "daemon/ping", connect(directory / "echo.sock", most, stack)),
            "trio echo": Server(links, "daemon/ping", floor),
            "peer, inline": Server(links, "inline", peer),
            "peer, task": Server(links, "task", peer),
            "crabd": Server(daemon.process.pid, "daemon/ping", connect(daemon.home.socket, most, stack)),
        }


@pytest.mark.bench
async def test_a_ping_costs_little_more_than_moving_its_bytes(tmp_path: Path, report: Report) -> None:
    rows: list[tuple[object, ...]] = []
    misses: list[str] = []
    with on_one_core():
        async with start_daemon(Home(tmp_path)) as daemon:
            with bench_servers(tmp_path, daemon) as servers:
                for shape, least in LEAST.items():
                    wall, cpu = compare(servers, *shape)
                    rows += tabulate("{}×{}".format(*shape), list(servers), wall, cpu)
                    rate = wall.ratio(next(iter(servers)), "crabd")
                    task = cpu.ratio("peer, task", "peer, inline")
                    if rate.middle < least or task.middle < LEAST_OF_TASK:
                        misses.append(f"{shape}: {rate} of the echo, a task costs {task}")

    report("requests, connections×depth; echo is the first server", HEAD, rows)
    assert not misses


def compare(servers: dict[str, Server], connections: int, depth: int) -> tuple[Samples, Samples]:
    """Measure every server in turn; returns seconds on the clock and of the processor."""
    wall, cpu = Samples(), Samples()
    for name in turns(list(servers), ROUNDS):
        one = measure(servers[name], connections, depth)
        wall.add(name, one.wall)
        cpu.add(name, one.cpu)
    return wall, cpu


def tabulate(title: str, names: Sequence[str], wall: Samples, cpu: Samples) -> list[tuple[object, ...]]:
    return [
        (
            title,
            name,
            f"{1 / wall.median(name):,.0f}",
            wall.ratio(names[0], name),
            f"{cpu.median(name) * 1e6:.2f}",
            cpu.ratio(name, names[0]),
            cpu.ratio(name, "trio echo"),
        )
        for name in names
    ]
