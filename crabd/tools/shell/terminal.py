"""What a program wrote for a terminal, as plain text that does nothing wherever it is shown. Pure.

Colours and other sequences of ECMA-48 are left out. Whatever else could move a cursor, hide text or turn it
around is shown by a visible sign instead.
"""

from __future__ import annotations

import codecs
import re

# Sequences with parameters, strings that end with BEL or ST, and short ones. Each part excludes what begins
# the next, so that no match goes back; one without its end stops at the end of the line at the latest.
_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|[\]PX^_][^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?|[ -/]*[0-~]?)"
)
# The beginning of such a sequence at the end of a piece. Longer ones than that are not waited for.
_BEGUN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b\x9c\n]{0,4096}\x1b?|[ -/]*)\Z")
# C0 but for tabs and newlines, DEL, C1, and what sets the direction of text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SIGNS = {**{code: chr(0x2400 + code) for code in range(0x20)}, 0x7F: "\u2421"}
# Of text, hardly a character has no meaning; of other data, many.
_BINARY_SHARE = 0.2


class PlainStream:
    """Makes plain text of bytes that come in pieces; what a piece has begun waits for the next one."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = ""

    def feed(self, data: bytes, *, is_end: bool = False) -> str:
        text = self._begun + self._decoder.decode(data, is_end)
        self._begun = ""
        begun = None if is_end else _BEGUN.search(text)
        if begun:
            text, self._begun = text[: begun.start()], text[begun.start() :]
        elif text.endswith("\r") and not is_end:
            text, self._begun = text[:-1], "\r"
        return show_controls(_SEQUENCE.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def plain_text(data: bytes) -> str:
    """Make plain text of a whole output; of a line that was written over itself the last state is left."""
    text = _SEQUENCE.sub("", data.decode("utf-8", "replace").replace("\r\n", "\n"))
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return show_controls(text)


def is_binary(data: bytes) -> bool:
    """Tell whether bytes are something else than text, by how many of their characters mean nothing."""
    text = data.decode("utf-8", "replace")
    strange = len(_CONTROL.findall(_SEQUENCE.sub("", text))) - text.count("\r") + text.count("\ufffd")
    return strange > _BINARY_SHARE * len(text)


def show_controls(text: str) -> str:
    """Show each character that could do something by a sign; tabs and newlines stay."""
    return _CONTROL.sub(lambda found: _SIGNS.get(ord(found[0]), "\ufffd"), text)
