"""``crabctl acp`` between an editor's pipes and the real daemon."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio

from tests.e2e.acp import AcpClient, said
from tests.e2e.daemon import PATIENCE, Daemon, Home
from tests.e2e.editors.acp.transcript import Json

COMMAND = [sys.executable, "-m", "crabctl", "acp", "--no-start"]


@pytest.fixture
async def agent(daemon: Daemon) -> AsyncIterator[trio.Process]:
    """Run the agent as an editor does; it is killed at the end."""
    process = await trio.lowlevel.open_process(
        COMMAND, env=daemon.home.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    yield process
    process.kill()
    with trio.CancelScope(shield=True):
        await process.wait()


def client_of(agent: trio.Process) -> AcpClient:
    """Speak to the agent over its pipes."""
    assert agent.stdin
    assert agent.stdout
    return AcpClient(trio.StapledStream(agent.stdin, agent.stdout))


async def test_an_editor_that_cancels_and_kills_its_agent_at_once_is_obeyed(
    daemon: Daemon, agent: trio.Process, nursery: trio.Nursery, tmp_path: Path
) -> None:
    editor, witness = client_of(agent), await daemon.connect()
    await witness.call("session/subscribe", all=True)
    nursery.start_soon(editor.read)
    await editor.initialize()
    session = await editor.new_session(tmp_path)
    await editor.ask("session/prompt", **said(session, "slow 10000 1"))
    await editor.update("agent_message_chunk")

    await editor.notify("session/cancel", sessionId=session)
    agent.send_signal(signal.SIGTERM)

    assert (await witness.event("run_ended"))["stop_reason"] == "cancelled"
    with trio.fail_after(PATIENCE):
        assert await agent.wait() == 0


async def test_the_session_of_an_editor_that_crashed_works_on(
    daemon: Daemon, agent: trio.Process, nursery: trio.Nursery, tmp_path: Path
) -> None:
    editor, witness = client_of(agent), await daemon.connect()
    nursery.start_soon(editor.read)
    await editor.initialize(name="fred")
    session = await editor.new_session(tmp_path)
    await witness.call("session/subscribe", session=session)
    await editor.ask("session/prompt", **said(session, "slow 20 20"))
    await editor.update("agent_message_chunk")

    agent.kill()
    ended = await witness.event("run_ended")

    listed = (await witness.call("session/list", sender="fred"))["sessions"]
    assert ended["stop_reason"] == "end_turn"
    assert [(each["id"], each["cwd"]) for each in listed] == [(session, str(tmp_path))]


async def test_a_file_of_messages_gets_a_file_of_answers(home: Home, daemon: Daemon) -> None:
    asked, answered = home.directory / "asked", home.directory / "answered"
    hello: Json = {"id": 1, "method": "initialize", "params": {"protocolVersion": 1}}
    made: Json = {"id": 2, "method": "session/new", "params": {"cwd": "/", "mcpServers": []}}
    lines = [{"jsonrpc": "2.0", **each} for each in (hello, made)]
    asked.write_bytes(msgspec.json.Encoder().encode_lines(lines))

    with trio.fail_after(PATIENCE), asked.open() as stdin, answered.open("w") as stdout:
        done = await trio.run_process(COMMAND, env=home.env, stdin=stdin, stdout=stdout, capture_stderr=True)

    came = [msgspec.json.decode(line) for line in answered.read_bytes().splitlines()]
    assert done.stderr == b""
    assert [line.get("id") for line in came[:2]] == [1, 2]
