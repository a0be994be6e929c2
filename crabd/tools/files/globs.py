"""Patterns of paths, as expressions that match in a time that is bounded by the length of the path. Pure.

``*`` and ``?`` stay within a name, ``**`` is any number of directories, ``[…]`` one of these letters and
``{a,b}`` one of these texts. A pattern is matched against a whole path, which starts with no slash.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

# What braces may come to.
MAX_ALTERNATIVES = 64
# One alternative inside the innermost braces.
_BRACES = re.compile(r"\{([^{}]*)\}")
_TOKEN = re.compile(r"\*+|\?|\[[!^]?\]?[^\]/]*\]|\\.|.", re.DOTALL)
_MAGIC = re.compile(r"[*?\[{\\]")


def translate(glob: str) -> str:
    """Make the expression of a pattern.

    Raises:
      ValueError: its braces come to too many patterns, or its letters are none.
    """
    expression = "|".join(_translate(each) for each in expand(glob))
    try:
        re.compile(expression)
    except re.error as exc:
        raise ValueError(f"{glob!r} is no pattern: {exc}") from exc
    return expression


def expand(glob: str) -> list[str]:
    """List the patterns that one with braces stands for.

    Raises:
      ValueError.
    """
    found: list[str] = []
    waiting = [glob]
    while waiting:
        each = waiting.pop()
        braces = _BRACES.search(each)
        if braces is None or "," not in braces[1]:
            found.append(each)
        else:
            parts = braces[1].split(",")
            waiting += [each[: braces.start()] + part + each[braces.end() :] for part in parts]
        if len(found) + len(waiting) > MAX_ALTERNATIVES:
            raise ValueError(f"{glob!r} stands for more than {MAX_ALTERNATIVES} patterns: write fewer braces")
    return found


def split_fixed(glob: str) -> tuple[str, str]:
    """Part a pattern into the directory that it starts with, without a special letter, and the rest."""
    names = glob.split("/")
    fixed = next((at for at, name in enumerate(names[:-1]) if _MAGIC.search(name)), len(names) - 1)
    return "/".join(names[:fixed]) or ("/" if fixed else ""), "/".join(names[fixed:])


def _translate(glob: str) -> str:
    blocks = [
        "/".join(_translate_name(name) for name in names)
        for is_deep, names in groupby(glob.removeprefix("./").split("/"), key=lambda name: name == "**")
        if not is_deep
    ]
    names = glob.removeprefix("./").split("/")
    if "**" not in names:
        return blocks[0]
    head = "" if names[0] == "**" else blocks.pop(0) + "/"
    last = ".+" if names[-1] == "**" else r"(?:[^/]+/)*" + blocks.pop()
    # The first place where a block fits is as good as any later one, so there is no going back.
    return head + "".join(rf"(?>(?:[^/]+/)*?{block}/)" for block in blocks) + last


def _translate_name(name: str) -> str:
    tokens: Sequence[str] = _TOKEN.findall(name)
    pieces = [
        None if is_star else "".join(map(_translate_part, group))
        for is_star, group in groupby(tokens, key=lambda token: token[0] == "*")
    ]
    made: list[str] = []
    for at, piece in enumerate(pieces):
        if piece is None and at == len(pieces) - 1:
            made.append("[^/]*")
        elif piece is not None and at and at < len(pieces) - 1:
            made.append(f"(?>[^/]*?{piece})")
        elif piece is not None:
            made.append(f"[^/]*{piece}" if at else piece)
    return "".join(made)


def _translate_part(part: str) -> str:
    if part == "?":
        return "[^/]"
    if part[0] == "[" and len(part) > 1:
        letters = part[1:-1]
        negation = "^" if letters[0] in "!^" else ""
        inner = letters.removeprefix("!").removeprefix("^") if negation else letters
        # Only a range has a meaning of its own in there.
        escaped = re.sub(r"[\\\[\]&~|^]", r"\\\g<0>", inner)
        return f"(?!/)[{negation}{escaped}]"
    return re.escape(part[1] if part[0] == "\\" and len(part) > 1 else part)
