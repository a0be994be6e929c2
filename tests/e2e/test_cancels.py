"""Whatever a tool is doing, a cancel ends it: no process is left, and the conversation goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import Struct

from tests.e2e.daemon import PATIENCE, Client, Daemon, Home, start_daemon
from tests.tools.processes import Token, members, read

# A line as there are many, for a tree that takes a search far longer than a test waits.
LINE = b"a line that is neither long nor short, and has nothing of what is looked for: xxxxxxxxxxx\n"
# Reading takes a thread of the daemon's, and so its time; this much it does not take to do nothing, in ticks.
SOME_WORK = 0.3 * os.sysconf("SC_CLK_TCK")


class Scene:
    """A daemon that works for a client, and what is to be seen of it from outside."""

    def __init__(self, daemon: Daemon, client: Client, project: Path, port: int) -> None:
        self.token = Token()
        self.project = project
        self.port = port
        self.visited = trio.Event()
        self.client = client
        self._daemon = daemon

    @property
    def pid(self) -> int:
        return self._daemon.process.pid

    def living(self) -> list[str]:
        """List what runs for the daemon: what descends from it, and what has a command's environment."""
        home = f"HOME={self._daemon.home.directory}".encode()
        return [
            f"{process} {read(Path(f'/proc/{process}/cmdline'))!r}"
            for process, environment in read_all("environ").items()
            if process != self.pid
            if self.pid in ancestors(process) or (home in environment and b"CRABD_COMMAND=" in environment)
        ]

    def groups(self) -> list[int]:
        """List the process groups of those who sleep as long as the token says."""
        sleeper = f"sleep\0{self.token.text}\0".encode()
        found = [process for process, line in read_all("cmdline").items() if line == sleeper]
        return [group for process in found if (group := stat_of(process)[2])]


def read_all(name: str) -> dict[int, bytes]:
    """Read a file of every process in /proc."""
    directories = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    return {int(directory.name): read(directory / name) for directory in directories}


def stat_of(process: int) -> tuple[str, int, int, int]:
    """Tell the state, the parent, the group and the ticks of a process; of nobody if it has gone."""
    fields = read(Path(f"/proc/{process}/stat")).decode(errors="replace").rpartition(")")[2].split()
    if not fields or fields[0] in "ZX":
        return ("X", 0, 0, 0)
    return (fields[0], int(fields[1]), int(fields[2]), int(fields[11]) + int(fields[12]))


def ancestors(process: int) -> list[int]:
    found: list[int] = []
    while (process := stat_of(process)[1]) > 0:
        found.append(process)
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Look again and again; under a deadline of the caller's."""
    while not condition():
        await trio.lowlevel.checkpoint()


async def runs_with_token(scene: Scene) -> None:
    await until(lambda: bool(scene.groups()))


async def has_read_for_a_while(scene: Scene) -> None:
    await scene.client.event("tool_call")
    before = stat_of(scene.pid)[3]
    await until(lambda: stat_of(scene.pid)[3] > before + SOME_WORK)


async def has_a_process(scene: Scene) -> None:
    await until(lambda: bool(scene.living()))


async def is_visited(scene: Scene) -> None:
    await scene.visited.wait()


async def has_asked(scene: Scene) -> None:
    await scene.client.event("question_asked")


async def waits_for_leave(scene: Scene) -> None:
    await scene.client.event("confirmation_requested")


class Work(Struct, frozen=True):
    """A call that goes on until it is cancelled, and how to see that it is under way."""

    tool: str
    arguments: dict[str, object]
    is_under_way: Callable[[Scene], Awaitable[None]]
    mode: str = "full"


def shell(command: str, **more: object) -> Work:
    return Work("bash", {"command": command, **more}, runs_with_token)


WORKS = {
    "a command": shell("sleep <token>"),
    "a command that will not end": shell("trap '' TERM INT HUP; while :; do sleep <token>; done"),
    "a pipe": shell("sleep <token> | cat | cat"),
    "a daemon of a command's": shell("setsid -f sleep <token>; setsid sh -c 'sleep <token> & wait' & wait"),
    "a stopped command": shell(
        "sleep <token> & until grep -q sleep /proc/$!/comm; do :; done; kill -STOP $!; wait"
    ),
    "an output without end": shell("sleep <token> & yes"),
    "a large file": Work("read", {"path": "large.txt", "offset": 1000}, has_read_for_a_while),
    "a search of lines": Work("grep", {"pattern": "(x+.)+y+.*nowhere", "path": "tree"}, has_a_process),
    "a page": Work("web_fetch", {"url": "http://127.0.0.1:<port>/"}, is_visited),
    "a question": Work("ask_user", {"questions": [{"text": "Which?"}]}, has_asked),
    "leave for a command": Work("bash", {"command": "touch made"}, waits_for_leave, "ask"),
    "leave for a change": Work("write", {"path": "made", "content": "x"}, waits_for_leave, "ask"),
}


def make_project(home: Home) -> Path:
    project = home.directory / "project"
    (project / "tree").mkdir(parents=True)
    # A line, and a hole behind it that is one more line, longer than anybody reads in a test.
    with (project / "large.txt").open("wb") as large:
        large.write(LINE * 999)
        large.truncate(1 << 40)
    first = project / "tree" / "0.txt"
    first.write_bytes(LINE * 300_000)
    for number in range(1, 1000):
        (project / "tree" / f"{number}.txt").hardlink_to(first)
    return project


@asynccontextmanager
async def open_scene(home: Home, sandbox: str = "auto") -> AsyncGenerator[Scene]:
    """Run a daemon, and a web server that takes requests and never answers."""
    project = await trio.to_thread.run_sync(make_project, home)
    home.configure(f'titles = false\ngrace = 0\nsandbox = "{sandbox}"\n[web]\nallow_private = true\n')
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with start_daemon(home) as daemon, trio.open_nursery() as nursery:
        scene = Scene(daemon, await daemon.connect(), project, listener.socket.getsockname()[1])

        async def never_answer(stream: trio.SocketStream) -> None:
            async with stream:
                await stream.receive_some()
                scene.visited.set()
                await stream.receive_some()

        nursery.start_soon(partial(trio.serve_listeners, never_answer, [listener]))
        yield scene
        nursery.cancel_scope.cancel()


async def open_calls(client: Client, session: str) -> list[str]:
    """List the calls of a conversation that have no result, or none that is theirs alone."""
    messages: list[dict[str, Any]] = [
        entry["message"] for entry in (await client.call("session/history", session=session))["messages"]
    ]
    blocks = [block for each in messages if each["role"] == "assistant" for block in each["content"]]
    called = [block["id"] for block in blocks if block["type"] == "tool_call"]
    answered = [each["call"] for each in messages if each["role"] == "tool"]
    return called if called != answered else []


@pytest.mark.parametrize(
    ("name", "sandbox"),
    [
        (name, sandbox)
        for name, work in WORKS.items()
        for sandbox in ("auto", "off")
        if work.tool == "bash" or sandbox == "auto"
    ],
)
async def test_a_cancel_ends_it_and_leaves_nothing(home: Home, name: str, sandbox: str) -> None:
    work = WORKS[name]
    async with open_scene(home, sandbox) as scene:
        client = scene.client
        session = (await client.call("session/get_or_create", agent="crab", cwd=str(scene.project)))["id"]
        await client.call("session/configure", session=session, mode=work.mode)
        words = json.dumps(work.arguments).replace("<token>", scene.token.text)
        call = f"call {work.tool} {words.replace('<port>', str(scene.port))}"
        running = await client.ask("session/send", session=session, content=call)
        with trio.fail_after(PATIENCE):
            await work.is_under_way(scene)
        groups = scene.groups()

        await client.call("session/cancel", session=session)
        left = scene.living()
        of_groups = [member for group in groups for member in members(group)]
        done = await client.answer(running)
        after = await client.call("session/send", session=session, content="echo still here")
        (result,) = (await client.call("session/history", session=session, roles=["tool"]))["messages"]
        unanswered = await open_calls(client, session)

    assert (left, of_groups) == ([], [])
    assert done["stop_reason"] == "cancelled"
    assert result["message"]["status"] == "cancelled"
    assert (after["stop_reason"], after["text"]) == ("end_turn", "still here")
    assert unanswered == []
    assert not (scene.project / "made").exists()


async def test_a_cancel_ends_all_calls_of_a_round_and_answers_each(home: Home) -> None:
    async with open_scene(home) as scene:
        client = scene.client
        session = (await client.call("session/get_or_create", agent="crab", cwd=str(scene.project)))["id"]
        await client.call("session/configure", session=session, mode="full")
        lines = [
            f'call bash {{"command": "sleep {scene.token.text}"}}',
            'and ask_user {"questions": [{"text": "Which?"}]}',
            'and ls {"path": "."}',
            f'and bash {{"command": "sleep {scene.token.text} & wait"}}',
        ]
        running = await client.ask("session/send", session=session, content="\n".join(["script", *lines]))
        await client.event("question_asked")
        await client.event("tool_result")
        with trio.fail_after(PATIENCE):
            await until(lambda: len(set(scene.groups())) >= 2)

        await client.call("session/cancel", session=session)
        left = scene.living()
        done = await client.answer(running)
        unanswered = await open_calls(client, session)
        results = (await client.call("session/history", session=session, roles=["tool"]))["messages"]

    assert left == []
    assert done["stop_reason"] == "cancelled"
    assert unanswered == []
    statuses = [entry["message"]["status"] for entry in results]
    assert statuses == ["cancelled", "cancelled", "ok", "cancelled"]


async def test_a_job_in_the_background_outlives_a_cancel_and_not_its_session(home: Home) -> None:
    async with open_scene(home) as scene:
        client = scene.client
        session = (await client.call("session/get_or_create", agent="crab", cwd=str(scene.project)))["id"]
        await client.call("session/configure", session=session, mode="full")
        job = json.dumps({"command": f"sleep {scene.token.text}", "run_in_background": True})
        task = f'script\ncall bash {job}\ncall ask_user {{"questions": [{{"text": "Which?"}}]}}'
        await client.ask("session/send", session=session, content=task)
        await client.event("question_asked")

        await client.call("session/cancel", session=session)
        groups = scene.groups()
        await client.call("session/close", session=session)
        left = scene.living()

    assert groups != []
    assert left == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_daemon_that_ends_takes_its_commands_with_it(home: Home, number: signal.Signals) -> None:
    async with open_scene(home) as scene:
        client = scene.client
        session = (await client.call("session/get_or_create", agent="crab", cwd=str(scene.project)))["id"]
        await client.call("session/configure", session=session, mode="full")
        command = json.dumps({"command": f"trap '' TERM; while :; do sleep {scene.token.text}; done"})
        await client.ask("session/send", session=session, content=f"call bash {command}")
        with trio.fail_after(PATIENCE):
            await runs_with_token(scene)
            os.kill(scene.pid, number)
            await until(lambda: not scene.token.living())
