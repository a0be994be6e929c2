"""The clients: one link each, with what it has subscribed to."""

from __future__ import annotations

import socket
from collections.abc import Coroutine
from functools import partial
from types import CoroutineType
from typing import cast

import structlog
import trio
from msgspec import Raw
from structlog.typing import FilteringBoundLogger

from crabd.rpc.envelope import RpcError
from crabd.rpc.methods import InvalidParamsError
from crabd.rpc.peer import Peer
from crabd.rpc.reactor import Reactor
from crabd.runtime.runtime import Runtime
from crabd.server.acp import dialect
from crabd.server.acp.link import AcpLink
from crabd.server.caller import Caller, Control
from crabd.server.dispatch import answer

# How long what has been said may take to reach a client when the daemon stops.
FLUSH_SECONDS = 2.0

log: FilteringBoundLogger = structlog.get_logger()


class Client:
    """One link, and the dialect it speaks: the daemon's own, until it opens with another."""

    def __init__(self, peer: Peer, runtime: Runtime, control: Control) -> None:
        self._peer = peer
        self._runtime = runtime
        self._caller = Caller(runtime, control, peer)
        self._acp: AcpLink | None = None
        self._has_opened = False

    def take_request(self, method: str, params: Raw) -> object:
        """Answer a request, as ``dispatch`` does."""
        if self._acp is not None:
            return dialect.answer(self._acp, method, params)
        if method == "initialize" and not self._has_opened:
            self._has_opened = True
            if dialect.speaks_acp(params):
                return dialect.answer(self._become_acp(), method, params)
        return answer(self._caller, method, params)

    def take_notification(self, method: str, params: Raw) -> object:
        """Do what a request without an id asks for."""
        if self._acp is not None:
            return dialect.take_notification(self._acp, method, params)
        return answer(self._caller, method, params)

    def drained(self) -> None:
        """Note that the client has read most of what it was sent."""
        if self._acp is not None:
            self._acp.drained()
        else:
            self._runtime.drained(self._peer)

    def forget(self) -> None:
        """End what ends with the link."""
        self._runtime.forget(self._peer)
        if self._acp is not None:
            self._acp.end()

    def _become_acp(self) -> AcpLink:
        self._peer.adopt(dialect.MANNERS)
        self._acp = AcpLink(self._peer, self._runtime)
        return self._acp


class Clients:
    """All links that are open. They live in the nursery that this is given."""

    def __init__(self, nursery: trio.Nursery, reactor: Reactor, runtime: Runtime, control: Control) -> None:
        self._nursery = nursery
        self._reactor = reactor
        self._runtime = runtime
        self._control = control
        self._peers: set[Peer] = set()

    def __len__(self) -> int:
        return len(self._peers)

    def welcome(self, sock: socket.socket) -> None:
        """Serve a client on its connected socket, which is ours to close from here on."""
        self._nursery.start_soon(self._serve, sock)

    async def aclose(self) -> None:
        """Let every client have what it is owed, for a bounded time, and hang up."""
        async with trio.open_nursery() as nursery:
            for peer in tuple(self._peers):
                nursery.start_soon(partial(peer.aclose, flush_seconds=FLUSH_SECONDS))

    async def _serve(self, sock: socket.socket) -> None:
        def take_request(method: str, params: Raw) -> object:
            return client.take_request(method, params)

        def take_notification(method: str, params: Raw) -> None:
            self._take_notification(client, method, params)

        peer = Peer(
            sock,
            take_request,
            self._reactor,
            on_notification=take_notification,
            on_drained=lambda: client.drained(),
        )
        client = Client(peer, self._runtime, self._control)
        self._peers.add(peer)
        try:
            await peer.serve()
        except Exception:
            # One client's trouble is no other's.
            log.exception("client_failed")
        finally:
            self._peers.discard(peer)
            client.forget()

    def _take_notification(self, client: Client, method: str, params: Raw) -> None:
        """Do what a request without an id asks for. Nobody waits for how it ends, so only the log is told."""
        try:
            outcome = client.take_notification(method, params)
        except (RpcError, InvalidParamsError) as exc:
            log.debug("notification_refused", method=method, problem=str(exc))
            return
        if isinstance(outcome, CoroutineType):
            finish = cast("Coroutine[object, object, object]", outcome)
            self._nursery.start_soon(self._finish_notification, method, finish)

    async def _finish_notification(self, method: str, outcome: Coroutine[object, object, object]) -> None:
        try:
            await outcome
        except RpcError as exc:
            log.debug("notification_refused", method=method, problem=str(exc))
        except Exception:
            log.exception("notification_failed", method=method)
