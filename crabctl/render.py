"""Text for people and for scripts. Knows no daemon; decides only.

Whatever came from a model, a tool or a session passes ``harmless`` before a person sees it.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

# Codes that move the cursor, rewrite the screen, set the title or the clipboard (C0, DEL, C1), and those that
# reverse what is read (bidirectional embeddings and isolates).
_CONTROLS = [*range(9), *range(11, 32), *range(127, 160)]
_VISIBLE = {code: f"\\x{code:02x}" for code in _CONTROLS} | {
    code: f"\\u{code:04x}" for code in [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
}

# Where a terminal does not tell its size, as most have it.
COLUMNS = 80


def harmless(text: str) -> str:
    """Show every character that could command a terminal or reverse the reading as a visible escape.

    Newlines and tabs stay, and CRLF becomes a newline; half a surrogate pair becomes its escape.
    """
    if text.isprintable():
        return text
    return text.replace("\r\n", "\n").translate(_VISIBLE).encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """Make text harmless and put it on one line."""
    return " ".join(harmless(text).split())


def as_json(value: object) -> str:
    """Write one JSON text on one line, in ASCII alone, so that nothing in it commands a terminal."""
    return json.dumps(value, separators=(",", ":"))


def is_coloured(stream: TextIO) -> bool:
    """Tell whether the stream shows colours: a terminal that can, unless ``$NO_COLOR`` is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def dim(text: str, stream: TextIO) -> str:
    """Make text faint where the stream can show it."""
    return f"\x1b[2m{text}\x1b[0m" if is_coloured(stream) else text


def bold(text: str, stream: TextIO) -> str:
    """Make text stand out where the stream can show it."""
    return f"\x1b[1m{text}\x1b[0m" if is_coloured(stream) else text


def columns(stream: TextIO) -> int | None:
    """Tell how wide the stream's terminal is; null when it is not a terminal."""
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or COLUMNS
    except OSError:
        return COLUMNS


def cells(text: str) -> int:
    """Count the columns a text takes: East Asian wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 1 + (east_asian_width(char) in "WF") for char in text)


def fit(text: str, width: int | None) -> str:
    """Cut a text that is too wide, and show that it was cut."""
    if width is None or cells(text) <= width:
        return text
    kept = text[: max(width - 1, 0)]
    while kept and cells(kept) > width - 1:
        kept = kept[:-1]
    return kept + "…"


def table(header: list[str], rows: list[list[str]], *, width: int | None, elastic: int) -> str:
    """Align rows under a header; the ``elastic`` column is cut so that a line fits ``width``, null is any."""
    lines = [header, *([one_line(cell) for cell in row] for row in rows)]
    wide = [max(cells(line[at]) for line in lines) for at in range(len(header))]
    if width is not None:
        others = sum(wide) - wide[elastic] + 2 * (len(wide) - 1)
        wide[elastic] = min(wide[elastic], max(width - others, len(header[elastic])))
    return "\n".join(
        "  ".join(_padded(cell, to) for cell, to in zip(line, wide, strict=True)).rstrip() for line in lines
    )


def _padded(text: str, width: int) -> str:
    cut = fit(text, width)
    return cut + " " * (width - cells(cut))


def facts(pairs: list[tuple[str, object]]) -> str:
    """Align names and values; those without a value are left out."""
    told = [(name, harmless(str(value))) for name, value in pairs if value not in (None, "")]
    wide = max(len(name) for name, _ in told)
    return "\n".join(
        f"{name:{wide}}  " + value.replace("\n", "\n" + " " * (wide + 2)) for name, value in told
    )


def duration(seconds: float) -> str:
    """Say how long, in its one or two greatest units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days"


def ago(at: str | None) -> str:
    """Say how long ago a moment of the wire was."""
    if at is None:
        return "never"
    from datetime import UTC, datetime

    seconds = (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
    return "just now" if seconds < 10 else f"{duration(seconds)} ago"


def local_time(at: str) -> str:
    """Write a moment of the wire as the person's own clock showed it."""
    from datetime import datetime

    return f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M:%S}"


def number(value: int) -> str:
    """Write a count so that its thousands can be read."""
    return f"{value:,}".replace(",", " ")


def plural(count: int, noun: str) -> str:
    """Say how many."""
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def text_of(content: list[dict[str, Any]]) -> str:
    """Join the visible text of a message's blocks."""
    return "".join(block["text"] for block in content if block["type"] == "text")
