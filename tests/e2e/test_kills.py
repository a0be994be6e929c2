"""The daemon under load, killed at any moment: what was acknowledged is there, once and in order."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import trio

from tests.e2e.busy import Busy, ToolUser, Watcher
from tests.e2e.daemon import PATIENCE, Client, Daemon, Home, start_daemon
from tests.e2e.journals import Journal
from tests.e2e.ledger import World
from tests.model_server import ModelServer

# And one whose agent uses tools, and one that watches all: sixteen.
CLIENTS = 14
KILLS = 25
STORES = ("journal", "stepfiles")
# What a kill may leave of an append that takes more than one call of the system, and what is told of it.
CUT_SHORT = "that append was cut short and never acknowledged"
# A life in which nobody happens to see what the kill waits for ends all the same.
LIFE_SECONDS = 4.0
# How often a daemon is told to stop before it is killed, and how often it is killed before it is ready.
ANNOUNCED = 0.15
STILLBORN = 0.3
# What a kill waits for, how often at most, and how often it is that: anything at all, or a moment of its own.
MOMENTS: dict[str, tuple[int, float]] = {
    "anything": (600, 10),
    "answer": (60, 2),
    "text_delta": (200, 2),
    "old text": (40, 4),
    "run_started": (8, 1),
    "run_ended": (8, 1),
    "steered": (3, 1),
    "queued": (4, 1),
    "tool_call": (2, 2),
    "tool_result": (2, 1),
    "compacted": (1, 1),
    "session_closed": (2, 0.5),
    "asked session/send": (20, 1),
    "asked session/steer": (5, 1),
    "asked session/compact": (2, 1),
    "asked session/configure": (2, 0.5),
    "asked session/get_or_create": (10, 0.5),
    "asked session/close": (2, 0.5),
    "asked session/delete": (1, 1),
}


class Fate:
    """Chooses the moment of a daemon's death, and says when it has come."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.begin()

    def __repr__(self) -> str:
        return f"<Fate after {self._left} more of {self._moment}>"

    def begin(self) -> None:
        """Choose for a new life."""
        [self._moment] = self._rng.choices(list(MOMENTS), [weight for _, weight in MOMENTS.values()])
        self._left = self._rng.randint(1, MOMENTS[self._moment][0])
        self.has_come = trio.Event()
        self.is_announced = self._rng.random() < ANNOUNCED

    def watch(self, what: str) -> None:
        """Count what happens."""
        if self._moment in ("anything", what):
            self._left -= 1
            if self._left == 0:
                self.has_come.set()

    def hesitate(self) -> float:
        """Choose how long a kill comes too late, in seconds: most of what matters takes a millisecond."""
        return self._rng.choice((0.0, self._rng.uniform(0, 0.003), self._rng.uniform(0, 0.03)))


@contextmanager
def seeded(home: Home) -> Generator[Random]:
    """Give a source of chance; if it goes badly say how to have the same again, and what the daemon said."""
    seed = os.environ.get("CRABD_SEED") or secrets.token_hex(4)
    try:
        yield Random(seed)
    except BaseException:
        print(f"CRABD_SEED={seed} makes the same choices again")
        print(*read_complaints(home.directory / "crabd.log"), sep="\n")
        raise


async def live_and_die(daemon: Daemon, world: World, fate: Fate, clients: Sequence[Busy]) -> None:
    """Let all clients loose on the daemon, and kill it when its time has come."""
    fate.begin()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.work, daemon.home.socket)
            with trio.move_on_after(LIFE_SECONDS):
                await fate.has_come.wait()
            if fate.is_announced:
                daemon.process.terminate()
            await trio.sleep(fate.hesitate())
            await daemon.stop(signal.SIGKILL)
    world.close()


async def die_at_birth(home: Home, seconds: float) -> None:
    """Kill a daemon while it mends what the one before it has left."""

    async def kill(process: trio.Process) -> None:
        process.kill()

    with trio.move_on_after(seconds), (home.directory / "crabd.log").open("ab") as log:
        command = [sys.executable, "-m", "crabd"]
        await trio.run_process(command, env=home.env, stderr=log, deliver_cancel=kill)


async def survey(daemon: Daemon, world: World, rng: Random, clients: Sequence[Busy]) -> None:
    """See that the store is sound, and has all that was acknowledged and all that was seen."""
    client = await daemon.connect()
    status = await client.call("daemon/status")
    assert [problem for problem in status["store"]["problems"] if CUT_SHORT not in problem] == []
    listed = await client.call("session/list", limit=1000)
    infos = {info["id"]: info for info in listed["sessions"]}
    sessions = daemon.home.state / "sessions"
    journals = {path.name: Journal(path) for path in sessions.glob("[a-z]*")}
    assert set(journals) == set(infos)
    for name, ledger in world.ledgers.items():
        ledger.check_life(name in journals)
        if name in journals:
            ledger.check(journals[name])
            ledger.check_settings(infos[name])
    for name, info in infos.items():
        journal = journals[name]
        assert info["state"] in ("stored", "paused", "idle"), info
        found = (info["steps"], info["message_count"], info["queue"])
        assert found == (journal.steps, len(journal.entries), 0), info
        if rng.random() < 0.5:
            assert await read_history(client, name) == journal.entries
    for one in clients:
        one.check(journals)


async def read_history(client: Client, session: str) -> list[Any]:
    """Read a session's messages page by page."""
    entries: list[Any] = []
    start: int | None = 1
    while start is not None:
        page = await client.call("session/history", session=session, from_=start, limit=50)
        entries += page["messages"]
        start = page["next"]
    return entries


def read_complaints(log: Path) -> list[Any]:
    """List what the daemon has logged that is more than information, and that a kill does not explain."""
    lines = map(msgspec.json.decode, log.read_bytes().splitlines())
    return [line for line in lines if line["level"] != "info" and CUT_SHORT not in line.get("problem", "")]


async def campaign(home: Home, models: ModelServer, store: str, rng: Random, kills: int) -> World:
    """Kill daemon after daemon on one store, and hold what clients have seen against what they left there."""
    home.configure(
        f'model = "offline/echo"\nstore = "{store}"\ntitles = false\n'
        f'[providers.test]\nbase_url = "{models.base_url}"\n'
    )
    fate = Fate(rng)
    world = World(fate.watch)
    # Each has a chance of its own, or what one does would depend on how fast the others are.
    chances = [Random(rng.getrandbits(64)) for _ in range(CLIENTS + 2)]
    clients: list[Busy] = [ToolUser(world, chances.pop(), models), Watcher("watcher", world, chances.pop())]
    clients += [Busy(f"c{i}", world, chance) for i, chance in enumerate(chances)]
    birth = 0.0
    for _ in range(kills):
        if rng.random() < STILLBORN:
            await die_at_birth(home, birth * rng.uniform(0.6, 1))
        began = trio.current_time()
        async with start_daemon(home) as daemon:
            birth = trio.current_time() - began
            await survey(daemon, world, rng, clients)
            await live_and_die(daemon, world, fate, clients)
    async with start_daemon(home) as daemon:
        await survey(daemon, world, rng, clients)
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(client.settle, home.socket)
        await survey(daemon, world, rng, clients)
        assert await daemon.stop(signal.SIGTERM) == 0
    assert read_complaints(home.directory / "crabd.log") == []
    return world


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("part", range(4))
async def test_two_hundred_kills_lose_nothing_that_was_acknowledged(
    home: Home, models: ModelServer, store: str, part: int
) -> None:
    with seeded(home) as rng:
        world = await campaign(home, models, store, rng, KILLS)

        assert world.figures["runs compared"] > 0


@pytest.mark.long
@pytest.mark.parametrize("part", range(int(os.environ.get("CRABD_KILLS", "2500")) // KILLS))
async def test_thousands_of_kills_lose_nothing_that_was_acknowledged(
    home: Home, models: ModelServer, part: int
) -> None:
    with seeded(home) as rng:
        world = await campaign(home, models, STORES[part % 2], rng, KILLS)

        for what in (*MOMENTS, "runs compared", "cut runs compared", "characters that were due"):
            assert what == "anything" or world.figures[what] > 0, f"{what} did not happen"
