"""Real links for tests: a served peer on one end of a socket pair, a client without our code on the other."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
import trio

from crabd.rpc.peer import Peer
from tests.rpc.cases import Brief, brief

# Far more than anything here takes: it ends a test that hangs, and measures nothing.
PATIENCE = 10.0


class LineClient:
    """The other end of a link, without any code of ours."""

    def __init__(self, sock: socket.socket) -> None:
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._unread = b""

    async def send(self, *texts: bytes) -> None:
        await self.stream.send_all(b"".join(text + b"\n" for text in texts))

    async def call(self, message_id: int, method: str, params: object = None) -> None:
        message = {"jsonrpc": "2.0", "id": message_id, "method": method, "params": params}
        await self.send(msgspec.json.encode(message))

    async def notify(self, method: str, params: object = None) -> None:
        await self.send(msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params}))

    async def receive_text(self) -> bytes:
        while b"\n" not in self._unread:
            data = await self.stream.receive_some()
            assert data, "the link ended"
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        return line

    async def receive(self) -> Brief:
        return brief(await self.receive_text())

    async def receive_rest(self) -> bytes:
        """Read to the end of the link."""
        pieces = [self._unread]
        while data := await self.stream.receive_some():
            pieces.append(data)
        self._unread = b""
        return b"".join(pieces)


@asynccontextmanager
async def serving(peer: Peer, there: socket.socket) -> AsyncGenerator[LineClient, None]:
    """Serve a peer for as long as the block lasts, and until it has ended by itself or the block fails."""
    client = LineClient(there)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.serve)
            async with client.stream:
                yield client
