"""Servers of tools on a real daemon: configured, or a project's; asked for, confined, and ended."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.daemon import PATIENCE, ROOT, Client, Home, WireError, start_daemon
from tests.e2e.test_confirmations import results
from tests.tools.processes import Token

SERVER = ROOT / "tests" / "mcp" / "rude.py"
# Where it is whatever is hidden from who is confined, with nothing that it does not need.
PYTHON = os.path.realpath(sys.executable)


def install(home: Home, more: str = "", *, args: tuple[str, ...] = (), **env: str) -> Path:
    """Configure a server that lies in a project, for a confined one sees little else; gives the project."""
    project = home.directory / "project"
    project.mkdir()
    shutil.copy(SERVER, project)
    home.configure(f"[mcp.servers.own]\n{describe(project, args, env)}\n{more}")
    return project


def describe(project: Path, args: tuple[str, ...] = (), env: dict[str, str] | None = None) -> str:
    variables = ", ".join(f"{name} = {json.dumps(value)}" for name, value in (env or {}).items())
    argv = json.dumps([str(project / SERVER.name), *args])
    return f'command = "{PYTHON}"\nargs = {argv}\nenv = {{ {variables} }}\n'


async def work(client: Client, cwd: Path, *calls: str, mode: str = "full") -> list[tuple[str, str]]:
    """Have the agent make calls, which rules allow; give their results and those of earlier ones."""
    session = await open_session(client, cwd, mode)
    script = "\n".join(["script", *calls, "say done"])
    await client.call("session/send", session=session, content=script, allow=["mcp__*"])
    return await results(client, session)


async def open_session(client: Client, cwd: Path, mode: str = "full") -> str:
    session = (await client.call("session/get_or_create", agent="crab", cwd=str(cwd)))["id"]
    await client.call("session/configure", session=session, mode=mode)
    return str(session)


async def servers_of(client: Client, session: str | None) -> list[dict[str, Any]]:
    params = {"session": session} if session else {}
    return list((await client.call("mcp/list", **params))["servers"])


async def test_an_agent_uses_a_server_of_the_configuration(home: Home) -> None:
    project = install(home)
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        before = await servers_of(client, None)

        made = await work(client, project, 'call mcp__own__echo {"text": "hello"}')

        (server,) = await servers_of(client, "crab_user_1")
        assert [(each["session"], each["name"], each["state"]) for each in before] == [
            (None, "own", "stopped")
        ]
        assert made == [("ok", "hello")]
        assert (server["state"], server["source"], len(server["tools"])) == ("ready", "configuration", 11)


async def test_a_server_is_confined_as_commands_are(home: Home) -> None:
    project = install(home)
    outside = home.directory / "outside.txt"
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        if (await client.call("daemon/status"))["sandbox"]["kind"] == "none":
            pytest.skip("no sandbox works here")

        made = await work(
            client,
            project,
            f'call mcp__own__write {{"text": "{outside}"}}',
            f'call mcp__own__write {{"text": "{project / "inside.txt"}"}}',
        )

    assert made[-1] == ("ok", "done")
    assert (project / "inside.txt").read_text() == "written"
    assert not outside.exists()


async def test_a_call_waits_for_a_person_whatever_the_server_says_of_it(home: Home) -> None:
    project = install(home)
    async with start_daemon(home) as daemon, trio.open_nursery() as nursery:
        client, other = await daemon.connect(), await daemon.connect()
        session = await open_session(client, project, "ask")
        await other.call("session/subscribe", session=session)
        script = 'script\ncall mcp__own__echo {"text": "hello"}\nsay done'
        nursery.start_soon(lambda: client.call("session/send", session=session, content=script))

        asked = (await other.event("confirmation_requested"))["confirmation"]
        await other.call("confirmation/reply", session=session, call=asked["call"], decision="allow_always")
        await other.event("run_ended")

        assert asked["title"] == "call echo of the MCP server own"
        assert asked["suggestions"] == ["mcp__own__echo"]
        assert await results(client, session) == [("ok", "hello")]


@pytest.mark.parametrize("option", ["", 'read_only = ["echo"]'])
async def test_in_plan_mode_only_what_the_person_calls_harmless_is_done(home: Home, option: str) -> None:
    project = install(home, option)
    async with start_daemon(home) as daemon:
        client = await daemon.connect()

        ((status, output),) = await work(client, project, 'call mcp__own__echo {"text": "hi"}', mode="plan")

    if option:
        assert (status, output) == ("ok", "hi")
    else:
        assert (status, "mcp__own__echo may change something" in output) == ("error", True)


async def test_a_server_may_not_answer_for_a_person(home: Home) -> None:
    project = install(home, '[mcp]\nunconfined = ["own"]')
    crabctl = f"{sys.executable} -m crabctl --no-start --socket {home.socket} status"
    async with start_daemon(home) as daemon:
        client = await daemon.connect()

        call = {"text": f"cd {ROOT} && {crabctl}; echo exit code $?"}
        ((_, output),) = await work(client, project, f"call mcp__own__crabd {json.dumps(call)}")

    assert "exit code 0" not in output
    assert "exit code" in output


async def test_a_key_of_a_server_reaches_the_server_and_nobody_else(home: Home) -> None:
    key = "canary-0123456789-abcdef"
    install(home, OWN_API_KEY=key)
    async with start_daemon(home) as daemon:
        client = await daemon.connect()

        made = await work(
            client,
            home.directory / "project",
            'call mcp__own__variable {"text": "OWN_API_KEY"}',
            'call mcp__own__variable {"text": "XDG_RUNTIME_DIR"}',
        )

    assert made == [("ok", "[secret]"), ("ok", "(not set)")]


async def test_a_server_of_a_project_counts_once_the_person_trusts_it(home: Home) -> None:
    project = install(home)
    home.configure("")
    (project / ".crab").mkdir()
    (project / ".crab" / "mcp.toml").write_text(f"[servers.theirs]\n{describe(project)}")
    call = 'call mcp__theirs__echo {"text": "hello"}'
    async with start_daemon(home) as daemon:
        client = await daemon.connect()

        ((refused, why),) = await work(client, project, call)
        (found,) = (await client.call("trust/list", path=str(project)))["files"]
        await client.call("trust/add", files={found["path"]: found["digest"]})
        (*_, made) = await work(client, project, call)

    assert (refused, "there is no tool 'mcp__theirs__echo'" in why) == ("error", True)
    assert made == ("ok", "hello")


async def test_a_message_is_durable_before_its_servers_are_there_and_its_run_can_be_cancelled(
    home: Home,
) -> None:
    project = install(home, args=("mute",))
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        session = await open_session(client, project)

        accepted = await client.call("session/send", session=session, content="hello", wait=False)
        cancelled = await client.call("session/cancel", session=session)

        assert cancelled == {"run": accepted["run"], "stop_reason": "cancelled"}


async def test_a_server_that_failed_is_started_anew_when_that_is_asked_for(home: Home) -> None:
    project = install(home)
    script = project / SERVER.name
    script.rename(project / "away.py")
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        session = await open_session(client, project)
        await client.call("session/subscribe", session=session)
        await client.call("session/send", session=session, content="hello")
        (failed,) = await servers_of(client, session)
        told = await client.event("servers_failed")
        (project / "away.py").rename(script)

        (server,) = (await client.call("mcp/reconnect", session=session, server="own"))["servers"]
        with pytest.raises(WireError) as unknown:
            await client.call("mcp/reconnect", session=session, server="nobody")

    assert failed["state"] == "failed"
    assert told["servers"] == [{"name": "own", "problem": failed["problem"]}]
    assert "No such file or directory" in failed["problem"]
    assert server["state"] == "ready"
    assert str(unknown.value) == "there is no server 'nobody': mcp/list tells which there are"


async def test_an_agent_may_name_the_tools_that_it_has_of_a_server(home: Home) -> None:
    project = install(home)
    agent = home.config / "agents" / "crab.md"
    agent.parent.mkdir()
    agent.write_text('---\ntools: ["read", "mcp__own__e*"]\n---\nYou are crab.\n')
    async with start_daemon(home) as daemon:
        client = await daemon.connect()

        made = await work(
            client, project, 'call mcp__own__echo {"text": "hi"}', 'call mcp__own__variable {"text": "HOME"}'
        )

    assert made[0] == ("ok", "hi")
    assert "the tools are: mcp__own__echo, read" in made[1][1]


async def test_a_new_configuration_counts_from_the_next_run_on(home: Home) -> None:
    project, call = install(home), 'call mcp__own__echo {"text": "hi"}'
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        before = await work(client, project, call)

        home.configure("")
        await client.call("daemon/reload")
        (*_, after) = await work(client, project, call)

        assert before == [("ok", "hi")]
        assert "there is no tool 'mcp__own__echo'" in after[1]
        assert await servers_of(client, "crab_user_1") == []


@pytest.mark.parametrize("end", ["close", "delete", "stop", "kill"])
async def test_no_server_outlives_its_session_or_the_daemon(home: Home, end: str) -> None:
    token = Token()
    project = install(home, RUDE_SLEEP=token.text)
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        await work(client, project, 'call mcp__own__echo {"text": "hi"}')
        assert token.living()

        if end == "stop":
            await daemon.stop()
        elif end == "kill":
            os.kill(daemon.process.pid, 9)
        else:
            await client.call(f"session/{end}", session="crab_user_1")
        with trio.fail_after(PATIENCE):
            while end == "kill" and token.living():
                await trio.lowlevel.checkpoint()

        assert token.living() == []
