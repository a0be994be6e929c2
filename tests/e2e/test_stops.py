"""Starting and stopping as people see it, through crabctl: nobody loses an answer, all learn how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import trio

from tests.e2e.daemon import PATIENCE, Daemon, Home, start_daemon
from tests.model_server import Gate, ModelServer, says

CALLERS = 20


async def crabctl(home: Home, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run one command line as a script would."""
    with trio.fail_after(PATIENCE):
        return await trio.run_process(
            [sys.executable, "-m", "crabctl", *words],
            env=home.env,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


class Watched:
    """A crabctl that is running, and what it has printed so far."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.shown = ""

    async def until(self, text: str) -> None:
        """Read on until a text is shown."""
        assert self.process.stdout
        with trio.fail_after(PATIENCE):
            while text not in self.shown:
                piece = await self.process.stdout.receive_some()
                assert piece, f"{text!r} was never shown, but {self.shown!r}"
                self.shown += piece.decode()

    async def exit_code(self) -> int:
        """Read to the end."""
        assert self.process.stdout
        with trio.fail_after(PATIENCE):
            async for piece in self.process.stdout:
                self.shown += piece.decode()
            return await self.process.wait()

    def events(self) -> list[str]:
        """List the types of the events it has shown."""
        lines = map(json.loads, self.shown.splitlines())
        return [line["type"] for line in lines if "type" in line]


@asynccontextmanager
async def running(home: Home, *words: str) -> AsyncGenerator[Watched]:
    """Run one command line in the background; it is killed if it is still there at the end."""
    async with trio.open_nursery() as nursery:
        command = [sys.executable, "-m", "crabctl", *words]
        start = partial(trio.run_process, command, env=home.env, stdout=subprocess.PIPE, check=False)
        yield Watched(await nursery.start(start))
        nursery.cancel_scope.cancel()


async def tell_to_stop(daemon: Daemon) -> None:
    """Send SIGTERM, and wait until newcomers are refused."""
    daemon.process.send_signal(signal.SIGTERM)
    with trio.fail_after(PATIENCE):
        while True:
            try:
                await daemon.connect()
            except OSError:
                return


async def test_twenty_messages_at_once_start_one_daemon_and_get_twenty_answers(home: Home) -> None:
    answers: dict[int, subprocess.CompletedProcess[bytes]] = {}

    async def ask(number: int) -> None:
        answers[number] = await crabctl(home, "send", "-s", f"caller-{number}", f"echo {number}")

    try:
        async with trio.open_nursery() as nursery:
            for number in range(CALLERS):
                nursery.start_soon(ask, number)
        listed = await crabctl(home, "call", "session/list")
    finally:
        stopped = await crabctl(home, "stop")

    said = {number: (answer.returncode, answer.stdout) for number, answer in answers.items()}
    log = (home.state / "crabd.log").read_text()
    assert said == {number: (0, b"%d\n" % number) for number in range(CALLERS)}
    assert len(json.loads(listed.stdout)["sessions"]) == CALLERS
    assert log.count('"event": "ready"') == 1
    assert stopped.returncode == 0


async def test_who_waits_for_an_answer_gets_the_rest_of_it_when_the_daemon_is_stopped(
    home: Home, models: ModelServer
) -> None:
    home.use_model_server(models.base_url)
    await models.script(says("almost", Gate("a"), " done"))
    async with start_daemon(home) as daemon, running(home, "send", "--json", "go") as sending:
        await sending.until("almost")

        await tell_to_stop(daemon)
        await models.open_gate("a")
        exit_code = await sending.exit_code()

        result = json.loads(sending.shown.splitlines()[-1])
        with trio.fail_after(PATIENCE):
            assert await daemon.process.wait() == 0
        assert exit_code == 0
        assert sending.events()[-1] == "run_ended"
        assert (result["text"], result["stop_reason"], result["persisted"]) == (
            "almost done",
            "end_turn",
            True,
        )


async def test_a_second_signal_cuts_the_answer_short_and_says_so(home: Home, models: ModelServer) -> None:
    home.use_model_server(models.base_url)
    await models.script(says("half", Gate("never")))
    async with start_daemon(home) as daemon, running(home, "send", "--json", "go") as sending:
        await sending.until("half")
        await tell_to_stop(daemon)

        daemon_exit_code = await daemon.stop(signal.SIGTERM)
        exit_code = await sending.exit_code()

        result = json.loads(sending.shown.splitlines()[-1])
        assert (exit_code, daemon_exit_code) == (130, 0)
        assert sending.events()[-1] == "run_ended"
        assert (result["text"], result["stop_reason"], result["persisted"]) == ("half", "cancelled", True)
        assert "send the message again" in result["error"]["message"]


async def test_what_a_stop_has_cut_short_is_there_after_the_next_start(
    home: Home, models: ModelServer
) -> None:
    home.use_model_server(models.base_url)
    await models.script(says("half", Gate("never")), says("fine"))
    async with start_daemon(home) as daemon, running(home, "send", "--json", "go") as sending:
        await sending.until("half")
        await crabctl(home, "send", "--detach", "and then")
        await tell_to_stop(daemon)
        await daemon.stop(signal.SIGTERM)

    async with start_daemon(home):
        answer = await crabctl(home, "send", "again")
        history = await crabctl(home, "log", "--json")

        messages = [json.loads(line)["message"] for line in history.stdout.splitlines()]
        assert answer.stdout == b"fine\n"
        assert [(message["role"], message["content"][0]["text"]) for message in messages] == [
            ("user", "go"),
            ("assistant", "half"),
            ("user", "and then"),
            ("user", "again"),
            ("assistant", "fine"),
        ]
