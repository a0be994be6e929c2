"""Search through crabctl and the real daemon: over restarts, kills and what is done to the index."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from typing import Any

import pytest
import trio

from tests.e2e.daemon import PATIENCE, Client, Daemon, Home, start_daemon


async def crabctl(home: Home, *words: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(PATIENCE):
        return await trio.run_process(
            [sys.executable, "-m", "crabctl", "--no-start", *words],
            env=home.env,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


async def search(home: Home, *words: str) -> list[dict[str, Any]]:
    """Search until everything is indexed."""
    with trio.fail_after(PATIENCE):
        while True:
            done = await crabctl(home, "search", "--json", *words)
            found = json.loads(done.stdout)
            if not found["indexing"]:
                hits: list[dict[str, Any]] = found["hits"]
                return hits


async def sessions_with(home: Home, *words: str) -> list[str]:
    return [hit["session"] for hit in await search(home, *words)]


async def talk(client: Client, *messages: str, sender: str = "user", topic: str | None = None) -> str:
    """Say something in the session of a sender; returns its id."""
    session = (await client.call("session/get_or_create", agent="crab", sender=sender, topic=topic))["id"]
    for message in messages:
        await client.call("session/send", session=session, content=f"echo {message}", events=False)
    return str(session)


async def test_what_was_said_is_found_at_once_and_shown_to_a_reader(home: Home, daemon: Daemon) -> None:
    client = await daemon.connect()
    session = await talk(client, "the build is red")
    await client.call("session/configure", session=session, title="Builds")

    done = await crabctl(home, "search", "build", "red")
    nothing = await crabctl(home, "search", "albatross")
    refused = await crabctl(home, "search", "?!")

    head, hit = done.stdout.decode().splitlines()
    assert head.startswith(f"{session}  Builds  ")
    assert hit.strip().startswith("user, step 3: echo the build is red")
    assert hit.endswith("(and 1 more)")
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, b"", b"crabctl: nothing found\n")
    assert (refused.returncode, b"no word in it" in refused.stderr) == (2, True)


async def test_filters_name_the_sessions_to_look_in(home: Home, daemon: Daemon) -> None:
    client = await daemon.connect()
    plain = await talk(client, "pelicans")
    other = await talk(client, "pelicans", sender="other")
    topic = await talk(client, "pelicans", topic="birds")

    assert set(await sessions_with(home, "pelicans")) == {plain, other, topic}
    assert await sessions_with(home, "pelicans", "-s", "other") == [other]
    assert await sessions_with(home, "pelicans", "-t", "birds") == [topic]
    assert await sessions_with(home, "pelicans", "-a", "nobody") == []
    assert await sessions_with(home, "-n", "1", "pelicans", "-S", plain) == [plain]
    missing = await crabctl(home, "search", "-S", "crab_user_99", "pelicans")
    assert missing.returncode == 4


async def test_scripts_without_spaces_are_found_by_any_part(home: Home, daemon: Daemon) -> None:
    client = await daemon.connect()
    session = await talk(client, "我们的数据库服务器出了问题")

    (hit,) = await search(home, "数据库")

    assert hit["session"] == session
    assert hit["snippet"][1] == "数据库"
    assert await sessions_with(home, "题") == [session]
    assert await sessions_with(home, "库数") == []


async def test_what_came_before_a_compaction_is_found_and_so_is_its_summary(
    home: Home, daemon: Daemon
) -> None:
    client = await daemon.connect()
    session = await talk(client, "albatross" + " and so on" * 80, "cormorant", "dodo", "eider")

    await client.call("session/compact", session=session)

    roles = {hit["role"] for hit in await search(home, "-S", session, "albatross")}
    assert roles == {"user", "assistant", "summary"}
    assert await sessions_with(home, "cormorant") == [session]


async def test_a_deleted_session_and_an_old_title_are_found_no_more(home: Home, daemon: Daemon) -> None:
    client = await daemon.connect()
    gone, left = await talk(client, "hello", sender="gone"), await talk(client, "hello", sender="left")
    await client.call("session/configure", session=left, title="Pelicans")
    before = await sessions_with(home, "pelicans"), set(await sessions_with(home, "hello"))

    await client.call("session/delete", session=gone)
    await client.call("session/configure", session=left, title="Cormorants")

    at_once = await client.call("session/search", query="hello")
    assert before == ([left], {gone, left})
    assert [hit["session"] for hit in at_once["hits"]] == [left]
    assert await sessions_with(home, "pelicans") == []
    assert await sessions_with(home, "cormorants") == [left]


async def test_after_a_kill_everything_acknowledged_is_found(home: Home) -> None:
    said: list[str] = []
    for life in range(3):
        async with start_daemon(home) as daemon:
            client = await daemon.connect()
            for number in range(10):
                word = f"word{life}x{number}"
                await talk(client, word, sender=f"s{number % 4}")
                said.append(word)
            await daemon.stop(signal.SIGKILL)

    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        await search(home, "echo")
        counts = [len((await client.call("session/search", query=word))["hits"]) for word in said]

    assert counts == [1] * len(said)


@pytest.mark.parametrize("is_running", [False, True])
async def test_the_index_may_be_deleted_at_any_time(home: Home, is_running: bool) -> None:
    async with start_daemon(home) as daemon:
        session = await talk(await daemon.connect(), "pelicans")
        assert await sessions_with(home, "pelicans") == [session]
        if is_running:
            shutil.rmtree(home.state / "index")
            await talk(await daemon.connect(), "more")
            with trio.fail_after(PATIENCE):
                while not (home.state / "index" / "index.db").exists():
                    await trio.sleep(0)
            assert await sessions_with(home, "pelicans") == [session]
        await daemon.stop()
    if not is_running:
        shutil.rmtree(home.state / "index")

    async with start_daemon(home):
        assert await sessions_with(home, "pelicans") == [session]


async def test_a_damaged_index_hurts_no_session_and_heals(home: Home) -> None:
    async with start_daemon(home) as daemon:
        session = await talk(await daemon.connect(), "pelicans")
        await search(home, "pelicans")
        await daemon.stop()
    path = home.state / "index" / "index.db"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 100_000)

    async with start_daemon(home) as daemon:
        await talk(await daemon.connect(), "cormorants")
        with trio.fail_after(PATIENCE):
            while (await crabctl(home, "search", "pelicans")).returncode != 0:
                await trio.sleep(0)

        assert await sessions_with(home, "pelicans") == [session]
        assert await sessions_with(home, "cormorants") == [session]
        status = json.loads((await crabctl(home, "status", "--json")).stdout)
        assert status["index"]["state"] == "ready"


async def test_a_rebuild_is_told_and_holds_up_neither_an_answer_nor_the_stop(home: Home) -> None:
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        await talk(client, *(f"word{number} pelicans" for number in range(40)))
        await search(home, "pelicans")
        await daemon.stop()
    shutil.rmtree(home.state / "index")

    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        first = await client.call("session/search", query="pelicans")
        listed = await client.call("session/list")
        code = await daemon.stop()

    assert first["indexing"] == (first["waiting"] > 0)
    assert len(listed["sessions"]) == 1
    assert code == 0


async def test_an_ephemeral_session_is_not_in_the_index(home: Home, daemon: Daemon) -> None:
    client = await daemon.connect()
    found = await client.call("session/get_or_create", agent="crab", ephemeral=True)
    await client.call("session/send", session=found["id"], content="echo secretword", events=False)
    kept = await talk(client, "openword")

    assert await sessions_with(home, "openword") == [kept]
    assert await sessions_with(home, "secretword") == []
    await daemon.stop()
    with sqlite3.connect(home.state / "index" / "index.db") as connection:
        texts = connection.execute("SELECT text FROM texts").fetchall()
    connection.close()
    assert not [text for (text,) in texts if "secretword" in text]
