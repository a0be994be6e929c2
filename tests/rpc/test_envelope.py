"""The envelope: one text, one typed message; values of any kind become text."""

from __future__ import annotations

from contextlib import suppress
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, Struct

from crabd.rpc.envelope import (
    INTERNAL_ERROR,
    MAX_NESTING,
    NO_PARAMS,
    PARSE_ERROR,
    InvalidMessage,
    Notification,
    Request,
    Response,
    RpcError,
    decode_message,
    decode_requests,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
    is_too_deep,
)
from tests.rpc.json_texts import BROKEN, SOUND


def test_a_request_keeps_its_params_as_they_came() -> None:
    message = decode_message(b'{"jsonrpc":"2.0","id":"a","method":"x","params": {"b" :1} }')

    assert message == Request("2.0", "a", "x", Raw(b'{"b" :1}'))


@pytest.mark.parametrize("value", BROKEN)
def test_what_is_no_json_is_refused_wherever_it_stands(value: bytes) -> None:
    for text in (value, b'{"jsonrpc":"2.0","method":"x","id":1,"params":{"a":%b}}' % value):
        with pytest.raises(InvalidMessage) as refused:
            decode_message(text)

        assert refused.value.error.code == PARSE_ERROR
        assert decode_requests(text + b"\n") is None


@pytest.mark.parametrize("value", SOUND)
def test_what_is_json_is_taken_as_it_came(value: bytes) -> None:
    text = b'{"jsonrpc":"2.0","method":"x","id":1,"params":{"a":%b}}' % value
    request = Request("2.0", 1, "x", Raw(b'{"a":%b}' % value))

    assert decode_message(text) == request
    assert decode_requests(text + b"\n") == [request]


def test_a_request_without_an_id_is_a_notification() -> None:
    assert decode_message(b'{"jsonrpc":"2.0","method":"x"}') == Notification("x", NO_PARAMS)


def test_a_null_result_is_still_a_response() -> None:
    assert decode_message(b'{"jsonrpc":"2.0","id":1,"result":null}') == Response(1, Raw(b"null"), None)


@pytest.mark.parametrize("extra", [b"", b'"result":null,'])
def test_an_error_is_read_with_its_data(extra: bytes) -> None:
    text = b'{"jsonrpc":"2.0","id":1,%b"error":{"code":-5,"message":"no","data":{"kind":"k"}}}' % extra

    message = decode_message(text)

    assert isinstance(message, Response)
    assert repr(message.error) == "RpcError(-5, 'no', {'kind': 'k'})"


def test_a_result_beside_a_null_error_counts() -> None:
    text = b'{"jsonrpc":"2.0","id":1,"result":{},"error":null}'

    assert decode_message(text) == Response(1, Raw(b"{}"), None)


def test_a_malformed_error_is_an_error_all_the_same() -> None:
    message = decode_message(b'{"jsonrpc":"2.0","id":1,"error":"no"}')

    assert isinstance(message, Response)
    assert message.error is not None
    assert message.error.code == INTERNAL_ERROR


def test_a_refusal_says_what_is_wrong() -> None:
    with pytest.raises(
        InvalidMessage, match=r"invalid request: Expected `str`, got `int` - at `\$.method`"
    ) as info:
        decode_message(b'{"jsonrpc":"2.0","id":4,"method":1}')

    assert info.value.id == 4


@given(st.binary())
def test_any_bytes_are_a_message_or_a_refusal(text: bytes) -> None:
    with suppress(InvalidMessage):
        decode_message(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\ab', max_size=9),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='[{"\\', max_size=3), inner),
)


@given(value=json_values, extra=st.integers(min_value=MAX_NESTING - 4, max_value=MAX_NESTING + 4))
def test_depth_is_counted_exactly(value: object, extra: int) -> None:
    text = b"[" * extra + msgspec.json.encode(value) + b"]" * extra

    assert is_too_deep(text) is (_depth(value) + extra > MAX_NESTING)


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, cast("dict[str, object]", value).values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, cast("list[object]", value)), default=0)
    return 0


class Point(Struct):
    x: int
    label: str
    raw: Raw = Raw(b"{}")


@pytest.mark.parametrize(
    ("text", "members"),
    [
        (encode_result(7, Point(1, "é")), '"id":7,"result":{"x":1,"label":"é","raw":{}}'),
        (encode_request(7, "m", {}), '"id":7,"method":"m","params":{}'),
        (encode_notification("m", {}), '"method":"m","params":{}'),
        (encode_error("a", RpcError(-5, "no")), '"id":"a","error":{"code":-5,"message":"no"}'),
        (
            encode_error(None, RpcError(-5, "no", {"kind": "k"})),
            '"id":null,"error":{"code":-5,"message":"no","data":{"kind":"k"}}',
        ),
    ],
)
def test_messages_are_written_compactly_in_the_usual_order(text: bytes, members: str) -> None:
    assert text.decode() == '{"jsonrpc":"2.0",' + members + "}"


def test_a_result_is_never_a_bare_null() -> None:
    assert encode_result(1, None) == b'{"jsonrpc":"2.0","id":1,"result":{}}'


def test_half_a_surrogate_pair_is_replaced_wherever_it_is() -> None:
    result = [Point(1, "a\ud800", Raw(b'{"b":1}')), {"\udc00": ("\ud83d\ude00", None, 1.5)}]

    text = encode_result(1, result)

    assert msgspec.json.decode(text)["result"] == [
        {"x": 1, "label": "a\ufffd", "raw": {"b": 1}},
        {"\ufffd": ["😀", None, 1.5]},
    ]


def test_half_a_surrogate_pair_in_an_error_is_replaced() -> None:
    text = encode_error(1, RpcError(-5, "no \ud800", {"path": "\udcff"}))

    assert msgspec.json.decode(text)["error"] == {
        "code": -5,
        "message": "no \ufffd",
        "data": {"path": "\ufffd"},
    }


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(TypeError):
        encode_result(1, ["\ud800", object()])
