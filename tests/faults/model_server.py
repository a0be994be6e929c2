"""A model server on bare sockets that goes wrong in every way there is, and right once it is mended.

What it does with a request is a script of bytes and deeds, so that nothing between the test and the wire can
mend, refuse or hurry what a real server would send. It has no idea of HTTP but where a request ends.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeAlias

import msgspec
import trio
from msgspec import Struct

# Far more than anything here takes: it ends a test that hangs, and measures nothing.
PATIENCE = 20.0


class Bytes(Struct, frozen=True):
    """Bytes to be sent as they are: many ``times``, or one by one."""

    data: bytes
    times: int = 1
    one_by_one: bool = False


# ``hold``: say nothing until the test lets go, which may be never. ``close``, ``reset``: hang up.
Deed: TypeAlias = Literal["hold", "close", "reset"]
Script: TypeAlias = tuple[Bytes | Deed, ...]


def data(value: dict[str, Any]) -> bytes:
    """Spell a server-sent event."""
    return b"data: %b\n\n" % msgspec.json.encode(value)


def say(text: str) -> bytes:
    """Spell a piece of an answer."""
    return data({"choices": [{"index": 0, "delta": {"content": text}}]})


def head(status: int = 200, media_type: str = "text/event-stream", **headers: str) -> bytes:
    """Spell a head whose body ends with the connection. A header's underscores are dashes."""
    named = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    first = f"HTTP/1.1 {status} Whatever\r\nconnection: close\r\ncontent-type: {media_type}\r\n"
    return f"{first}{named}\r\n".encode()


def chunk(payload: bytes) -> bytes:
    """Spell a piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


END = data({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + b"data: [DONE]\n\n"
GOOD: Script = (Bytes(head() + say("fine") + END), "close")


class FaultServer:
    """The server in the test's hand. It plays ``fault`` until it is mended."""

    def __init__(self, nursery: trio.Nursery, context: ssl.SSLContext | None, *, is_deaf: bool) -> None:
        self.fault: Script = GOOD
        # The requests that came, as JSON; null for what was none.
        self.asked: list[Any] = []
        self.port = 0
        self._nursery = nursery
        self._context = context
        self._is_deaf = is_deaf
        self._door: trio.CancelScope | None = None
        self._links = 0
        self._news = trio.Event()
        self._let_go = trio.Event()
        self._is_holding = False

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    def break_down(self, script: Script) -> None:
        """Answer with this from now on; holds anew."""
        self.fault = script
        self.asked.clear()
        self._let_go = trio.Event()
        self._is_holding = False

    def mend(self) -> None:
        self.fault = GOOD

    def let_go(self) -> None:
        """Have whatever is held go on, now and later."""
        self._let_go.set()

    async def open_door(self) -> None:
        """Listen, on the same port as before."""
        await self._nursery.start(self._serve)

    def close_door(self) -> None:
        """Refuse whoever comes."""
        if self._door:
            self._door.cancel()
            self._door = None

    async def until_holding(self) -> None:
        await self._until(lambda: self._is_holding)

    async def until_asked(self, count: int) -> None:
        await self._until(lambda: len(self.asked) >= count)

    async def until_alone(self) -> None:
        """Wait until nobody is connected any more."""
        await self._until(lambda: self._links == 0)

    async def _until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(PATIENCE):
            while not condition():
                await self._news.wait()

    def _tell_news(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.CancelScope() as scope:
            self._door = scope
            listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
            self.port = listeners[0].socket.getsockname()[1]
            if self._is_deaf:
                listeners[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            task_status.started()
            # The links are not the door's: it may close while somebody is inside.
            await trio.serve_listeners(self._welcome, listeners, handler_nursery=self._nursery)

    async def _welcome(self, raw: trio.SocketStream) -> None:
        self._links += 1
        stream: trio.abc.Stream = raw
        if self._context:
            stream = trio.SSLStream(raw, self._context, server_side=True, https_compatible=True)
        try:
            if self._is_deaf and isinstance(stream, trio.SSLStream):
                await stream.do_handshake()
            await self._serve_link(raw, stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            raw.socket.close()
            self._links -= 1
            self._tell_news()

    async def _serve_link(self, raw: trio.SocketStream, stream: trio.abc.Stream) -> None:
        request = b"" if self._is_deaf else await _receive(stream)
        if not request and not self._is_deaf:
            return
        body = request.partition(b"\r\n\r\n")[2]
        self.asked.append(msgspec.json.decode(body) if body.startswith(b"{") else None)
        script = self.fault
        self._tell_news()
        async with trio.open_nursery() as nursery:
            if not self._is_deaf:
                nursery.start_soon(_watch, stream, nursery.cancel_scope)
            for deed in script:
                await self._do(deed, raw, stream)
            nursery.cancel_scope.cancel()

    async def _do(self, deed: Bytes | Deed, raw: trio.SocketStream, stream: trio.abc.Stream) -> None:
        match deed:
            case Bytes(data=payload, times=times, one_by_one=one_by_one):
                pieces = [bytes([byte]) for byte in payload] if one_by_one else [payload]
                for piece in pieces * times:
                    await stream.send_all(piece)
            case "hold":
                self._is_holding = True
                self._tell_news()
                await self._let_go.wait()
            case "close":
                await stream.aclose()
            case "reset":
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await raw.aclose()


@asynccontextmanager
async def open_fault_server(
    context: ssl.SSLContext | None = None, *, is_deaf: bool = False
) -> AsyncGenerator[FaultServer]:
    """Run a server in this process, mended at first. A deaf one reads nothing. It ends with the context."""
    async with trio.open_nursery() as nursery:
        server = FaultServer(nursery, context, is_deaf=is_deaf)
        await server.open_door()
        yield server
        nursery.cancel_scope.cancel()


async def _receive(stream: trio.abc.Stream) -> bytes:
    """Read a request, or the hello of a TLS client, which has no blank line; empty if it is not whole."""
    request = b""
    while b"\r\n\r\n" not in request and not request.startswith(b"\x16"):
        piece = await stream.receive_some()
        if not piece:
            return b""
        request += piece
    found, _, body = request.partition(b"\r\n\r\n")
    for line in found.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            while len(body) < int(line.partition(b":")[2]):
                piece = await stream.receive_some()
                if not piece:
                    return b""
                body += piece
                request += piece
    return request


async def _watch(stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
    """End a link's script when the other end hangs up."""
    try:
        while await stream.receive_some():
            pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()
