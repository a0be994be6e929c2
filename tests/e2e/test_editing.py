"""Queue, fork and rewind, as a person at a terminal meets them."""

from __future__ import annotations

import json

from tests.e2e.daemon import Daemon, Home
from tests.e2e.test_search import crabctl, talk


async def test_a_person_takes_a_message_back_and_goes_another_way(home: Home, daemon: Daemon) -> None:
    client = await daemon.connect()
    session = await talk(client, "one", "two")

    forked = json.loads((await crabctl(home, "fork", session, "--json")).stdout)
    taken = await crabctl(home, "rewind", session)
    read = await crabctl(home, "log", session)
    shown = await crabctl(home, "show", forked["id"])
    again = await crabctl(home, "rewind", session, "--at", "1")
    nothing = await crabctl(home, "rewind", session)

    assert (forked["id"], forked["forked_from"]) == ("crab_user_2", session)
    assert taken.stdout.decode().splitlines()[0].startswith(f"{session}: 2 messages taken back")
    assert taken.stdout.decode().splitlines()[-1] == "echo two"
    assert [line.count("taken back") for line in read.stdout.decode().splitlines() if "──" in line] == [
        0,
        0,
        1,
        1,
    ]
    assert "copy of" in shown.stdout.decode()
    assert "2 messages taken back" in again.stdout.decode()
    assert (nothing.returncode, "no message to take back" in nothing.stderr.decode()) == (2, True)


async def test_messages_that_wait_are_listed_and_taken_out(home: Home, daemon: Daemon) -> None:
    client = await daemon.connect()
    session = await talk(client)
    await client.call("session/send", session=session, content="slow 1000 60", wait=False, events=False)
    for word in ("red", "blue"):
        await client.call("session/send", session=session, content=word, wait=False, events=False)

    listed = await crabctl(home, "queue", session)
    removed = await crabctl(home, "queue", session, "--remove", "r2")
    left = json.loads((await crabctl(home, "queue", session, "--json")).stdout)
    begun = await crabctl(home, "queue", session, "--remove", "r1")
    unknown = await crabctl(home, "queue", session, "--remove", "r9")
    await client.call("session/cancel", session=session)

    assert listed.stdout.decode().splitlines() == ["r2  red", "r3  blue"]
    assert removed.stdout.decode() == f"{session}: r2 is taken out\n"
    assert [message["run"] for message in left["messages"]] == ["r3"]
    assert "it waits no more" in begun.stderr.decode()
    assert (unknown.returncode, "no waiting message 'r9'" in unknown.stderr.decode()) == (4, True)
