"""How text becomes words that can be looked for, and how what was found is shown.

Case, accents and width do not count. Scripts that put no space between words are cut into overlapping pairs
of letters, so that any part of them is found. Knows no engine but for the spelling of its queries.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import TypeAlias

from msgspec import Struct

# Each costs a look into the index, and nobody types more.
MAX_TERMS = 16
# How much of a text is shown around what was found, in characters.
SNIPPET_LENGTH = 160
# How far a snippet's ends are moved to those of words.
WORD_LENGTH = 20
# Shorter ones stand for too many words. A letter of an unspaced script is the beginning of its pairs.
MIN_PREFIX = 2

# Pieces of text, every second of which, from the second on, is what was looked for.
Snippet: TypeAlias = tuple[str, ...]

# Han, Kana, Hangul, Thai, Lao, Burmese, Khmer. Korean has spaces, but endings that stick to its words.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{_UNSPACED}]+")
_ACCENT = re.compile("[\u0300-\u036f]+")
_TERM = re.compile(r'(-?)(?:"([^"]*)"?|(\S+))')
_LETTER = re.compile(f"[^\\W_{_UNSPACED}]")
_LETTERS = re.compile(f"{_LETTER.pattern}+")
_PIECE = re.compile(f"{_RUN.pattern}|{_LETTERS.pattern}")


class Mark(Struct, frozen=True):
    """What to mark for one term in a folded text, and whether words must begin and end with it."""

    pattern: re.Pattern[str]
    begins_word: bool
    ends_word: bool
    is_begun: bool

    def find(self, text: str, begin: int = 0) -> Iterator[tuple[int, int]]:
        """Find where the term is, from a place on. A word that was only begun is marked to its end."""
        for found in self.pattern.finditer(text, begin):
            start, end = found.span()
            if self.begins_word and start and _LETTER.match(text, start - 1):
                continue
            rest = _LETTERS.match(text, end)
            if rest is None or self.is_begun or not self.ends_word:
                yield start, rest.end() if rest is not None and self.is_begun else end


class Terms(Struct, frozen=True):
    """A query that is understood: FTS5 expressions, and what to mark in what they find.

    ``match`` finds texts that have all of it, and each of ``apart`` those that have one term of several.
    """

    match: str
    apart: tuple[str, ...]
    marks: tuple[Mark, ...]


def fold(text: str) -> str:
    """Take off what does not count: case, the accents of Latin, Greek and Cyrillic, width."""
    if text.isascii():
        return text.lower()
    bare = _ACCENT.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFC", bare.casefold())


def spell(text: str) -> str:
    """Spell a text as the index takes it; it parts the words of it by itself."""
    return text if text.isascii() else _RUN.sub(_pair, fold(text))


def parse(query: str) -> Terms:
    """Understand a query: words that should all be there, ``"a phrase"``, ``begin*``, and ``-not``.

    Raises:
      ValueError: there is no word in it to look for, or there are too many.
    """
    wanted: list[str] = []
    unwanted: list[str] = []
    marks: list[Mark] = []
    for minus, quoted, word in _TERM.findall(query.replace("\0", " ")):
        pieces = _PIECE.findall(fold(quoted or word))
        if not pieces:
            continue
        is_begun = word.endswith("*") and len(pieces[-1]) >= MIN_PREFIX
        (unwanted if minus else wanted).append(_spell_term(pieces, is_begun))
        if not minus:
            marks.append(_mark(pieces, is_begun))
    if not wanted:
        raise ValueError("there is no word in it to look for")
    if len(wanted) + len(unwanted) > MAX_TERMS:
        raise ValueError(f"more than {MAX_TERMS} words: leave some out")
    without = f" NOT text : ({' OR '.join(unwanted)})" if unwanted else ""
    apart = tuple(f"(text : {term}{without})" for term in wanted) if len(wanted) > 1 else ()
    return Terms(f"(text : ({' AND '.join(wanted)}){without})", apart, tuple(marks))


def cut(text: str, marks: Sequence[Mark]) -> Snippet:
    """Cut out the part of a text with the first match and what is around it, on one line."""
    folded, back = _fold_with_map(text)
    first, last = min((next(mark.find(folded), (0, 0)) for mark in marks), key=_is_nothing_then_start)
    begin = _word_start(folded, max(first - SNIPPET_LENGTH // 4, 0), first)
    end = _word_end(folded, begin + SNIPPET_LENGTH, last)
    pieces, at = ["…" if begin else ""], begin
    for start, stop in sorted(span for mark in marks for span in _within(mark.find(folded, begin), end)):
        if start >= at:
            pieces[-1] += _one_line(text[back[at] : back[start]])
            pieces += [_one_line(text[back[start] : back[stop]]), ""]
            at = stop
    pieces[-1] += _one_line(text[back[at] : back[end]]) + ("…" if end < len(folded) else "")
    return tuple(pieces)


def _pair(run: re.Match[str]) -> str:
    return f" {' '.join(_pairs(run[0]))} "


def _pairs(run: str) -> list[str]:
    """Cut a run of letters into all its pairs and its last letter, so that any letter begins one of these."""
    return [run[at : at + 2] for at in range(len(run))]


def _spell_term(pieces: list[str], is_begun: bool) -> str:
    """Spell a term as a phrase: its pieces stand next to each other, whatever parts them."""
    *before, last = pieces
    tokens = [token for piece in before for token in _tokens(piece)]
    # What follows the last letter is not known, so that it is the beginning of a pair.
    tokens += _tokens(last) if len(last) == 1 else _tokens(last)[: -1 if _RUN.match(last) else None]
    is_begun = is_begun or (len(last) == 1 and _RUN.match(last) is not None)
    return f'"{" ".join(tokens)}"' + (" *" if is_begun else "")


def _tokens(piece: str) -> list[str]:
    return _pairs(piece) if _RUN.match(piece) else [piece]


def _mark(pieces: list[str], is_begun: bool) -> Mark:
    return Mark(
        re.compile(r"[\W_]*".join(map(re.escape, pieces))),
        begins_word=_RUN.match(pieces[0]) is None,
        ends_word=_RUN.match(pieces[-1]) is None,
        is_begun=is_begun,
    )


def _is_nothing_then_start(span: tuple[int, int]) -> tuple[bool, int]:
    """Order what was found by its place, and behind it what was not found."""
    return span == (0, 0), span[0]


def _within(spans: Iterator[tuple[int, int]], end: int) -> Iterator[tuple[int, int]]:
    return takewhile(lambda span: span[1] <= end, spans)


def _fold_with_map(text: str) -> tuple[str, Sequence[int]]:
    """Fold a text, and tell where in it each character of the folded one, and its end, come from."""
    folded = fold(text)
    if len(folded) == len(text):
        return folded, range(len(text) + 1)
    chars = [_fold_char(char) for char in text]
    return "".join(chars), [at for at, char in enumerate(chars) for _ in char] + [len(text)]


_fold_char = lru_cache(4096)(fold)


def _word_start(text: str, at: int, first: int) -> int:
    """Move the beginning of a snippet to that of a word, if there is one near before the match."""
    space = text.find(" ", at, min(at + WORD_LENGTH, first)) if at else -1
    return at if space < 0 else space + 1


def _word_end(text: str, at: int, first: int) -> int:
    space = text.rfind(" ", max(at - WORD_LENGTH, first), at) if at < len(text) else -1
    return min(at, len(text)) if space < 0 else space


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)
