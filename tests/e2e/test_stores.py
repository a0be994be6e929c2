"""A daemon over a directory that crabtalk has written, and over one of the other store."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import trio

from tests import crabtalk_reader as crabtalk
from tests.crabtalk import V22_META, assistant, user, write_steps
from tests.e2e.daemon import PATIENCE, Home, start_daemon

SESSION = "crab_user_3"


@pytest.fixture
def place(home: Home) -> Path:
    """A session that crabtalk has left, and a configuration to go on with it."""
    home.configure('store = "stepfiles"\n')
    return write_steps(home.state / "sessions" / SESSION, V22_META, [user("hi"), assistant("hello")])


async def test_a_session_of_crabtalks_goes_on_and_crabtalk_can_go_on_after_that(
    home: Home, place: Path
) -> None:
    async with start_daemon(home) as daemon:
        client = await daemon.connect()

        found = await client.call("session/get_or_create", agent="crab")
        await client.call("session/send", session=SESSION, content="echo ours")
        status = await client.call("daemon/status")
        await daemon.stop()

    assert found["id"] == SESSION
    assert status["store"] == {"name": "stepfiles", "path": str(home.state), "problems": []}
    session = crabtalk.read_session(place)
    assert [message.content for message in session.history] == ["hi", "hello", "echo ours", "ours"]
    assert session.meta.message_count == 4


async def test_a_run_that_a_kill_cut_short_is_closed_by_the_next_life(home: Home, place: Path) -> None:
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        await client.call("session/get_or_create", agent="crab")
        await client.call("session/subscribe", session=SESSION)
        await client.ask("session/send", session=SESSION, content="slow 500 100")
        # What has come is written four times a second.
        await client.event("text_delta", 10)
        await daemon.stop(signal.SIGKILL)

    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        history = await client.call("session/history", session=SESSION)
        await client.call("session/send", session=SESSION, content="echo more")
        await daemon.stop()

    last = history["messages"][-1]["message"]
    assert (last["role"], last["partial"]) == ("assistant", True)
    assert last["content"][0]["text"]
    assert crabtalk.read_session(place).history[-1].content == "more"


async def test_a_directory_of_the_other_store_is_refused_at_the_start(home: Home, place: Path) -> None:
    home.configure("")

    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            [sys.executable, "-m", "crabd"], env=home.env, capture_stderr=True, check=False
        )

    assert done.returncode
    problem = f"{place} was not written by the configured store: set store = 'stepfiles' again"
    assert problem in done.stderr.decode()


async def test_a_change_of_the_store_takes_effect_at_the_next_start_and_says_so(
    home: Home, place: Path
) -> None:
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        home.configure("")

        told = await client.call("daemon/reload")

        assert told["problems"] == ["the new store takes effect at the next start: crabctl restart"]
        assert (await client.call("daemon/status"))["store"]["name"] == "stepfiles"
