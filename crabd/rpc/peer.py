"""Drive one JSON-RPC link over a socket with trio: read, answer, write.

Knows the protocol's state machine and nothing of methods: whoever opens the link gives it one function
that answers. Works on a plain non-blocking socket, one ``recv`` per wake-up; trio's own streams cost twice
as much per request.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import CoroutineType
from typing import Any, Literal, TypeAlias, cast

import structlog
import trio
from msgspec import Raw, Struct

from crabd.rpc.connection import (
    DEFAULT_LIMITS,
    NEED_DATA,
    CancelReceived,
    Connection,
    Limits,
    LinkBroken,
    Pause,
)
from crabd.rpc.envelope import (
    CANCELLED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    OVERLOADED,
    Id,
    Notification,
    Request,
    Response,
    RpcError,
)
from crabd.rpc.methods import InvalidParamsError

Answer: TypeAlias = Callable[[str, Raw], object]

# A peer that leaves more than HIGH_WATER bytes unread is not read from either, until LOW_WATER are left.
HIGH_WATER = 1024 * 1024
LOW_WATER = 256 * 1024

# One read serves one wake-up, so that a peer that never pauses cannot starve the others.
_READ_BYTES = 64 * 1024

# How long the rest of a broken stream is read and thrown away. Closing a socket with unread bytes resets
# it, and the error that explains why would be lost on a peer that is still writing.
_LINGER_SECONDS = 2.0

_log = structlog.get_logger()


class FollowedBy(Struct, frozen=True):
    """A result, and encoded JSON texts that go out right behind it, with nothing in between."""

    result: object
    payloads: tuple[bytes, ...]


class Peer:
    """The other end of a link.

    ``answer(method, params)`` returns a result, which is sent in the same wake-up, or the coroutine of an
    ``async def``, which runs as a task of this link and can be cancelled by the other end. Everything one
    wake-up produces leaves in one send. It raises ``RpcError`` or ``InvalidParamsError``; any other
    exception is a bug, logged here and told to the other end without details.

    ``on_notification(method, params)`` and ``on_drained()`` must not block. The latter is called when the
    backlog has fallen to ``LOW_WATER`` after having been above it.

    The socket belongs to the peer from here on; ``serve`` or ``close`` closes it.
    """

    def __init__(
        self,
        sock: socket.socket,
        answer: Answer,
        *,
        limits: Limits = DEFAULT_LIMITS,
        on_notification: Callable[[str, Raw], None] | None = None,
        on_drained: Callable[[], None] | None = None,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._answer = answer
        self._limits = limits
        self._on_notification = on_notification
        self._on_drained = on_drained
        self._connection = Connection(limits)
        # What the connection has handed out and the kernel has not yet taken.
        self._sending: bytes | memoryview = b""
        self._is_above_low_water = False
        self._scopes: dict[Id, trio.CancelScope] = {}
        self._pending: dict[Id, _Pending] = {}
        self._scope = trio.CancelScope()
        self._reading = trio.CancelScope()
        self._idle_writer = trio.lowlevel.ParkingLot()
        self._paused_reader = trio.lowlevel.ParkingLot()
        self._state: Literal["open", "half-closed", "closed"] = "open"
        self._is_served = False
        self._is_finishing = False
        self._ended = trio.Event()

    def __repr__(self) -> str:
        return f"<Peer {self._state}, {len(self._pending)} pending, {len(self._scopes)} in flight>"

    @property
    def backlog(self) -> int:
        """Bytes that wait for the other end to read."""
        return len(self._sending) + self._connection.unsent_bytes

    async def serve(self) -> None:
        """Talk until the link ends, then close the socket. To be called once; returns at once if closed.

        After the other end's last byte the requests in flight are still answered; a peer that is gone has
        them cancelled. A peer that stops in the middle of a message is closed after
        ``limits.stall_seconds``, and so is one that does not read its last answers in that time; an idle
        one is left alone. If cancelled, everything in flight is cancelled and nothing more is sent.
        """
        if self._state == "closed":
            return
        self._is_served = True
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    async with trio.open_nursery() as requests:
                        is_broken = await self._read(requests)
                        self._state = "half-closed"
                        self._settle_pending()
                        if is_broken:
                            requests.cancel_scope.cancel()
                    self._is_finishing = True
                    self._idle_writer.unpark()
                    nursery.cancel_scope.deadline = trio.current_time() + self._limits.stall_seconds
                if is_broken:
                    await self._linger()
        finally:
            self._end()

    def post(self, payload: bytes) -> None:
        """Send a JSON text that is already encoded, without waiting; dropped if the link is closed.

        There is no bound in here: the caller watches ``backlog``.
        """
        if self._state != "closed":
            self._connection.post(payload)
            self._idle_writer.unpark()
            if self.backlog > LOW_WATER:
                # A burst within one wake-up must not make a prompt reader look slow.
                self._send_now()

    async def request(self, method: str, params: object) -> Raw:
        """Ask the other end, and return its result undecoded.

        Waits as long as the link lives: give it a deadline. If cancelled, the other end is told.

        Raises:
          RpcError: the other end refused.
          trio.BrokenResourceError: the link ended first.
        """
        if self._state != "open":
            raise trio.BrokenResourceError(f"{self!r} cannot be asked {method}")
        request_id = self._connection.send_request(method, params)
        pending = self._pending[request_id] = _Pending()
        self._idle_writer.unpark()
        try:
            await pending.settled.wait()
        except trio.Cancelled:
            self._connection.abandon_request(request_id)
            self._idle_writer.unpark()
            raise
        finally:
            del self._pending[request_id]
        if pending.response is None:
            raise trio.BrokenResourceError(f"the link ended before {method} was answered")
        if pending.response.error is not None:
            raise pending.response.error
        return pending.response.result

    def close(self) -> None:
        """Close the link at once, whatever is unsent. Requests in flight are cancelled. Idempotent."""
        self._state = "closed"
        self._scope.cancel()
        if not self._is_served:
            self._end()

    async def aclose(self, *, flush_seconds: float) -> None:
        """Read no more, answer what is in flight, and close: after ``flush_seconds`` at the latest.

        Shielded from cancellation by that bound.
        """
        self._reading.cancel()
        if self._is_served:
            with trio.move_on_after(flush_seconds, shield=True):
                await self._ended.wait()
        self.close()

    async def _read(self, requests: trio.Nursery) -> bool:
        """Read and answer until nothing more is to come; tell whether that is the other end's fault."""
        with self._reading:
            while await self._receive():
                while (pause := self._handle_events(requests)) is None:
                    # It does not read, so it is not read from: its further requests wait where they are.
                    self._send_now()
                    await self._until_drained()
                self._send_now()
                if pause is not NEED_DATA:
                    return isinstance(pause, LinkBroken)
            return True
        return False

    async def _receive(self) -> bool:
        """Feed the connection with one read; false if the rest of a message does not come."""
        # A scope costs as much as answering a request: an idle link, the usual case, goes without.
        if not self._connection.is_mid_message:
            await trio.lowlevel.wait_readable(self._sock)
        elif not await self._is_readable_in_time():
            return False
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            self.close()
            return True
        if data:
            self._connection.receive_data(data)
        else:
            self._connection.receive_eof()
        return True

    async def _is_readable_in_time(self) -> bool:
        with trio.move_on_after(self._limits.stall_seconds) as scope:
            await trio.lowlevel.wait_readable(self._sock)
        return not scope.cancelled_caught

    def _handle_events(self, requests: trio.Nursery) -> Pause | LinkBroken | None:
        """Handle what has been read and say why it ended; null if too much is unsent to go on."""
        connection = self._connection
        # Nothing is sent meanwhile, so that only what the connection holds can grow.
        room = HIGH_WATER - len(self._sending)
        while connection.unsent_bytes <= room:
            event = connection.next_event()
            if isinstance(event, Request):
                self._take_request(event, requests)
            elif isinstance(event, (Pause, LinkBroken)):
                return event
            elif isinstance(event, Notification):
                self._take_notification(event)
            elif isinstance(event, Response):
                self._pending[event.id].settle(event)
            else:
                self._cancel_request(event)
        return None

    def _take_request(self, request: Request, requests: trio.Nursery) -> None:
        limit = self._limits.in_flight
        if len(self._scopes) >= limit:
            # Refused before it is looked at: nothing may have been done for a request that is to be repeated.
            problem = f"{limit} requests are in flight: try again later"
            error = RpcError(OVERLOADED, problem, {"kind": "overloaded", "limit": limit})
            self._connection.send_error(request.id, error)
            return
        try:
            outcome = self._answer(request.method, request.params)
        except Exception as exc:
            self._send_failure(request, exc)
            return
        if isinstance(outcome, CoroutineType):
            self._start(request, cast("Coroutine[Any, Any, object]", outcome), requests)
        else:
            self._send_result(request, outcome)

    def _start(
        self, request: Request, coroutine: Coroutine[Any, Any, object], requests: trio.Nursery
    ) -> None:
        # Made here and not in the task, so that a cancellation that arrives in the same read finds it.
        scope = self._scopes[request.id] = trio.CancelScope()
        requests.start_soon(self._run, request, coroutine, scope)

    async def _run(
        self, request: Request, coroutine: Coroutine[Any, Any, object], scope: trio.CancelScope
    ) -> None:
        try:
            with scope:
                self._send_result(request, await coroutine)
        except Exception as exc:
            self._send_failure(request, exc)
        finally:
            del self._scopes[request.id]
        if scope.cancelled_caught:
            error = RpcError(CANCELLED, "the request was cancelled", {"kind": "cancelled"})
            self._connection.send_error(request.id, error)
        self._idle_writer.unpark()

    def _send_result(self, request: Request, result: object) -> None:
        try:
            if isinstance(result, FollowedBy):
                self._connection.send_result(request.id, result.result)
                for payload in result.payloads:
                    self._connection.post(payload)
            else:
                self._connection.send_result(request.id, result)
        except Exception as exc:
            self._send_failure(request, exc)

    def _send_failure(self, request: Request, exc: Exception) -> None:
        self._connection.send_error(request.id, _explain(exc, request.method))

    def _take_notification(self, notification: Notification) -> None:
        if self._on_notification is None:
            return
        try:
            self._on_notification(notification.method, notification.params)
        except Exception as exc:
            _log.error("notification_failed", method=notification.method, exc_info=exc)

    def _cancel_request(self, event: CancelReceived) -> None:
        scope = self._scopes.get(event.id)
        if scope is not None:
            scope.cancel()

    async def _until_drained(self) -> None:
        await trio.lowlevel.checkpoint()
        while self.backlog > LOW_WATER:
            await self._paused_reader.park()

    async def _write(self) -> None:
        """Send what the reader's own sends have left, and what others have posted."""
        while self.backlog or not self._is_finishing:
            if not self.backlog:
                await self._idle_writer.park()
                continue
            self._send_now()
            if self.backlog:
                await trio.lowlevel.wait_writable(self._sock)

    def _send_now(self) -> None:
        """Give the kernel as much as it takes. Never waits, so that no message can be left half sent."""
        if self.backlog > LOW_WATER:
            self._is_above_low_water = True
        try:
            while self._sending or self._connection.unsent_bytes:
                if not self._sending:
                    self._sending = self._connection.data_to_send()
                count = self._sock.send(self._sending)
                self._sending = memoryview(self._sending)[count:] if count < len(self._sending) else b""
        except BlockingIOError:
            self._idle_writer.unpark()
        except OSError:
            self.close()
            return
        if self._is_above_low_water and self.backlog <= LOW_WATER:
            self._is_above_low_water = False
            self._paused_reader.unpark_all()
            if self._on_drained is not None:
                self._on_drained()

    async def _linger(self) -> None:
        with trio.move_on_after(_LINGER_SECONDS), suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            await trio.lowlevel.wait_readable(self._sock)
            while self._sock.recv(_READ_BYTES):
                await trio.lowlevel.wait_readable(self._sock)

    def _settle_pending(self) -> None:
        for pending in self._pending.values():
            pending.settled.set()

    def _end(self) -> None:
        self._state = "closed"
        self._sock.close()
        self._settle_pending()
        self._ended.set()


class _Pending:
    """A request of ours; settled without a response if the link ended."""

    def __init__(self) -> None:
        self.settled = trio.Event()
        self.response: Response | None = None

    def settle(self, response: Response) -> None:
        self.response = response
        self.settled.set()


def _explain(exc: Exception, method: str) -> RpcError:
    """Turn what a method raised into what travels: the one place where a bug becomes an error."""
    if isinstance(exc, RpcError):
        return exc
    if isinstance(exc, InvalidParamsError):
        facts: dict[str, object] = {"kind": "invalid_params", "path": exc.path, "problem": exc.problem}
        return RpcError(INVALID_PARAMS, str(exc), facts)
    _log.error("request_failed", method=method, exc_info=exc)
    return RpcError(INTERNAL_ERROR, "internal error")
