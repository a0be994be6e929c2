"""Secrets in text: what is hidden, what stays, also when it comes in pieces; and in what time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd.masking import HELD_LENGTH, HIDDEN, Masker, is_secret_name, secrets_of

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA7x\nq3+/h==\n-----END RSA PRIVATE KEY-----"
OPENSSH = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----"
# Put together here, so that nobody who looks for keys in this repository finds one.
SECRETS = (
    "sk-" + "proj-4f9aC2dE6b8A0c1D3e5F7a9B",
    "sk-" + "ant-api03-" + "x" * 90,
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "11AAAAAAA0_" + "b" * 50,
    "glpat-" + "x-1_" * 5,
    "xoxb-" + "12345678-12345678-abcdefgh",
    "AKIA" + "IOSFODNN7EXAMPLE",
    "AIza" + "S" * 35,
    "hf_" + "Q" * 34,
    "npm_" + "k" * 36,
    "sk_" + "live_" + "9" * 24,
    "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0." + "dBjftJeZ4CVPmB92K27uhbUJU1p1r",
    PEM,
    OPENSSH,
)
PLAIN = (
    "sk-short",
    "task-force-is-a-word-and-no-key-at-all",
    "a ghp_tooshort, an AKIAshort",
    "git clone https://example.org/a/b:c@v1",
    "Authorization: none",
    "-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----",
    "See https://example.org/?page=12345678&sort=ascending",
)


@pytest.mark.parametrize("secret", SECRETS)
def test_a_key_of_a_known_kind_is_hidden_wherever_it_stands(secret: str) -> None:
    text = f'before {secret} and "{secret}", last {secret}'

    masked = Masker().mask(text)

    assert masked == f'before {HIDDEN} and "{HIDDEN}", last {HIDDEN}'


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Bearer abcdefgh12345", f"Authorization: Bearer {HIDDEN}"),
        ('{"authorization": "token abcdefgh12345"}', f'{{"authorization": "token {HIDDEN}"}}'),
        ("curl -H 'bearer abcdefgh12345678'", f"curl -H 'bearer {HIDDEN}'"),
        ("psql postgres://me:hunter2@db/x", f"psql postgres://me:{HIDDEN}@db/x"),
        ("https://:tok@example.org", f"https://:{HIDDEN}@example.org"),
        ("GET /v1?key=abcdefgh1234&n=1", f"GET /v1?key={HIDDEN}&n=1"),
        ("x?a=b&access_token=abcdefgh1234#top", f"x?a=b&access_token={HIDDEN}#top"),
    ],
)
def test_of_what_carries_a_secret_the_secret_alone_is_hidden(text: str, masked: str) -> None:
    assert Masker().mask(text) == masked


@pytest.mark.parametrize("text", PLAIN)
def test_what_only_resembles_a_key_stays(text: str) -> None:
    assert Masker().mask(text) == text


@pytest.mark.parametrize("text", [*SECRETS, *PLAIN, "Authorization: Bearer abcdefgh12345", "a://b:cdef@g"])
def test_what_was_hidden_once_stays_as_it_is(text: str) -> None:
    once = Masker().mask(text)

    assert Masker().mask(once) == once


def test_what_this_process_was_given_as_a_secret_is_hidden_word_for_word() -> None:
    masker = Masker(["canary.1!", "canary.1!longer", "short", "two words are no key"])

    masked = masker.mask("canary.1!longer canary.1! canaryX1! short two words are no key")

    assert masked == f"{HIDDEN} {HIDDEN} canaryX1! short two words are no key"
    assert repr(masker) == "<Masker of 2 secrets>"


def test_secrets_are_the_values_of_variables_that_are_named_as_such() -> None:
    names = ["OPENAI_API_KEY", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "TOKEN", "PGPASSWORD_", "DB_PASSWORD"]

    secret = [name for name in [*names, "KEYBOARD", "MONKEY", "TOKENIZER", "PATH"] if is_secret_name(name)]

    assert secret == [name for name in names if name != "PGPASSWORD_"]
    assert secrets_of({"A_TOKEN": "one", "HOME": "two"}) == ("one",)


@given(st.sampled_from([*SECRETS, "Authorization: Bearer abcdefgh12345"]), st.data())
def test_a_secret_that_comes_in_pieces_is_hidden_as_one_that_comes_whole(
    secret: str, data: st.DataObject
) -> None:
    text = f"some words {secret} more words\nand {secret}\n"
    masker = Masker()
    stream = masker.open_stream()

    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)) | {0, len(text)})
    shown = "".join(stream.feed(text[a:b]) for a, b in pairwise(cuts)) + stream.close()

    assert shown == masker.mask(text)
    assert stream.close() == ""


def test_a_stream_shows_words_at_once_and_holds_no_more_than_it_must() -> None:
    stream = Masker().open_stream()

    assert stream.feed("Password: ") == "Password: "
    assert stream.feed("50 %\rfetching") == "50 %\rfetching"
    assert stream.feed(" a gh") == " a "
    assert stream.feed("ost") == "ghost"
    assert stream.feed(" https:") == " "
    assert len(stream.feed("//" + "x" * (3 * HELD_LENGTH))) == 3 * HELD_LENGTH + len("https://")
    assert stream.feed("-----BEGIN RSA PRIVATE KEY-----\nMIIE") == ""
    assert stream.close() == HIDDEN


@pytest.mark.parametrize(
    "unit",
    [
        "sk-",
        "eyJ",
        "eyJaaaaaaaaaa.",
        "-----BEGIN RSA PRIVATE KEY-----\n-",
        "-----BEGIN ",
        "authorization: ",
        "bearer ",
        "://a:",
        "?key=",
        "://" + "a" * 300 + ":",
        "github_pat_",
        "xoxb-",
    ],
)
def test_no_text_keeps_a_masker_busy(unit: str) -> None:
    """A pattern that reads a text over and over takes hours for this one; the suite's limit would end it."""
    text = unit * (2_000_000 // len(unit))

    assert Masker().mask(text) is not None
