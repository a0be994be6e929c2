"""Bytes that no client should send: too many, too deep, cut short, or no JSON at all."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.rude import MESSAGE_BYTES, MIB, ONE_MESSAGE, PING, PONG, besieged, read_to_end, say
from tests.rpc.cases import FRAMINGS, frame_text

# The id and the code of an answer; the code of a result is null.
Brief: TypeAlias = tuple[object, int | None]

ATTACK_BYTES = 100_000_000
DEEP = 10_000
LINE = b'{"jsonrpc":"2.0","id":1,"method":"daemon/ping","params":{"text":"'
# The first flight of TLS 1.2.
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(200))

PONGED: Brief = (0, None)
UNREADABLE: Brief = (None, -32700)
NO_REQUEST: Brief = (None, -32600)


def request(params: bytes, *, method: bytes = b"daemon/ping", id_: bytes = b"1") -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"method":"%b","params":%b}' % (id_, method, params)


def brief(answers: list[Any]) -> list[Brief]:
    return [(answer["id"], answer.get("error", {}).get("code")) for answer in answers]


@pytest.mark.parametrize(
    ("head", "piece", "answer"),
    [
        pytest.param(LINE, b"x" * MIB, NO_REQUEST, id="line"),
        pytest.param(LINE, b"x" * 1000, NO_REQUEST, id="line that dribbles"),
        pytest.param(b"\0", b"\0" * MIB, NO_REQUEST, id="NUL"),
        pytest.param(b"Content-Length: 100000000\r\n\r\n", b"x" * MIB, NO_REQUEST, id="body"),
        pytest.param(b"Content-Length: 1%018d\r\n\r\n" % 0, b"x" * MIB, UNREADABLE, id="body without end"),
        pytest.param(b"Content-Length: 1\r\n", b"x" * MIB, UNREADABLE, id="header"),
    ],
)
async def test_a_message_of_a_hundred_megabytes_is_refused_before_it_is_there(
    tmp_path: Path, head: bytes, piece: bytes, answer: Brief
) -> None:
    pieces = repeat(piece, ATTACK_BYTES // len(piece))
    async with besieged(tmp_path, memory=ONE_MESSAGE) as siege, siege.link() as stream:
        await say(stream, chain([head], take_bytes(pieces, MESSAGE_BYTES // 2)))
        await siege.polite.rounds()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, stream, pieces)
            answers = await read_to_end(stream)

    assert brief(answers) == [answer]


def take_bytes(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    while size > 0:
        yield (piece := next(pieces))
        size -= len(piece)


async def test_what_nests_ten_thousand_deep_is_refused_and_what_only_looks_like_it_is_not(
    tmp_path: Path,
) -> None:
    array = b"[" * DEEP + b"]" * DEEP
    quotes = b'{"client":{"name":"%b"}}' % (rb"\"[{" * DEEP)
    cases: dict[str, tuple[bytes, list[Brief]]] = {
        "arrays": (array, [NO_REQUEST]),
        "objects": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, [NO_REQUEST]),
        "in params": (request(array), [NO_REQUEST]),
        "in a batch": (b"[%b,%b]" % (PING, request(array)), [NO_REQUEST]),
        "arrays, unclosed": (b"[" * DEEP, [UNREADABLE, PONGED]),
        "objects, unclosed": (b'{"a":' * DEEP, [UNREADABLE, PONGED]),
        "in a string": (request(b'{"x":"%b"}' % array), [(1, -32602), PONGED]),
        "among quotes": (request(quotes, method=b"initialize"), [(1, None), PONGED]),
    }

    async with besieged(tmp_path) as siege:
        found = {name: await siege.exchange(text + b"\n" + PING) for name, (text, _) in cases.items()}

    assert {name: brief(answers) for name, answers in found.items()} == {
        name: expected for name, (_, expected) in cases.items()
    }


async def test_what_is_no_request_is_refused_and_the_next_one_answered(tmp_path: Path) -> None:
    cases: dict[str, tuple[bytes, list[Brief]]] = {
        "TLS": (TLS_HELLO, [UNREADABLE] * 2),
        "HTTP": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", [UNREADABLE] * 2),
        "NUL": (b"\0" * MIB, [UNREADABLE]),
        "blank lines": (b"\n" * (MESSAGE_BYTES + 1), []),
        "byte order mark": (b"\xef\xbb\xbf" + PING, [UNREADABLE]),
        "no UTF-8": (request(b"{}", method=b"\xff"), [UNREADABLE]),
        "surrogate": (request(b'{"x":"\xed\xa0\x80"}'), [UNREADABLE]),
        "surrogate, escaped": (request(b"{}", method=rb"\ud800"), [UNREADABLE]),
        "surrogate, escaped, in params": (request(rb'{"x":"\ud800"}'), [UNREADABLE]),
        "NaN": (request(b'{"x":NaN}'), [UNREADABLE]),
        "id NaN": (request(b"{}", id_=b"NaN"), [UNREADABLE]),
        "id of 4301 digits": (request(b"{}", id_=b"9" * 4301), [NO_REQUEST]),
        "id infinite": (request(b"{}", id_=b"1e400"), [NO_REQUEST]),
        "id broken": (request(b"{}", id_=b"1.5"), [NO_REQUEST]),
        "batch of 100,000": (b"[%b]" % b",".join([PING] * 100_000), [NO_REQUEST]),
    }

    async with besieged(tmp_path, memory=ONE_MESSAGE) as siege:
        found = {name: await siege.exchange(text + b"\n" + PING) for name, (text, _) in cases.items()}

    assert {name: brief(answers) for name, answers in found.items()} == {
        name: [*expected, PONGED] for name, (_, expected) in cases.items()
    }


async def test_an_id_that_is_in_flight_is_refused_and_the_first_request_still_answered(
    tmp_path: Path,
) -> None:
    async with besieged(tmp_path) as siege, siege.session("twice") as session:
        params = b'{"session":"%b","content":"slow 5 5","events":false}' % session.encode()
        send = request(params, method=b"session/send")

        answers = await siege.exchange(b"\n".join([send, send, request(b"{}"), PING]))

    assert brief(answers) == [(1, -32600), (1, -32600), PONGED, (1, None)]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Make a few valid requests in a framing, and damage a few of their bytes."""
    framing = draw(st.sampled_from(FRAMINGS))
    texts = draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=4))
    stream = bytearray(b"".join(frame_text(text, framing) for text in texts))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(stream)))
        length = draw(st.integers(0, 4))
        stream[place : place + length] = draw(st.binary(max_size=4))
    return bytes(stream)


# None of these, nor anything that is but a few bytes away, leaves something behind.
REQUESTS = [
    PING,
    request(b'{"client":{"name":"x"},"protocol":1}', method=b"initialize"),
    request(b'{"session":"crab_polite_1","limit":3}', method=b"session/history"),
    request(b'{"session":"crab_polite_1","after":1}', method=b"session/subscribe", id_=b'"two"'),
    request(b'{"session":"crab_nobody_1","content":[{"type":"text","text":"x"}]}', method=b"session/send"),
    b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}',
    b'{"jsonrpc":"2.0","id":1073741824,"result":{}}',
    b"[%b,%b]" % (PING, request(b"null", method=b"daemon/status")),
]


async def test_no_damaged_bytes_bring_the_daemon_down(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:

        @settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(mutated() | st.binary(max_size=200))
        def play(stream: bytes) -> None:
            trio.from_thread.run(siege.exchange, stream)

            assert trio.from_thread.run(siege.exchange, PING) == [PONG]

        await trio.to_thread.run_sync(play)


@pytest.mark.long
async def test_who_stops_in_the_middle_of_a_message_is_hung_up_on_and_who_is_idle_is_not(
    tmp_path: Path,
) -> None:
    halves = [b'{"jsonrpc":', b"Content-Length: 10", b"Content-Length: 10\r\n\r\n{"]
    hung_up: list[bytes] = []

    async with besieged(tmp_path) as siege, siege.link() as idle, trio.open_nursery() as nursery:

        async def fall_silent(half: bytes) -> None:
            async with siege.link() as stream:
                await stream.send_all(half)
                await read_to_end(stream)
            hung_up.append(half)

        for half in halves:
            nursery.start_soon(fall_silent, half)
        while len(hung_up) < len(halves):
            await siege.polite.rounds(1)
        await idle.send_all(PING)
        await idle.send_eof()
        assert await read_to_end(idle) == [PONG]
