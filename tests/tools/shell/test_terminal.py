from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd.tools.shell.terminal import PlainStream, is_binary, plain_text

HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b]0;a title\x07text", "text"),
        (b"\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1b]52;c;cm0gLXJm\x07", ""),
        (b"\x1bP+q544e\x1b\\text", "text"),
        (b"\x1b(B\x1b=text\x1bc", "text"),
        (b"\x1b[2J\x1b[H\x1b[?25ltext", "text"),
        (b"one\r\ntwo\r\n", "one\ntwo\n"),
        (b"10%\r20%\r100%\r\ndone", "100%\ndone"),
        (b"safe\rrm -rf ~", "rm -rf ~"),
        (b"a\x00b\x08c\x7f", "a\u2400b\u2408c\u2421"),
        ("\u202egnp.exe\u2066".encode(), "\ufffdgnp.exe\ufffd"),
        ("\x9b31mred".encode(), "\ufffd31mred"),
        (b"caf\xe9 \xff", "caf\ufffd \ufffd"),
        (b"an open \x1b]0;string\nends with its line", "an open \nends with its line"),
        (b"cut \x1b[3", "cut "),
        (b"cut \x1b", "cut "),
        ("naïve → 日本".encode(), "naïve → 日本"),
    ],
)
def test_text_for_terminals_becomes_plain(written: bytes, plain: str) -> None:
    assert plain_text(written) == plain


@given(
    st.lists(st.binary() | st.sampled_from([b"\x1b[", b"\x1b]0;", b"31m", b"\x07", b"\r", b"\n", b"\xe2"]))
)
def test_nothing_harmful_is_left(pieces: list[bytes]) -> None:
    stream = PlainStream()

    streamed = "".join(map(stream.feed, pieces)) + stream.feed(b"", is_end=True)

    assert not HARMFUL.search(plain_text(b"".join(pieces)))
    assert not HARMFUL.search(streamed)


@given(
    st.lists(
        st.sampled_from([b"a", b"\x1b", b"[", b"3", b"m", b"]", b"\x07", b"\\", b"\r\n", b"\xc3", b"\xa9"])
    )
)
def test_pieces_give_the_same_text_as_the_whole(pieces: list[bytes]) -> None:
    stream, whole = PlainStream(), PlainStream()

    streamed = "".join(map(stream.feed, pieces)) + stream.feed(b"", is_end=True)

    assert streamed == whole.feed(b"".join(pieces), is_end=True)


@pytest.mark.parametrize("piece", [b"\x1b]", b"\x1b[", b"\r", b"\x1b]0;\x1b", b"\x1b[;", b"\xff"])
def test_hostile_output_takes_time_in_proportion_to_its_length(piece: bytes) -> None:
    """A quadratic search would outlive the whole suite here."""
    assert len(plain_text(piece * 500_000)) <= 500_000 * len(piece)


def test_data_is_told_from_text() -> None:
    assert is_binary(bytes(range(256)) * 4)
    assert not is_binary("colours \x1b[31m and naïve → 日本\r\n".encode())
    assert not is_binary(b"a/long/name\0another/long/name\0")
    assert not is_binary(b"")
