"""One JSON-RPC link as a state machine without I/O: bytes in, events out; calls in, bytes out.

The driver feeds what it reads with ``receive_data``, pulls events until ``NEED_DATA``, answers them and
writes what ``data_to_send`` hands out. Errors of the protocol are answered here and are no events. Knows
nothing of methods, tasks or sockets.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final, TypeAlias

import msgspec
from msgspec import Raw, Struct

from crabd.rpc.envelope import (
    INVALID_REQUEST,
    MAX_NESTING,
    PARSE_ERROR,
    Id,
    InvalidMessage,
    Message,
    Notification,
    Request,
    Response,
    RpcError,
    decode_batch,
    decode_message,
    decode_requests,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
    is_too_deep,
)
from crabd.rpc.framing import Framing, FramingError, MessageTooLarge, PayloadReader, frame

# Vim 9.0 takes a request whose id equals one of its own for the answer to that: stay out of its way.
FIRST_REQUEST_ID = 2**30

# Two spellings of one thing: LSP's, and the one of the Agent Client Protocol.
_CANCEL_FIELDS = {"$/cancelRequest": "id", "$/cancel_request": "requestId"}


class Limits(Struct, frozen=True):
    """What a link may ask of us.

    ``in_flight`` bounds the requests that are being answered at a time; ``stall_seconds`` how long the
    rest of a message may be awaited, and how long a finished link may take to read its last answers.
    """

    message_bytes: int = 16 * 1024 * 1024
    in_flight: int = 256
    stall_seconds: float = 30.0


DEFAULT_LIMITS: Final = Limits()


class Manners(Struct, frozen=True):
    """What the other end's dialect expects beyond JSON-RPC.

    It may take no ``batches``; ``cancel_method`` is its name for a request that is waited for no more.
    """

    batches: bool = True
    cancel_method: str = "$/cancelRequest"


DEFAULT_MANNERS: Final = Manners()


class LocalError(Exception):
    """Our own side called out of turn: a bug here, never the other end's doing."""


class CancelReceived(Struct, frozen=True, gc=False):
    """The other end no longer waits for the answer to ``id``, which is in flight."""

    id: Id


class LinkBroken(Struct, frozen=True, gc=False):
    """Nothing more can be read; an error that says so is already on its way out."""

    reason: str


class Pause(Enum):
    """Why there is no event: the driver has to read on, or there will never be one again."""

    NEED_DATA = "need_data"
    EOF = "eof"


NEED_DATA: Final = Pause.NEED_DATA
EOF: Final = Pause.EOF

Event: TypeAlias = Request | Notification | Response | CancelReceived | LinkBroken | Pause


class _Batch:
    """Requests that came together and are answered together."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.waiting = 0


class Connection:
    """Both directions of one link. Ids in flight and unsent bytes are what it remembers."""

    def __init__(self, limits: Limits) -> None:
        # How much ``data_to_send`` would hand out now, without its framing. To be read only.
        self.unsent_bytes = 0
        self.manners = DEFAULT_MANNERS
        self._reader = PayloadReader(max_bytes=limits.message_bytes)
        self._max_bytes = limits.message_bytes
        # Read before, and not yet looked at.
        self._requests: deque[Request] = deque()
        self._events: deque[Message | CancelReceived] = deque()
        self._broken: LinkBroken | None = None
        self._incoming: dict[Id, _Batch | None] = {}
        self._outgoing: set[Id] = set()
        self._next_id = FIRST_REQUEST_ID
        self._output: list[bytes] = []

    @property
    def is_mid_message(self) -> bool:
        """Whether a message has begun and the rest of it is still to come."""
        return self._reader.is_mid_message

    @property
    def framing(self) -> Framing:
        """How messages are told apart on this link."""
        return self._reader.framing

    def receive_data(self, data: bytes) -> None:
        """Take the next bytes of the other end; pull all events before the next piece."""
        self._reader.receive_data(data)
        lines = self._reader.waiting_lines()
        if lines and len(lines) <= self._max_bytes and self._broken is None:
            # Requests on lines of their own, as nearly always: together they cost half.
            requests = decode_requests(lines)
            if requests is not None:
                self._reader.skip_lines()
                self._requests.extend(requests)

    def receive_eof(self) -> None:
        """Take note that the other end writes no more. It may still read."""
        self._reader.receive_eof()

    def next_event(self) -> Event:
        """Return what the other end says next; ``NEED_DATA`` if it is not complete.

        ``LinkBroken`` and ``EOF`` are final: they are returned again and again.
        """
        while self._requests:
            request = self._requests.popleft()
            if request.id not in self._incoming:
                self._incoming[request.id] = None
                return request
            self._refuse(request.id, _already_in_flight(request.id), None)
        while not self._events:
            if self._broken is not None:
                return self._broken
            try:
                payload = self._reader.next_payload()
            except FramingError as exc:
                code = INVALID_REQUEST if isinstance(exc, MessageTooLarge) else PARSE_ERROR
                return self._break(RpcError(code, f"{exc}: the link is closed"))
            if payload is None:
                return EOF if self._reader.has_ended else NEED_DATA
            if is_too_deep(payload):
                problem = f"a message nests deeper than {MAX_NESTING} levels: the link is closed"
                return self._break(RpcError(INVALID_REQUEST, problem))
            if payload[:1] == b"[":
                self._take_batch(payload)
            elif (event := self._take(payload, None)) is not None:
                return event
        return self._events.popleft()

    def send_result(self, request_id: Id, result: object) -> None:
        """Answer a request.

        Raises:
          LocalError: no such request is in flight.
          TypeError: ``result`` has no JSON form; the request is still in flight then.
        """
        self._finish(request_id, encode_result(request_id, result))

    def send_error(self, request_id: Id, error: RpcError) -> None:
        """Refuse a request. Raises as ``send_result`` does."""
        self._finish(request_id, encode_error(request_id, error))

    def send_notification(self, method: str, params: object) -> None:
        """Tell the other end something."""
        self.post(encode_notification(method, params))

    def send_request(self, method: str, params: object) -> int:
        """Ask the other end something and return the id its ``Response`` will have.

        Raises:
          LocalError: the other end can no longer answer.
        """
        if self._reader.has_ended or self._broken is not None:
            raise LocalError("the other end can no longer answer")
        request_id = self._next_id
        self.post(encode_request(request_id, method, params))
        self._next_id += 1
        self._outgoing.add(request_id)
        return request_id

    def abandon_request(self, request_id: int) -> None:
        """Wait no longer for an answer to a request of ours, and tell the other end so."""
        if request_id in self._outgoing:
            self._outgoing.discard(request_id)
            method = self.manners.cancel_method
            self.send_notification(method, {_CANCEL_FIELDS[method]: request_id})

    def post(self, payload: bytes) -> None:
        """Send a JSON text that is already encoded."""
        self._output.append(payload)
        self.unsent_bytes += len(payload)

    def data_to_send(self) -> bytes:
        """Hand out everything unsent, whole messages in order and framed; it is the caller's now."""
        data = frame(self._output, self._reader.framing) if self._output else b""
        self._output.clear()
        self.unsent_bytes = 0
        return data

    def _break(self, error: RpcError) -> LinkBroken:
        self.post(encode_error(None, error))
        self._broken = LinkBroken(error.message)
        return self._broken

    def _take_batch(self, payload: bytes) -> None:
        if not self.manners.batches:
            problem = "invalid request: batches are not supported, so send each message by itself"
            self.post(encode_error(None, RpcError(INVALID_REQUEST, problem)))
            return
        try:
            members = decode_batch(payload)
        except InvalidMessage as exc:
            self.post(encode_error(None, exc.error))
            return
        batch = _Batch()
        for member in members:
            event = self._take(member, batch)
            if event is not None:
                self._events.append(event)
        self._post_if_complete(batch)

    def _take(self, text: bytes, batch: _Batch | None) -> Message | CancelReceived | None:
        """Read one message and note what is in flight; null if that was all there was to do."""
        try:
            message = decode_message(text)
        except InvalidMessage as exc:
            self._refuse(exc.id, exc.error, batch)
            return None
        if isinstance(message, Request):
            if message.id not in self._incoming:
                self._incoming[message.id] = batch
                if batch is not None:
                    batch.waiting += 1
                return message
            self._refuse(message.id, _already_in_flight(message.id), batch)
            return None
        if isinstance(message, Notification):
            return _read_cancel(message, self._incoming) if message.method in _CANCEL_FIELDS else message
        if message is None or message.id not in self._outgoing:
            return None
        self._outgoing.discard(message.id)
        return message

    def _refuse(self, request_id: Id | None, error: RpcError, batch: _Batch | None) -> None:
        answer = encode_error(request_id, error)
        if batch is None:
            self.post(answer)
        else:
            batch.answers.append(answer)

    def _finish(self, request_id: Id, answer: bytes) -> None:
        try:
            batch = self._incoming.pop(request_id)
        except KeyError:
            raise LocalError(f"no request {request_id!r} is in flight") from None
        if batch is None:
            self._output.append(answer)
            self.unsent_bytes += len(answer)
            return
        batch.answers.append(answer)
        batch.waiting -= 1
        self._post_if_complete(batch)

    def _post_if_complete(self, batch: _Batch) -> None:
        if batch.answers and not batch.waiting:
            self.post(b"[%b]" % b",".join(batch.answers))


def _already_in_flight(request_id: Id) -> RpcError:
    return RpcError(INVALID_REQUEST, f"invalid request: id {request_id!r} is already in flight")


def _read_cancel(message: Notification, in_flight: dict[Id, _Batch | None]) -> CancelReceived | None:
    """Read whom a cancellation means; null if that is nobody, since it may well have come too late."""
    try:
        fields = msgspec.json.decode(message.params, type=dict[str, Raw])
        request_id = msgspec.json.decode(fields[_CANCEL_FIELDS[message.method]], type=int | str)
    except (msgspec.DecodeError, KeyError):
        return None
    return CancelReceived(request_id) if request_id in in_flight else None
