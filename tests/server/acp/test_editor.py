"""A client's files, asked for over a real link: what it answers, and what it does instead."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from msgspec import Raw
from structlog.testing import capture_logs

from crabd.rpc.peer import Peer
from crabd.rpc.reactor import Reactor
from crabd.server.acp.editor import ClientEditor, shows_files
from crabd.server.acp.schema import ClientCapabilities
from crabd.tools.base import EditorFailed
from tests.rpc.links import LineClient, serving

SESSION = "crab_user_1"


class Client:
    """A client that answers by hand, and the editor that it is to us."""

    def __init__(self, link: LineClient, peer: Peer) -> None:
        self.link = link
        self.editor = ClientEditor(peer, SESSION)

    async def asked(self) -> dict[str, Any]:
        """Wait for what it is asked next."""
        message: dict[str, Any] = msgspec.json.decode(await self.link.receive_text())
        return message

    async def answer(self, **said: object) -> dict[str, Any]:
        """Answer what it is asked next; returns that."""
        request = await self.asked()
        await self.link.send(msgspec.json.encode({"jsonrpc": "2.0", "id": request["id"], **said}))
        return request


@asynccontextmanager
async def linked(reactor: Reactor) -> AsyncGenerator[Client]:
    here, there = socket.socketpair()

    def refuse(method: str, _: Raw) -> object:
        raise AssertionError(method)

    peer = Peer(here, refuse, reactor)
    async with serving(peer, there) as link:
        yield Client(link, peer)


async def test_a_file_is_read_and_written_as_the_protocol_says(
    reactor: Reactor, nursery: trio.Nursery
) -> None:
    requests: list[dict[str, Any]] = []

    async def serve(client: Client) -> None:
        requests.append(await client.answer(result={"content": "unsaved\n", "_meta": {}}))
        requests.append(await client.answer(result=None))
        requests.append(await client.answer(result={}))

    async with linked(reactor) as client:
        nursery.start_soon(serve, client)
        text = await client.editor.read("/p/a.txt")
        await client.editor.write("/p/a.txt", "new\n")
        await client.editor.write("/p/b.txt", "")

    assert text == "unsaved\n"
    assert [(each["method"], each["params"]) for each in requests] == [
        ("fs/read_text_file", {"sessionId": SESSION, "path": "/p/a.txt"}),
        ("fs/write_text_file", {"sessionId": SESSION, "path": "/p/a.txt", "content": "new\n"}),
        ("fs/write_text_file", {"sessionId": SESSION, "path": "/p/b.txt", "content": ""}),
    ]
    assert all(each["id"] >= 2**30 for each in requests)


@pytest.mark.parametrize(
    "said",
    [
        {"error": {"code": -32002, "message": "no such file"}},
        {"result": None},
        {"result": {"content": None}},
        {"result": ["text"]},
    ],
)
async def test_an_answer_that_is_no_text_is_none(
    reactor: Reactor, nursery: trio.Nursery, said: dict[str, object]
) -> None:
    async def serve(client: Client) -> None:
        await client.answer(**said)

    async with linked(reactor) as client:
        nursery.start_soon(serve, client)
        text = await client.editor.read("/p/a.txt")

    assert text is None


async def test_a_refusal_to_write_is_told_in_its_words(reactor: Reactor, nursery: trio.Nursery) -> None:
    async def serve(client: Client) -> None:
        await client.answer(error={"code": -32603, "message": "the buffer is read-only"})

    async with linked(reactor) as client:
        nursery.start_soon(serve, client)
        with pytest.raises(EditorFailed, match="it says 'the buffer is read-only'"):
            await client.editor.write("/p/a.txt", "new\n")


async def test_a_link_that_ends_in_the_middle_is_told(reactor: Reactor, nursery: trio.Nursery) -> None:
    async def leave(client: Client) -> None:
        await client.asked()
        await client.link.stream.aclose()

    async with linked(reactor) as client:
        nursery.start_soon(leave, client)
        text = await client.editor.read("/p/a.txt")
        with pytest.raises(EditorFailed, match="it went away"):
            await client.editor.write("/p/a.txt", "new\n")

    assert text is None


async def test_one_that_never_answers_is_waited_for_once(reactor: Reactor) -> None:
    with capture_logs() as logs:
        async with linked(reactor) as client:
            client.editor.patience = 0.01
            text = await client.editor.read("/p/a.txt")
            again = await client.editor.read("/p/b.txt")
            with pytest.raises(EditorFailed, match="it does not answer"):
                await client.editor.write("/p/a.txt", "new\n")
            asked = [await client.asked() for _ in range(2)]

    assert (text, again) == (None, None)
    assert [each["method"] for each in asked] == ["fs/read_text_file", "$/cancelRequest"]
    assert "editor_kept_silent" in [each["event"] for each in logs]


async def test_a_write_that_is_not_answered_may_yet_be_done(reactor: Reactor) -> None:
    async with linked(reactor) as client:
        client.editor.patience = 0.01
        with pytest.raises(EditorFailed, match=r"did not answer within 0\.01 seconds, and may yet do it"):
            await client.editor.write("/p/a.txt", "new\n")


@pytest.mark.parametrize(
    ("told", "shows"),
    [
        ({}, False),
        ({"fs": None}, False),
        ({"fs": {"readTextFile": True}}, False),
        ({"fs": {"writeTextFile": True}}, False),
        ({"fs": {"readTextFile": True, "writeTextFile": True}}, True),
    ],
)
def test_only_a_client_that_gives_and_takes_files_is_an_editor(told: dict[str, Any], shows: bool) -> None:
    capabilities = msgspec.convert(told, ClientCapabilities)

    assert shows_files(capabilities) is shows
