"""What an agent may not do by itself waits for a person: on any client, and over the deaths of clients."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.daemon import PATIENCE, Client, Daemon, Home, WireError, start_daemon
from tests.e2e.test_search import crabctl

# A program with a mistake, and the test that finds it.
CODE = "def add(a, b):\n    return a - b\n"
CHECK = "from calc import add\nassert add(2, 3) == 5, 'two and three are not five'\nprint('all is well')\n"
TASK = """script
call todo {"items": [{"text": "find the mistake", "status": "in_progress"}, {"text": "mend it"}]}
call read {"path": "calc.py"}
and ls {"path": "."}
call bash {"command": "python3 -B check.py"}
call edit {"path": "calc.py", "old": "a - b", "new": "a + b"}
call bash {"command": "python3 -B check.py"}
call todo {"items": [{"text": "find the mistake", "status": "done"}, {"text": "mend it", "status": "done"}]}
say $result
"""
TOUCH = 'call bash {"command": "touch made.txt"}'


def make_project(home: Home) -> Path:
    project = home.directory / "project"
    project.mkdir()
    (project / "calc.py").write_text(CODE)
    (project / "check.py").write_text(CHECK)
    return project


async def open_session(client: Client, project: Path) -> str:
    got = await client.call("session/get_or_create", agent="crab", cwd=str(project))
    return str(got["id"])


async def watch(daemon: Daemon, session: str) -> tuple[Client, dict[str, Any]]:
    """Connect another client that looks on; returns it and the picture that it got."""
    client = await daemon.connect()
    await client.call("initialize", client={"name": "editor"})
    return client, (await client.call("session/subscribe", session=session))["snapshot"]


async def reply(client: Client, asked: dict[str, Any], decision: str, **more: object) -> Any:
    return await client.call(
        "confirmation/reply",
        session=asked["session"],
        call=asked["call"],
        id=asked["id"],
        decision=decision,
        **more,
    )


async def allow_all(client: Client) -> None:
    """Allow whatever this client is told of, until cancelled."""
    told = 0
    while True:
        await client.event("confirmation_requested", told + 1)
        await reply(client, client.events("confirmation_requested")[told]["confirmation"], "allow")
        told += 1


async def results(client: Client, session: str) -> list[tuple[str, str]]:
    page = await client.call("session/history", session=session, roles=["tool"])
    return [(entry["message"]["status"], entry["message"]["output"]) for entry in page["messages"]]


async def test_a_task_is_done_with_leave_from_a_second_client(home: Home, daemon: Daemon) -> None:
    project, client = make_project(home), await daemon.connect()
    session = await open_session(client, project)
    editor, _ = await watch(daemon, session)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(allow_all, editor)
        with trio.fail_after(2 * PATIENCE):
            done = await client.call("session/send", session=session, content=TASK)
        nursery.cancel_scope.cancel()

    told = [event["confirmation"] for event in editor.events("confirmation_requested")]
    said = await results(client, session)
    assert done["stop_reason"] == "end_turn"
    assert done["text"] == "[x] find the mistake\n[x] mend it"
    assert (project / "calc.py").read_text() == CODE.replace("-", "+")
    assert [asked["command"] for asked in told] == ["python3 -B check.py", None, "python3 -B check.py"]
    assert "-    return a - b\n+    return a + b" in told[1]["diff"]
    assert told[1]["writes"] == [str(project / "calc.py")]
    assert all(asked["sandbox"] for asked in told)
    assert "two and three are not five" in said[3][1]
    assert "all is well" in said[5][1]
    assert [event["by"] for event in client.events("confirmation_resolved")] == ["editor"] * 3


async def test_the_same_while_the_first_client_dies_and_comes_back(home: Home, daemon: Daemon) -> None:
    project, client = make_project(home), await daemon.connect()
    session = await open_session(client, project)
    await client.ask("session/send", session=session, content=TASK)
    first = (await client.event("confirmation_requested"))["confirmation"]
    await client.hang_up()

    again, picture = await watch(daemon, session)
    listed = (await again.call("confirmation/list"))["confirmations"]
    async with trio.open_nursery() as nursery:
        # It looks at events only, and what was asked before it came is told again.
        nursery.start_soon(allow_all, again)
        ended = await again.event("run_ended")
        nursery.cancel_scope.cancel()

    assert picture["info"]["state"] == "waiting"
    assert [item["status"] for item in picture["plan"]] == ["in_progress", "pending"]
    assert picture["confirmations"] == listed == [first]
    told_again = again.events("confirmation_requested")[0]
    assert told_again["confirmation"] == first
    assert told_again["seq"] <= picture["info"]["seq"]
    assert ended["stop_reason"] == "end_turn"
    assert (project / "calc.py").read_text() == CODE.replace("-", "+")


async def test_the_first_reply_wins_and_the_others_are_told_who_gave_it(home: Home, daemon: Daemon) -> None:
    project, client = make_project(home), await daemon.connect()
    session = await open_session(client, project)
    editor, _ = await watch(daemon, session)
    running = await client.ask("session/send", session=session, content=TOUCH)
    asked = (await editor.event("confirmation_requested"))["confirmation"]

    first = await reply(editor, asked, "deny", reason="make it yourself")
    with pytest.raises(WireError) as late:
        await reply(client, asked, "allow")
    done = await client.answer(running)

    assert first == {"id": asked["id"], "call": asked["call"], "decision": "deny", "rules": []}
    assert (late.value.code, late.value.data["kind"]) == (-32005, "already_answered")
    assert (late.value.data["by"], late.value.data["answer"]) == ("editor", "deny")
    assert "denied by editor: make it yourself" in done["text"]
    assert not (project / "made.txt").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_after_a_restart_the_question_is_in_the_record_of_an_interrupted_run(
    home: Home, number: signal.Signals
) -> None:
    project = make_project(home)
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        session = await open_session(client, project)
        await client.ask("session/send", session=session, content=TOUCH)
        asked = (await client.event("confirmation_requested"))["confirmation"]
        if number == signal.SIGTERM:
            await client.call("daemon/shutdown", grace=0)
            await daemon.process.wait()
        else:
            await daemon.stop(number)

    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        ((status, output),) = await results(client, session)
        lines = (await client.call("session/export", session=session))["jsonl"].splitlines()
        waiting = (await client.call("confirmation/list"))["confirmations"]
        with pytest.raises(WireError) as late:
            await reply(client, asked, "allow")

    closed = [line for line in map(json.loads, lines) if line.get("record", {}).get("type") == "run_closed"]
    assert status == "interrupted"
    assert "it was not made. This was asked: bash: touch made.txt" in output
    assert [line["record"]["stop_reason"] for line in closed] == ["interrupted"]
    assert (waiting, late.value.code) == ([], -32002)
    assert not (project / "made.txt").exists()


async def test_a_cancel_takes_the_question_back(home: Home, daemon: Daemon) -> None:
    project, client = make_project(home), await daemon.connect()
    session = await open_session(client, project)
    running = await client.ask("session/send", session=session, content=TOUCH)
    await client.event("confirmation_requested")

    await client.call("session/cancel", session=session)
    done = await client.answer(running)
    after = await client.call("session/send", session=session, content="echo still here")

    assert (done["stop_reason"], after["text"]) == ("cancelled", "still here")
    assert client.events("confirmation_resolved")[0]["decision"] == "cancelled"
    assert (await client.call("confirmation/list"))["confirmations"] == []
    assert (await results(client, session))[0][0] == "cancelled"
    assert not (project / "made.txt").exists()


async def test_leave_for_good_is_a_rule_that_the_next_session_has(home: Home, daemon: Daemon) -> None:
    project, client = make_project(home), await daemon.connect()
    session = await open_session(client, project)
    command = 'call bash {"command": "mkdir -p made"}'
    running = await client.ask("session/send", session=session, content=command)
    asked = (await client.event("confirmation_requested"))["confirmation"]

    added = await reply(client, asked, "allow_always")
    await client.answer(running)
    other = await client.call("session/get_or_create", agent="crab", sender="other", cwd=str(project))
    await client.call("session/send", session=other["id"], content=command)

    assert added["rules"] == asked["suggestions"] != []
    assert len(client.events("confirmation_requested")) == 1


async def test_a_question_of_the_model_is_answered_from_the_command_line(home: Home, daemon: Daemon) -> None:
    project, client = make_project(home), await daemon.connect()
    session = await open_session(client, project)
    question = {"text": "Which colour?", "options": ["red", "blue"]}
    running = await client.ask(
        "session/send", session=session, content="call ask_user " + json.dumps({"questions": [question]})
    )
    asked = (await client.event("question_asked"))["question"]

    listed = (await crabctl(home, "confirm")).stdout.decode()
    answered = await crabctl(home, "answer", asked["id"], "2")
    done = await client.answer(running)
    late = await crabctl(home, "answer", asked["id"], "1")

    assert all(text in listed for text in ("Which colour?", "1  red", "2  blue", asked["id"]))
    assert (answered.returncode, answered.stdout.decode()) == (0, f"{asked['id']}: answered\n")
    assert done["text"] == "ask_user answered: blue"
    assert late.returncode == 4


async def test_a_script_denies_what_it_was_not_told_to_allow(home: Home, daemon: Daemon) -> None:
    project = make_project(home)
    where = ("--cwd", str(project))

    denied = await crabctl(home, "send", *where, TOUCH)
    was_made = (project / "made.txt").exists()
    by_rule = await crabctl(home, "send", "--allow", "bash(touch *)", "--allow", "edit(made.txt)", TOUCH)
    (project / "made.txt").unlink()
    allowed = await crabctl(home, "send", "--yes", TOUCH)
    refused = await crabctl(home, "send", "-d", "--yes", TOUCH)

    assert (denied.returncode, was_made) == (0, False)
    assert "nobody is at a terminal" in denied.stdout.decode()
    assert "denied by crabctl" in denied.stderr.decode()
    assert "confirm" not in by_rule.stderr.decode()
    assert (project / "made.txt").exists()
    assert "allowed by crabctl" in allowed.stderr.decode()
    assert refused.returncode == 2


async def test_what_waits_is_seen_and_decided_from_the_command_line(home: Home, daemon: Daemon) -> None:
    project, client = make_project(home), await daemon.connect()
    session = await open_session(client, project)
    running = await client.ask("session/send", session=session, content=TOUCH)
    asked = (await client.event("confirmation_requested"))["confirmation"]

    ls = (await crabctl(home, "ls", "--state", "waiting")).stdout.decode()
    show = (await crabctl(home, "show", session)).stdout.decode()
    listed = (await crabctl(home, "confirm")).stdout.decode()
    denied = await crabctl(home, "confirm", asked["id"], "--deny", "not there")
    done = await client.answer(running)
    nothing = await crabctl(home, "confirm")
    tools = (await crabctl(home, "tools", session)).stdout.decode()

    assert session in ls
    assert f"{asked['id']}  bash: touch made.txt" in show
    assert "│ touch made.txt" in listed
    assert denied.stdout.decode() == f"{asked['id']}: denied\n"
    assert "denied by crabctl: not there" in done["text"]
    assert (nothing.returncode, nothing.stdout) == (0, b"")
    assert all(name in tools for name in ("bash", "edit", "ask_user", "todo"))
