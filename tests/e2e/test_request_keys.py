"""Requests with a key whose answer was lost: asked again, they are answered and not done again."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from msgspec import structs

from tests.e2e.daemon import Client, Daemon, Home, WireError, start_daemon
from tests.model_server import Gate, ModelServer, says

# How an answer is lost, or seems to be.
WAYS = ["same link", "dead link", "SIGTERM", "SIGKILL"]
LINKS = 50
BIG = (1000, 50)
# What a summary makes shorter.
LONG = "one" + " and so on" * 30


class Machine:
    """A user's machine: its daemon is lost and started again."""

    def __init__(self, home: Home, models: ModelServer, stack: AsyncExitStack) -> None:
        self.home = home
        self.models = models
        self._stack = stack
        self.daemon: Daemon

    async def start(self) -> Client:
        self.daemon = await self._stack.enter_async_context(start_daemon(self.home))
        return await self.daemon.connect()

    async def twice(self, way: str, client: Client, method: str, **params: object) -> list[Any]:
        """Ask twice, the first answer being lost in that way; returns the answers there were."""
        if way == "dead link":
            await self._ask_and_die(method, params)
            return [await (await self.daemon.connect()).call(method, **params)]
        first = await client.call(method, **params)
        if way != "same link":
            await self.daemon.stop(signal.Signals[way])
            client = await self.start()
        return [first, await client.call(method, **params)]

    async def _ask_and_die(self, method: str, params: dict[str, object]) -> None:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        async with await trio.open_unix_socket(str(self.home.socket)) as link:
            await link.send_all(msgspec.json.encode(request) + b"\n")

    def records(self, session: str, type_: str) -> list[dict[str, Any]]:
        """Read the records of a type in a session's journal."""
        journal = self.home.state / "sessions" / session / "journal.jsonl"
        found = [json.loads(line)["record"] for line in journal.read_bytes().splitlines()]
        return [record for record in found if record["type"] == type_]

    def said(self, session: str) -> list[str]:
        """Read what a person said, in the journal's order."""
        messages = [record["message"] for record in self.records(session, "message")]
        return [message["content"][0]["text"] for message in messages if message["role"] == "user"]


@pytest.fixture
def machine_of(home: Home, models: ModelServer) -> Callable[[], Any]:
    home.configure(
        f'grace = 0\nmodel = "test/m"\ntitles = false\n[providers.test]\nbase_url = "{models.base_url}"\n',
    )

    @asynccontextmanager
    async def open_machine() -> AsyncGenerator[tuple[Machine, Client]]:
        async with AsyncExitStack() as stack:
            machine = Machine(home, models, stack)
            yield machine, await machine.start()

    return open_machine


async def begin(client: Client, **params: object) -> str:
    session: str = (await client.call("session/get_or_create", agent="crab", **params))["id"]
    return session


async def on_many_links(daemon: Daemon, method: str, **params: object) -> list[Any]:
    """Ask the same on fifty links at once."""
    answers: list[Any] = []
    clients = [await daemon.connect() for _ in range(LINKS)]

    async def ask(client: Client) -> None:
        answers.append(await client.call(method, **params))

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(ask, client)
    return answers


@pytest.mark.parametrize("way", WAYS)
async def test_a_message_runs_once(machine_of: Callable[[], Any], way: str) -> None:
    async with machine_of() as (machine, client):
        session = await begin(client)
        await machine.models.script(says("once"))

        answers = await machine.twice(
            way, client, "session/send", session=session, content="go", request_key="k"
        )

        assert {(a["run"], a["text"], a["stop_reason"]) for a in answers} == {("r1", "once", "end_turn")}
        assert len(await machine.models.requests(settled=1)) == 1
        assert machine.said(session) == ["go"]
        assert len(machine.records(session, "run_opened")) == 1


async def test_a_message_whose_run_was_killed_is_told_so_and_does_not_run_again(
    machine_of: Callable[[], Any],
) -> None:
    async with machine_of() as (machine, client):
        session = await begin(client)
        await machine.models.script(says("half", Gate("never")))
        request = {"session": session, "content": "go", "request_key": "k"}
        await client.ask("session/send", **request)
        await client.event("text_delta")
        await machine.daemon.stop(signal.SIGKILL)

        client = await machine.start()
        again = await client.call("session/send", **request)

        assert (again["run"], again["stop_reason"]) == ("r1", "interrupted")
        assert len(await machine.models.requests()) == 1
        assert machine.said(session) == ["go"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_steer_joins_once_and_is_told_the_same_after_its_run_is_over(
    machine_of: Callable[[], Any], way: str
) -> None:
    async with machine_of() as (machine, client):
        session = await begin(client)
        await client.call("session/subscribe", session=session)
        await machine.models.script(says("thinking", Gate("a")), says("done"))
        await client.call("session/send", session=session, content="go", wait=False)
        await client.event("text_delta")
        request = {"session": session, "content": "also", "request_key": "k"}

        answers = await machine.twice(way, client, "session/steer", **request)
        await machine.models.open_gate("a")
        if way in ("same link", "dead link"):
            await client.event("run_ended")
        else:
            client = await machine.daemon.connect()
        answers.append(await client.call("session/steer", **request))

        expected = {"steer": "r1.s1", "run": "r1", "status": "queued", "position": 1}
        assert answers == [expected] * len(answers)
        assert machine.said(session) == ["go", "also"]
        assert len(machine.records(session, "queued")) == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_history_is_compacted_once(machine_of: Callable[[], Any], way: str) -> None:
    async with machine_of() as (machine, client):
        session = await begin(client)
        await machine.models.script(
            *(structs.replace(says(word), usage=BIG) for word in (LONG, "two", "sum"))
        )
        for word in ("first", "second"):
            await client.call("session/send", session=session, content=word)

        answers = await machine.twice(
            way, client, "session/compact", session=session, instructions="briefly", request_key="k"
        )

        assert answers == [answers[0]] * len(answers)
        assert (answers[0]["archive"], answers[0]["summary"]) == (f"{session}/1", "sum")
        assert answers[0]["usage_after"] < answers[0]["usage_before"] == sum(BIG)
        assert len(await machine.models.requests(settled=3)) == 3
        assert len(machine.records(session, "compacted")) == 1


async def test_a_compaction_that_was_killed_before_its_end_is_done_by_the_next_request(
    machine_of: Callable[[], Any],
) -> None:
    async with machine_of() as (machine, client):
        session = await begin(client)
        await machine.models.script(says(LONG), says("su", Gate("never")), says("sum"))
        await client.call("session/send", session=session, content="first")
        await client.ask("session/compact", session=session, request_key="k")
        await machine.models.requests(wait=2)
        await machine.daemon.stop(signal.SIGKILL)

        client = await machine.start()
        again = await client.call("session/compact", session=session, request_key="k")

        assert (again["archive"], again["summary"]) == (f"{session}/1", "sum")
        assert len(machine.records(session, "compacted")) == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_session_is_deleted_once(machine_of: Callable[[], Any], way: str) -> None:
    async with machine_of() as (machine, client):
        session, other = await begin(client), await begin(client, sender="other")

        answers = await machine.twice(way, client, "session/delete", session=session, request_key="k")

        assert answers == [{"deleted": True}] * len(answers)
        client = await machine.daemon.connect()
        for key in ({}, {"request_key": "another"}):
            with pytest.raises(WireError) as unknown:
                await client.call("session/delete", session=session, **key)
            assert unknown.value.code == -32002
        listed = (await client.call("session/list"))["sessions"]
        assert [info["id"] for info in listed] == [other]
        assert (await client.call("daemon/status"))["store"]["problems"] == []


@pytest.mark.parametrize("way", WAYS)
async def test_a_session_is_made_once_and_is_new_again(machine_of: Callable[[], Any], way: str) -> None:
    async with machine_of() as (machine, client):
        request = {"agent": "crab", "topic": "deploy", "request_key": "k"}

        answers = await machine.twice(way, client, "session/get_or_create", **request)

        assert {(got["id"], got["created"]) for got in answers} == {("crab_user_1", True)}
        assert len(machine.records("crab_user_1", "created")) == 1
        client = await machine.daemon.connect()
        assert len((await client.call("session/list"))["sessions"]) == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_session_that_was_found_is_given_again_though_another_is_active(
    machine_of: Callable[[], Any], way: str
) -> None:
    async with machine_of() as (machine, client):
        await begin(client)
        request = {"agent": "crab", "request_key": "k"}
        await client.call("session/get_or_create", **request)
        await begin(client, topic="deploy")

        answers = await machine.twice(way, client, "session/get_or_create", **request)

        assert {(got["id"], got["created"]) for got in answers} == {("crab_user_1", False)}
        assert len(machine.records("crab_user_1", "claimed")) == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_session_is_forked_once(machine_of: Callable[[], Any], way: str) -> None:
    async with machine_of() as (machine, client):
        session = await begin(client)
        await client.call("session/send", session=session, content="first")
        request = {"session": session, "request_key": "k"}

        answers = await machine.twice(way, client, "session/fork", **request)

        assert {(got["id"], got["forked_from"]) for got in answers} == {("crab_user_2", session)}
        assert len({got["at"] for got in answers}) == 1
        client = await machine.daemon.connect()
        assert len((await client.call("session/list"))["sessions"]) == 2
        others: list[tuple[str, dict[str, Any]]] = [
            ("session/get_or_create", {"agent": "crab"}),
            ("session/fork", {"session": "crab_user_2"}),
            ("session/fork", {"session": session, "at": 1}),
        ]
        for method, params in others:
            with pytest.raises(WireError) as refused:
                await client.call(method, **params, request_key="k")
            assert refused.value.data["method"] == "session/fork"


@pytest.mark.parametrize("way", ["same link", "dead link"])
async def test_an_ephemeral_session_is_made_once(machine_of: Callable[[], Any], way: str) -> None:
    async with machine_of() as (machine, client):
        request = {"agent": "crab", "ephemeral": True, "request_key": "k"}

        answers = await machine.twice(way, client, "session/get_or_create", **request)

        assert {got["created"] for got in answers} == {True}
        listed = (await client.call("session/list"))["sessions"]
        assert {info["id"] for info in listed} == {got["id"] for got in answers}


async def test_what_fifty_links_ask_at_once_by_one_key_is_done_once(machine_of: Callable[[], Any]) -> None:
    async with machine_of() as (machine, client):
        await machine.models.script(says(LONG, Gate("a")), says("done"), says("sum"))
        daemon = machine.daemon

        made = await on_many_links(daemon, "session/get_or_create", agent="crab", request_key="make")
        session = made[0]["id"]
        await client.call("session/subscribe", session=session)
        sent = await on_many_links(
            daemon, "session/send", session=session, content="go", wait=False, request_key="send"
        )
        await client.event("text_delta")
        steered = await on_many_links(
            daemon, "session/steer", session=session, content="also", request_key="steer"
        )
        await machine.models.open_gate("a")
        ended = await on_many_links(daemon, "session/send", session=session, content="go", request_key="send")
        compacted = await on_many_links(daemon, "session/compact", session=session, request_key="compact")
        said, asked = machine.said(session), await machine.models.requests(settled=3)
        deleted = await on_many_links(daemon, "session/delete", session=session, request_key="delete")

        assert {(got["id"], got["created"]) for got in made} == {("crab_user_1", True)}
        assert sorted(one["disposition"] for one in sent) == ["attached"] * (LINKS - 1) + ["started"]
        assert steered == [{"steer": "r1.s1", "run": "r1", "status": "queued", "position": 1}] * LINKS
        assert {one["text"] for one in ended} == {"done"}
        assert compacted == [compacted[0]] * LINKS
        assert (compacted[0]["summary"], said, len(asked)) == ("sum", ["go", "also"], 3)
        assert deleted == [{"deleted": True}] * LINKS


async def test_a_key_that_comes_with_another_request_is_refused_also_after_a_restart(
    machine_of: Callable[[], Any],
) -> None:
    async with machine_of() as (machine, client):
        session = await begin(client)
        await client.call("session/send", session=session, content="go", request_key="k")
        others = [
            ("session/send", {"session": session, "content": "else"}),
            ("session/steer", {"session": session, "content": "go"}),
            ("session/compact", {"session": session}),
            ("session/get_or_create", {"agent": "crab"}),
            ("session/delete", {"session": session}),
        ]

        for life in range(2):
            for method, params in others:
                with pytest.raises(WireError) as refused:
                    await client.call(method, **params, request_key="k")
                assert refused.value.code == -32005
                assert refused.value.data == {
                    "kind": "request_key_reused",
                    "request_key": "k",
                    "method": "session/send",
                }
            if life == 0:
                await machine.daemon.stop(signal.SIGKILL)
                client = await machine.start()

        assert len(await machine.models.requests()) == 1


async def test_what_has_no_key_leaves_the_same_behind_when_it_is_done_twice(
    machine_of: Callable[[], Any],
) -> None:
    async with machine_of() as (machine, client):
        session = await begin(client)
        for word in ("first", "second"):
            await machine.models.script(says(word))
            await client.call("session/send", session=session, content=word)
        requests: list[tuple[str, dict[str, Any]]] = [
            ("session/configure", {"title": "T", "mode": "ask"}),
            ("session/pause", {}),
            ("session/resume", {}),
            # Named by its step it is the same; without one, the second would take back more.
            ("session/rewind", {"step": 5}),
            ("session/clear", {}),
            ("session/close", {}),
        ]

        seen: list[tuple[list[str], str, str]] = []
        for method, params in requests:
            for _ in range(2):
                await client.call(method, session=session, **params)
                info = (await client.call("session/get", session=session))["info"]
                messages = (await client.call("session/history", session=session))["messages"]
                left = [str(entry["step"]) for entry in messages if not entry.get("rewound")]
                seen.append((left, info["title"], info["state"]))

    assert seen[::2] == seen[1::2]
    assert len({str(each) for each in seen}) >= 4
