"""Processes that append, and what is held against what they have said."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import trio

from crabd.store.base import Damage
from crabd.store.record import Cleared, Step
from tests.faults.backends import BACKENDS

PROJECT = Path(__file__).parents[2]
SECONDS = 120


def appender(backend: str, root: Path, count: int, length: int = 40) -> list[str]:
    return [sys.executable, "-m", "tests.faults.appender", backend, str(root), str(count), str(length)]


async def start(command: list[str]) -> trio.Process:
    return await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=PROJECT)


async def hear(process: trio.Process, lines: float = math.inf) -> str:
    """Listen until so many lines have come, or the process has ended."""
    assert process.stdout
    told = b""
    with trio.fail_after(SECONDS):
        async for piece in process.stdout:
            told += piece
            if told.count(b"\n") >= lines:
                break
    return told.decode()


async def run(command: list[str]) -> tuple[str, int]:
    with trio.fail_after(SECONDS):
        done = await trio.run_process(command, capture_stdout=True, cwd=PROJECT, check=False)
    return done.stdout.decode(), done.returncode


async def traced(backend: str, root: Path, calls: str, fault: str) -> tuple[str, int]:
    """Have eight appends made under strace, which makes some system calls fail or kill."""
    strace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}"]
    return await run([*strace, "-e", f"inject={calls}:{fault}", *appender(backend, root, 8)])


def can_trace() -> bool:
    return not subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], check=False).returncode


def acknowledged(told: str) -> int:
    """Find the last step that a process has acknowledged; its last line may be cut short by a kill."""
    whole = told[: told.rfind("\n") + 1].splitlines()
    return max((int(line.split()[-1]) for line in whole if line.startswith(("ready", "acked"))), default=0)


async def load(backend: str, root: Path) -> tuple[tuple[Damage, ...], tuple[Step, ...]]:
    """Open a store as the next start would, and read its first session."""
    store = BACKENDS[backend].make(root)
    damage = await store.open()
    listed = store.meta("a_b_1")
    loaded = await store.load("a_b_1")
    assert loaded.log.meta == listed
    steps = await store.read("a_b_1")
    await store.aclose()
    assert loaded.steps == steps[loaded.steps[0].n - 1 :]
    return damage, steps


def assert_whole(steps: tuple[Step, ...]) -> None:
    """Nothing is lost in the middle, doubled, or half of an append."""
    assert [step.n for step in steps] == list(range(1, len(steps) + 1))
    said_numbers = [step.n for step in steps[1:] if step.record != Cleared()]
    for n in said_numbers:
        assert f"{n}:" in repr(steps[n - 1].record)
        assert (n - 1) % 3 or steps[n].record == Cleared()
