"""What one JSON-RPC 2.0 message says: read it once into a type, write it from values.

Parameters and results stay undecoded (``msgspec.Raw``). Knows nothing of links, framing or methods.
"""

from __future__ import annotations

import re
from array import array
from itertools import accumulate
from typing import Any, Literal, TypeAlias, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, structs

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
OVERLOADED = -32001
CANCELLED = -32800

# Deeper than any document of ours by far, and shallow enough for every decoder's stack, clients' included.
MAX_NESTING = 128

# A batch is answered as a whole, so that its answers wait in memory for the slowest.
MAX_BATCH = 1024

Id: TypeAlias = int | str

_ABSENT = Raw(b"")
_NULL = Raw(b"null")

# What all spellings of "no parameters" become: Emacs sends null, Lua an empty array.
NO_PARAMS = Raw(b"{}")
_SPELLINGS_OF_NONE = frozenset({b"", b"null", b"[]", b"{}"})
_LONGEST_SPELLING = len(b"null")


class RpcError(Exception):
    """An error as it travels: ``data`` holds facts for programs, ``kind`` first."""

    def __init__(self, code: int, message: str, data: dict[str, object] | None = None) -> None:
        self.code = code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"RpcError({self.code}, {self.message!r}, {self.data!r})"


class InvalidMessage(Exception):
    """A text that is no message. ``error`` is the answer it deserves, ``id`` whom it goes to, if known."""

    def __init__(self, error: RpcError, message_id: Id | None = None) -> None:
        self.error = error
        self.id = message_id

    def __str__(self) -> str:
        return self.error.message


class Request(Struct, gc=False, forbid_unknown_fields=True):
    """Spelled as on the wire. ``params`` is an object or an array as it came, or ``NO_PARAMS`` itself."""

    jsonrpc: Literal["2.0"]
    id: Id
    method: str
    params: Raw = _ABSENT


class Notification(Struct, frozen=True, gc=False):
    """A request that wants no answer; ``params`` as there."""

    method: str
    params: Raw


class Response(Struct, frozen=True):
    """The answer to one of our requests: ``error`` is set or ``result`` counts."""

    id: Id
    result: Raw
    error: RpcError | None


Message: TypeAlias = Request | Notification | Response


class _Wire(Struct, gc=False):
    """Every message is one of these; which kind shows in what is set."""

    jsonrpc: Literal["2.0"]
    # A request with a null id is refused: the specification discourages it, since the answer could not be
    # told from the answer to a request that was unreadable.
    id: int | str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw = _ABSENT
    result: Raw = _ABSENT
    error: Raw = _ABSENT


class _Kind(Struct, gc=False):
    """What tells of a misfit which message it was meant to be."""

    id: Raw = _NULL
    method: Raw = _ABSENT
    result: Raw = _ABSENT
    error: Raw = _ABSENT


# An array of which only so many members are kept: one that holds millions must not cost a gigabyte before
# they are counted.
_Batch = msgspec.defstruct(
    "_Batch", [(f"member_{n}", Raw, _ABSENT) for n in range(MAX_BATCH + 1)], array_like=True, gc=False
)


class _WireError(Struct, omit_defaults=True):
    code: int
    message: str
    data: Any = None


_wire_decoder = msgspec.json.Decoder(_Wire)
_request_decoder = msgspec.json.Decoder(Request)
_error_decoder = msgspec.json.Decoder(_WireError)
_kind_decoder = msgspec.json.Decoder(_Kind)
_batch_decoder = msgspec.json.Decoder(_Batch)
_text_decoder = msgspec.json.Decoder(Raw)
_id_decoder: msgspec.json.Decoder[Id] = msgspec.json.Decoder(int | str)

_PARAMS_START = b"{["


def decode_message(text: bytes) -> Message | None:
    """Read one message; null for an answer that is addressed to nobody.

    Raises:
      InvalidMessage: the text is no JSON, or no request, notification or response.
    """
    try:
        _check_utf8(text)
        wire = _wire_decoder.decode(text)
    except msgspec.ValidationError as exc:
        refusal = _judge_misfit(text, str(exc))
        if refusal is None:
            return None
        raise refusal from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _unreadable(exc) from exc
    if wire.method is UNSET:
        return _read_response(wire)
    params = _read_params(wire.params)
    if params is None:
        raise _invalid("params must be an object or an array", None if wire.id is UNSET else wire.id)
    if wire.id is UNSET:
        return Notification(wire.method, params)
    return Request("2.0", wire.id, wire.method, params)


def decode_requests(lines: bytes) -> list[Request] | None:
    """Read lines that are all requests at once; null if one is not, or has to be looked at more closely.

    Costs half of reading them one by one. What it returns is what ``decode_message`` would.
    """
    count = lines.count(b"\n")
    # No JSON text has this inside: as many texts as lines then means that each line is one.
    if lines[:1] != b"{" or lines.count(b"}\n{") != count - 1:
        return None
    try:
        if not lines.isascii():
            _check_utf8(lines)
        requests = _request_decoder.decode_lines(lines)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if len(requests) != count:
        return None
    for request in requests:
        if request.params != NO_PARAMS:
            params = _read_params(request.params)
            if params is None or _may_be_too_deep(bytes(params)):
                return None
            request.params = params
    return requests


def decode_batch(text: bytes) -> list[bytes]:
    """Cut a JSON array into the texts of its members.

    Raises:
      InvalidMessage: the text is no JSON, or has no members, or more than ``MAX_BATCH``.
    """
    try:
        _check_utf8(text)
        members = structs.astuple(_batch_decoder.decode(text))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _unreadable(exc) from exc
    texts = [bytes(member) for member in members if member is not _ABSENT]
    if not 0 < len(texts) <= MAX_BATCH:
        raise _invalid(f"a batch holds 1 to {MAX_BATCH} messages")
    return texts


def is_too_deep(text: bytes) -> bool:
    """Tell whether brackets nest deeper than ``MAX_NESTING``.

    Never true for text whose brackets do not pair, which the decoder refuses without going deep.
    """
    if not _may_be_too_deep(text):
        return False
    marks = text.replace(rb"\\", b"").replace(rb"\"", b"").translate(_SQUARE, _NO_MARKS)
    # Two neighbouring quotes can go first: that changes no other mark's side, and leaves nothing of the many
    # strings that hold no bracket.
    brackets = _MARKED_STRING.sub(b"", marks.replace(b'""', b""))
    if b'"' in brackets or brackets.count(b"[") != brackets.count(b"]"):
        return False
    # The innermost level is most of them, and takes no counting.
    outer = brackets.replace(b"[]", b"").translate(_SIGNS)
    return max(accumulate(array("b", outer)), default=0) >= MAX_NESTING


def _may_be_too_deep(text: bytes) -> bool:
    """Tell whether a text or its parameters have enough brackets; nearly none has."""
    return len(text) >= MAX_NESTING and text.count(b"[") + text.count(b"{") >= MAX_NESTING


_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_MARKS = bytes(set(range(256)) - set(b'[]{}"'))
# Read as signed bytes: 1 and -1.
_SIGNS = bytes.maketrans(b"[]", b"\x01\xff")
_MARKED_STRING = re.compile(rb'"[^"]*"')


def encode_result(request_id: Id, result: object) -> bytes:
    """Write an answer. Null becomes ``{}``: many clients take a null result for no result."""
    return _encode(_Success(request_id, {} if result is None else result))


def encode_error(request_id: Id | None, error: RpcError) -> bytes:
    """Write a refusal; ``request_id`` is null when it is not known whose."""
    return _encode(_Failure(request_id, _WireError(error.code, error.message, error.data)))


def encode_request(request_id: int, method: str, params: object) -> bytes:
    """Write a request of ours."""
    return _encode(_OurRequest(request_id, method, params))


def encode_notification(method: str, params: object) -> bytes:
    """Write a notification: done once, it can be sent to any number of peers."""
    return _encode(_OurNotification(method, params))


# The tag writes ``"jsonrpc":"2.0"`` in front of the fields.
class _Success(Struct, gc=False, tag_field="jsonrpc", tag="2.0"):
    id: Id
    result: object


class _Failure(Struct, gc=False, tag_field="jsonrpc", tag="2.0"):
    id: Id | None
    error: _WireError


class _OurRequest(Struct, gc=False, tag_field="jsonrpc", tag="2.0"):
    id: int
    method: str
    params: object


class _OurNotification(Struct, gc=False, tag_field="jsonrpc", tag="2.0"):
    method: str
    params: object


_encoder = msgspec.json.Encoder()


def _encode(message: Struct) -> bytes:
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError:
        # Half a surrogate pair: a file name that is not UTF-8, or text that a tool cut in two.
        return _encoder.encode(_scrub(msgspec.to_builtins(message, enc_hook=_open_raw)))


def _open_raw(value: object) -> object:
    if isinstance(value, Raw):
        return msgspec.json.decode(value)
    raise TypeError(f"objects of type {type(value).__name__} have no JSON form")


def _scrub(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {_scrub(key): _scrub(member) for key, member in cast("dict[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_scrub(member) for member in cast("list[object]", value)]
    return value


def _check_utf8(text: bytes) -> None:
    # The decoder looks at bytes only where it builds a str, and parameters it merely steps over.
    if not text.isascii():
        text.decode()


def _read_params(raw: Raw) -> Raw | None:
    """Give parameters as they are or as ``NO_PARAMS``; null if they are neither an object nor an array."""
    if len(raw) <= _LONGEST_SPELLING and bytes(raw) in _SPELLINGS_OF_NONE:
        return NO_PARAMS
    return raw if memoryview(raw)[0] in _PARAMS_START else None


def _read_response(wire: _Wire) -> Response | None:
    has_error = len(wire.error) > 0 and wire.error != _NULL
    if not has_error and not len(wire.result):
        raise _invalid("method is missing", None if wire.id is UNSET else wire.id)
    if wire.id is UNSET:
        return None
    return Response(wire.id, wire.result, _read_error(wire.error) if has_error else None)


def _read_error(raw: Raw) -> RpcError:
    try:
        error = _error_decoder.decode(raw)
    except msgspec.ValidationError as exc:
        return RpcError(INTERNAL_ERROR, f"the other end sent a malformed error: {exc}")
    is_object = isinstance(error.data, dict)
    return RpcError(error.code, error.message, cast("dict[str, object]", error.data) if is_object else None)


def _judge_misfit(text: bytes, problem: str) -> InvalidMessage | None:
    """Find out, off the fast path, what text it is that fits no message; null for a malformed response."""
    try:
        # The fit is judged from left to right: what comes after the misfit may be no JSON at all.
        _text_decoder.decode(text)
        kind = _kind_decoder.decode(text)
    except msgspec.ValidationError:
        return _invalid(problem)
    except (msgspec.DecodeError, RecursionError) as exc:
        return _unreadable(exc)
    if kind.method is _ABSENT and not (kind.result is kind.error is _ABSENT):
        return None
    return _invalid(problem, _read_id(kind.id))


def _read_id(raw: Raw) -> Id | None:
    try:
        return _id_decoder.decode(raw)
    except msgspec.ValidationError:
        return None


def _invalid(problem: str, message_id: Id | None = None) -> InvalidMessage:
    return InvalidMessage(RpcError(INVALID_REQUEST, f"invalid request: {problem}"), message_id)


def _unreadable(exc: Exception) -> InvalidMessage:
    return InvalidMessage(RpcError(PARSE_ERROR, f"parse error: {exc}"))
