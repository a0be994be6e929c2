"""A store with sixteen writers, killed at any moment: what was acknowledged is there, once and in order."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio

from tests.faults.backends import BACKENDS
from tests.faults.claims import Claims, hold

PROJECT = Path(__file__).parents[2]
SECONDS = 60
TASKS = 16
# More than a life has time for.
COUNT = 10_000

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


class Lives:
    """A process that has one child after the other open the store and write."""

    def __init__(self, process: trio.Process, command: str) -> None:
        assert process.stdin
        assert process.stdout
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._command = command.encode()
        self._heard = b""

    async def hear(self) -> str:
        """Wait for the next line."""
        while b"\n" not in self._heard:
            piece = await self._stdout.receive_some()
            assert piece, "the process has ended"
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    async def live_and_die(self, claims: Claims, lines: int, delay: float) -> None:
        """Have a child live until it has said so much, and a moment longer."""
        await self._stdin.send_all(self._command)
        _, pid = (await self.hear()).split()
        for _ in range(lines):
            claims.take(await self.hear())
        await trio.sleep(delay)
        os.kill(int(pid), 9)
        while (line := await self.hear()) != "died":
            claims.take(line)


@asynccontextmanager
async def open_lives(backend: str, root: Path) -> AsyncGenerator[Lives]:
    crowd = [sys.executable, "-m", "tests.faults.crowd", "lives"]
    process = await trio.lowlevel.open_process(
        crowd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT
    )
    try:
        yield Lives(process, f"{backend} {root} {TASKS} {COUNT} 500\n")
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


async def campaign(backend: str, root: Path, kills: int) -> None:
    """Kill one life after the other; each goes on where the last one ended, and says where that was."""
    seed = os.environ.get("CRABD_SEED") or secrets.token_hex(4)
    print(f"CRABD_SEED={seed} makes the same choices again")
    chance, claims = Random(seed), Claims()
    async with open_lives(backend, root) as lives:
        for number in range(1, kills + 1):
            # Some die while they open the store, some in the first writes, some later.
            lines = chance.choice((0, 0, TASKS, chance.randrange(TASKS), chance.randrange(10 * TASKS)))
            with trio.fail_after(SECONDS):
                await lives.live_and_die(claims, lines, chance.choice((0, chance.uniform(0, 0.03))))
                if number % 10 == 0:
                    await hold(backend, root, claims)
    await hold(backend, root, claims)

    assert claims.appends.keys() == {f"s{number}" for number in range(TASKS)}
    assert sum(claims.appends.values()) > kills


async def test_two_hundred_kills_lose_nothing_that_was_acknowledged(backend: str, tmp_path: Path) -> None:
    await campaign(backend, tmp_path / "store", 200)


@pytest.mark.long
async def test_two_thousand_kills_lose_nothing_that_was_acknowledged(backend: str, tmp_path: Path) -> None:
    await campaign(backend, tmp_path / "store", 2000)
