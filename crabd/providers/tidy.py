"""What httpx leaves to the garbage collector when a request is cancelled, and trio warns of.

Imported when a request is made, for httpx is dear.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import trio


class Upload(httpx.AsyncByteStream):
    """A body in one piece. httpx would make a generator of it, and leave that open in mid-upload."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(self._body)


class _Once(AsyncIterator[bytes]):
    def __init__(self, piece: bytes) -> None:
        self._left: bytes | None = piece

    async def __anext__(self) -> bytes:
        piece, self._left = self._left, None
        if piece is None:
            raise StopAsyncIteration
        return piece


class Handshake:
    """A ``trace`` of httpcore that closes the socket when a TLS handshake does not come to its end.

    httpcore does so when the handshake fails, and forgets it when it is cancelled.
    """

    def __init__(self) -> None:
        self._connected: trio.abc.AsyncResource | None = None

    async def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._connected = facts["return_value"]
        elif event.endswith(".start_tls.failed") and self._connected:
            await trio.aclose_forcefully(self._connected)
