"""A client of the Agent Client Protocol with none of our code in it: JSON in lines over the socket.

All that comes is held to the protocol: what has no such place, or no such form where its schema is at hand,
fails the test.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

from tests.e2e.daemon import PATIENCE, Daemon, WireError
from tests.e2e.editors.acp.order import Referee
from tests.e2e.editors.acp.transcript import Json, Message
from tests.e2e.editors.acp.validity import Examiner, is_installed


class AcpClient:
    """One link. All that comes is kept, in the order in which it came."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.came: list[Json] = []
        self.is_over = False
        self._referee: Referee | None = Referee(alone=False)
        self._examiner = Examiner() if is_installed() else None
        self._may_read = trio.Event()
        self._may_read.set()
        self._stream = stream
        self._ids = 0
        self._news = trio.Condition()

    async def send(self, *messages: Json) -> None:
        """Send messages in one go."""
        for message in messages:
            self._watch(Message("client", {"jsonrpc": "2.0", **message}))
        lines = [msgspec.json.encode({"jsonrpc": "2.0", **message}) + b"\n" for message in messages]
        await self._stream.send_all(b"".join(lines))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are. What is asked in them is not known here, and no order is expected then."""
        self._referee = self._examiner = None
        await self._stream.send_all(data)

    async def ask(self, method: str, **params: object) -> int:
        """Send a request without waiting for its answer; returns its id."""
        request = self.request(method, **params)
        await self.send(request)
        return int(request["id"])

    def request(self, method: str, **params: object) -> Json:
        """Make a request, to be sent."""
        self._ids += 1
        return {"id": self._ids, "method": method, "params": params}

    async def notify(self, method: str, **params: object) -> None:
        await self.send({"method": method, "params": params})

    async def call(self, method: str, **params: object) -> Json:
        """Ask, and return the result.

        Raises:
          WireError: the daemon answered an error.
        """
        return await self.answer(await self.ask(method, **params))

    async def answer(self, request: int) -> Json:
        """Wait for the answer to a request.

        Raises:
          WireError: it is an error.
        """
        await self.until(lambda: self.place_of(request) is not None)
        place = self.place_of(request)
        assert place is not None, "it has come"
        answer = self.came[place]
        if "error" in answer:
            raise WireError(answer["error"])
        result: Json = answer["result"]
        return result

    def place_of(self, request: int) -> int | None:
        """Tell where among all that came an answer is; null if it has not come."""
        places = (n for n, each in enumerate(self.came) if each.get("id") == request and "method" not in each)
        return next(places, None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Read on until something is so."""
        with trio.fail_after(PATIENCE):
            async with self._news:
                while not condition():
                    assert not self.is_over, f"the link has ended after {self.came[-3:]}"
                    await self._news.wait()

    def updates(self, *kinds: str, session: str | None = None) -> list[Json]:
        """List the updates that have come so far, of these kinds or of all."""
        told = [each["params"] for each in self.came if each.get("method") == "session/update"]
        return [
            each["update"]
            for each in told
            if (not kinds or each["update"]["sessionUpdate"] in kinds)
            and session in (None, each["sessionId"])
        ]

    def kinds(self) -> list[str]:
        """Tell in a word each what has come: an update's kind, a request's method, or ``answer``."""
        return [
            each["params"]["update"]["sessionUpdate"]
            if each.get("method") == "session/update"
            else each.get("method", "answer")
            for each in self.came
        ]

    def text(self, kind: str = "agent_message_chunk", session: str | None = None) -> str:
        """Join the text of the chunks of a kind."""
        return "".join(update["content"]["text"] for update in self.updates(kind, session=session))

    async def update(self, kind: str, count: int = 1) -> Json:
        """Wait for the ``count``-th update of a kind."""
        await self.until(lambda: len(self.updates(kind)) >= count)
        return self.updates(kind)[count - 1]

    async def initialize(self, name: str = "editor", **capabilities: object) -> Json:
        return await self.call(
            "initialize",
            protocolVersion=1,
            clientCapabilities=capabilities,
            clientInfo={"name": name, "version": "1"},
        )

    async def new_session(self, cwd: Path) -> str:
        """Make a session; returns its id."""
        return str((await self.call("session/new", cwd=str(cwd), mcpServers=[]))["sessionId"])

    async def prompt(self, session: str, text: str) -> str:
        """Say something and wait for the end of the turn; returns why it ended."""
        return str((await self.call("session/prompt", **said(session, text)))["stopReason"])

    def stop_reading(self) -> None:
        """Leave unread what comes, but for a little, until ``read_on``."""
        self._may_read = trio.Event()

    def read_on(self) -> None:
        self._may_read.set()

    def _watch(self, message: Message) -> None:
        if message.method == "initialize" and not isinstance(message.body["params"]["protocolVersion"], int):
            # What opens a link so speaks another language.
            self._referee = self._examiner = None
        faults = [*self._referee.judge(message)] if self._referee else []
        flaws = self._examiner.judge(message) if self._examiner else []
        assert message.sender == "client" or not (faults or flaws), (faults, flaws, message.body)

    async def close_writing(self) -> None:
        await self._stream.send_eof()

    async def hang_up(self) -> None:
        """End the link, whatever is under way."""
        await self._stream.aclose()

    async def read(self) -> None:
        """Keep what comes, until the daemon hangs up."""
        unread = b""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self._stream:
                while data := await self._stream.receive_some(1 << 16):
                    await self._may_read.wait()
                    *lines, unread = (unread + data).split(b"\n")
                    async with self._news:
                        for line in lines:
                            self.came.append(msgspec.json.decode(line))
                            self._watch(Message("agent", self.came[-1]))
                        self._news.notify_all()
        async with self._news:
            self.is_over = True
            self._news.notify_all()


def said(session: str, text: str) -> Json:
    """Make the parameters of a prompt."""
    return {"sessionId": session, "prompt": [{"type": "text", "text": text}]}


async def connect(daemon: Daemon, nursery: trio.Nursery) -> AcpClient:
    """Open a link, which is read in the nursery."""
    client = AcpClient(await trio.open_unix_socket(str(daemon.home.socket)))
    nursery.start_soon(client.read)
    return client
