"""The servers of a session, with real ones: started, called, lost, started again, and never left behind."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import run
from typing import Any

import msgspec
import pytest
import trio

from crabd.masking import Masker
from crabd.mcp.connecting import Connector
from crabd.mcp.servers import ToolServers
from crabd.tools.base import Confinement, ToolOutcome
from crabd.tools.offers import choose
from crabd.tools.servers import Servers, ServerSettings, ServerState, ToolServer
from crabd.tools.shell.process import open_command
from tests.tools.context import Bare, Surroundings
from tests.tools.processes import Token

HERE = Path(__file__).parent
SESSION = "crab_user_1"
PATIENCE = 60.0


def rude(*habits: str, timeout: float = 60.0, **env: str) -> ToolServer:
    """Make a server that does what it is told."""
    args = (str(HERE / "rude.py"), *habits)
    return ToolServer(command=sys.executable, args=args, env=env, timeout=timeout)


def polite(**settings: Any) -> ToolServer:
    return ToolServer(command=sys.executable, args=(str(HERE / "polite.py"),), **settings)


class Place:
    """A session with servers."""

    def __init__(self, keeper: ToolServers, servers: Servers, cwd: Path) -> None:
        self.keeper = keeper
        self.servers = servers
        self.cwd = cwd

    async def give(self, **servers: ToolServer) -> tuple[ServerState, ...]:
        """Have a client give servers, and wait until they are ready or have failed."""
        self.keeper.give(SESSION, servers)
        return await self.want()

    async def want(self) -> tuple[ServerState, ...]:
        self.servers.want({}, str(self.cwd))
        await self.servers.settle()
        return self.servers.states

    async def call(self, name: str, /, **arguments: Any) -> ToolOutcome:
        (tool,) = (tool for tool in self.servers.tools if tool.spec.name == name)
        return await Surroundings(str(self.cwd)).call(tool, **arguments)

    def names(self) -> list[str]:
        return [tool.spec.name for tool in self.servers.tools]


@asynccontextmanager
async def open_place(
    directory: Path, settings: ServerSettings | None = None, confinement: Confinement | None = None
) -> AsyncGenerator[Place]:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            connector = Connector(open_command, confinement or Bare(), directory / "mcp", Masker())
            keeper = ToolServers(nursery, connector, settings or ServerSettings())
            servers = keeper.open(SESSION)
            try:
                yield Place(keeper, servers, directory)
            finally:
                await servers.aclose()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncGenerator[Place]:
    async with open_place(tmp_path) as made:
        yield made


async def test_a_server_of_the_sdk_is_used_over_its_pipes(place: Place) -> None:
    (state,) = await place.give(sums=polite())

    outcome = await place.call("mcp__sums__add", a=2, b=3)

    assert (state.state, state.source, state.problem) == ("ready", "client", None)
    assert state.tools == tuple(f"mcp__sums__{name}" for name in ("add", "variable", "draw", "fail"))
    assert outcome == ToolOutcome("5")


async def test_a_server_of_the_sdk_is_used_over_http(place: Place) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, str(HERE / "polite.py"), str(port)]
    async with open_command(argv, cwd=str(place.cwd), env=Bare().environment()) as process:
        assert process.stderr is not None
        heard = b""
        while b"running on" not in heard:
            heard += await process.stderr.receive_some()

        (state,) = await place.give(sums=ToolServer(url=f"http://127.0.0.1:{port}/mcp"))

        assert (state.state, state.problem) == ("ready", None)
        assert await place.call("mcp__sums__add", a=2, b=3) == ToolOutcome("5")
    lost = await place.call("mcp__sums__add", a=2, b=3)
    assert lost.is_error
    assert "sums" in lost.output


async def test_a_server_that_others_wrote_is_used(place: Place) -> None:
    program = Path(sys.executable).with_name("mcp-server-time")
    if not program.exists():
        pytest.skip("mcp-server-time is not installed: pip install '.[test]'")
    await place.give(time=ToolServer(command=str(program)))

    outcome = await place.call("mcp__time__get_current_time", timezone="UTC")

    assert msgspec.json.decode(outcome.output)["timezone"] == "UTC"


async def test_the_headers_of_a_server_go_with_every_request_and_are_secret(place: Place) -> None:
    seen: list[bytes] = []

    async def refuse(stream: trio.SocketStream) -> None:
        async with stream:
            seen.append(bytes(await stream.receive_some()))
            await stream.send_all(
                b"HTTP/1.1 404 Door-Key-0123\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, refuse, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/door-key-0123"
        headers = {"Authorization": "Bearer door-key-0123"}

        (state,) = await place.give(shut=ToolServer(url=url, headers=headers))

        nursery.cancel_scope.cancel()
    assert state.state == "failed"
    assert "door-key-0123" not in (state.problem or "")
    assert seen
    assert all(b"authorization: bearer door-key-0123" in each.lower() for each in seen)


async def test_nobody_at_a_url_is_told_with_the_reason(place: Place) -> None:
    (state,) = await place.give(nobody=ToolServer(url="http://127.0.0.1:9/mcp"))

    assert state.state == "failed"
    assert state.problem


async def test_an_answer_is_told_as_text_and_an_error_as_one(place: Place) -> None:
    await place.give(sums=polite())

    drawn, failed = await place.call("mcp__sums__draw"), await place.call("mcp__sums__fail")

    assert drawn == ToolOutcome("a drawing:\n[image, image/png, 5 bytes, not shown here]")
    assert failed == ToolOutcome("Error executing tool fail", is_error=True)


async def test_a_server_has_the_given_environment_and_nothing_of_ours(place: Place) -> None:
    await place.give(sums=polite(env={"GIVEN": "yes"}))

    given = await place.call("mcp__sums__variable", name="GIVEN")
    # pytest has it in the environment of its process.
    ours = await place.call("mcp__sums__variable", name="PYTEST_CURRENT_TEST")

    assert (given.output, ours.output) == ("yes", "(not set)")


async def test_what_a_server_says_of_its_harmlessness_is_not_believed_unless_the_person_says_so(
    place: Place,
) -> None:
    await place.give(sums=polite(), trusted=polite(read_only=("add", "var*")))

    specs = {tool.spec.name: tool.spec.is_read_only for tool in place.servers.tools}

    assert not specs["mcp__sums__add"]
    assert [name for name, is_read_only in specs.items() if is_read_only] == [
        "mcp__trusted__add",
        "mcp__trusted__variable",
    ]


async def test_a_tool_with_ten_thousand_arguments_is_not_offered(place: Place) -> None:
    await place.give(rude=rude())

    offered, left_out = choose(place.servers.tools)

    assert "mcp__rude__echo" in offered
    assert [each.tool for each in left_out] == ["mcp__rude__huge"]


async def test_calls_go_side_by_side(place: Place) -> None:
    await place.give(rude=rude())
    answers: dict[int, ToolOutcome] = {}

    async def call(number: int) -> None:
        answers[number] = await place.call("mcp__rude__echo", text=f"{number}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.call, "mcp__rude__hang")
        async with trio.open_nursery() as calls:
            for number in range(20):
                calls.start_soon(call, number)
        nursery.cancel_scope.cancel()

    assert answers == {number: ToolOutcome(f"{number}") for number in range(20)}


async def test_a_server_is_told_of_a_cancelled_call_and_goes_on(place: Place, tmp_path: Path) -> None:
    log = tmp_path / "log"
    await place.give(rude=rude(RUDE_LOG=str(log)))

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(place.call, "mcp__rude__hang")
            while '"hang"' not in log.read_text():
                await trio.lowlevel.checkpoint()
            scope.cancel()

    assert await place.call("mcp__rude__echo", text="still there") == ToolOutcome("still there")
    assert methods(log).count("notifications/cancelled") == 1


async def test_a_call_that_takes_too_long_is_an_error_and_the_server_goes_on(
    place: Place, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    await place.give(rude=rude(timeout=0.2, RUDE_LOG=str(log)))

    outcome = await place.call("mcp__rude__hang")

    assert outcome.is_error
    assert outcome.output.startswith("no answer within 0.2 s")
    assert await place.call("mcp__rude__echo", text="still there") == ToolOutcome("still there")
    assert methods(log).count("notifications/cancelled") == 1


async def test_a_server_that_dies_in_a_call_is_started_again_by_the_next(
    place: Place, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    await place.give(rude=rude(RUDE_LOG=str(log)))
    tools = {tool.spec.name: tool for tool in place.servers.tools}
    surroundings = Surroundings(str(place.cwd))

    died = await surroundings.call(tools["mcp__rude__die"])
    again = await surroundings.call(tools["mcp__rude__echo"], text="back")

    assert died.is_error
    assert "exit code 7" in died.output
    assert "killed by its own tool" in died.output
    assert again == ToolOutcome("back")
    assert log.read_text().split("\n").count("start") == 2


async def test_a_server_that_never_starts_is_told_with_what_it_said_and_left_alone_after_a_while(
    place: Place, tmp_path: Path
) -> None:
    log = tmp_path / "log"

    (state,) = await place.give(rude=rude("exit", RUDE_LOG=str(log), RUDE_KEY="canary-0123456789"))
    for _ in range(5):
        await place.want()

    assert state.state == "failed"
    assert state.problem is not None
    assert state.problem.startswith("it ended with exit code 3; it wrote: this key is no good: [secret] (")
    # The second start comes at once, the others would have to wait.
    assert log.read_text().split("\n").count("start") == 2


async def test_a_person_may_have_a_server_started_again_at_any_time(place: Place, tmp_path: Path) -> None:
    log = tmp_path / "log"
    await place.give(rude=rude(RUDE_LOG=str(log)))

    is_known = place.servers.reconnect("rude")
    await place.servers.settle()

    assert is_known
    assert not place.servers.reconnect("nobody")
    assert await place.call("mcp__rude__echo", text="back") == ToolOutcome("back")
    assert log.read_text().split("\n").count("start") == 2


async def test_a_program_that_is_not_there_is_told(place: Place) -> None:
    (state,) = await place.give(none=ToolServer(command="/no/such/program"))

    assert state.state == "failed"
    assert "No such file or directory" in (state.problem or "")


async def test_a_server_that_greets_on_stdout_and_floods_stderr_is_used_all_the_same(place: Place) -> None:
    (state,) = await place.give(rude=rude("greet", "flood"))

    assert state.state == "ready"
    assert await place.call("mcp__rude__echo", text="hello") == ToolOutcome("hello")


async def test_a_server_that_writes_without_end_is_ended(place: Place) -> None:
    (state,) = await place.give(rude=rude("babble"))

    assert state.state == "failed"
    assert "it sent a message of more than 16 MiB" in (state.problem or "")


async def test_an_answer_that_is_none_and_a_refusal_are_errors_for_the_model(place: Place) -> None:
    await place.give(rude=rude())

    nonsense, refusal = await place.call("mcp__rude__nonsense"), await place.call("mcp__rude__refuse")

    assert nonsense.is_error
    assert refusal == ToolOutcome("the server refused it: not today", is_error=True)
    assert await place.call("mcp__rude__echo", text="still there") == ToolOutcome("still there")


async def test_tools_that_come_later_are_there_with_the_next_run(place: Place) -> None:
    await place.give(rude=rude())

    await place.call("mcp__rude__grow")
    while "mcp__rude__grown" not in place.names():
        await trio.lowlevel.checkpoint()

    assert await place.call("mcp__rude__grown") == ToolOutcome("called grown")


async def test_what_the_client_gives_comes_before_what_is_configured(tmp_path: Path) -> None:
    settings = ServerSettings({"a": rude(), "b": rude()})
    async with open_place(tmp_path, settings) as place:
        states = await place.give(b=rude("greet"), c=rude())

        assert [(state.name, state.source) for state in states] == [
            ("a", "configuration"),
            ("b", "client"),
            ("c", "client"),
        ]


async def test_a_server_that_is_wanted_no_more_is_stopped_and_another_one_goes_on(
    place: Place, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    stays, token = rude(RUDE_LOG=str(log)), Token()
    await place.give(stays=stays, goes=rude(RUDE_SLEEP=token.text))

    states = await place.give(stays=stays)
    while token.living():
        await trio.lowlevel.checkpoint()

    assert [state.name for state in states] == ["stays"]
    assert log.read_text().split("\n").count("start") == 1


@pytest.mark.parametrize("habits", [(), ("stay",), ("mute",)])
async def test_nothing_is_left_of_a_server_when_its_session_closes(
    tmp_path: Path, habits: Sequence[str]
) -> None:
    token = Token()
    async with open_place(tmp_path) as place:
        place.keeper.give(SESSION, {"rude": rude(*habits, RUDE_SLEEP=token.text)})
        place.servers.want({}, str(tmp_path))
        while not token.living():
            await trio.lowlevel.checkpoint()

        await place.servers.aclose()

        assert token.living() == []


async def test_a_server_that_is_freed_by_name_is_not_confined_unless_it_is_a_projects(tmp_path: Path) -> None:
    settings = ServerSettings({"free": rude(), "bound": rude()}, unconfined=("fre*",))
    async with open_place(tmp_path, settings, Nowhere()) as place:
        await place.want()

        assert {state.name: state.state for state in place.servers.states} == {
            "free": "ready",
            "bound": "failed",
        }
        place.servers.want({"free": rude()}, str(tmp_path))
        await place.servers.settle()
        (free, _) = place.servers.states
        assert (free.source, free.state) == ("project", "failed")
        assert "(it ran confined: nowhere;" in (free.problem or "")


async def test_what_a_client_gave_is_there_again_when_the_session_is_loaded_again(place: Place) -> None:
    await place.give(rude=rude())
    await place.servers.aclose()

    again = place.keeper.open(SESSION)
    again.want({}, str(place.cwd))
    await again.settle()
    states = again.states
    await again.aclose()
    place.keeper.forget(SESSION)

    assert [(state.name, state.state) for state in states] == [("rude", "ready")]
    assert place.keeper.look(SESSION, {}) == ()


def test_who_wants_no_server_does_not_load_the_sdk() -> None:
    script = (
        "import sys, crabd.app; print([name for name in ('mcp', 'anyio', 'pydantic') if name in sys.modules])"
    )

    done = run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True)

    assert done.stdout == "[]\n"


class Nowhere(Bare):
    """Keeps a command from everything."""

    def wrap(self, command: Sequence[str], cwd: str) -> tuple[str, ...]:
        return ("false",)

    def describe(self) -> str:
        return "nowhere"


def methods(log: Path) -> list[str]:
    """List what a server was sent."""
    lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
    return [msgspec.json.decode(line).get("method", "") for line in lines]
