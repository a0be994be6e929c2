"""A real crabd process of a new user, and clients on its real socket that have none of our code in them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

ROOT = Path(__file__).parents[2]
# Far more than anything here takes: it ends a test that hangs, and measures nothing.
PATIENCE = 30.0


class Home:
    """A new user's directories. Daemons come and go; what they leave behind stays."""

    def __init__(self, directory: Path, **variables: str) -> None:
        self.directory = directory
        self.socket = directory / "run" / "crabd" / "crabd.sock"
        self.config = directory / ".config" / "crabd"
        self.state = directory / ".local" / "state" / "crabd"
        (directory / "run").mkdir(mode=0o700)
        self.env = {
            "HOME": str(directory),
            "PATH": os.environ["PATH"],
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "PYTHONPATH": str(ROOT),
            # Nobody listens there, so a model server of the machine is never found.
            "OLLAMA_HOST": "http://127.0.0.1:1",
            **variables,
        }

    def configure(self, text: str) -> None:
        """Write ``config.toml``."""
        self.config.mkdir(parents=True, exist_ok=True)
        (self.config / "config.toml").write_text(text)

    def use_model_server(self, base_url: str) -> None:
        """Have the daemon ask a model server of the test's."""
        self.configure(f'model = "test/m"\ntitles = false\n[providers.test]\nbase_url = "{base_url}"\n')


class WireError(Exception):
    """The daemon's error, as it was on the wire."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: dict[str, Any] = error.get("data") or {}


class Client:
    """One link, in lines of JSON. Notifications are kept in the order they came."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.notifications: list[dict[str, Any]] = []
        self.order: list[str] = []
        self._stream = stream
        self._answers: dict[int, dict[str, Any]] = {}
        self._ids = 0
        self._news = trio.Condition()

    async def call(self, method: str, **params: object) -> Any:
        """Ask, and return the result.

        Raises:
          WireError: the daemon answered an error.
        """
        return await self.answer(await self.ask(method, **params))

    async def ask(self, method: str, **params: object) -> int:
        """Send a request without waiting for its answer; returns its id."""
        self._ids += 1
        params = {name.rstrip("_"): value for name, value in params.items()}
        request = {"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params}
        await self._stream.send_all(msgspec.json.encode(request) + b"\n")
        return self._ids

    async def notify(self, method: str, **params: object) -> None:
        await self._stream.send_all(
            msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params}) + b"\n"
        )

    async def answer(self, request: int) -> Any:
        """Wait for the answer to a request.

        Raises:
          WireError: it is an error.
        """
        await self.until(lambda: request in self._answers)
        answer = self._answers.pop(request)
        if "error" in answer:
            raise WireError(answer["error"])
        return answer["result"]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Read on until something is so."""
        with trio.fail_after(PATIENCE):
            async with self._news:
                while not condition():
                    await self._news.wait()

    def events(self, type_: str) -> list[dict[str, Any]]:
        """List the events of one type that have come so far."""
        return [event for event in self.notifications if event["type"] == type_]

    async def event(self, type_: str, count: int = 1) -> dict[str, Any]:
        """Wait for the ``count``-th event of a type."""
        await self.until(lambda: len(self.events(type_)) >= count)
        return self.events(type_)[count - 1]

    async def hang_up(self) -> None:
        """End the link, whatever is under way."""
        await self._stream.aclose()

    async def read(self) -> None:
        """Sort what comes, until the daemon hangs up."""
        unread = b""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self._stream:
                while data := await self._stream.receive_some():
                    *lines, unread = (unread + data).split(b"\n")
                    async with self._news:
                        for line in lines:
                            self._sort(msgspec.json.decode(line))
                        self._news.notify_all()
        async with self._news:
            self.order.append("hung up")
            self._news.notify_all()

    def _sort(self, message: dict[str, Any]) -> None:
        if "method" in message:
            self.notifications.append(message["params"])
            self.order.append(message["params"]["type"])
        else:
            self._answers[message["id"]] = message
            self.order.append("answer")


class Daemon:
    """A running crabd."""

    def __init__(self, home: Home, process: trio.Process, nursery: trio.Nursery) -> None:
        self.home = home
        self.process = process
        self._nursery = nursery

    async def connect(self) -> Client:
        """Open a link; it is closed with the daemon's block."""
        stream = await trio.open_unix_socket(str(self.home.socket))
        client = Client(stream)
        self._nursery.start_soon(client.read)
        return client

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.process.send_signal(number)
        with trio.fail_after(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def start_daemon(home: Home, *flags: str) -> AsyncGenerator[Daemon]:
    """Run crabd until the block ends; it is killed if it is still there by then."""
    reader, writer = os.pipe()
    log = (home.directory / "crabd.log").open("ab")
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "crabd", "--ready-fd", str(writer), *flags],
        env=home.env,
        stdin=subprocess.DEVNULL,
        stderr=log,
        pass_fds=[writer],
    )
    os.close(writer)
    log.close()
    try:
        async with trio.lowlevel.FdStream(reader) as ready:
            with trio.fail_after(PATIENCE):
                said = await ready.receive_some()
        assert said == b"READY\n", (home.directory / "crabd.log").read_text()
        async with trio.open_nursery() as nursery:
            yield Daemon(home, process, nursery)
            nursery.cancel_scope.cancel()
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
