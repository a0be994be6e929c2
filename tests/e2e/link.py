"""A connection that is made to be lost: what is asked for and what comes is noted as it happens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import trio

from tests.e2e.ledger import NO_FACT, Fact, World
from tests.e2e.witness import Json


class HungUp(Exception):
    """The link has ended, and with it the wait for an answer."""


class Refused(Exception):
    """The daemon has answered an error."""

    def __init__(self, error: Json) -> None:
        super().__init__(error)
        self.data: Json = error.get("data", {"kind": "internal"})
        self.kind: str = self.data["kind"]


class Link:
    """One connection. What comes is taken in order, each before anybody acts on it."""

    def __init__(self, stream: trio.SocketStream, world: World, on_event: Callable[[Json], None]) -> None:
        self.ended = trio.Event()
        self._stream = stream
        self._world = world
        self._on_event = on_event
        self._waiting: dict[int, _Waiting] = {}
        self._ids = 0
        self._turn = trio.Lock()

    def __repr__(self) -> str:
        return f"<Link {'closed' if self.ended.is_set() else 'open'}, {len(self._waiting)} waiting>"

    async def call(self, method: str, fact: Fact = NO_FACT, /, **params: object) -> Any:
        """Ask, and return the result; ``fact`` has taken it by then, as soon as it came.

        Waits as long as the link lives.

        Raises:
          Refused: the daemon has answered an error.
          HungUp: there will be no answer.
        """
        self._ids += 1
        number, waiting = self._ids, _Waiting(fact)
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        async with self._turn:
            if self.ended.is_set():
                raise HungUp
            self._waiting[number] = waiting
            fact.ask(self._world.note(f"asked {method}"))
            try:
                await self._stream.send_all(msgspec.json.encode(request) + b"\n")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise HungUp from None
        await waiting.settled.wait()
        if waiting.error is not None:
            raise waiting.error
        return waiting.result

    async def read(self) -> None:
        """Take what comes, until the link ends."""
        unread = b""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self._stream:
                while data := await self._stream.receive_some(1 << 18):
                    *lines, unread = (unread + data).split(b"\n")
                    for line in lines:
                        self._take(msgspec.json.decode(line))
        self.ended.set()
        for waiting in self._waiting.values():
            waiting.fail(HungUp())

    async def hang_up(self) -> None:
        """End the link, whatever is under way."""
        await self._stream.aclose()

    def _take(self, message: Json) -> None:
        if "method" in message:
            self._on_event(message["params"])
            return
        waiting = self._waiting.pop(message["id"])
        now = self._world.note("answer")
        if "error" in message:
            waiting.fact.refuse(now)
            waiting.fail(Refused(message["error"]))
        else:
            waiting.fact.accept(message["result"], now)
            waiting.result = message["result"]
            waiting.settled.set()


class _Waiting:
    def __init__(self, fact: Fact) -> None:
        self.fact = fact
        self.result: Any = None
        self.error: Exception | None = None
        self.settled = trio.Event()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.settled.set()
