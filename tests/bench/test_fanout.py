"""What it takes to give a session's events to many, against a loop in C that does nothing but send."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import IO

import pytest
from msgspec import Struct

from tests.bench.measure import Report, Samples, cpu_seconds, turns
from tests.e2e.daemon import ROOT

ROUNDS = 7
SOURCE = Path(__file__).with_name("fanout.c")
COMPILER = shutil.which("cc") or shutil.which("gcc")
C, OURS = "C, one send a burst", "Topic.publish"
# Of the C loop's deliveries a second, what is held; for one subscriber it is the price of an event.
TARGET = 0.5
# Subscribers, and the events of one burst, with the least share that is held.
LEAST = {(1, 1): 0.01, (16, 1): TARGET, (256, 1): TARGET, (16, 32): 0.1, (256, 32): TARGET}
# Deliveries of one slice, by the size of a burst: about a quarter of a second in C.
DELIVERIES = {1: 60_000, 32: 1_600_000}


class Process(Struct, frozen=True):
    """A process that takes commands, a line each, and answers in lines."""

    pid: int
    said: str
    commands: IO[bytes]
    answers: IO[bytes]

    def tell(self, *words: int) -> None:
        self.commands.write(b" ".join(b"%d" % word for word in words) + b"\n")
        self.commands.flush()


class Sender(Struct, frozen=True):
    """Somebody who sends, and who reads it."""

    process: Process
    reader: Process


@contextmanager
def running(*command: str | Path) -> Generator[Process]:
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            said = process.stdout.readline().decode()
            assert said.startswith("READY")
            yield Process(process.pid, said, process.stdin, process.stdout)
        finally:
            process.kill()


@contextmanager
def senders(program: Path, directory: Path, subscribers: int) -> Generator[dict[str, Sender]]:
    """Run both, each with as many subscribers."""
    directory.mkdir()
    paths = {C: directory / "c.sock", OURS: directory / "ours.sock"}
    commands = {C: (program, "send"), OURS: (sys.executable, "-m", "tests.bench.fanout_server")}
    with ExitStack() as stack:
        yield {
            name: Sender(
                stack.enter_context(running(*command, paths[name], str(subscribers))),
                stack.enter_context(running(program, "read", paths[name], str(subscribers))),
            )
            for name, command in commands.items()
        }


def measure(sender: Sender, subscribers: int, burst: int, size: int) -> tuple[float, float]:
    """Have bursts sent, and read to the last line; returns seconds, and the sender's, for one."""
    bursts = DELIVERIES[burst] // (subscribers * burst)
    deliveries = bursts * burst * subscribers
    cpu, start = cpu_seconds(sender.process.pid), perf_counter()
    sender.reader.tell(deliveries)
    sender.process.tell(bursts, burst, size)
    assert sender.reader.answers.readline() == b"DONE\n"
    wall, cpu = perf_counter() - start, cpu_seconds(sender.process.pid) - cpu
    return wall / deliveries, cpu / deliveries


class Compared(Struct, frozen=True):
    """Seconds that a delivery takes, of the clock and of the sender's processor; ``size`` is one in bytes."""

    wall: Samples
    cpu: Samples
    size: int


def compare(program: Path, directory: Path, subscribers: int, burst: int) -> Compared:
    """Measure both in turn."""
    with senders(program, directory, subscribers) as both:
        compared = Compared(Samples(), Samples(), int(both[OURS].process.said.split()[1]))
        for name in turns([C, OURS], ROUNDS):
            wall, cpu = measure(both[name], subscribers, burst, compared.size)
            compared.wall.add(name, wall)
            compared.cpu.add(name, cpu)
    return compared


def tabulate(shape: str, compared: Compared) -> list[tuple[object, ...]]:
    wall, cpu = compared.wall, compared.cpu
    return [
        (
            shape,
            name,
            f"{1 / wall.median(name):,.0f}",
            wall.ratio(C, name),
            f"{cpu.median(name) * 1e6:.2f}",
            cpu.ratio(name, C),
        )
        for name in (C, OURS)
    ]


@pytest.mark.bench
@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler to compare with")
def test_many_subscribers_cost_little_more_than_sending_to_them(tmp_path: Path, report: Report) -> None:
    assert COMPILER is not None
    program = tmp_path / "fanout"
    subprocess.run([COMPILER, "-O2", "-o", program, SOURCE], check=True)
    rows: list[tuple[object, ...]] = []
    misses: list[str] = []
    for (subscribers, burst), least in LEAST.items():
        shape = f"{subscribers} × {burst}"
        compared = compare(program, tmp_path / shape, subscribers, burst)
        rows += tabulate(f"{shape}, {compared.size} bytes", compared)
        share = compared.wall.ratio(C, OURS)
        if share.middle < least:
            misses.append(f"{shape}: {share} of C, not {least}")

    title = f"fan-out, subscribers × events of a burst: target ≥ {TARGET} of C"
    report(title, ("shape", "sender", "deliveries/s", "of C", "CPU µs", "CPU × C"), rows)
    assert not misses
