"""What one subscriber that never reads costs the others, and the daemon."""

from __future__ import annotations

import selectors
import socket
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from crabd.runtime.pace import MAX_BACKLOG
from tests.bench.measure import Report, Samples, turns
from tests.bench.test_fanout import Process, running
from tests.e2e.daemon import PATIENCE

ROUNDS = 3
ALL_READ, ONE_DEAF = "all read", "one never reads"
# What the one does not read has to be more than it may have unread.
EVENTS = 8000
# Subscribers that read, with the events of a burst and the pause behind each, in microseconds.
SHAPES = {1: (16, 2000), 16: (16, 4000), 256: (32, 25_000)}
# How much later the others may be served for it. The machine does other things, and whatever they cost, it is
# not in every round; what the one costs is.
MOST_LATER = 1.2
# What the memory may have grown by besides the one's backlog.
ELSE_BYTES = 3 * 1024 * 1024


class Told(Struct):
    at: datetime


class Line(Struct):
    params: Told


class Burden(Struct, frozen=True):
    """What there was in the end: the latest of a hundred deliveries in seconds, bytes unread, and memory."""

    p99: float
    backlog: int
    resident: int


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.setblocking(False)
    return sock


def read(links: list[socket.socket], events: int) -> list[float]:
    """Read until each has had all events; returns how late they were on the last link, in seconds."""
    late: list[float] = []
    left = dict.fromkeys(links, events)
    rest = b""
    with selectors.EpollSelector() as selector:
        for each in links:
            selector.register(each, selectors.EVENT_READ, each)
        while left:
            ready = selector.select(PATIENCE)
            assert ready, "no more came"
            for key, _ in ready:
                link: socket.socket = key.data
                data = link.recv(1 << 18)
                assert data, "the server hung up"
                if link is links[-1]:
                    now = datetime.now(UTC)
                    *lines, rest = (rest + data).split(b"\n")
                    told = [msgspec.json.decode(line, type=Line).params.at for line in lines]
                    late += [(now - at).total_seconds() for at in told]
                left[link] -= data.count(b"\n")
                if left[link] == 0:
                    del left[link]
    return late


def measure(path: Path, readers: int, *, has_deaf: bool) -> Burden:
    """Have events published steadily, in a process of its own."""
    burst, pause = SHAPES[readers]
    command = (sys.executable, "-m", "tests.bench.fanout_server", path, str(readers + has_deaf))
    with ExitStack() as stack:
        server: Process = stack.enter_context(running(*command))
        # The deaf one is served first, so that whoever comes behind it would have to wait.
        links = [stack.enter_context(connect(str(path))) for _ in range(readers + has_deaf)]
        server.tell(EVENTS // burst, burst, 0, pause)
        late = sorted(read(links[has_deaf:], EVENTS))
        _, backlog, resident = server.answers.readline().split()
    path.unlink()
    return Burden(late[len(late) * 99 // 100], int(backlog), int(resident))


@pytest.mark.bench
def test_one_that_never_reads_costs_the_others_nothing_and_the_daemon_little(
    tmp_path: Path, report: Report
) -> None:
    rows: list[tuple[object, ...]] = []
    misses: list[str] = []
    for readers in SHAPES:
        p99, memory = Samples(), Samples()
        backlogs: list[int] = []
        for name in turns([ALL_READ, ONE_DEAF], ROUNDS):
            burden = measure(tmp_path / "s", readers, has_deaf=name == ONE_DEAF)
            p99.add(name, burden.p99)
            memory.add(name, burden.resident)
            if name == ONE_DEAF:
                backlogs.append(burden.backlog)
        later, more = p99.ratio(ONE_DEAF, ALL_READ), memory.difference(ONE_DEAF, ALL_READ)
        rows += [
            (readers, name, f"{p99.median(name) * 1e3:.2f}", p99.ratio(name, ALL_READ))
            for name in (ALL_READ, ONE_DEAF)
        ]
        rows.append((readers, "unread, memory", f"{max(backlogs) / 1e6:.2f} MB", more.times(1e-6)))
        if later.low > MOST_LATER:
            misses.append(f"{readers}: the others are {later} times as late")
        if max(backlogs) > 2 * MAX_BACKLOG or more.middle > 2 * MAX_BACKLOG + ELSE_BYTES:
            misses.append(f"{readers}: {max(backlogs)} bytes unread, {more} bytes more")

    report("one that never reads", ("readers", "variant", "p99 ms", "× all read, MB more"), rows)
    assert not misses
