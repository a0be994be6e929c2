"""Limits on what is kept, set in config.toml and applied with crabctl."""

from __future__ import annotations

from functools import partial
from subprocess import CompletedProcess

import msgspec
import trio

from tests.crabctl.program import crabctl
from tests.e2e.daemon import Daemon, Home, start_daemon

LIMITED = 'model = "offline/echo"\n[retention]\nmax_bytes = 1\n'


async def run(home: Home, *words: str) -> CompletedProcess[str]:
    """Run one command line beside the daemon."""
    return await trio.to_thread.run_sync(partial(crabctl, *words, env=home.env))


async def leave_sessions(daemon: Daemon, count: int) -> list[str]:
    """Leave closed sessions behind."""
    client = await daemon.connect()
    names: list[str] = []
    for number in range(count):
        info = await client.call("session/get_or_create", agent="crab", sender=f"s{number}")
        await client.call("session/send", session=info["id"], content="echo hi")
        await client.call("session/close", session=info["id"])
        names.append(info["id"])
    return names


async def listed(daemon: Daemon) -> set[str]:
    client = await daemon.connect()
    return {info["id"] for info in (await client.call("session/list"))["sessions"]}


async def test_without_limits_nothing_goes_and_it_is_told_how_to_set_them(home: Home) -> None:
    async with start_daemon(home) as daemon:
        names = await leave_sessions(daemon, 1)

        done = await run(home, "prune", "-y")

        assert done.returncode == 0
        assert "[retention]" in done.stdout
        assert await listed(daemon) == set(names)


async def test_what_is_over_a_limit_is_shown_and_goes_when_somebody_says_so(home: Home) -> None:
    home.configure(LIMITED)
    async with start_daemon(home) as daemon:
        first, second = await leave_sessions(daemon, 2)
        client = await daemon.connect()
        await client.call("session/load", session=second)

        shown = await run(home, "prune", "--dry-run")
        unsure = await run(home, "prune")
        before = await listed(daemon)
        removed = await run(home, "prune", "-y", "--json")

        assert first in shown.stdout
        assert second not in shown.stdout
        assert (shown.returncode, unsure.returncode, removed.returncode) == (0, 1, 0)
        assert before == {first, second}
        told = msgspec.json.decode(removed.stdout)
        assert [each["session"] for each in told["sessions"]] == [first]
        assert told["bytes"] > 0
        assert await listed(daemon) == {second}
