"""The Agent Client Protocol over the real socket, as editors speak it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests.e2e.acp import AcpClient, connect, said
from tests.e2e.daemon import ROOT, Daemon, Home, WireError, start_daemon

POLITE = ROOT / "tests" / "mcp" / "polite.py"
LONG = "slow 40 50"
ENDLESS = "slow 9000 1000"
EDIT = """script
call read {"path": "notes.txt"}
call edit {"path": "notes.txt", "old": "one", "new": "two"}
say done
"""


@pytest.fixture
async def client(daemon: Daemon, nursery: trio.Nursery) -> AcpClient:
    opened = await connect(daemon, nursery)
    await opened.initialize()
    return opened


@pytest.fixture
async def session(client: AcpClient, tmp_path: Path) -> str:
    return await client.new_session(tmp_path)


async def call(client: AcpClient, text: str) -> Any:
    """Send one raw line and return what comes next."""
    before = len(client.came)
    await client.send_raw(text.encode() + b"\n")
    await client.until(lambda: len(client.came) > before)
    return client.came[before]


async def test_a_prompt_is_answered_in_chunks_and_then_with_how_it_ended(
    client: AcpClient, session: str
) -> None:
    reason = await client.prompt(session, "count 5")

    assert reason == "end_turn"
    assert client.text() == "1 2 3 4 5"
    assert client.kinds()[-1] == "answer"
    assert len({update["messageId"] for update in client.updates("agent_message_chunk")}) == 1


@pytest.mark.parametrize("version", [1, 2, 65535, 0])
async def test_whatever_version_is_asked_for_the_first_is_spoken(
    daemon: Daemon, nursery: trio.Nursery, version: int
) -> None:
    client = await connect(daemon, nursery)

    opened = await client.call("initialize", protocolVersion=version)

    assert (opened["protocolVersion"], opened["authMethods"]) == (1, [])
    assert opened["_meta"] == {"steering": {"supported": True}}
    assert opened["agentCapabilities"]["loadSession"] is True


async def test_the_answer_to_a_new_session_comes_before_what_is_told_of_it(
    client: AcpClient, tmp_path: Path
) -> None:
    before = len(client.came)

    opened = await client.call("session/new", cwd=str(tmp_path), mcpServers=[])
    commands = await client.update("available_commands_update")

    assert client.kinds()[before:] == ["answer", "available_commands_update"]
    assert opened["modes"]["currentModeId"] == "ask"
    assert [option["id"] for option in opened["configOptions"]] == ["mode", "model", "thinking"]
    assert {command["name"] for command in commands["availableCommands"]} == {"compact", "clear"}


async def test_sessions_of_one_editor_are_apart_and_others_see_them(
    daemon: Daemon, client: AcpClient, tmp_path: Path
) -> None:
    first, second = await client.new_session(tmp_path), await client.new_session(tmp_path)
    await client.prompt(first, "echo one")
    native = await daemon.connect()

    listed = await native.call("session/list", sender="editor")

    assert first != second
    assert {(info["id"], info["message_count"]) for info in listed["sessions"]} == {(first, 2), (second, 0)}


async def test_an_edit_is_told_as_a_diff(client: AcpClient, session: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("one\n")
    await client.call("session/set_mode", sessionId=session, modeId="accept-edits")

    await client.prompt(session, EDIT)

    read, edit = client.updates("tool_call")
    path = str(tmp_path / "notes.txt")
    diff = {"type": "diff", "path": path, "oldText": "one", "newText": "two"}
    of_edit = [
        each for each in client.updates("tool_call_update") if each["toolCallId"] == edit["toolCallId"]
    ]
    assert (tmp_path / "notes.txt").read_text() == "two\n"
    assert (read["kind"], read["status"], read["locations"]) == ("read", "pending", [{"path": path}])
    assert (edit["kind"], edit["title"]) == ("edit", "edit: notes.txt")
    assert edit["rawInput"] == {"path": "notes.txt", "old": "one", "new": "two"}
    assert [each["status"] for each in of_edit] == ["in_progress", "completed"]
    assert of_edit[-1]["content"] == edit["content"] == [diff]


async def test_a_plan_is_told_whole(client: AcpClient, session: str) -> None:
    items = [{"text": "look", "status": "done"}, {"text": "mend", "status": "in_progress"}]

    await client.prompt(session, f"call todo {msgspec.json.encode({'items': items}).decode()}")

    plan = await client.update("plan")
    assert plan["entries"] == [
        {"content": "look", "status": "completed", "priority": "medium"},
        {"content": "mend", "status": "in_progress", "priority": "medium"},
    ]


async def test_the_usage_is_told_with_each_model_call(client: AcpClient, session: str) -> None:
    await client.prompt(session, "echo hi")

    (usage,) = client.updates("usage_update")

    assert 0 < usage["used"] < usage["size"]


async def test_a_cancelled_prompt_ends_with_a_result(client: AcpClient, session: str) -> None:
    request = await client.ask("session/prompt", **said(session, ENDLESS))
    await client.update("agent_message_chunk")

    await client.notify("session/cancel", sessionId=session)

    assert await client.answer(request) == {"stopReason": "cancelled"}


async def test_a_prompt_right_behind_a_cancel_is_answered(client: AcpClient, session: str) -> None:
    first = await client.ask("session/prompt", **said(session, ENDLESS))
    await client.update("agent_message_chunk")
    second = client.request("session/prompt", **said(session, "echo next"))

    await client.send({"method": "session/cancel", "params": {"sessionId": session}}, second)

    assert await client.answer(first) == {"stopReason": "cancelled"}
    assert await client.answer(second["id"]) == {"stopReason": "end_turn"}
    assert client.text().endswith("next")


async def test_what_is_sent_and_cancelled_in_one_go_never_runs_and_what_comes_behind_does(
    client: AcpClient, session: str
) -> None:
    first, second, third = (
        client.request("session/prompt", **said(session, text)) for text in (ENDLESS, "echo 2", "echo 3")
    )

    await client.send(first, second, {"method": "session/cancel", "params": {"sessionId": session}}, third)

    assert await client.answer(first["id"]) == {"stopReason": "cancelled"}
    assert await client.answer(second["id"]) == {"stopReason": "cancelled"}
    assert await client.answer(third["id"]) == {"stopReason": "end_turn"}
    assert client.text() == "3"


async def test_an_abandoned_prompt_is_cancelled_and_answered(client: AcpClient, session: str) -> None:
    going = await client.ask("session/prompt", **said(session, ENDLESS))
    waiting = await client.ask("session/prompt", **said(session, "echo 2"))
    await client.update("agent_message_chunk")

    await client.notify("$/cancel_request", requestId=waiting)
    left = await client.answer(waiting)
    is_going = client.place_of(going) is None
    await client.notify("$/cancel_request", requestId=going)

    assert left == await client.answer(going) == {"stopReason": "cancelled"}
    assert is_going


async def test_a_run_that_fails_is_an_error_that_says_why(client: AcpClient, session: str) -> None:
    with pytest.raises(WireError) as failed:
        await client.prompt(session, "fail auth")

    assert failed.value.code == -32010
    assert "the API key is not valid" in failed.value.message


async def test_a_load_replays_all_before_its_answer(
    daemon: Daemon, client: AcpClient, session: str, nursery: trio.Nursery, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("one\n")
    await client.call("session/set_mode", sessionId=session, modeId="accept-edits")
    await client.prompt(session, "think of it")
    await client.prompt(session, EDIT)
    again = await connect(daemon, nursery)
    await again.initialize()

    request = await again.ask("session/load", sessionId=session, cwd=str(tmp_path), mcpServers=[])
    opened = await again.answer(request)
    await again.update("usage_update")

    place = again.place_of(request)
    assert place is not None
    assert opened["modes"]["currentModeId"] == "accept-edits"
    assert again.text("user_message_chunk") == "think of it" + EDIT
    assert again.text() == client.text()
    assert again.text("agent_thought_chunk") == client.text("agent_thought_chunk") != ""
    assert again.updates("tool_call") == client.updates("tool_call")
    assert [update["status"] for update in again.updates("tool_call_update")] == ["completed"] * 2
    assert {"user_message_chunk", "agent_message_chunk", "tool_call"} & set(again.kinds()[place:]) == set()


async def test_a_run_that_is_loaded_in_its_middle_is_told_once_and_whole(
    daemon: Daemon, client: AcpClient, session: str, nursery: trio.Nursery, tmp_path: Path
) -> None:
    await client.ask("session/prompt", **said(session, LONG))
    await client.update("agent_message_chunk", 10)
    await client.hang_up()
    again = await connect(daemon, nursery)
    await again.initialize()

    await again.call("session/load", sessionId=session, cwd=str(tmp_path), mcpServers=[])
    so_far = again.text()
    await again.until(lambda: again.text().endswith("40"))

    assert len(so_far.split()) >= 10
    assert again.text() == " ".join(map(str, range(1, 41)))
    assert again.text("user_message_chunk") == LONG
    assert len({update["messageId"] for update in again.updates("agent_message_chunk")}) == 1


async def test_a_resumed_session_is_told_from_there_on(
    daemon: Daemon, client: AcpClient, session: str, nursery: trio.Nursery, tmp_path: Path
) -> None:
    await client.prompt(session, "echo before")
    again = await connect(daemon, nursery)
    await again.initialize()

    await again.call("session/resume", sessionId=session, cwd=str(tmp_path))
    reason = await again.prompt(session, "echo after")

    assert reason == "end_turn"
    assert again.text() == "after"
    assert again.updates("user_message_chunk") == []


async def test_a_resumed_session_tells_of_the_calls_that_go_on(
    daemon: Daemon, client: AcpClient, session: str, nursery: trio.Nursery, tmp_path: Path
) -> None:
    await client.call("session/set_mode", sessionId=session, modeId="full")
    await client.ask("session/prompt", **said(session, 'call bash {"command": "echo going; sleep 30"}'))
    await client.until(lambda: "going" in str(client.updates("tool_call_update")))
    again = await connect(daemon, nursery)
    await again.initialize()

    await again.call("session/resume", sessionId=session, cwd=str(tmp_path))
    told = await again.update("tool_call")
    await again.notify("session/cancel", sessionId=session)
    ended = await again.update("tool_call_update")

    assert told == client.updates("tool_call")[0]
    assert (ended["toolCallId"], ended["status"]) == (told["toolCallId"], "failed")


async def test_a_session_that_was_opened_on_another_link_can_be_spoken_to(
    daemon: Daemon, client: AcpClient, session: str, nursery: trio.Nursery
) -> None:
    again = await connect(daemon, nursery)
    await again.initialize()

    reason = await again.prompt(session, "echo here")

    assert (reason, again.text()) == ("end_turn", "here")
    assert again.updates("user_message_chunk") == []


async def test_a_session_that_another_client_deletes_is_gone(
    daemon: Daemon, client: AcpClient, session: str
) -> None:
    request = await client.ask("session/prompt", **said(session, ENDLESS))
    await client.update("agent_message_chunk")
    native = await daemon.connect()

    await native.call("session/delete", session=session)
    ended = await client.answer(request)
    with pytest.raises(WireError) as refused:
        await client.prompt(session, "echo more")

    assert ended == {"stopReason": "cancelled"}
    assert refused.value.code == -32002


async def test_all_who_have_a_session_open_are_told_what_others_say(
    daemon: Daemon, client: AcpClient, session: str, nursery: trio.Nursery, tmp_path: Path
) -> None:
    other = await connect(daemon, nursery)
    await other.initialize("other")
    await other.call("session/resume", sessionId=session, cwd=str(tmp_path))
    native = await daemon.connect()

    await client.prompt(session, "echo mine")
    await native.call("session/send", session=session, content="echo theirs")
    await client.until(lambda: client.text().endswith("theirs"))
    await other.until(lambda: other.text().endswith("theirs"))

    assert client.text("user_message_chunk") == "echo theirs"
    assert other.text("user_message_chunk") == "echo mineecho theirs"
    assert client.text() == other.text() == "minetheirs"


async def test_a_run_goes_on_when_its_editor_has_left(
    daemon: Daemon, client: AcpClient, session: str
) -> None:
    await client.ask("session/prompt", **said(session, LONG))
    await client.update("agent_message_chunk")
    native = await daemon.connect()
    await native.call("session/subscribe", session=session)

    await client.hang_up()
    ended = await native.event("run_ended")

    assert ended["stop_reason"] == "end_turn"


async def test_steering_joins_the_run_that_is_going(client: AcpClient, session: str) -> None:
    request = await client.ask("session/prompt", **said(session, LONG))
    await client.update("agent_message_chunk")

    steered = await client.call("_session/steering", **said(session, "echo steered"))

    assert steered == {"outcome": "injected"}
    assert await client.answer(request) == {"stopReason": "end_turn"}
    assert client.text().endswith("steered")
    assert client.updates("user_message_chunk") == []


async def test_steering_without_a_run_starts_one_or_asks_for_a_prompt(
    client: AcpClient, session: str
) -> None:
    wish = {"steering": {"idleBehavior": "promptRequired"}}

    refused = await client.call("_session/steering", **said(session, "echo no"), _meta=wish)
    started = await client.call("_session/steering", **said(session, "echo yes"))

    await client.until(lambda: client.text() == "yes")
    assert (refused, started) == ({"outcome": "promptRequired"}, {"outcome": "startedNewTurn"})


async def test_settings_are_answered_whole_and_told_to_the_others(
    daemon: Daemon, client: AcpClient, session: str, nursery: trio.Nursery, tmp_path: Path
) -> None:
    other = await connect(daemon, nursery)
    await other.initialize("other")
    await other.call("session/resume", sessionId=session, cwd=str(tmp_path))

    await client.call("session/set_config_option", sessionId=session, configId="mode", value="plan")
    answer = await client.call(
        "session/set_config_option", sessionId=session, configId="thinking", value="on"
    )

    mode = await other.update("current_mode_update")
    told = await other.update("config_option_update", 2)
    values = {option["id"]: option["currentValue"] for option in answer["configOptions"]}
    assert values == {"mode": "plan", "model": "default", "thinking": "on"}
    assert mode["currentModeId"] == "plan"
    assert told["configOptions"] == answer["configOptions"]


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("mode", "wild", "$.value: 'wild' is no mode"),
        ("thinking", True, "$.value: True is none of default, on, off"),
        ("colour", "red", "$.configId: there is no 'colour'"),
    ],
)
async def test_a_setting_that_is_none_is_refused(
    client: AcpClient, session: str, option: str, value: object, problem: str
) -> None:
    with pytest.raises(WireError) as refused:
        await client.call("session/set_config_option", sessionId=session, configId=option, value=value)

    assert refused.value.code == -32602
    assert refused.value.message.startswith(problem)


async def test_sessions_are_listed_by_their_directory_page_by_page(client: AcpClient, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    made = [await client.new_session(here) for _ in range(51)]
    other = await client.new_session(there)

    first = await client.call("session/list", cwd=str(here))
    rest = await client.call("session/list", cwd=str(here), cursor=first["nextCursor"])
    elsewhere = await client.call("session/list", cwd=str(there))

    listed = [each["sessionId"] for page in (first, rest) for each in page["sessions"]]
    assert sorted(listed) == sorted(made)
    assert "nextCursor" not in rest
    assert [each["sessionId"] for each in elsewhere["sessions"]] == [other]
    assert elsewhere["sessions"][0]["cwd"] == str(there)


async def test_a_closed_session_is_there_still_and_a_deleted_one_is_not(
    client: AcpClient, session: str, tmp_path: Path
) -> None:
    request = await client.ask("session/prompt", **said(session, ENDLESS))
    await client.update("agent_message_chunk")

    closed = await client.call("session/close", sessionId=session)
    ended = await client.answer(request)
    await client.call("session/load", sessionId=session, cwd=str(tmp_path), mcpServers=[])
    deleted = [await client.call("session/delete", sessionId=session) for _ in range(2)]
    with pytest.raises(WireError) as refused:
        await client.call("session/resume", sessionId=session, cwd=str(tmp_path))

    assert (closed, ended, deleted) == ({}, {"stopReason": "cancelled"}, [{}, {}])
    assert refused.value.code == -32002


async def test_a_fork_goes_on_by_itself(client: AcpClient, session: str, tmp_path: Path) -> None:
    await client.prompt(session, "echo one")

    forked = await client.call("session/fork", sessionId=session, cwd=str(tmp_path))
    await client.prompt(forked["sessionId"], "echo two")

    assert forked["sessionId"] != session
    assert client.text(session=forked["sessionId"]) == "two"
    assert client.text(session=session) == "one"


async def test_commands_do_what_they_say(client: AcpClient, session: str) -> None:
    await client.prompt(session, "echo hi")

    cleared = await client.prompt(session, "/clear")
    with pytest.raises(WireError) as refused:
        await client.prompt(session, "/compact")
    unknown = await client.prompt(session, "/nothing")

    assert (cleared, unknown) == ("end_turn", "end_turn")
    assert "forgotten" in client.text()
    assert "go on with it first" in refused.value.message


async def test_files_of_a_prompt_are_what_the_model_reads(
    daemon: Daemon, client: AcpClient, session: str
) -> None:
    prompt = [
        {"type": "text", "text": "echo "},
        {"type": "resource_link", "uri": "file:///a%20b.py", "name": "a b.py"},
        {"type": "resource", "resource": {"uri": "file:///c.py", "text": "x = 1", "mimeType": "text/x"}},
    ]

    await client.call("session/prompt", sessionId=session, prompt=prompt)
    native = await daemon.connect()
    page = await native.call("session/history", session=session, roles=["user"])

    said = [block["text"] for block in page["messages"][0]["message"]["content"]]
    assert said == ["echo ", "[@a b.py](/a b.py)", '\n<context ref="/c.py">\nx = 1\n</context>\n']


async def test_a_picture_of_a_prompt_is_kept_whole_and_shown_again(
    daemon: Daemon, client: AcpClient, nursery: trio.Nursery, session: str, tmp_path: Path
) -> None:
    picture = {"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png"}
    prompt = [picture, {"type": "text", "text": "echo seen"}]

    done = await client.call("session/prompt", sessionId=session, prompt=prompt)
    native = await daemon.connect()
    page = await native.call("session/history", session=session, roles=["user"])
    again = await connect(daemon, nursery)
    opened = await again.initialize()
    await again.call("session/load", sessionId=session, cwd=str(tmp_path), mcpServers=[])

    kept = {"type": "image", "media_type": "image/png", "data": "iVBORw0KGgo="}
    assert opened["agentCapabilities"]["promptCapabilities"]["image"] is True
    assert (done["stopReason"], client.text()) == ("end_turn", "seen")
    assert page["messages"][0]["message"]["content"][0] == kept
    assert [update["content"] for update in again.updates("user_message_chunk")] == prompt


async def test_a_prompt_may_be_a_picture_alone(client: AcpClient, session: str) -> None:
    picture = {"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png"}

    done = await client.call("session/prompt", sessionId=session, prompt=[picture])

    assert done["stopReason"] == "end_turn"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "data": "AAAA", "mimeType": "image/tiff"},
        {"type": "image", "data": "A~AA", "mimeType": "image/png"},
        {"type": "image", "data": "", "mimeType": "image/png"},
        {"type": "image", "data": "AAAA" * 1_250_001, "mimeType": "image/png"},
        {"type": "audio", "data": "AAAA", "mimeType": "audio/wav"},
        {"type": "resource", "resource": {"uri": "file:///a", "blob": "AAAA"}},
        {"type": "text", "text": " "},
    ],
)
async def test_what_no_model_here_reads_is_refused_with_advice(
    client: AcpClient, session: str, block: dict[str, Any]
) -> None:
    with pytest.raises(WireError) as refused:
        await client.call("session/prompt", sessionId=session, prompt=[block])

    assert refused.value.code == -32602
    assert "$.prompt" in refused.value.message


async def test_a_batch_is_refused_once_and_the_link_goes_on(client: AcpClient, session: str) -> None:
    request = {"jsonrpc": "2.0", "id": 77, "method": "session/list"}

    answer = await call(client, msgspec.json.encode([request, request]).decode())

    assert (answer["id"], answer["error"]["code"]) == (None, -32600)
    assert await client.prompt(session, "echo on") == "end_turn"


async def test_empty_lists_of_lua_are_empty_objects(daemon: Daemon, nursery: trio.Nursery) -> None:
    client = await connect(daemon, nursery)
    await client.send_raw(
        b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":'
        b'{"protocolVersion":1,"clientCapabilities":[],"clientInfo":[],"_meta":[]}}\n'
        b'{"jsonrpc":"2.0","id":2,"method":"session/list","params":[]}\n'
        b'{"jsonrpc":"2.0","id":3,"method":"authenticate","params":null}\n'
    )

    opened, listed, let_in = [await client.answer(n) for n in (1, 2, 3)]

    assert (opened["protocolVersion"], listed, let_in) == (1, {"sessions": []}, {})


@pytest.mark.parametrize("method", ["session/teleport", "_crabd/nothing", "daemon/ping", "fs/read_text_file"])
async def test_a_method_that_is_not_known_is_refused(client: AcpClient, method: str) -> None:
    with pytest.raises(WireError) as refused:
        await client.call(method)

    assert refused.value.code == -32601


async def test_a_notification_that_is_not_known_is_ignored(client: AcpClient, session: str) -> None:
    await client.notify("_editor/whatever", a=1)
    await client.notify("session/prompt", **said(session, "echo no"))

    assert await client.prompt(session, "echo yes") == "end_turn"
    assert client.text() == "yes"


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"mcpServers": []}, "$.cwd"),
        ({"cwd": "src", "mcpServers": []}, "$.cwd: 'src' is not absolute"),
        ({"cwd": 7, "mcpServers": []}, "$.cwd"),
    ],
)
async def test_a_session_needs_an_absolute_directory(
    client: AcpClient, params: dict[str, Any], problem: str
) -> None:
    with pytest.raises(WireError) as refused:
        await client.call("session/new", **params)

    assert refused.value.code == -32602
    assert problem in refused.value.message


async def test_an_id_is_echoed_as_it_was(client: AcpClient) -> None:
    answer = await call(client, '{"jsonrpc":"2.0","id":"a-b","method":"session/list"}')

    assert answer == {"jsonrpc": "2.0", "id": "a-b", "result": {"sessions": []}}


async def test_who_stops_writing_gets_the_answer_still(client: AcpClient, session: str) -> None:
    request = await client.ask("session/prompt", **said(session, "slow 5 20"))

    await client.close_writing()

    assert await client.answer(request) == {"stopReason": "end_turn"}
    assert client.text() == "1 2 3 4 5"


async def test_a_string_for_a_version_is_not_this_dialect(daemon: Daemon, nursery: trio.Nursery) -> None:
    client = await connect(daemon, nursery)

    with pytest.raises(WireError) as refused:
        await client.call("initialize", protocolVersion="2025-11-25", clientInfo={"name": "x"})
    pong = await client.call("daemon/ping")

    assert refused.value.code == -32602
    assert pong == {"pong": True}


async def test_an_agent_is_chosen_by_name(home: Home, nursery: trio.Nursery, tmp_path: Path) -> None:
    (home.config / "agents").mkdir(parents=True)
    (home.config / "agents" / "critic.md").write_text("---\ndescription: reviews\n---\nBe brief.")
    async with start_daemon(home) as daemon:
        client = await connect(daemon, nursery)
        await client.initialize()

        made = await client.call(
            "session/new", cwd=str(tmp_path), mcpServers=[], _meta={"crabd": {"agent": "critic"}}
        )
        with pytest.raises(WireError) as refused:
            await client.call("session/new", cwd="/", mcpServers=[], _meta={"crabd": {"agent": "nobody"}})

    assert made["sessionId"].startswith("critic_editor_")
    assert refused.value.code == -32002


async def test_a_session_outlives_the_daemon(home: Home, nursery: trio.Nursery, tmp_path: Path) -> None:
    async with start_daemon(home) as daemon:
        client = await connect(daemon, nursery)
        await client.initialize()
        session = await client.new_session(tmp_path)
        await client.prompt(session, "echo before")
        await daemon.stop()

    async with start_daemon(home) as daemon:
        client = await connect(daemon, nursery)
        await client.initialize()
        await client.call("session/load", sessionId=session, cwd=str(tmp_path), mcpServers=[])
        await client.prompt(session, "echo after")

    assert client.text() == "beforeafter"


async def test_servers_of_the_client_are_tools_of_that_session(
    home: Home, nursery: trio.Nursery, tmp_path: Path
) -> None:
    # What runs the tests may lie where nothing that is confined can see it.
    home.configure('[sandbox]\nmode = "off"\n')
    polite = {"name": "polite", "command": sys.executable, "args": [str(POLITE)], "env": []}
    async with start_daemon(home) as daemon:
        client = await connect(daemon, nursery)
        await client.initialize()
        made = await client.call("session/new", cwd=str(tmp_path), mcpServers=[polite])
        await client.call("session/set_mode", sessionId=made["sessionId"], modeId="full")

        reason = await client.prompt(made["sessionId"], 'call mcp__polite__add {"a": 2, "b": 3}')

    (called,) = client.updates("tool_call")
    assert (reason, called["name"]) == ("end_turn", "mcp__polite__add")
    assert client.text() == "mcp__polite__add answered: 5"


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        ({"type": "sse", "name": "x", "url": "http://127.0.0.1/", "headers": []}, "give its url as http"),
        ({"name": "x", "args": [], "env": []}, "either a command"),
        ("x", "Expected `object`"),
    ],
)
async def test_a_server_that_cannot_be_is_refused_with_its_place(
    client: AcpClient, tmp_path: Path, server: object, problem: str
) -> None:
    with pytest.raises(WireError) as refused:
        await client.call("session/new", cwd=str(tmp_path), mcpServers=[server])

    assert refused.value.code == -32602
    assert refused.value.message.startswith("$.mcpServers[0]: ")
    assert problem in refused.value.message


async def test_who_reads_slowly_misses_nothing(
    daemon: Daemon, client: AcpClient, session: str, nursery: trio.Nursery, tmp_path: Path
) -> None:
    slow = await connect(daemon, nursery)
    await slow.initialize("slow")
    await slow.call("session/resume", sessionId=session, cwd=str(tmp_path))
    slow.stop_reading()
    for _ in range(2):
        await client.prompt(session, "count 10000")
    last = await slow.ask("session/prompt", **said(session, "echo that is all"))

    slow.read_on()
    answered = await slow.answer(last)

    assert answered == {"stopReason": "end_turn"}
    assert slow.text() == " ".join(map(str, range(1, 10001))) * 2 + "that is all"
    assert slow.text("user_message_chunk") == "count 10000" * 2
    # It has lost events, or this test would show nothing.
    assert len(slow.came) < len(client.came) / 2
