"""Words: how texts and queries are spelled for the index, and what is shown of what was found."""

from __future__ import annotations

import re
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd.store.search.words import MAX_TERMS, SNIPPET_LENGTH, cut, fold, parse, spell


def finds(query: str, text: str) -> bool:
    """Ask the engine itself."""
    engine = sqlite3.connect(":memory:")
    try:
        engine.execute("CREATE VIRTUAL TABLE t USING fts5(text, tokenize='unicode61 remove_diacritics 0')")
        engine.execute("INSERT INTO t VALUES (?)", [spell(text)])
        return engine.execute("SELECT 1 FROM t WHERE t MATCH ?", [parse(query).match]).fetchone() is not None
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("docker", "Use DOCKER here"),
        ("compose docker", "docker and then compose"),
        ('"docker compose"', "run docker-compose up"),
        ("get_or_create", "call session/get_or_create twice"),
        ("crabd/store/index.py", "see crabd/store/index.py:12"),
        ("dep*", "it was deployed"),
        ("ordered -random", "an ordered list"),
        ("strasse", "die Straße"),
        ("STRASSE", "die Straße"),
        ("etude", "une étude"),
        ("étude", "une e\u0301tude"),
        ("ежик", "Ёжик"),
        ("abc", "ＡＢＣ"),
        ("数据库", "我们的数据库坏了"),
        ("数", "我们的数据库坏了"),
        ("库", "我们的数据库"),
        ("数据库坏了", "我们的数据库坏了"),
        ("docker容器", "用 docker 容器 部署"),
        ('"容器 docker"', "用容器 docker 部署"),
        ("サーバ", "サーバーが落ちた"),
        ("ｻｰﾊﾞ", "サーバーが落ちた"),
        ("빌드", "빌드가 실패했다"),
        ("ภาษา", "ฉันพูดภาษาไทย"),
        ('"unclosed phrase', "an unclosed phrase"),
        ('say"hi', "he did say hi"),
    ],
)
def test_what_a_person_types_finds_what_is_meant(query: str, text: str) -> None:
    assert finds(query, text)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("docker compose", "docker alone"),
        ('"compose docker"', "docker compose"),
        ("cat", "concatenate"),
        ("ordered -random", "an ordered and random list"),
        ("据数", "数据库"),
        ("dep*", "independent"),
    ],
)
def test_what_is_not_meant_is_not_found(query: str, text: str) -> None:
    assert not finds(query, text)


@pytest.mark.parametrize("query", ["", "   ", "!?", "-docker", '""', "\0", "🦀"])
def test_a_query_without_a_word_is_refused(query: str) -> None:
    with pytest.raises(ValueError, match="no word"):
        parse(query)


def test_a_query_of_too_many_words_is_refused() -> None:
    parse("a " * MAX_TERMS)

    with pytest.raises(ValueError, match="leave some out"):
        parse("a " * (MAX_TERMS + 1))


@given(st.text(max_size=40), st.text(max_size=200))
def test_nothing_that_is_typed_or_said_breaks_the_engine(query: str, text: str) -> None:
    try:
        parse(query)
    except ValueError:
        return

    finds(query, text.encode(errors="replace").decode())


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_folding_twice_is_folding_once_for_all_that_counts(text: str) -> None:
    once = fold(text)

    assert spell(once) == spell(fold(once))


@pytest.mark.parametrize(
    ("query", "text", "snippet"),
    [
        ("docker", "use Docker here", ("use ", "Docker", " here")),
        ("here use", "use it here", ("", "use", " it ", "here", "")),
        ("strasse cafe", "die Straße, das Café", ("die ", "Straße", ", das ", "Café", "")),
        ("数据库", "我们的数据库坏了", ("我们的", "数据库", "坏了")),
        ("dep*", "it was\n\n deployed now", ("it was ", "deployed", " now")),
        ("cat", "concat a cat", ("concat a ", "cat", "")),
        ("get_or_create", "get or create", ("", "get or create", "")),
        ("gone", "something else", ("something else",)),
    ],
)
def test_a_snippet_shows_what_was_found_among_what_is_around_it(
    query: str, text: str, snippet: tuple[str, ...]
) -> None:
    assert cut(text, parse(query).marks) == snippet


def test_of_a_long_text_the_part_with_the_first_match_is_shown() -> None:
    text = "before " * 100 + "the needle is here " + "after " * 100

    snippet = cut(text, parse("needle").marks)

    shown = "".join(snippet)
    assert snippet[1] == "needle"
    assert shown.startswith("…before")
    assert shown.endswith("after…")
    assert len(shown) <= SNIPPET_LENGTH + 2


@given(st.text(st.sampled_from("ab cÀéßİ\n数x"), max_size=300))
def test_every_second_piece_of_a_snippet_is_what_was_looked_for(text: str) -> None:
    snippet = cut(text, parse("a ss cc* 数").marks)

    shown = "".join(snippet).removeprefix("…").removesuffix("…")
    assert len(snippet) % 2 == 1
    assert all(fold(piece) in {"a", "ss", "数"} or fold(piece).startswith("cc") for piece in snippet[1::2])
    assert shown in " ".join(re.split(r"\s+", text))
