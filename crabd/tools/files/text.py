"""What files say: their lines, their ends of lines, what is no text, and how two texts differ. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from msgspec import Struct

BOM = b"\xef\xbb\xbf"
# Bytes in which a zero tells that a file is no text, as ripgrep and git look.
HEAD = 8192
# Lines of context in a diff.
CONTEXT = 3
# Lines between the first and the last change for which a small diff is looked for; the search is quadratic.
MAX_COMPARED = 2000
# Lines of a diff that a person is shown.
MAX_DIFF_LINES = 400
MAX_DIFF_LINE = 500
_MAGIC = (
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a RIFF file, such as a WebP image or a sound"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\0", "an SQLite database"),
)
_Opcode = tuple[str, int, int, int, int]


class Text(Struct, frozen=True):
    """A file's text, from bytes and back without a loss, be they UTF-8 or not.

    ``eol`` is the end of most of its lines.
    """

    body: str
    eol: str = "\n"
    has_bom: bool = False

    def encode(self) -> bytes:
        """Make the bytes of the file."""
        return (BOM if self.has_bom else b"") + self.body.encode("utf-8", "surrogateescape")


def decode(data: bytes) -> Text:
    """Read a file's bytes."""
    has_bom = data.startswith(BOM)
    body = data.removeprefix(BOM).decode("utf-8", "surrogateescape")
    eol = "\r\n" if 2 * body.count("\r\n") > body.count("\n") else "\n"
    return Text(body, eol, has_bom)


def name_kind(head: bytes) -> str | None:
    """Say what a file is that starts like this; null if it is text."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    return "a binary file" if b"\0" in head[:HEAD] else None


def split_lines(body: str) -> list[str]:
    """Part a text after each newline, and nowhere else."""
    *lines, last = body.split("\n")
    # A thread that does this lets others in after each line, which it would not in one long call.
    return [f"{line}\n" for line in lines] + ([last] if last else [])


def with_crlf(body: str) -> str:
    """End every line as Windows does."""
    return body.replace("\r\n", "\n").replace("\n", "\r\n")


def printable(body: str) -> str:
    """Make text that can be sent anywhere; what was no UTF-8 is a replacement character."""
    return body.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def is_text(body: str) -> bool:
    """Say whether a text can be written as UTF-8."""
    try:
        body.encode()
    except UnicodeEncodeError:
        return False
    return True


def shorten(line: str, limit: int) -> str:
    """Cut a line that is longer, and say how much is gone."""
    return line if len(line) <= limit else f"{line[:limit]}… ({len(line) - limit} more characters)"


def compare(name: str, before: bytes | None, after: bytes | None) -> str:
    """Show what changes in a file as a unified diff of bounded size; null is no file.

    Takes at most about a second, whatever the files are.
    """
    head = [f"--- {'/dev/null' if before is None else name}", f"+++ {'/dev/null' if after is None else name}"]
    if before == after:
        return ""
    if any(name_kind(each[:HEAD]) for each in (before, after) if each):
        return "\n".join([*head, "@@ the bytes of a binary file differ @@", ""])
    lines = list(_hunks(_lines_of(before), _lines_of(after)))
    if not lines:
        lines = ["@@ the file is empty, or only its byte order mark differs @@"]
    left_out = len(lines) - MAX_DIFF_LINES
    if left_out > 0:
        lines = [*lines[:MAX_DIFF_LINES], f"@@ {left_out} more lines of this diff are left out @@"]
    return "\n".join([*head, *lines, ""])


def _lines_of(data: bytes | None) -> list[str]:
    return split_lines(decode(data or b"").body)


def _hunks(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    for group in _groups(old, new):
        first, last = group[0], group[-1]
        yield f"@@ -{_span(first[1], last[2])} +{_span(first[3], last[4])} @@"
        for kind, old_from, old_to, new_from, new_to in group:
            if kind == "equal":
                yield from _marked(" ", old[old_from:old_to])
            else:
                yield from _marked("-", old[old_from:old_to])
                yield from _marked("+", new[new_from:new_to])


def _groups(old: Sequence[str], new: Sequence[str]) -> Iterator[list[_Opcode]]:
    """Find what differs, in groups with the context around each."""
    group: list[_Opcode] = []
    for kind, old_from, old_to, new_from, new_to in _opcodes(old, new):
        size = old_to - old_from
        if kind != "equal" or size <= 2 * CONTEXT:
            group.append((kind, old_from, old_to, new_from, new_to))
            continue
        if any(each[0] != "equal" for each in group):
            yield [*group, (kind, old_from, old_from + CONTEXT, new_from, new_from + CONTEXT)]
        group = [(kind, old_to - CONTEXT, old_to, new_to - CONTEXT, new_to)]
    if any(each[0] != "equal" for each in group):
        yield group


def _opcodes(old: Sequence[str], new: Sequence[str]) -> Iterator[_Opcode]:
    """Find what differs; only what is between the first and the last difference is searched."""
    most = min(len(old), len(new))
    head = next((at for at in range(most) if old[at] != new[at]), most)
    tail = next((at for at in range(most - head) if old[-1 - at] != new[-1 - at]), most - head)
    start, end = min(head, CONTEXT), min(tail, CONTEXT)
    old_end, new_end = len(old) - tail, len(new) - tail
    yield ("equal", head - start, head, head - start, head)
    if max(old_end, new_end) - head > MAX_COMPARED:
        yield ("replace", head, old_end, head, new_end)
    else:
        matcher = SequenceMatcher(None, old[head:old_end], new[head:new_end], autojunk=False)
        for kind, a, b, c, d in matcher.get_opcodes():
            yield (kind, a + head, b + head, c + head, d + head)
    yield ("equal", old_end, old_end + end, new_end, new_end + end)


def _span(start: int, end: int) -> str:
    count = end - start
    return f"{start + 1 if count else start},{count}"


def _marked(mark: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield mark + shorten(printable(line.removesuffix("\n")), MAX_DIFF_LINE)
        if not line.endswith("\n"):
            yield "\\ No newline at end of file"
