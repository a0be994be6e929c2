"""Drive one JSON-RPC link over a socket with trio: read, answer, write.

Knows the protocol's state machine and nothing of methods: whoever opens the link gives it one function
that answers.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from math import inf
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
    Manners,
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
from crabd.rpc.framing import Bundle
from crabd.rpc.methods import InvalidParamsError
from crabd.rpc.reactor import Reactor
from crabd.rpc.wire import Wire

Answer: TypeAlias = Callable[[str, Raw], object]

# A peer that leaves more than HIGH_WATER bytes unread is not read from either, until LOW_WATER are left.
HIGH_WATER = 1024 * 1024
LOW_WATER = 256 * 1024

# How long the rest of a broken stream is read and thrown away, for the sake of the error that explains why.
_LINGER_SECONDS = 2.0

_log = structlog.get_logger()


class FollowedBy(Struct, frozen=True):
    """A result, and encoded JSON texts that go out right behind it, with nothing in between."""

    result: object
    payloads: tuple[bytes, ...]


class Withdrawable(Struct, frozen=True):
    """An answer that ends by itself when the other end waits for it no more.

    ``withdraw`` is called then, in place of a cancellation of ``answer``; it must not block. The link's own
    end cancels it as any other.
    """

    answer: Coroutine[Any, Any, object]
    withdraw: Callable[[], None]


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
        reactor: Reactor,
        *,
        limits: Limits = DEFAULT_LIMITS,
        on_notification: Callable[[str, Raw], None] | None = None,
        on_drained: Callable[[], None] | None = None,
    ) -> None:
        self._wire = Wire(
            sock, reactor, on_data=self._receive, on_room=self._go_on_sending, on_gone=self.close
        )
        self._answer = answer
        self._reactor = reactor
        self._limits = limits
        self._on_notification = on_notification
        self._on_drained = on_drained
        self._connection = Connection(limits)
        self._is_above_low_water = False
        self._is_flush_due = False
        self._is_paused = False
        self._scopes: dict[Id, trio.CancelScope] = {}
        self._withdrawals: dict[Id, Callable[[], None]] = {}
        self._pending: dict[Id, _Pending] = {}
        self._requests: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._patience = trio.CancelScope()
        self._read_to_end = trio.Event()
        self._is_broken = False
        self._all_sent: trio.Event | None = None
        self._state: Literal["open", "half-closed", "closed"] = "open"
        self._is_served = False
        self._ended = trio.Event()

    def __repr__(self) -> str:
        return f"<Peer {self._state}, {len(self._pending)} pending, {len(self._scopes)} in flight>"

    @property
    def backlog(self) -> int:
        """Bytes that wait for the other end to read."""
        return len(self._wire.unsent) + self._connection.unsent_bytes

    def adopt(self, manners: Manners) -> None:
        """Mind from here on what the other end's dialect expects."""
        self._connection.manners = manners

    def start_soon(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Start a task of this link: it is cancelled with it, and the link is not over before it ends.

        Where the other end asks nothing more and has all its answers, nothing is started any more.
        """
        if self._requests is not None:
            self._requests.start_soon(work, *args)

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
                async with trio.open_nursery() as self._requests:
                    self._wire.open()
                    await self._until_read()
                    if self._is_broken:
                        self._requests.cancel_scope.cancel()
                self._requests = None
                with trio.move_on_after(self._limits.stall_seconds):
                    await self._until_sent()
                if self._is_broken:
                    with trio.move_on_after(_LINGER_SECONDS), suppress(OSError):
                        await self._wire.linger()
        finally:
            self._end()

    def post(self, payload: bytes) -> None:
        """Send a JSON text that is already encoded, without waiting; dropped if the link is closed.

        There is no bound in here: the caller watches ``backlog``.
        """
        if self._state == "closed":
            return
        self._connection.post(payload)
        if self.backlog > LOW_WATER:
            # A burst within one wake-up must not make a prompt reader look slow.
            self.flush()
        else:
            self._flush_soon()

    def post_at_once(self, bundle: Bundle) -> bool:
        """Send texts that other links get as well; false if something else has to go before them."""
        wire, connection = self._wire, self._connection
        if wire.unsent or connection.unsent_bytes:
            return False
        if self._state != "closed":
            try:
                wire.write(bundle.framed(connection.framing))
                if wire.unsent:
                    self._note_backlog()
            except OSError:
                self.close()
        return True

    def flush(self) -> None:
        """Send what was posted, as far as the kernel takes it now."""
        self._is_flush_due = False
        self._note_backlog()
        # Once the kernel is full the wire says when to go on.
        if not self._wire.unsent and self._state != "closed":
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
        self._flush_soon()
        try:
            await pending.settled.wait()
        except trio.Cancelled:
            self._connection.abandon_request(request_id)
            self._flush_soon()
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
        self._wire.stop()
        self._scope.cancel()
        if not self._is_served:
            self._end()

    async def aclose(self, *, flush_seconds: float) -> None:
        """Read no more, answer what is in flight, and close: after ``flush_seconds`` at the latest.

        Shielded from cancellation by that bound.
        """
        self._finish_reading(is_broken=False)
        if self._is_served:
            with trio.move_on_after(flush_seconds, shield=True):
                await self._ended.wait()
        self.close()

    async def _until_read(self) -> None:
        """Wait until nothing more is to come; the rest of a message that does not come breaks the link."""
        with self._patience:
            await self._read_to_end.wait()
        if self._patience.cancelled_caught:
            self._finish_reading(is_broken=True)
        if self._state == "open":
            self._state = "half-closed"
        self._settle_pending()

    async def _until_sent(self) -> None:
        self._all_sent = trio.Event()
        self.flush()
        if self.backlog:
            await self._all_sent.wait()

    def _receive(self, data: bytes) -> None:
        """Feed the connection, and answer."""
        if data:
            self._connection.receive_data(data)
        else:
            self._connection.receive_eof()
        self._handle()

    def _go_on_sending(self) -> None:
        self._send_now()
        if self._is_paused and self.backlog <= LOW_WATER:
            self._handle()

    def _handle(self) -> None:
        """Handle what has been read, as far as the other end takes the answers."""
        pause = self._handle_events()
        self._send_now()
        is_waiting = pause is NEED_DATA and self._connection.is_mid_message
        if is_waiting or self._patience.deadline != inf:
            self._patience.deadline = trio.current_time() + self._limits.stall_seconds if is_waiting else inf
        if pause is None:
            # It does not read, so it is not read from: its further requests wait where they are.
            self._is_paused = True
            self._wire.read(False)
            self._wire.ask_for_room()
        elif pause is not NEED_DATA:
            self._finish_reading(is_broken=isinstance(pause, LinkBroken))
        elif self._is_paused:
            self._is_paused = False
            self._wire.read(True)

    def _finish_reading(self, *, is_broken: bool) -> None:
        self._is_broken = is_broken or self._is_broken
        self._is_paused = False
        self._wire.read(False)
        self._read_to_end.set()

    def _handle_events(self) -> Pause | LinkBroken | None:
        """Handle what has been read and say why it ended; null if too much is unsent to go on."""
        # Hundreds of requests may have come in one read: every look-up that is not done for each tells.
        connection, next_event, answer = self._connection, self._connection.next_event, self._answer
        scopes, most, outboxes = self._scopes, self._limits.in_flight, self._reactor.outboxes
        # Nothing is sent meanwhile, so that only what the connection holds can grow.
        room = HIGH_WATER - len(self._wire.unsent)
        while connection.unsent_bytes <= room:
            event = next_event()
            if type(event) is Request:
                if len(scopes) >= most:
                    self._refuse(event)
                    continue
                try:
                    outcome = answer(event.method, event.params)
                    if type(outcome) is CoroutineType:
                        self._start(event, cast("Coroutine[Any, Any, object]", outcome))
                    elif type(outcome) is Withdrawable:
                        self._withdrawals[event.id] = outcome.withdraw
                        self._start(event, outcome.answer)
                    elif outboxes or type(outcome) is FollowedBy:
                        self._send_result(event, outcome)
                    else:
                        connection.send_result(event.id, outcome)
                except Exception as exc:
                    self._send_failure(event, exc)
            elif isinstance(event, (Pause, LinkBroken)):
                return event
            elif isinstance(event, Notification):
                self._take_notification(event)
            elif isinstance(event, Response):
                self._pending[event.id].settle(event)
            elif isinstance(event, CancelReceived):
                self._cancel_request(event)
        return None

    def _refuse(self, request: Request) -> None:
        # Before it is looked at: nothing may have been done for a request that is to be repeated.
        limit = self._limits.in_flight
        problem = f"{limit} requests are in flight: try again later"
        error = RpcError(OVERLOADED, problem, {"kind": "overloaded", "limit": limit})
        self._connection.send_error(request.id, error)

    def _start(self, request: Request, coroutine: Coroutine[Any, Any, object]) -> None:
        assert self._requests is not None, "nothing is read before the link is served"
        # Made here and not in the task, so that a cancellation that arrives in the same read finds it.
        scope = self._scopes[request.id] = trio.CancelScope()
        self._requests.start_soon(self._run, request, coroutine, scope)

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
            self._withdrawals.pop(request.id, None)
        if scope.cancelled_caught:
            error = RpcError(CANCELLED, "the request was cancelled", {"kind": "cancelled"})
            self._connection.send_error(request.id, error)
        self._flush_soon()

    def _send_result(self, request: Request, result: object) -> None:
        # What was published before this answer also arrives before it.
        if self._reactor.outboxes:
            self._reactor.flush()
        try:
            if type(result) is FollowedBy:
                self._connection.send_result(request.id, result.result)
                for payload in result.payloads:
                    self._connection.post(payload)
            else:
                self._connection.send_result(request.id, result)
        except Exception as exc:
            self._send_failure(request, exc)

    def _send_failure(self, request: Request, exc: Exception) -> None:
        self._reactor.flush()
        self._connection.send_error(request.id, _explain(exc, request.method))

    def _take_notification(self, notification: Notification) -> None:
        if self._on_notification is None:
            return
        try:
            self._on_notification(notification.method, notification.params)
        except Exception as exc:
            _log.error("notification_failed", method=notification.method, exc_info=exc)

    def _cancel_request(self, event: CancelReceived) -> None:
        scope, withdraw = self._scopes.get(event.id), self._withdrawals.get(event.id)
        if withdraw is not None:
            withdraw()
        elif scope is not None:
            scope.cancel()

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._reactor.flush_soon(self)

    def _send_now(self) -> None:
        """Give the kernel as much as it takes. Never waits, so that no message can be left half sent."""
        self._note_backlog()
        try:
            while self._wire.write_rest() and self._connection.unsent_bytes:
                self._wire.write(self._connection.data_to_send())
        except OSError:
            self.close()
            return
        if self._is_above_low_water and self.backlog <= LOW_WATER:
            self._is_above_low_water = False
            if self._on_drained is not None:
                self._on_drained()
        if self._all_sent is not None and not self.backlog:
            self._all_sent.set()

    def _note_backlog(self) -> None:
        # Also while the kernel is full: by the time that it takes more, the backlog may have gone.
        if self.backlog > LOW_WATER:
            self._is_above_low_water = True

    def _settle_pending(self) -> None:
        for pending in self._pending.values():
            pending.settled.set()

    def _end(self) -> None:
        self._state = "closed"
        self._wire.close()
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
