"""Secrets in text: which text is one, and how it is hidden before anybody reads or keeps it. Pure.

A secret is what this process was given as one, word for word, or what has the form of a well-known kind of
key. No pattern backtracks, so that the time is that of reading the text. Nothing here knows where text goes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msgspec import Struct

HIDDEN = "[secret]"
# What is shorter ("x", "none", "EMPTY", for servers that want any key at all) is no secret, and taking it out
# of a text would tear words and figures apart.
SECRET_LENGTH = 8
# Of output that comes in pieces, what is held back at most until it is known whether it begins a secret. The
# largest private keys in use take a quarter of it.
HELD_LENGTH = 64 * 1024
_END = re.compile(r"-----END [A-Z0-9 ]{0,30}-----")
_VARIABLE = re.compile(r"(?i)(?:^|_)(?:api_?key|key|token|secret|password|passwd|credentials?)$")


class _Kind(Struct, frozen=True):
    """A kind of secret: a text has none without one of the ``signs``, which are found much faster."""

    signs: tuple[str, ...]
    pattern: re.Pattern[str]
    hidden: str = HIDDEN


def _token(pattern: str, *signs: str) -> _Kind:
    # No letter or digit comes before the sign. That is looked at behind it, for the search is fast as long as
    # the pattern begins with a word.
    first = "".join(rf"(?<![A-Za-z0-9]{sign})" for sign in signs)
    return _Kind(signs, re.compile(f"(?:{'|'.join(signs)}){first}{pattern}"))


# Each of them reads a character a bounded number of times: what may repeat is of one class and greedy, and
# where two follow each other, the first cannot take what begins the second.
_KINDS: Final = (
    _token(r"[A-Za-z0-9_-]{16,}", "sk-"),
    _token(r"(?:live|test)_[A-Za-z0-9]{16,}", "sk_", "rk_"),
    _token(r"[A-Za-z0-9]{30,}", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    _token(r"[A-Za-z0-9_]{30,}", "github_pat_"),
    _token(r"[A-Za-z0-9_-]{20,}", "glpat-"),
    _token(r"[abeoprs]-[A-Za-z0-9-]{10,}", "xox"),
    _token(r"[A-Za-z0-9-]{20,}", "xapp-"),
    _token(r"[A-Z0-9]{16}(?![A-Za-z0-9])", "AKIA", "ASIA"),
    _token(r"[A-Za-z0-9_-]{35}", "AIza"),
    _token(r"[A-Za-z0-9]{30,}", "hf_", "npm_"),
    _token(r"[A-Za-z0-9_-]{50,}", "pypi-"),
    _token(r"[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}", "eyJ"),
    _Kind(
        ("-----BEGIN ",),
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:[^-\"]|-(?!----)){0,65536}(?:-----END [A-Z0-9 ]{0,30}-----)?"
        ),
    ),
    _Kind(
        ("uthorization", "UTHORIZATION"),
        re.compile(
            r"(?i)(authorization\\?[\"']?[ \t]{0,4}[:=][ \t]{0,4}\\?[\"']?"
            r"(?:(?:bearer|basic|token)[ \t]{1,4})?)[^\s\"',;\\\[]{8,}"
        ),
        rf"\1{HIDDEN}",
    ),
    _Kind(("earer ", "EARER "), re.compile(r"((?i:bearer) )[A-Za-z0-9._~+/=-]{16,}"), rf"\1{HIDDEN}"),
    # The password of a URL, and a key among its parameters.
    _Kind(("://",), re.compile(r"(://[^\s/:@\"']{0,256}:)[^\s/@\"']{1,256}@"), rf"\1{HIDDEN}@"),
    _Kind(
        ("key=", "Key=", "KEY=", "oken=", "OKEN=", "ecret=", "assword=", "sig=", "ignature="),
        re.compile(
            r"(?i)([?&](?:api_?key|key|(?:access_|id_)?token|(?:client_)?secret|password|sig|signature)=)"
            r"[^&\s#\"'\[]{8,}"
        ),
        rf"\1{HIDDEN}",
    ),
)
# What a secret that is not over yet may begin with, besides the last word: these have blanks in them.
_OPENINGS = ("-----BEGIN ", "uthorization", "UTHORIZATION", "earer ", "EARER ")
# How the words begin that a secret of a known form begins with.
_BEGINNINGS = (
    *(sign for kind in _KINDS for sign in kind.signs),
    *("Authorization", "authorization", "AUTHORIZATION", "Bearer", "bearer", "BEARER"),
)
# How far behind such a word its secret begins.
_OPENING_LENGTH = 64


class Masker:
    """Hides secrets. It learns those of this process, and knows the forms of others."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self._known: re.Pattern[str] | None = None
        for secret in secrets:
            self.learn(secret)

    def __repr__(self) -> str:
        return f"<Masker of {len(self._secrets)} secrets>"

    def learn(self, secret: str) -> None:
        """Hide this text from now on, unless it is too short, or several words, to be a key."""
        if len(secret) >= SECRET_LENGTH and not any(map(str.isspace, secret)):
            self._secrets.add(secret)
            # The longest first: one may begin as another does.
            longest_first = sorted(self._secrets, key=len, reverse=True)
            self._known = re.compile("|".join(map(re.escape, longest_first)))

    def mask(self, text: str) -> str:
        """Put ``[secret]`` where a secret is; what was hidden before stays as it is."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for kind in _KINDS:
            if any(sign in text for sign in kind.signs):
                text = kind.pattern.sub(kind.hidden, text)
        return text

    def may_go_on(self, word: str) -> bool:
        """Tell whether a word may be the beginning of a secret, or of what carries one."""
        if any(sign in word for kind in _KINDS for sign in kind.signs) or "?" in word or "&" in word:
            return True
        return any(_ends_in(word, begun) for begun in (*self._secrets, "://")) or any(
            _ends_in(word, begun, at_boundary=True) for begun in _BEGINNINGS
        )

    def open_stream(self) -> MaskedStream:
        """Begin to hide secrets in text that comes in pieces."""
        return MaskedStream(self)


class MaskedStream:
    """Hides secrets in text that comes in pieces, also those that lie across two of them.

    A last word that may be the beginning of one is held back until it is known where it ends, and so is a
    private key until its end; never more than ``HELD_LENGTH`` characters.
    """

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take the next piece, and give what can be shown of all so far."""
        text = self._held + piece
        end = _sure_end(text, self._masker.may_go_on)
        if len(text) - end > HELD_LENGTH:
            # No key is that long. What ends it may be in the midst of one all the same.
            end = max(text.rfind(mark, end) for mark in "\"',;<>{}()[]\n ") + 1 or len(text)
        self._held = text[end:]
        return self._masker.mask(text[:end])

    def close(self) -> str:
        """Give what was held back. A second call gives nothing."""
        text, self._held = self._held, ""
        return self._masker.mask(text)


def secrets_of(env: Mapping[str, str]) -> tuple[str, ...]:
    """List the values of variables that are named as those with keys are, as ``GITHUB_TOKEN``."""
    return tuple(value for name, value in env.items() if is_secret_name(name))


def is_secret_name(name: str) -> bool:
    """Tell whether a variable is named as those with keys are."""
    return _VARIABLE.search(name) is not None


def _ends_in(word: str, begun: str, *, at_boundary: bool = False) -> bool:
    """Tell whether a word ends as something else begins, or, at a boundary, its last part does."""
    return any(
        word.endswith(begun[:length])
        for length in range(1, min(len(word), len(begun)) + 1)
        if not at_boundary or not word[: len(word) - length][-1:].isalnum()
    )


def _sure_end(text: str, may_go_on: Callable[[str], bool]) -> int:
    """Find where the part ends in which no secret is that goes on behind it."""
    # A blank ends every word.
    last = max(text.rfind(blank) for blank in " \n\t\r") + 1
    end = last if may_go_on(text[last:]) else len(text)
    begun = text.rfind("-----BEGIN ")
    if begun >= 0:
        found = _END.search(text, begun)
        if found is None:
            return min(end, begun)
        end = max(end, found.end())
    line = max(text.rfind("\n", 0, last), text.rfind("\r", 0, last)) + 1
    for opening in _OPENINGS[1:]:
        begun = text.rfind(opening, max(line, last - _OPENING_LENGTH), last)
        if begun >= 0:
            # With the word that it is in.
            end = min(end, max(text.rfind(blank, 0, begun) for blank in " \n\t\r") + 1)
    return end
