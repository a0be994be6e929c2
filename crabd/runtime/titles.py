"""Titles: how one is asked for, and what is made of the answer. Pure.

A title is for lists that people read, so nothing that a model writes gets into it but words.
"""

from __future__ import annotations

import re
import unicodedata

from crabd.messages import user_text
from crabd.providers.base import ModelRequest
from crabd.runtime.prompt import shorten

MAX_LENGTH = 60
# Of question and answer, what a title needs. In characters.
EXCERPT_LENGTH = 600
# Room for models that think before they write.
MAX_TOKENS = 400
# Failures, one after the other, after which a live session goes without.
MAX_TRIES = 3
PROMPT = """\
You name conversations. Write a title of three to six words for the one you are shown, in its language.
Write the title alone: no quotes, no full stop, nothing before or after it."""
_LABEL = re.compile(r"^(\W*title\W*:)+\s*", re.IGNORECASE)
_WRAPPING = " \t\"'`*_#“”‘’«»„"


def title_request(model: str, asked: str, answered: str) -> ModelRequest:
    """Ask for the title of a conversation that has begun with these."""
    text = f"person: {shorten(asked, EXCERPT_LENGTH)}\n\nagent: {shorten(answered, EXCERPT_LENGTH)}"
    shown = user_text(f"<conversation>\n{text}\n</conversation>\n\nThe title:")
    return ModelRequest(model=model, system=PROMPT, messages=(shown,), max_tokens=MAX_TOKENS)


def clean_title(answer: str) -> str:
    """Make a title of an answer: its first line, unwrapped, on one line, cut between words; may be empty."""
    # Control and format characters could command a terminal or reverse what is read.
    printable = "".join(
        " " if unicodedata.category(char)[0] in "CZ" and char != "\n" else char for char in answer
    )
    lines = (" ".join(line.split()) for line in printable.split("\n"))
    first = next((unwrapped for line in lines if (unwrapped := _unwrap(line))), "")
    if len(first) <= MAX_LENGTH:
        return first
    cut = first[: MAX_LENGTH - 1]
    words = cut.rsplit(" ", 1)[0] if " " in cut[MAX_LENGTH // 2 :] else cut
    return f"{words.rstrip(' ,;:–-')}…"


def _unwrap(line: str) -> str:
    line = _LABEL.sub("", line.strip(_WRAPPING)).strip(_WRAPPING)
    return line if line.endswith("...") else line.rstrip(".。 ")
