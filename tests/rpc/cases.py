"""What a JSON-RPC 2.0 server answers, as data: usable over any transport and in both framings.

``GENERAL`` holds for every server that answers ``daemon/ping``; ``TABLE`` are the examples of the
specification and wants the methods of ``answer``. Answers may come in any order, so that order is no part
of a case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import Raw

from crabd.rpc.envelope import METHOD_NOT_FOUND, RpcError
from crabd.rpc.methods import InvalidParamsError

Framing = Literal["lines", "headers"]
FRAMINGS: tuple[Framing, ...] = ("lines", "headers")


class _Anything:
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "…"


ANYTHING = _Anything()

# (id, error code) or (id, result); a list of them is the answer to a batch.
Brief = tuple[object, object] | Sequence[tuple[object, object]]


@dataclass(frozen=True)
class Case:
    """What one client writes, and what it reads until the server closes the link.

    ``texts`` are written one after the other, each framed as a message; then the client half-closes.
    ``is_fatal`` says that the server reads nothing after the last of them.
    """

    name: str
    texts: Sequence[bytes]
    expect: Sequence[Brief]
    is_fatal: bool = False

    def stream(self, framing: Framing) -> bytes:
        return b"".join(frame_text(text, framing) for text in self.texts)


def frame_text(text: bytes, framing: Framing) -> bytes:
    if framing == "headers":
        return b"Content-Length: %d\r\n\r\n%b" % (len(text), text)
    return text + b"\n"


def read_texts(stream: bytes, framing: Framing) -> list[bytes]:
    """Undo the framing of a complete stream, without any code of ours."""
    if framing == "lines":
        assert stream == b"" or stream.endswith(b"\n")
        return stream.splitlines()
    texts: list[bytes] = []
    while stream:
        head, _, rest = stream.partition(b"\r\n\r\n")
        length = int(head.removeprefix(b"Content-Length: "))
        texts.append(rest[:length])
        stream = rest[length:]
    return texts


def brief(text: bytes) -> Brief:
    """Reduce an answer to what a case says about it, and check its form on the way."""
    if text.startswith(b"["):
        return [_brief_one(one) for one in msgspec.json.decode(text, type=list[dict[str, Any]])]
    return _brief_one(msgspec.json.decode(text, type=dict[str, Any]))


def assert_same(answers: Iterable[Brief], expected: Iterable[Brief]) -> None:
    """Compare in any order, inside batches too."""
    left = [_in_order(answer) for answer in answers]
    right = [_in_order(answer) for answer in expected]
    for answer in right:
        assert answer in left, f"{answer} is not among {left}"
        left.remove(answer)
    assert left == []


def _brief_one(answer: dict[str, Any]) -> tuple[object, object]:
    assert answer["jsonrpc"] == "2.0"
    if "error" in answer:
        assert answer.keys() == {"jsonrpc", "id", "error"}
        assert answer["error"]["message"]
        return answer["id"], answer["error"]["code"]
    assert answer.keys() == {"jsonrpc", "id", "result"}
    assert answer["result"] is not None
    return answer["id"], answer["result"]


def _in_order(answer: Brief) -> Brief:
    return sorted(answer, key=_rank) if isinstance(answer, list) else answer


def _rank(one: tuple[object, object]) -> tuple[str, int]:
    # An id can stand twice in a batch: then its refusal, the number, comes first.
    return str(one[0]), one[1] if isinstance(one[1], int) else 0


def answer(method: str, params: Raw) -> object:
    """The method table of the specification's examples, and three of our own."""
    found = _METHODS.get(method)
    if found is None:
        raise RpcError(METHOD_NOT_FOUND, f"there is no method {method}")
    return found(msgspec.json.decode(params) if len(params) else None)


def _subtract(params: Any) -> int:
    match params:
        case [int(minuend), int(subtrahend)]:
            return minuend - subtrahend
        case {"minuend": int(minuend), "subtrahend": int(subtrahend)}:
            return minuend - subtrahend
        case _:
            raise InvalidParamsError("$", "two integers are wanted")


def _fail(_: Any) -> None:
    raise ZeroDivisionError("a secret")


_METHODS: dict[str, Callable[[Any], object]] = {
    "subtract": _subtract,
    "sum": sum,
    "get_data": lambda _: ["hello", 5],
    "echo": lambda params: {"params": params},
    "daemon/ping": lambda _: {},
    "nothing": lambda _: None,
    "fail": _fail,
    "half_a_pair": lambda _: {"text": "a\ud800b", "\udfff": ["\ud83d\ude00"]},
    "unencodable": lambda _: object(),
}


def _ping(message_id: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","method":"daemon/ping","id":%b}' % message_id


def _with(rest: bytes) -> bytes:
    return b'{"jsonrpc":"2.0",%b}' % rest


def _echo(value: bytes) -> bytes:
    return _with(b'"method":"echo","id":1,"params":{"a":%b}' % value)


def _nested(depth: int) -> bytes:
    """A ping that nests ``depth`` levels: itself, its params, and lists."""
    lists = depth - 2
    return _with(b'"method":"no/such","id":1,"params":{"a":%b%b}' % (b"[" * lists, b"]" * lists))


GENERAL: tuple[Case, ...] = (
    Case("a string id", [_ping(b'"seven"')], [("seven", ANYTHING)]),
    Case("a number in a string is no number", [_ping(b'"7"'), _ping(b"7")], [("7", ANYTHING), (7, ANYTHING)]),
    Case("id zero", [_ping(b"0")], [(0, ANYTHING)]),
    Case("a negative id", [_ping(b"-3")], [(-3, ANYTHING)]),
    Case("an empty string as id", [_ping(b'""')], [("", ANYTHING)]),
    Case("an id of more than 64 bits", [_ping(b"99999999999999999999")], [(99999999999999999999, ANYTHING)]),
    Case("an id of escapes", [_ping(b'"\\u00e9\\n"')], [("é\n", ANYTHING)]),
    Case("a null id", [_ping(b"null")], [(None, -32600)]),
    Case("a boolean id", [_ping(b"true")], [(None, -32600)]),
    Case("a fractional id", [_ping(b"1.5")], [(None, -32600)]),
    Case("a whole number written as a fraction", [_ping(b"1.0")], [(None, -32600)]),
    Case("an array as id", [_ping(b"[1]")], [(None, -32600)]),
    Case("no version", [b'{"method":"daemon/ping","id":1}'], [(1, -32600)]),
    Case("version 1.0", [b'{"jsonrpc":"1.0","method":"daemon/ping","id":"a"}'], [("a", -32600)]),
    Case("a number as version", [b'{"jsonrpc":2.0,"method":"daemon/ping","id":1}'], [(1, -32600)]),
    Case("a number as method", [_with(b'"method":5,"id":9')], [(9, -32600)]),
    Case("no method", [_with(b'"id":9')], [(9, -32600)]),
    Case("an empty object", [b"{}"], [(None, -32600)]),
    Case("an empty method", [_with(b'"method":"","id":9')], [(9, -32601)]),
    Case("an unknown method", [_with(b'"method":"no/such","id":9')], [(9, -32601)]),
    Case("params absent", [_ping(b"1")], [(1, ANYTHING)]),
    Case("params null", [_with(b'"method":"daemon/ping","params":null,"id":1')], [(1, ANYTHING)]),
    Case("params an empty array", [_with(b'"method":"daemon/ping","params":[],"id":1')], [(1, ANYTHING)]),
    Case("params an empty object", [_with(b'"method":"daemon/ping","params":{},"id":1')], [(1, ANYTHING)]),
    Case("params a string", [_with(b'"method":"daemon/ping","params":"x","id":1')], [(1, -32600)]),
    Case("params a number", [_with(b'"method":"daemon/ping","params":5,"id":1')], [(1, -32600)]),
    Case("params a boolean", [_with(b'"method":"daemon/ping","params":true,"id":1')], [(1, -32600)]),
    Case("a number alone", [b"1"], [(None, -32600)]),
    Case("a string alone", [b'"x"'], [(None, -32600)]),
    Case("two numbers", [b"1 2"], [(None, -32700)]),
    Case("null alone", [b"null"], [(None, -32600)]),
    Case("garbage, and the link goes on", [b"{garbage", _ping(b"2")], [(None, -32700), (2, ANYTHING)]),
    Case("an unterminated string after a misfit", [_with(b'"id":null,"method":"x')], [(None, -32700)]),
    Case("two texts in one message", [_ping(b"1") + _ping(b"2")], [(None, -32700)]),
    Case("a trailing comma", [_with(b'"method":"daemon/ping","id":1,')], [(None, -32700)]),
    Case("single quotes", [b"{'jsonrpc':'2.0'}"], [(None, -32700)]),
    Case("NaN", [_echo(b"NaN")], [(None, -32700)]),
    Case(
        "a byte that is no UTF-8, in params",
        [_with(b'"method":"x","id":1,"params":{"a":"\xff"}')],
        [(None, -32700)],
    ),
    Case(
        "a surrogate as UTF-8",
        [_echo(b'"\xed\xa0\x80"')],
        [(None, -32700)],
    ),
    Case("a lone surrogate escape", [_echo(b'"\\ud800"')], [(None, -32700)]),
    Case(
        "a byte order mark in the middle",
        [_ping(b"1"), b"\xef\xbb\xbf" + _ping(b"2")],
        [(1, ANYTHING), (None, -32700)],
    ),
    Case("blanks around a message", [b" \t" + _ping(b"1") + b" \r"], [(1, ANYTHING)]),
    Case("unknown members", [_with(b'"method":"daemon/ping","id":1,"extra":[{}]')], [(1, ANYTHING)]),
    Case("an escaped method name", [_with(b'"method":"daemon\\/ping","id":1')], [(1, ANYTHING)]),
    Case("a notification", [_with(b'"method":"daemon/ping"')], []),
    Case("an unknown notification", [_with(b'"method":"no/such"')], []),
    Case("a notification with wrong params", [_with(b'"method":"x","params":"y"')], [(None, -32600)]),
    Case("an answer to nothing", [_with(b'"id":1,"result":{}')], []),
    Case("an error that answers nothing", [_with(b'"id":1,"error":{"code":1,"message":"x"}')], []),
    Case("an error with a null id", [_with(b'"id":null,"error":{"code":1,"message":"x"}')], []),
    Case("a cancellation of nothing", [_with(b'"method":"$/cancelRequest","params":{"id":5}')], []),
    Case("a cancellation without an id", [_with(b'"method":"$/cancel_request","params":[]')], []),
    Case("an id used again after its answer", [_ping(b"1"), _ping(b"1")], [(1, ANYTHING), (1, ANYTHING)]),
    Case("an empty batch", [b"[]"], [(None, -32600)]),
    Case("a batch of one", [b"[%b]" % _ping(b"1")], [[(1, ANYTHING)]]),
    Case("a batch of notifications", [b"[%b,%b]" % ((_with(b'"method":"a"'),) * 2)], []),
    Case("a batch of nothing right", [b"[1,2,3]"], [[(None, -32600)] * 3]),
    Case("a batch in a batch", [b"[[%b]]" % _ping(b"1")], [[(None, -32600)]]),
    Case(
        "one id twice in a batch", [b"[%b,%b]" % (_ping(b"1"), _ping(b"1"))], [[(1, ANYTHING), (1, -32600)]]
    ),
    Case("a batch that is too long", [b"[%b]" % b",".join([b"1"] * 1025)], [(None, -32600)]),
    Case("a broken batch, and the link goes on", [b"[1,", _ping(b"2")], [(None, -32700), (2, ANYTHING)]),
    Case("nesting of 128 levels", [_nested(128)], [(1, -32601)]),
    Case("nesting of 129 levels", [_nested(129), _ping(b"2")], [(None, -32600)], is_fatal=True),
    Case("nesting of 5000 levels", [_nested(5000)], [(None, -32600)], is_fatal=True),
    Case("brackets that never close", [b"[" * 100_000, _ping(b"2")], [(None, -32700), (2, ANYTHING)]),
    Case(
        "brackets in strings do not nest",
        [_with(b'"method":"no/such","id":1,"params":["%b"]' % (b'[{\\"\\\\' * 300))],
        [(1, -32601)],
    ),
)

TABLE: tuple[Case, ...] = (
    Case("positional params", [_with(b'"method":"subtract","params":[42,23],"id":1')], [(1, 19)]),
    Case(
        "positional params swapped",
        [_with(b'"method":"subtract","params":[23,42],"id":2')],
        [(2, -19)],
    ),
    Case(
        "named params",
        [_with(b'"method":"subtract","params":{"subtrahend":23,"minuend":42},"id":3')],
        [(3, 19)],
    ),
    Case("a notification with params", [_with(b'"method":"update","params":[1,2,3,4,5]')], []),
    Case("a method that does not exist", [_with(b'"method":"foobar","id":"1"')], [("1", -32601)]),
    Case("invalid JSON", [b'{"jsonrpc":"2.0","method":"foobar,"params":"bar","baz]'], [(None, -32700)]),
    Case("an invalid request object", [_with(b'"method":1,"params":"bar"')], [(None, -32600)]),
    Case(
        "a batch with invalid JSON",
        [b'[{"jsonrpc":"2.0","method":"sum","params":[1,2,4],"id":"1"},{"jsonrpc":"2.0","method"]'],
        [(None, -32700)],
    ),
    Case(
        "a batch of everything",
        [
            b'[{"jsonrpc":"2.0","method":"sum","params":[1,2,4],"id":"1"},'
            b'{"jsonrpc":"2.0","method":"notify_hello","params":[7]},'
            b'{"jsonrpc":"2.0","method":"subtract","params":[42,23],"id":"2"},'
            b'{"foo":"boo"},'
            b'{"jsonrpc":"2.0","method":"foo.get","params":{"name":"myself"},"id":"5"},'
            b'{"jsonrpc":"2.0","method":"get_data","id":"9"}]'
        ],
        [[("1", 7), ("2", 19), (None, -32600), ("5", -32601), ("9", ["hello", 5])]],
    ),
    Case("params that do not fit", [_with(b'"method":"subtract","params":[1],"id":1')], [(1, -32602)]),
    Case(
        "params as they came",
        [_with(b'"method":"echo","params":{"a":[1,2.5,"\\u00e9",null]},"id":1')],
        [(1, {"params": {"a": [1, 2.5, "é", None]}})],
    ),
    Case("a result of nothing", [_with(b'"method":"nothing","id":1')], [(1, {})]),
    Case(
        "half a surrogate pair in a result",
        [_with(b'"method":"half_a_pair","id":1')],
        [(1, {"text": "a\ufffdb", "\ufffd": ["😀"]})],
    ),
)

# A bug of ours, once in the method and once in what it returns: logged, and told without details.
BUGS: tuple[Case, ...] = (
    Case("a method that fails", [_with(b'"method":"fail","id":1')], [(1, -32603)]),
    Case("a result that has no JSON form", [_with(b'"method":"unencodable","id":1')], [(1, -32603)]),
)
