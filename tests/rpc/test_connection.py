"""The state machine: every case of the protocol, and what our own side may and may not do."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from crabd.rpc.connection import (
    DEFAULT_LIMITS,
    EOF,
    NEED_DATA,
    CancelReceived,
    Connection,
    Event,
    Limits,
    LinkBroken,
    LocalError,
    Pause,
)
from crabd.rpc.envelope import NO_PARAMS, Notification, Request, Response, RpcError
from crabd.rpc.methods import InvalidParamsError
from tests.rpc.cases import (
    FRAMINGS,
    GENERAL,
    TABLE,
    Case,
    Framing,
    answer,
    assert_same,
    brief,
    frame_text,
    read_texts,
)


def connect(limits: Limits = DEFAULT_LIMITS) -> Connection:
    return Connection(limits)


def receive(connection: Connection, *texts: bytes) -> list[Event]:
    """Feed texts as lines and pull every event; the last one says why there are no more."""
    connection.receive_data(b"".join(text + b"\n" for text in texts))
    events = [connection.next_event()]
    while not isinstance(events[-1], Pause | LinkBroken):
        events.append(connection.next_event())
    return events


def sent(connection: Connection) -> list[bytes]:
    return connection.data_to_send().splitlines()


def request(message_id: int, method: str = "m") -> bytes:
    return b'{"jsonrpc":"2.0","id":%d,"method":"%b"}' % (message_id, method.encode())


def notification(method: str, params: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","method":"%b","params":%b}' % (method.encode(), params)


def serve(connection: Connection) -> Event:
    """Answer everything at once, as a driver does."""
    while True:
        event = connection.next_event()
        if isinstance(event, Pause | LinkBroken):
            return event
        if isinstance(event, Request):
            try:
                connection.send_result(event.id, answer(event.method, event.params))
            except RpcError as exc:
                connection.send_error(event.id, exc)
            except InvalidParamsError as exc:
                connection.send_error(event.id, RpcError(-32602, str(exc)))


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("case", [*GENERAL, *TABLE], ids=lambda case: case.name)
def test_it_answers_as_the_specification_says(case: Case, framing: Framing) -> None:
    connection = connect()

    connection.receive_data(case.stream(framing))
    connection.receive_eof()
    last = serve(connection)

    assert isinstance(last, LinkBroken) is case.is_fatal
    assert_same(map(brief, read_texts(connection.data_to_send(), framing)), case.expect)


def test_a_batch_is_answered_as_a_whole_when_its_last_answer_is_there() -> None:
    connection = connect()
    events = receive(connection, b"[%b,%b,%b]" % (request(1), notification("n", b"{}"), request(2)))
    assert events == [
        Request("2.0", 1, "m", NO_PARAMS),
        Notification("n", Raw(b"{}")),
        Request("2.0", 2, "m", NO_PARAMS),
        NEED_DATA,
    ]

    connection.send_result(2, {})
    assert sent(connection) == []
    connection.send_error(1, RpcError(-5, "no"))

    assert [brief(text) for text in sent(connection)] == [[(2, {}), (1, -5)]]


def test_a_second_request_with_an_id_in_flight_is_refused_and_the_first_is_not_harmed() -> None:
    connection = connect()

    events = receive(connection, request(1, "first"), request(1, "second"))

    assert events == [Request("2.0", 1, "first", NO_PARAMS), NEED_DATA]
    assert [brief(text) for text in sent(connection)] == [(1, -32600)]
    connection.send_result(1, {"a": 1})
    assert [brief(text) for text in sent(connection)] == [(1, {"a": 1})]


@pytest.mark.parametrize(
    ("method", "params"), [("$/cancelRequest", b'{"id":1}'), ("$/cancel_request", b'{"requestId":1}')]
)
def test_both_spellings_of_a_cancellation_are_understood(method: str, params: bytes) -> None:
    connection = connect()

    events = receive(connection, request(1), notification(method, params))

    assert events == [Request("2.0", 1, "m", NO_PARAMS), CancelReceived(1), NEED_DATA]


@pytest.mark.parametrize(
    "params", [b'{"id":"1"}', b'{"id":2}', b'{"requestId":1}', b'{"id":null}', b"[1]", b"null"]
)
def test_a_cancellation_of_nobody_is_ignored(params: bytes) -> None:
    connection = connect()

    events = receive(connection, request(1), notification("$/cancelRequest", params))

    assert events == [Request("2.0", 1, "m", NO_PARAMS), NEED_DATA]
    assert sent(connection) == []


def test_our_requests_have_ids_of_their_own_and_get_their_answers_in_any_order() -> None:
    connection = connect()
    first, second = connection.send_request("a", {}), connection.send_request("b", {"x": 1})
    # Vim answers no string, and takes a number that it waits for itself for the answer to that.
    assert (first, second) == (2**30, 2**30 + 1)
    assert [msgspec.json.decode(text)["method"] for text in sent(connection)] == ["a", "b"]

    events = receive(
        connection,
        b'{"jsonrpc":"2.0","id":%d,"result":{"y":2}}' % second,
        b'{"jsonrpc":"2.0","id":%d,"result":null}' % first,
        b'{"jsonrpc":"2.0","id":%d,"result":"again"}' % first,
        b'{"jsonrpc":"2.0","id":"%d","result":"a string"}' % second,
    )

    assert events == [Response(second, Raw(b'{"y":2}'), None), Response(first, Raw(b"null"), None), NEED_DATA]
    assert sent(connection) == []


def test_the_two_sides_may_use_the_same_id() -> None:
    connection = connect()
    ours = connection.send_request("a", {})

    events = receive(connection, request(ours), b'{"jsonrpc":"2.0","id":%d,"result":{}}' % ours)

    assert events == [Request("2.0", ours, "m", NO_PARAMS), Response(ours, Raw(b"{}"), None), NEED_DATA]


def test_an_abandoned_request_is_cancelled_there_and_its_answer_ignored() -> None:
    connection = connect()
    ours = connection.send_request("a", {})
    connection.data_to_send()

    connection.abandon_request(ours)
    connection.abandon_request(ours)

    assert sent(connection) == [b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":%d}}' % ours]
    assert receive(connection, b'{"jsonrpc":"2.0","id":%d,"result":{}}' % ours) == [NEED_DATA]


def test_an_encoded_text_is_posted_in_the_framing_of_the_link() -> None:
    connection = connect()
    connection.receive_data(frame_text(b'{"jsonrpc":"2.0","method":"hello"}', "headers"))

    connection.post(b'{"x":1}')

    assert connection.unsent_bytes == len(b'{"x":1}')
    assert connection.data_to_send() == b'Content-Length: 7\r\n\r\n{"x":1}'
    assert connection.unsent_bytes == 0


def test_too_large_a_message_is_answered_and_breaks_the_link_for_good() -> None:
    connection = connect(Limits(message_bytes=100))

    events = receive(connection, request(1), b"x" * 101, request(2))

    broken = LinkBroken("a message is longer than 100 bytes: the link is closed")
    assert events == [Request("2.0", 1, "m", NO_PARAMS), broken]
    assert receive(connection, request(3)) == [broken]
    assert [brief(text) for text in sent(connection)] == [(None, -32600)]


def test_a_broken_header_block_is_answered_and_breaks_the_link() -> None:
    connection = connect()

    connection.receive_data(b"Content-Length: x\r\n\r\n")

    assert isinstance(connection.next_event(), LinkBroken)
    assert [brief(text) for text in read_texts(connection.data_to_send(), "headers")] == [(None, -32700)]


def test_the_last_line_needs_no_line_feed() -> None:
    connection = connect()

    connection.receive_data(request(1))
    assert connection.next_event() is NEED_DATA
    connection.receive_eof()

    assert connection.next_event() == Request("2.0", 1, "m", NO_PARAMS)
    assert connection.next_event() is EOF
    assert connection.next_event() is EOF


def test_a_request_is_answered_once() -> None:
    connection = connect()
    receive(connection, request(1))
    connection.send_result(1, {})

    with pytest.raises(LocalError, match="no request 1 is in flight"):
        connection.send_result(1, {})
    with pytest.raises(LocalError, match="no request '1' is in flight"):
        connection.send_error("1", RpcError(-5, "no"))


def test_a_result_that_has_no_json_form_leaves_the_request_in_flight() -> None:
    connection = connect()
    receive(connection, request(1))

    with pytest.raises(TypeError):
        connection.send_result(1, object())
    connection.send_error(1, RpcError(-5, "no"))

    assert [brief(text) for text in sent(connection)] == [(1, -5)]


def test_nobody_can_be_asked_who_writes_no_more() -> None:
    connection = connect()
    connection.receive_eof()

    with pytest.raises(LocalError, match="no longer"):
        connection.send_request("a", {})


def spell(number: int, method: bytes, params: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":%d,"method":"%b"%b}' % (number, method, params)


requests = st.builds(
    spell,
    st.integers(0, 3),
    st.sampled_from([b"a", b"b/c", "ü".encode()]),
    st.sampled_from([b"", b',"params":{}', b',"params":[]', b',"params":null', b',"params":{"x":[1]}']),
)
oddities = st.sampled_from(
    [
        b"",
        b" ",
        b"{",
        b"[]",
        b"\xff",
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","method":"n"}',
        b'{"jsonrpc":"2.0","id":7,"method":"x","params":5}',
        b'{"jsonrpc":"2.0","id":7,"method":"x","more":5}',
        b'{"jsonrpc":"2.0","id":7,"method":"x"}{"jsonrpc":"2.0","id":8,"method":"x"}',
        b'{"jsonrpc":"2.0","id":7,',
        b'"method":"x"}',
        b'{"jsonrpc":"2.0","id":8,"method":"x","params":{"d":%b%b}}' % (b"[" * 127, b"]" * 127),
    ]
)


@given(lines=st.lists(requests | oddities, max_size=6))
def test_lines_that_come_together_are_what_they_are_one_by_one(lines: list[bytes]) -> None:
    together, apart = connect(), connect()

    events = receive(together, *lines)
    pulled = [event for line in lines for event in receive(apart, line)] or [NEED_DATA]

    assert events[:-1] == [event for event in pulled if not isinstance(event, Pause | LinkBroken)]
    assert events[-1] == pulled[-1]
    assert together.data_to_send() == apart.data_to_send()
