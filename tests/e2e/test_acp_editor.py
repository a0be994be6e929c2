"""The model reads and edits what the person has in his editor, saved or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio

from tests.e2e.acp import AcpClient, connect, said
from tests.e2e.daemon import PATIENCE, Daemon

Call: TypeAlias = tuple[str, Mapping[str, object]]

FS = {"readTextFile": True, "writeTextFile": True}


class Editor:
    """A client with buffers, which allows whatever it is asked; what it refuses is in ``refused``."""

    def __init__(self, client: AcpClient) -> None:
        self.client = client
        self.buffers: dict[str, str] = {}
        self.refused: set[str] = set()
        self.asked: list[str] = []
        self.hangs_up_on = ""
        self._done = 0

    async def serve(self) -> None:
        """Answer the daemon until the link ends."""
        while not self.client.is_over:
            await self.client.until(lambda: len(self.client.came) > self._done or self.client.is_over)
            for message in self.client.came[self._done :]:
                self._done += 1
                if "method" in message and "id" in message:
                    await self._answer(message)

    async def _answer(self, request: dict[str, Any]) -> None:
        method, params = request["method"], request["params"]
        self.asked.append(method)
        if method == self.hangs_up_on:
            await self.client.hang_up()
            return
        answer: dict[str, object] = {"result": {"outcome": {"outcome": "selected", "optionId": "allow"}}}
        if method in self.refused:
            answer = {"error": {"code": -32603, "message": "the buffer is locked"}}
        elif method == "fs/read_text_file":
            answer = self._read(params["path"])
        elif method == "fs/write_text_file":
            self.buffers[params["path"]] = params["content"]
            Path(params["path"]).write_text(params["content"])
            answer = {"result": None}
        await self.client.send({"id": request["id"], **answer})

    def _read(self, path: str) -> dict[str, object]:
        place = Path(path)
        if path not in self.buffers and not place.exists():
            return {"error": {"code": -32002, "message": "no such file"}}
        return {"result": {"content": self.buffers.get(path) or place.read_text()}}


@pytest.fixture
async def editor(daemon: Daemon, nursery: trio.Nursery) -> Editor:
    client = await connect(daemon, nursery)
    await client.initialize(fs=FS)
    editor = Editor(client)
    nursery.start_soon(editor.serve)
    return editor


def calls(*made: Call) -> str:
    """Script a model that makes calls, one after the other, and says what the last one gave."""
    lines = [f"call {tool} {json.dumps(arguments)}" for tool, arguments in made]
    return "\n".join(["script", *lines, "say $result", ""])


READ: Call = ("read", {"path": "a.txt"})
EDIT: Call = ("edit", {"path": "a.txt", "old": "three", "new": "3"})


async def test_what_is_not_saved_is_read_and_edited_in_the_editor(editor: Editor, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\n")
    editor.buffers[str(file)] = "one\ntwo\nthree\n"
    session = await editor.client.new_session(tmp_path)

    await editor.client.prompt(session, calls(READ, EDIT))

    assert editor.client.text() == f"edited {file} in 1 place, at line 3"
    assert editor.buffers[str(file)] == file.read_text() == "one\ntwo\n3\n"
    assert "fs/write_text_file" in editor.asked


async def test_what_the_person_had_comes_back_when_the_session_goes_back(
    daemon: Daemon, editor: Editor, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\n")
    editor.buffers[str(file)] = "one\ntwo\nthree\n"
    session = await editor.client.new_session(tmp_path)
    await editor.client.prompt(session, calls(READ, EDIT))
    other = await daemon.connect()

    await other.call("session/rewind", session=session, restore_files=True)

    assert file.read_text() == "one\ntwo\nthree\n"


async def test_an_editor_that_refuses_is_gone_around_when_reading_and_told_of_when_writing(
    editor: Editor, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("three\n")
    session = await editor.client.new_session(tmp_path)
    editor.refused.add("fs/write_text_file")

    await editor.client.prompt(session, calls(READ, EDIT))
    told = editor.client.text()
    editor.refused.add("fs/read_text_file")
    await editor.client.prompt(session, calls(READ, EDIT))

    assert "the editor may not have written" in told
    assert "the buffer is locked" in told
    assert editor.client.text().endswith("in 1 place, at line 1")
    assert file.read_text() == "3\n"


@pytest.mark.parametrize(
    ("on", "is_edited"), [("fs/read_text_file", True), ("fs/write_text_file", False)], ids=["read", "write"]
)
async def test_an_editor_that_goes_away_does_not_hold_up_the_run(
    daemon: Daemon, editor: Editor, tmp_path: Path, on: str, is_edited: bool
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("three\n")
    other = await daemon.connect()
    session = await editor.client.new_session(tmp_path)
    await other.call("permission/set", rule="edit", decision="allow")
    await other.call("session/subscribe", session=session)
    editor.hangs_up_on = on

    await editor.client.ask("session/prompt", **said(session, calls(READ, EDIT, EDIT)))
    ended = await other.event("run_ended")

    results = [each["output"] for each in other.events("tool_result")]
    assert ended["stop_reason"] == "end_turn"
    assert file.read_text() == "3\n"
    assert ("it went away" in results[1]) is not is_edited


async def test_a_client_that_says_nothing_of_files_is_not_asked_for_them(
    daemon: Daemon, nursery: trio.Nursery, tmp_path: Path
) -> None:
    client = await connect(daemon, nursery)
    await client.initialize(fs={"readTextFile": True, "writeTextFile": False})
    editor = Editor(client)
    nursery.start_soon(editor.serve)
    (tmp_path / "a.txt").write_text("three\n")
    session = await client.new_session(tmp_path)

    await client.prompt(session, calls(READ, EDIT))

    assert set(editor.asked) == {"session/request_permission"}
    assert (tmp_path / "a.txt").read_text() == "3\n"


async def test_the_editor_that_opened_a_session_last_has_its_files(
    daemon: Daemon, nursery: trio.Nursery, editor: Editor, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("disk\n")
    editor.buffers[str(file)] = "first\n"
    session = await editor.client.new_session(tmp_path)
    client = await connect(daemon, nursery)
    await client.initialize("second", fs=FS)
    second = Editor(client)
    second.buffers[str(file)] = "second\n"
    nursery.start_soon(second.serve)

    await client.call("session/load", sessionId=session, cwd=str(tmp_path), mcpServers=[])
    other = await daemon.connect()

    await client.prompt(session, calls(READ))
    await client.hang_up()
    with trio.fail_after(PATIENCE):
        while (await other.call("daemon/status"))["clients"] > 2:
            await trio.lowlevel.checkpoint()
    last = (await other.call("session/send", session=session, content=calls(READ)))["text"]

    assert editor.client.text().startswith("1\tsecond\n")
    assert last.startswith("1\tfirst\n")
