"""What clients in use trip over, once each, on the real daemon."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from typing import Any, get_args

import msgspec
import pytest
import trio

from crabd.api.table import METHODS
from tests.e2e.daemon import PATIENCE, Client, Daemon, Home, start_daemon
from tests.model_server import Gate, ModelServer, says
from tests.rpc.cases import FRAMINGS, Framing, frame_text, read_texts


async def converse(daemon: Daemon, framing: Framing, *texts: bytes) -> list[dict[str, Any]]:
    """Write, half-close as a shell's pipe does, and read what comes to its end."""
    stream = await trio.open_unix_socket(str(daemon.home.socket))
    received = b""
    with trio.fail_after(PATIENCE):
        async with stream:
            await stream.send_all(b"".join(frame_text(text, framing) for text in texts))
            await stream.send_eof()
            async for data in stream:
                received += data
    return [msgspec.json.decode(text) for text in read_texts(received, framing)]


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_who_only_writes_and_half_closes_gets_the_whole_run_and_its_result(
    daemon: Daemon, framing: Framing
) -> None:
    client = await daemon.connect()
    session = (await client.call("session/get_or_create", agent="crab"))["id"]
    send = {"session": session, "content": "slow 5 50"}

    *told, answer = await converse(
        daemon,
        framing,
        msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": "session/send", "params": send}),
    )

    words = [event["params"]["text"] for event in told if event["params"]["type"] == "text_delta"]
    assert "".join(words) == answer["result"]["text"] != ""
    assert (answer["id"], told[-1]["params"]["type"]) == (1, "run_ended")


@pytest.mark.parametrize("params", [b"", b',"params":null', b',"params":[]', b',"params":{}'])
async def test_no_parameters_are_none_in_every_spelling(daemon: Daemon, params: bytes) -> None:
    request = b'{"jsonrpc":"2.0","id":1,"method":%b' + params + b"}"

    listed, asked = await converse(
        daemon, "headers", request % b'"session\\/list"', request % b'"session/get"'
    )

    assert listed["result"]["sessions"] == []
    assert asked["error"]["data"]["path"] == "$.session"


def test_no_method_has_null_for_a_result() -> None:
    may_be_null = [
        method.name for method in METHODS if {None, type(None)} & {method.result, *get_args(method.result)}
    ]

    assert may_be_null == []


@pytest.fixture
async def asked(home: Home, models: ModelServer) -> AsyncIterator[tuple[Client, Client, str]]:
    """Two clients and a session that has something to compact; the next reply never ends."""
    home.use_model_server(models.base_url)
    await models.script(says("word " * 400), says("more"), says("never", Gate("never")))
    async with start_daemon(home) as daemon:
        client, other = await daemon.connect(), await daemon.connect()
        session = (await client.call("session/get_or_create", agent="crab"))["id"]
        for text in ("first", "second"):
            await client.call("session/send", session=session, content=text)
        yield client, other, session


@pytest.mark.parametrize(
    ("method", "params"), [("session/send", {"content": "third"}), ("session/compact", {})]
)
async def test_who_waits_for_what_another_cancels_gets_a_result_that_says_so(
    asked: tuple[Client, Client, str], models: ModelServer, method: str, params: dict[str, Any]
) -> None:
    client, other, session = asked

    request = await client.ask(method, session=session, **params)
    await models.requests(wait=3)
    await other.call("session/cancel", session=session)

    # The error for what is abandoned is shown by no Neovim: it is for those alone who asked for it.
    assert (await client.answer(request))["stop_reason"] == "cancelled"


async def test_a_file_name_that_is_no_text_is_told_and_kept(home: Home) -> None:
    project = home.directory / "project"
    project.mkdir()
    (project / os.fsdecode(b"half a \xff name.txt")).write_text("x\n")
    home.configure('[permissions]\nmode = "full"\n')
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        session = (await client.call("session/get_or_create", agent="crab", cwd=str(project)))["id"]
        await client.call("session/subscribe", session=session)

        for call in ('call glob {"pattern": "*.txt"}', 'call bash {"command": "ls"}'):
            result = await client.call("session/send", session=session, content=call)
            assert re.search("half a .+ name.txt", result["text"])

        kept = await client.call("session/history", session=session, roles=["tool"])
        told = [event["output"] for event in client.events("tool_result")]
        assert [entry["message"]["output"] for entry in kept["messages"]] == told
