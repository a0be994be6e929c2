"""The tool that reads a file by its lines, however long it or they may be."""

from __future__ import annotations

import io
import os
from functools import partial
from time import sleep
from typing import Annotated, Any, BinaryIO

import trio
from msgspec import Meta, Struct

from crabd.tools.base import Intent, PreparedCall, Tool, ToolContext, ToolOutcome, ToolSpec
from crabd.tools.files.buffers import open_buffers
from crabd.tools.files.changing import MAX_BYTES, Known, digest_of
from crabd.tools.files.paths import Refusal, brief, is_within, open_file, resolve, show
from crabd.tools.files.text import BOM, HEAD, name_kind
from crabd.tools.threads import attempt, look
from crabd.tools.turns import Turns
from crabd.tools.typed import Arguments, Call, read_arguments, schema_of

MAX_LINES = 2000
# Characters of a line; UTF-8 has at most four bytes for one.
MAX_LINE = 2000
MAX_LINE_BYTES = 4 * MAX_LINE
# Characters of all lines together: what a model reads without another cutting it.
MAX_OUTPUT = 28_000
NOT_SAVED = "(this is how the person's editor has it; commands and grep see it as it was saved last)"
TORN = (
    "(this is how the person's editor has it, not saved yet; the disk has other changes, which are lost if "
    "this is edited: ask the person which of them count)"
)
PIECE = 1024 * 1024
# In seconds: between pieces the event loop gets its turn for certain. It may wait long for it when the thread
# lets go only for as long as a read takes.
PAUSE = 0.0001


class ReadArguments(Arguments, frozen=True, kw_only=True):
    path: Annotated[str, Meta(description="The file, absolute or from the session's directory.")]
    offset: Annotated[int, Meta(ge=1, description="The first line, counted from 1.")] = 1
    limit: Annotated[int, Meta(ge=1, le=MAX_LINES, description="How many lines.")] = MAX_LINES


READ = ToolSpec(
    "read",
    f"Read a text file: each line comes with its number and a tab. Up to {MAX_LINES} lines at a time; long "
    "lines are shortened. A file has to be read before it is edited.",
    schema_of(ReadArguments),
    is_read_only=True,
    is_idempotent=True,
)


class Page(Struct, frozen=True):
    """Lines of a file, and the digest of all of it; null if it is too large to be edited."""

    text: str
    digest: str | None


class Read(Tool):
    """Reads a file. ``artifacts`` is the directory of the session's own, which are nobody else's to allow."""

    def __init__(self, known: Known, artifacts: str, turns: Turns) -> None:
        self._known = known
        self._artifacts = artifacts
        self._turns = turns

    @property
    def spec(self) -> ToolSpec:
        return READ

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        wanted = read_arguments(ReadArguments, arguments)
        path, artifacts = await look(_resolve, wanted.path, context.cwd, self._artifacts)
        reads = () if is_within(path, artifacts) else (path,)
        intent = Intent(title=f"read {brief(path, context.cwd)}", reads=reads)
        return Call(intent, partial(attempt, partial(self._read, path, wanted, context)))

    async def _read(self, path: str, wanted: ReadArguments, context: ToolContext) -> ToolOutcome:
        async with open_buffers(context, self._turns, self._known, [path]) as buffers:
            unsaved, note = buffers.unsaved(path), TORN if buffers.is_torn(path) else NOT_SAVED
            buffers.remember(path)
        if unsaved is None:
            page = await look(read_page, path, wanted.offset, wanted.limit)
        else:
            page = await look(show_page, path, unsaved, wanted.offset, wanted.limit)
        self._known.note(path, page.digest)
        return ToolOutcome(page.text if unsaved is None else f"{page.text}\n{note}")


def read_page(path: str, offset: int, limit: int) -> Page:
    """Read lines of a file of a real path, from a thread; memory is bounded, whatever the file.

    Raises:
      OSError.
      Refusal: it is no text, or has no such lines.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(MAX_BYTES) if size <= MAX_BYTES else file.read(HEAD)
        if kind := name_kind(content[:HEAD]):
            raise Refusal(f"{show(path)} is {kind} of {size:,} bytes: look into it with bash")
        if size <= MAX_BYTES:
            return show_page(path, content, offset, limit)
        return Page(_read_lines(file, show(path), offset, limit), None)


def show_page(path: str, content: bytes, offset: int, limit: int) -> Page:
    """Show lines of a content that is text.

    Raises:
      Refusal: it has no such lines.
    """
    if not content:
        return Page(f"({show(path)} is empty)", digest_of(content))
    return Page(_read_lines(io.BytesIO(content), show(path), offset, limit), digest_of(content))


def _resolve(path: str, cwd: str | None, artifacts: str) -> tuple[str, str]:
    return resolve(path, cwd), os.path.realpath(artifacts)


def _read_lines(file: BinaryIO, name: str, offset: int, limit: int) -> str:
    lines: list[str] = []
    room = MAX_OUTPUT
    _skip(file, offset - 1, name)
    while len(lines) < limit and room > 0 and (line := _read_line(file)):
        lines.append(f"{offset + len(lines)}\t{line[:-1]}")
        room -= len(line)
    following = offset + len(lines)
    if not lines:
        raise Refusal(f"{name} has {offset - 1:,} lines: read it from a lower offset")
    if file.read(1):
        lines.append(f"(more lines follow: read on with offset {following})")
    return "\n".join(lines)


def _skip(file: BinaryIO, count: int, name: str) -> None:
    """Go to behind so many lines, and a byte order mark."""
    file.seek(0)
    if not count and file.read(len(BOM)) != BOM:
        file.seek(0)
    passed = 0
    while passed < count:
        _give_way()
        start = file.tell()
        piece = file.read(PIECE)
        if not piece:
            raise Refusal(f"{name} has {passed:,} lines: read it from a lower offset")
        found = piece.count(b"\n")
        if passed + found >= count:
            at = -1
            for _ in range(count - passed):
                at = piece.index(b"\n", at + 1)
            file.seek(start + at + 1)
            return
        passed += found


def _read_line(file: BinaryIO) -> str:
    """Read one line, as much of it as is shown, with a newline whatever its end; empty at the end."""
    data = file.readline(MAX_LINE_BYTES)
    if not data:
        return ""
    left_out = 0
    end = data
    while not end.endswith(b"\n") and (end := file.readline(PIECE)):
        _give_way()
        left_out += len(end.rstrip(b"\r\n"))
    text = data.rstrip(b"\r\n").decode("utf-8", "replace")
    left_out += len(text[MAX_LINE:].encode())
    return text[:MAX_LINE] + (f"… ({left_out:,} more bytes)" if left_out else "") + "\n"


def _give_way() -> None:
    """Let others run between two pieces of a file, and end here if nobody wants it any more."""
    trio.from_thread.check_cancelled()
    sleep(PAUSE)
