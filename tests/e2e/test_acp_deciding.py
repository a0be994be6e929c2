"""What waits for a person is asked in his editor, whatever that editor makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.acp import AcpClient, connect, said
from tests.e2e.daemon import PATIENCE, Client, Daemon

PERMISSION = "session/request_permission"
TOUCH = 'script\ncall bash {"command": "touch made.txt"}\nsay $result\n'
ALLOW = {"outcome": {"outcome": "selected", "optionId": "allow"}}
CANCELLED = {"outcome": {"outcome": "cancelled"}}


def asks(*questions: dict[str, object]) -> str:
    """Script a model that asks, and says what it was answered."""
    return f"script\ncall ask_user {json.dumps({'questions': questions})}\nsay $result\n"


async def asked(client: AcpClient, method: str = PERMISSION, count: int = 1) -> dict[str, Any]:
    """Wait for the ``count``-th request of a method that the daemon makes."""

    def found() -> list[dict[str, Any]]:
        return [each for each in client.came if each.get("method") == method]

    await client.until(lambda: len(found()) >= count)
    return found()[count - 1]


async def reply(client: AcpClient, request: dict[str, Any], result: object) -> None:
    await client.send({"id": request["id"], "result": result})


async def choose(client: AcpClient, request: dict[str, Any], option: str) -> None:
    await reply(client, request, {"outcome": {"outcome": "selected", "optionId": option}})


async def decide(client: Client, decision: str) -> None:
    """Decide about the one call that waits, as crabctl does."""
    (waiting,) = (await client.call("confirmation/list"))["confirmations"]
    await client.call(
        "confirmation/reply", session=waiting["session"], call=waiting["call"], decision=decision
    )


async def is_withdrawn(client: AcpClient, request: dict[str, Any]) -> None:
    """Wait until the client is told that a request of the daemon needs no answer any more."""
    cancel = await asked(client, "$/cancel_request")
    assert cancel["params"] == {"requestId": request["id"]}
    assert "id" not in cancel


@pytest.fixture
async def editor(daemon: Daemon, nursery: trio.Nursery) -> AcpClient:
    client = await connect(daemon, nursery)
    await client.initialize()
    return client


@pytest.fixture
async def session(editor: AcpClient, tmp_path: Path) -> str:
    return await editor.new_session(tmp_path)


async def test_a_call_that_is_allowed_is_made(editor: AcpClient, session: str, tmp_path: Path) -> None:
    prompt = await editor.ask("session/prompt", **said(session, TOUCH))
    request = await asked(editor)
    was_made = (tmp_path / "made.txt").exists()
    await reply(editor, request, ALLOW)
    ended = await editor.answer(prompt)

    call = editor.updates("tool_call")[0]
    place = editor.came.index(request)
    assert (was_made, (tmp_path / "made.txt").exists()) == (False, True)
    assert ended["stopReason"] == "end_turn"
    assert request["id"] >= 2**30
    assert request["params"]["sessionId"] == session
    assert request["params"]["toolCall"]["toolCallId"] == call["toolCallId"]
    assert any(each.get("params", {}).get("update") == call for each in editor.came[:place])
    assert request["params"]["toolCall"]["kind"] == "execute"
    assert [each["kind"] for each in request["params"]["options"]] == [
        "allow_once",
        "allow_always",
        "allow_always",
        "reject_once",
    ]


async def test_a_call_that_is_denied_is_not_made_and_the_model_reads_by_whom(
    editor: AcpClient, session: str, tmp_path: Path
) -> None:
    prompt = await editor.ask("session/prompt", **said(session, TOUCH))
    await choose(editor, await asked(editor), "deny")
    ended = await editor.answer(prompt)

    assert ended["stopReason"] == "end_turn"
    assert "it was denied by editor" in editor.text()
    assert not (tmp_path / "made.txt").exists()


async def test_what_is_allowed_for_the_session_is_not_asked_again(editor: AcpClient, session: str) -> None:
    prompt = await editor.ask("session/prompt", **said(session, TOUCH))
    await choose(editor, await asked(editor), "allow_session")
    await editor.answer(prompt)

    await editor.prompt(session, TOUCH)

    assert [each.get("method") for each in editor.came].count(PERMISSION) == 1


async def test_an_edit_is_shown_as_it_would_be(editor: AcpClient, session: str, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\ntwo\n")
    change = {"path": "a.txt", "old": "two", "new": "2"}
    script = f'script\ncall read {{"path": "a.txt"}}\ncall edit {json.dumps(change)}\nsay $result\n'

    prompt = await editor.ask("session/prompt", **said(session, script))
    request = await asked(editor)
    await reply(editor, request, ALLOW)
    await editor.answer(prompt)

    shown = request["params"]["toolCall"]
    assert shown["content"][0] == {
        "type": "diff",
        "path": str(file),
        "oldText": "one\ntwo\n",
        "newText": "one\n2\n",
    }
    assert shown["locations"] == [{"path": str(file)}]
    assert file.read_text() == "one\n2\n"


async def test_who_answers_first_elsewhere_has_the_question_withdrawn(
    daemon: Daemon, editor: AcpClient, session: str, tmp_path: Path
) -> None:
    other = await daemon.connect()

    prompt = await editor.ask("session/prompt", **said(session, TOUCH))
    request = await asked(editor)
    await decide(other, "allow")
    ended = await editor.answer(prompt)
    await is_withdrawn(editor, request)
    # Too late, and twice.
    await choose(editor, request, "deny")
    await choose(editor, request, "deny")

    assert ended["stopReason"] == "end_turn"
    assert (tmp_path / "made.txt").exists()
    assert await editor.prompt(session, "echo still there") == "end_turn"


async def test_of_two_editors_the_first_to_answer_is_heard(
    daemon: Daemon, nursery: trio.Nursery, editor: AcpClient, session: str, tmp_path: Path
) -> None:
    second = await connect(daemon, nursery)
    await second.initialize("second")
    await second.call("session/load", sessionId=session, cwd=str(tmp_path), mcpServers=[])

    prompt = await editor.ask("session/prompt", **said(session, TOUCH))
    first_asked, second_asked = await asked(editor), await asked(second)
    await choose(second, second_asked, "allow")
    ended = await editor.answer(prompt)
    await is_withdrawn(editor, first_asked)

    assert ended["stopReason"] == "end_turn"
    assert (tmp_path / "made.txt").exists()


async def test_a_client_that_never_answers_holds_up_no_cancelled_run(
    editor: AcpClient, session: str, tmp_path: Path
) -> None:
    prompt = await editor.ask("session/prompt", **said(session, TOUCH))
    request = await asked(editor)

    await editor.notify("session/cancel", sessionId=session)

    assert await editor.answer(prompt) == {"stopReason": "cancelled"}
    await is_withdrawn(editor, request)
    assert not (tmp_path / "made.txt").exists()


async def test_a_client_that_answers_that_it_cancelled_has_a_cancelled_run(
    editor: AcpClient, session: str
) -> None:
    prompt = await editor.ask("session/prompt", **said(session, TOUCH))
    request = await asked(editor)

    await editor.send(
        {"method": "session/cancel", "params": {"sessionId": session}},
        {"id": request["id"], "result": CANCELLED},
    )

    assert await editor.answer(prompt) == {"stopReason": "cancelled"}


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"code": -32601, "message": "no such method"}},
        {"result": CANCELLED},
        {"result": None},
        {"result": {"outcome": "allow"}},
        {"result": {"outcome": {"outcome": "selected", "optionId": "of my own"}}},
    ],
    ids=["error", "cancelled", "null", "no outcome", "unknown option"],
)
async def test_an_answer_that_decides_nothing_leaves_it_to_others(
    daemon: Daemon, editor: AcpClient, session: str, tmp_path: Path, answer: dict[str, object]
) -> None:
    other = await daemon.connect()
    prompt = await editor.ask("session/prompt", **said(session, TOUCH))
    request = await asked(editor)

    await editor.send({"id": request["id"], **answer})
    # The answer was taken before that to a request that came behind it.
    await editor.call("session/list")
    await decide(other, "allow")

    assert (await editor.answer(prompt))["stopReason"] == "end_turn"
    assert (tmp_path / "made.txt").exists()


async def test_a_link_that_ends_leaves_it_to_the_one_that_comes_back(
    daemon: Daemon, nursery: trio.Nursery, editor: AcpClient, session: str, tmp_path: Path
) -> None:
    await editor.ask("session/prompt", **said(session, TOUCH))
    first = await asked(editor)
    await editor.hang_up()
    again = await connect(daemon, nursery)
    await again.initialize()

    load = await again.ask("session/load", sessionId=session, cwd=str(tmp_path), mcpServers=[])
    request = await asked(again)
    await reply(again, request, ALLOW)
    await again.until(lambda: "made" in again.text() or (tmp_path / "made.txt").exists())
    with trio.fail_after(PATIENCE):
        await again.answer(load)

    kinds = again.kinds()
    assert request["params"] == first["params"]
    assert kinds.index("tool_call") < kinds.index(PERMISSION)
    assert kinds.index("answer", kinds.index("tool_call")) < kinds.index(PERMISSION), "the load was answered"


async def test_a_session_that_is_resumed_while_it_waits_is_asked_about(
    daemon: Daemon, nursery: trio.Nursery, editor: AcpClient, session: str, tmp_path: Path
) -> None:
    prompt = await editor.ask("session/prompt", **said(session, TOUCH))
    await asked(editor)
    other = await connect(daemon, nursery)
    await other.initialize("other")

    await other.call("session/resume", sessionId=session, cwd=str(tmp_path), mcpServers=[])
    await reply(other, await asked(other), ALLOW)

    assert (await editor.answer(prompt))["stopReason"] == "end_turn"


async def test_a_session_that_is_loaded_again_is_asked_about_anew(
    editor: AcpClient, session: str, tmp_path: Path
) -> None:
    prompt = await editor.ask("session/prompt", **said(session, TOUCH))
    first = await asked(editor)

    await editor.call("session/load", sessionId=session, cwd=str(tmp_path), mcpServers=[])
    second = await asked(editor, count=2)
    await is_withdrawn(editor, first)
    await reply(editor, second, ALLOW)

    assert (await editor.answer(prompt))["stopReason"] == "end_turn"
    assert second["params"] == first["params"]


async def test_the_end_of_a_message_that_waited_withdraws_nothing_of_the_run_before_it(
    daemon: Daemon, editor: AcpClient, session: str, tmp_path: Path
) -> None:
    other = await daemon.connect()
    prompt = await editor.ask("session/prompt", **said(session, TOUCH))
    request = await asked(editor)

    queued = await other.call("session/send", session=session, content="echo later", wait=False)
    await other.call("session/cancel", session=session, run=queued["run"])
    await reply(editor, request, ALLOW)

    assert (await editor.answer(prompt))["stopReason"] == "end_turn"
    assert (tmp_path / "made.txt").exists()


async def test_a_session_that_is_not_open_is_not_asked_about(
    daemon: Daemon, nursery: trio.Nursery, editor: AcpClient, session: str
) -> None:
    stranger = await connect(daemon, nursery)
    await stranger.initialize("stranger")

    prompt = await editor.ask("session/prompt", **said(session, TOUCH))
    await reply(editor, await asked(editor), ALLOW)
    await editor.answer(prompt)
    await stranger.call("session/list")

    assert stranger.kinds() == ["answer", "answer"]


async def test_a_question_is_asked_by_a_form_where_there_are_forms(
    daemon: Daemon, nursery: trio.Nursery, tmp_path: Path
) -> None:
    editor = await connect(daemon, nursery)
    await editor.initialize(elicitation={"form": {}})
    session = await editor.new_session(tmp_path)

    script = asks({"text": "Why?"}, {"text": "Which?", "options": ["left", "right"]})
    prompt = await editor.ask("session/prompt", **said(session, script))
    request = await asked(editor, "elicitation/create")
    content = {"answer_1": "so", "answer_2": "right"}
    await reply(editor, request, {"action": "accept", "content": content})
    await editor.answer(prompt)

    assert request["params"]["mode"] == "form"
    assert list(request["params"]["requestedSchema"]["properties"]) == [
        "answer_1",
        "answer_2",
        "answer_2_other",
    ]
    assert editor.text() == "Why?\nso\n\nWhich?\nright"


async def test_a_question_with_options_is_asked_by_buttons_where_there_are_no_forms(
    editor: AcpClient, session: str
) -> None:
    script = asks({"text": "Which?", "options": ["left", "right"]})

    prompt = await editor.ask("session/prompt", **said(session, script))
    request = await asked(editor)
    await choose(editor, request, "1")
    await editor.answer(prompt)

    assert [each["name"] for each in request["params"]["options"]] == ["left", "right", "No answer"]
    assert editor.text() == "right"


async def test_another_question_is_told_and_can_be_answered_elsewhere(
    daemon: Daemon, editor: AcpClient, session: str
) -> None:
    other = await daemon.connect()

    prompt = await editor.ask("session/prompt", **said(session, asks({"text": "Why?"})))
    await editor.until(lambda: "Why?" in editor.text())
    (waiting,) = (await other.call("question/list"))["questions"]
    await other.call("question/reply", session=session, call=waiting["call"], answers=["so"])
    await editor.answer(prompt)

    assert f"crabctl answer {waiting['id']} --session {session}" in editor.text()
    assert editor.text().endswith("so")


async def test_a_form_is_withdrawn_when_the_question_was_answered_elsewhere(
    daemon: Daemon, nursery: trio.Nursery, tmp_path: Path
) -> None:
    editor, other = await connect(daemon, nursery), await daemon.connect()
    await editor.initialize(elicitation={"form": {}})
    session = await editor.new_session(tmp_path)

    prompt = await editor.ask("session/prompt", **said(session, asks({"text": "Why?"})))
    request = await asked(editor, "elicitation/create")
    (waiting,) = (await other.call("question/list"))["questions"]
    await other.call("question/reply", session=session, call=waiting["call"], answers=["so"])
    await editor.answer(prompt)

    await is_withdrawn(editor, request)
    assert editor.text() == "so"
