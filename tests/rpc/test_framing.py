"""Framing: whatever pieces the bytes come in, the payloads are the same."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd.rpc.framing import (
    MAX_HEADER_BYTES,
    Bundle,
    Framing,
    FramingError,
    MessageTooLarge,
    PayloadReader,
    frame,
)
from tests.rpc.cases import FRAMINGS

texts = st.lists(
    st.dictionaries(st.text(), st.text(max_size=20), max_size=2).map(repr).map(str.encode), max_size=6
)


def pull_all(reader: PayloadReader) -> list[bytes]:
    return list(iter(reader.next_payload, None))


def read(*pieces: bytes, max_bytes: int = 1000) -> list[bytes]:
    reader = PayloadReader(max_bytes=max_bytes)
    payloads: list[bytes] = []
    for piece in pieces:
        reader.receive_data(piece)
        payloads += pull_all(reader)
    reader.receive_eof()
    return payloads + pull_all(reader)


@pytest.mark.parametrize("framing", FRAMINGS)
@given(payloads=texts, cuts=st.lists(st.integers(min_value=0, max_value=400), max_size=8))
def test_any_split_of_the_bytes_gives_the_same_payloads(
    framing: Framing, payloads: list[bytes], cuts: list[int]
) -> None:
    stream = frame(payloads, framing) if payloads else b""
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    pieces = [stream[start:end] for start, end in pairwise(places)]

    assert read(*pieces) == payloads


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_stream_that_comes_byte_by_byte_is_read(framing: Framing) -> None:
    stream = frame([b'{"a":1}', b'{"b":2}'], framing)

    assert read(*[stream[i : i + 1] for i in range(len(stream))]) == [b'{"a":1}', b'{"b":2}']


@pytest.mark.parametrize(
    ("stream", "payloads"),
    [
        (b'{"a":1}\r\n{"b":2}\r\n', [b'{"a":1}', b'{"b":2}']),
        (b'\n\r\n \t\n{"a":1}\n\n\n{"b":2}\n \n', [b'{"a":1}', b'{"b":2}']),
        (b'{"a":1}\n{"b":2}', [b'{"a":1}', b'{"b":2}']),
        (b"garbage\n", [b"garbage"]),
        (b"\xef\xbb\xbf{}\n", [b"\xef\xbb\xbf{}"]),
        (b"", []),
        (b" \r\n", []),
    ],
)
def test_lines_may_be_empty_and_end_in_any_way(stream: bytes, payloads: list[bytes]) -> None:
    assert read(stream) == payloads


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 2\r\n\r\n",
        b"content-length:2\r\n\r\n",
        b"CONTENT-LENGTH : 2 \r\n\r\n",
        b"Content-Length: 2\n\n",
        b"Content-Type: application/vscode-jsonrpc; charset=utf-8\r\nContent-Length: 2\r\n\r\n",
        b"Content-Length: 2\r\nContent-Type: application/vscode-jsonrpc; charset=utf-8\r\n\r\n",
        b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n",
        b"\r\n\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_headers_are_read_in_every_spelling(head: bytes) -> None:
    assert read(head + b"{}" + head + b"[]") == [b"{}", b"[]"]


@pytest.mark.parametrize(
    "stream",
    [
        b"Content-Length 2\r\n\r\n{}",
        b"Content-Length: two\r\n\r\n{}",
        b"Content-Length: -2\r\n\r\n{}",
        b"Content-Length: 2.0\r\n\r\n{}",
        b"Content-Length: \xd9\xa2\r\n\r\n{}",
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"Content-Type: x\r\n\r\n{}",
        b"Content-Length: %b\r\n\r\n" % (b"9" * 5000),
        b"Content-Length: 2\r\nX: %b\r\n\r\n{}" % (b"x" * MAX_HEADER_BYTES),
        b"C" * (MAX_HEADER_BYTES + 1),
        b"Content-Length: 5\r\n\r\n{}",
        b"Content-Le",
    ],
)
def test_a_broken_header_block_is_the_end(stream: bytes) -> None:
    with pytest.raises(FramingError):
        read(stream)


def test_an_empty_body_is_a_payload_for_the_decoder_to_refuse() -> None:
    assert read(b"Content-Length: 0\r\n\r\n") == [b""]


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_message_of_the_limit_passes_and_one_byte_more_does_not(framing: Framing) -> None:
    assert read(frame([b"x" * 100], framing), max_bytes=100) == [b"x" * 100]
    with pytest.raises(MessageTooLarge, match="100 bytes"):
        read(frame([b"x" * 101], framing), max_bytes=100)


def test_a_line_is_too_large_before_it_ends_and_what_came_before_it_is_not_lost() -> None:
    reader = PayloadReader(max_bytes=100)
    reader.receive_data(b"{}\n" + b"x" * 101)

    assert reader.next_payload() == b"{}"
    with pytest.raises(MessageTooLarge):
        reader.next_payload()


def test_an_announced_length_is_too_large_before_its_body_comes() -> None:
    reader = PayloadReader(max_bytes=100)
    reader.receive_data(b"Content-Length: 101\r\n\r\n")

    with pytest.raises(MessageTooLarge):
        reader.next_payload()


@pytest.mark.parametrize(
    ("data", "is_mid_message"),
    [
        (b"", False),
        (b" \r\n", False),
        (b"{}\n", False),
        (b"{}\n \r", False),
        (b'{"a', True),
        (b"Content-", True),
        (b"Content-Length: 2\r\n\r\n", True),
        (b"Content-Length: 2\r\n\r\n{}", False),
        (b"Content-Length: 2\r\n\r\n{}\r\n", False),
    ],
)
def test_it_knows_whether_a_message_has_begun(data: bytes, is_mid_message: bool) -> None:
    reader = PayloadReader(max_bytes=100)
    reader.receive_data(data)

    pull_all(reader)

    assert reader.is_mid_message is is_mid_message


def test_layout_inside_a_text_never_breaks_a_line() -> None:
    assert frame([b'{\n"a": 1\n}'], "lines") == b'{ "a": 1 }\n'


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_bundle_is_framed_once_for_all_links_of_a_framing(framing: Framing) -> None:
    bundle = Bundle([b'{"a":1}', b'{"b":2}'])

    assert bundle.framed(framing) == frame([b'{"a":1}', b'{"b":2}'], framing)
    assert bundle.framed(framing) is bundle.framed(framing)
