"""A status bar: it sees all sessions at a glance, as they are, and nothing that is said in them."""

from __future__ import annotations

from typing import Any

import trio

from tests.e2e.daemon import PATIENCE, Client, Daemon, Home

ASKS = """script
call bash {"command": "touch made.txt"}
say this is said to nobody else
"""


class Bar:
    """What a status bar shows, put together from the picture and what came since."""

    def __init__(self, client: Client, picture: dict[str, Any]) -> None:
        self.counts = picture["counts"]
        self._client = client
        self._sessions = {session["id"]: session for session in picture["sessions"]}
        self._taken = 0

    def look(self) -> dict[str, Any]:
        """Take what has come; returns the sessions."""
        for told in self._client.notifications[self._taken :]:
            self._taken += 1
            self.counts = told["counts"]
            self._sessions.update((session["id"], session) for session in told["sessions"])
            for session in told["removed"]:
                self._sessions.pop(session, None)
        return self._sessions

    async def until(self, session: str, **facts: object) -> None:
        """Wait until a session is like that."""
        await self._client.until(
            lambda: {name: self.look().get(session, {}).get(name) for name in facts} == facts
        )

    async def until_gone(self, session: str) -> None:
        await self._client.until(lambda: session not in self.look())


async def test_a_status_bar_follows_sessions_from_the_first_to_the_last(home: Home, daemon: Daemon) -> None:
    client, onlooker = await daemon.connect(), await daemon.connect()
    old = (await client.call("session/get_or_create", agent="crab", sender="old"))["id"]
    picture = await onlooker.call("daemon/subscribe")
    bar = Bar(onlooker, picture)

    where = {"agent": "crab", "topic": "deploy", "cwd": str(home.directory)}
    session = (await client.call("session/get_or_create", **where))["id"]
    await bar.until(session, topic="deploy", state="idle")
    running = await client.ask("session/send", session=session, content=ASKS)
    await bar.until(session, state="waiting", confirmations=1)
    waiting = bar.counts
    asked = (await client.event("confirmation_requested"))["confirmation"]
    await client.call("confirmation/reply", session=session, call=asked["call"], decision="deny")
    with trio.fail_after(PATIENCE):
        await client.answer(running)
    info = (await client.call("session/get", session=session))["info"]
    await bar.until(session, state="idle", confirmations=0, usage=info["usage"], steps=info["steps"])
    await client.call("session/close", session=session)
    await bar.until(session, state="stored", active=False)
    await client.call("session/delete", session=session)
    await bar.until_gone(session)

    assert [each["id"] for each in picture["sessions"]] == [old]
    assert (picture["counts"]["sessions"], waiting["sessions"], bar.counts["sessions"]) == (1, 2, 1)
    assert (waiting["running"], waiting["waiting"], bar.counts["waiting"]) == (1, 1, 0)
    assert "said to nobody" not in str(onlooker.notifications)
    assert all(told["epoch"] == picture["epoch"] for told in onlooker.notifications)
    assert await onlooker.call("daemon/unsubscribe") == {"unsubscribed": True}
    assert await onlooker.call("daemon/unsubscribe") == {"unsubscribed": False}
