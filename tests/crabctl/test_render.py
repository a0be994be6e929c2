"""Text for people: harmless, aligned, readable."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabctl.render import as_json, cells, duration, facts, fit, harmless, number, one_line, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Ünïcode, 漢字, 🦀", "plain, Ünïcode, 漢字, 🦀"),
        ("a\nb\tc", "a\nb\tc"),
        ("a\r\nb", "a\nb"),
        ("50 %\rdone", "50 %\\x0ddone"),
        ("\x1b]52;c;cm0=\x07", "\\x1b]52;c;cm0=\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("\x7f", "\\x7f"),
        ("user\u202egnp.exe", "user\\u202egnp.exe"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("\udc80", "\\udc80"),
    ],
)
def test_what_could_command_a_terminal_is_shown_instead(text: str, shown: str) -> None:
    assert harmless(text) == shown


@given(st.text(st.characters(codec=None)))
def test_no_text_at_all_commands_a_terminal(text: str) -> None:
    shown = harmless(text)

    assert all(char in "\n\t" or not (ord(char) < 32 or 127 <= ord(char) < 160) for char in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    shown.encode()


@given(st.text(st.characters(codec=None)))
def test_json_is_ascii_and_loses_nothing(text: str) -> None:
    written = as_json({"text": text})

    assert written.isascii()
    assert written.isprintable()
    assert json.loads(written) == {"text": text}


def test_one_line_has_no_line_breaks() -> None:
    assert one_line(" a\n\tb  c\x1b ") == "a b c\\x1b"


def test_a_cut_text_shows_that_it_was_cut() -> None:
    assert fit("abcdef", 6) == "abcdef"
    assert fit("abcdef", 4) == "abc…"
    assert fit("漢字漢字", 5) == "漢字…"
    assert fit("abcdef", None) == "abcdef"


def test_wide_characters_take_two_cells() -> None:
    assert cells("漢字") == 4
    assert cells("e\u0301") == 1


def test_a_table_is_cut_to_the_terminal_at_its_elastic_column() -> None:
    drawn = table(["ID", "TITLE", "N"], [["a", "a long title\nof two lines", "12"]], width=20, elastic=1)

    assert drawn.splitlines() == ["ID  TITLE         N", "a   a long titl…  12"]


def test_a_table_behind_a_pipe_is_whole() -> None:
    drawn = table(["ID", "TITLE"], [["a", "x" * 300]], width=None, elastic=1)

    assert drawn == "ID  TITLE\na   " + "x" * 300


def test_facts_are_aligned_and_absent_ones_left_out() -> None:
    drawn = facts([("a", 1), ("long", "x\ny"), ("none", None), ("empty", "")])

    assert drawn == "a     1\nlong  x\n      y"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.42, "0.4 s"), (61, "61 s"), (600, "10 min"), (3 * 3600 + 120, "3 h 2 min"), (3 * 86400, "3 days")],
)
def test_a_duration_is_said_in_its_greatest_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_thousands_are_parted() -> None:
    assert number(1234567).split() == ["1", "234", "567"]
