"""Our own export: a session as lines of JSON that import back to equal state. Pure.

The first line says what the file is and whose session follows; then comes a line a record, spelled and
checksummed as in a journal; the last line counts them, so that a file that was cut is told from a whole one.
Several sessions may follow each other::

    {"format":"crabd-session","v":1,"session":"crab_user_1","agent":"crab","sender":"user","created_at":"…"}
    {"v":1,"n":1,"at":"…","record":{"type":"created",…},"crc":"89abcdef"}
    {"end":"crab_user_1","steps":1}
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
from msgspec import Struct

from crabd.store.journal.line import BadLine, decode_line, encode_step
from crabd.store.record import Created, Step, check_log

FORMAT = "crabd-session"
VERSION = 1
# Far below what one message may take, also when half of its characters need an escape there.
PAGE_BYTES = 4 * 1024 * 1024


class Header(Struct, frozen=True):
    format: str
    v: int
    session: str
    agent: str
    sender: str
    created_at: datetime


class End(Struct, frozen=True):
    end: str
    steps: int


class _AnyHeader(Struct, frozen=True):
    """What the first line has, whatever crabd wrote it."""

    format: str
    v: int


class BadExport(Exception):
    """An export that is not whole. It says why."""


_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder(_AnyHeader).decode
_decode_header = msgspec.json.Decoder(Header).decode
_decode_end = msgspec.json.Decoder(End).decode


def write_page(session: str, steps: Sequence[Step], *, is_last: bool) -> tuple[str, int | None]:
    """Write some of a session's steps, as many as a page takes, and tell the step to go on from.

    The pages from step 1 on, put together, are the file. ``is_last`` says that no step follows these; when
    the last is written there is none to go on from.

    Raises:
      ValueError: a record cannot be kept, and so not be written.
    """
    lines = [_begin(session, steps[0])] if steps[0].n == 1 else []
    size = 0
    for step in steps:
        line = encode_step(step)
        size += len(line)
        # One is always taken, lest a record of any size end the export.
        if size > PAGE_BYTES and size > len(line):
            return b"".join(lines).decode(), step.n
        lines.append(line)
    if not is_last:
        return b"".join(lines).decode(), steps[-1].n + 1
    lines.append(_encode(End(session, steps[-1].n)) + b"\n")
    return b"".join(lines).decode(), None


def is_header(line: bytes) -> bool:
    """Tell whether a session begins with this line, whatever crabd wrote it."""
    try:
        return _decode_any(line).format == FORMAT
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def read_export(lines: Iterable[bytes]) -> tuple[Step, ...]:
    """Read one session, from its first line to its last, without their newlines.

    Raises:
      BadExport: it is cut, changed, or of a newer crabd.
    """
    each = iter(lines)
    session = _read_header(next(each))
    steps: list[Step] = []
    for line in each:
        if line.startswith(b'{"end"'):
            _check_end(line, session, len(steps))
            rest = sum(1 for _ in each)
            if rest:
                raise BadExport(f"{rest} lines follow its end")
            return _check(session, steps)
        try:
            steps.append(decode_line(line, len(steps) + 1))
        except BadLine as bad:
            raise BadExport(f"record {len(steps) + 1}: {bad.problem}") from bad
    raise BadExport(f"it is cut short after record {len(steps)}")


def _begin(session: str, first: Step) -> bytes:
    assert isinstance(first.record, Created), "every log begins with it"
    header = Header(FORMAT, VERSION, session, first.record.agent, first.record.sender, first.at)
    return _encode(header) + b"\n"


def _read_header(line: bytes) -> str:
    version = _decode_any(line).v
    if version != VERSION:
        raise BadExport(f"a newer crabd wrote it (format {version}) and can read it")
    try:
        return _decode_header(line).session
    except msgspec.DecodeError as exc:
        raise BadExport(f"its first line is damaged: {exc}") from exc


def _check_end(line: bytes, session: str, count: int) -> None:
    try:
        end = _decode_end(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise BadExport(f"its last line is damaged: {exc}") from exc
    if end != End(session, count):
        raise BadExport(f"{count} records of {session} end as {end.steps} of {end.end}")


def _check(session: str, steps: list[Step]) -> tuple[Step, ...]:
    try:
        first = check_log(steps)
    except ValueError as exc:
        raise BadExport(str(exc)) from exc
    if first.session != session:
        raise BadExport(f"it is the log of {first.session}")
    if any(step.at.tzinfo is None for step in steps):
        raise BadExport("a record has a time without its zone")
    return tuple(steps)
