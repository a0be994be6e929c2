"""The lines of a journal: a step as JSON with a version and a checksum, and back.

A line is one flat object for ``jq``, and its last field is the checksum of all before it::

    {"v":1,"n":12,"at":"2026-01-31T08:00:00Z","record":{"type":"cleared"},"crc":"89abcdef"}

Records that were appended together also carry ``"append":[first,last]``, so that a reader can tell a write
that a crash cut short from damage to what was acknowledged. Nothing here knows where the bytes are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import count, islice
from typing import get_args
from zlib import crc32

import msgspec
from msgspec import Struct

from crabd.store.record import Record, Step
from crabd.store.seal import is_sealed, newer, seal

VERSION = 1
KNOWN_TYPES = frozenset(kind.__struct_config__.tag for kind in get_args(Record))


class Line(Struct, frozen=True, omit_defaults=True):
    """A step as it is spelled in the journal. ``append`` is null when it was appended alone."""

    v: int
    n: int
    at: datetime
    record: Record
    append: tuple[int, int] | None = None


class BadLine(Exception):
    """A line that cannot be believed. ``is_sealed`` says that its checksum holds: it is as it was written."""

    def __init__(self, problem: str, *, is_sealed: bool) -> None:
        super().__init__(problem)
        self.problem = problem
        self.is_sealed = is_sealed


class Place(Struct, frozen=True, omit_defaults=True):
    """Where in a journal a step begins, and the CRC-32 of all before it. The default is the start."""

    step: int = 1
    offset: int = 0
    checksum: int = 0


class Scan(Struct, frozen=True):
    """What a journal holds up to its end or its first problem.

    ``steps`` are the records of whole appends and fill the first ``good_length`` bytes. A problem that
    ``is_torn`` is what a write leaves when it is cut short: nothing good follows it.
    """

    steps: tuple[Step, ...]
    good_length: int
    problem: str | None = None
    is_torn: bool = False


class _Tag(Struct, frozen=True):
    type: str


class _Version(Struct, frozen=True):
    """What every line has, whatever crabd wrote it."""

    v: int


class _Outline(Struct, frozen=True):
    """What every line of this version has, whatever its record."""

    record: _Tag


_encode = msgspec.json.Encoder().encode
_decode_line = msgspec.json.Decoder(Line).decode
_decode_steps = msgspec.json.Decoder(Step).decode_lines
_decode_version = msgspec.json.Decoder(_Version).decode
_decode_outline = msgspec.json.Decoder(_Outline).decode


def encode_append(steps: Sequence[Step]) -> bytes:
    """Spell the steps of one append as whole lines, and make sure that they can be read back.

    Raises:
      ValueError: a record holds what its type does not allow, or text that is no Unicode.
    """
    append = (steps[0].n, steps[-1].n) if len(steps) > 1 else None
    return b"".join(encode_step(step, append=append) for step in steps)


def encode_step(step: Step, *, append: tuple[int, int] | None = None) -> bytes:
    """Spell one step as a line with its newline; ``append`` is the first and last of those written with it.

    Raises:
      ValueError: as ``encode_append``.
    """
    line = seal(_encode(Line(VERSION, step.n, step.at, step.record, append)))
    try:
        # Structs do not check what they are given. A wrong value must fail here, where it does no harm:
        # once it is on disk its session could never be loaded again.
        decode_line(line, step.n)
    except BadLine as bad:
        raise ValueError(f"record {step.n} cannot be kept: {bad.problem}") from bad
    return line + b"\n"


def decode_line(line: bytes, expected_n: int) -> Step:
    """Read one line, without its newline, as the step of that number.

    Raises:
      BadLine: wrong checksum or number, a newer crabd's version or record type, or no record at all.
    """
    return _to_step(_open(line), expected_n)


def scan(data: bytes) -> Scan:
    """Read a whole journal as far as it can be believed. Never raises, whatever the bytes are."""
    lines = data.split(b"\n")
    rest = lines.pop()
    steps: list[Step] = []
    offset = good_length = whole = 0
    for index, text in enumerate(lines):
        number = index + 1
        try:
            line = _open(text)
            steps.append(_to_step(line, number))
        except BadLine as bad:
            is_torn = not bad.is_sealed and _is_end(lines[index + 1 :], number)
            return Scan(
                tuple(steps[:whole]), good_length, f"record {number} at byte {offset}: {bad.problem}", is_torn
            )
        offset += len(text) + 1
        if line.append is None or line.append[1] == number:
            good_length, whole = offset, number
    if rest or whole < len(steps):
        return Scan(
            tuple(steps[:whole]), good_length, f"the last write, at byte {good_length}, is cut short", True
        )
    return Scan(tuple(steps), good_length)


def read_some(lines: Iterable[bytes], after: int, upto: int | None) -> tuple[Step, ...]:
    """Read the steps numbered above ``after``, up to ``upto`` or to the end; of the others nothing is seen.

    ``lines`` are those of a whole journal, with their newlines.

    Raises:
      BadLine: as ``decode_line``; the problem says which line it is.
    """
    steps: list[Step] = []
    for n, line in zip(count(after + 1), islice(lines, after, upto), strict=False):
        try:
            steps.append(decode_line(line.removesuffix(b"\n"), n))
        except BadLine as bad:
            raise BadLine(f"record {n}: {bad.problem}", is_sealed=bad.is_sealed) from bad
    return tuple(steps)


def find_place(data: bytes, start: Place, step: int) -> Place:
    """Find where a step begins, from an earlier or the same place on; ``data`` is what is there and behind.

    Raises:
      ValueError: there are not so many lines.
    """
    length = 0
    for _ in range(step - start.step):
        length = data.index(b"\n", length) + 1
    return Place(step, start.offset + length, crc32(memoryview(data)[:length], start.checksum))


def read_trusted(data: bytes) -> tuple[Step, ...]:
    """Read a journal whose bytes are known to be as ``encode_append`` spelled them; nothing else is checked.

    Raises:
      msgspec.DecodeError: a newer crabd spelled them.
    """
    return tuple(_decode_steps(data))


def is_newer(text: bytes) -> bool:
    """Tell whether a line is as it was written, and in a way that only a newer crabd can read."""
    if not is_sealed(text):
        return False
    try:
        is_known = _decode_outline(text).record.type in KNOWN_TYPES
        return _decode_version(text).v != VERSION or not is_known
    except msgspec.DecodeError:
        return False


def _open(text: bytes) -> Line:
    if not is_sealed(text):
        raise BadLine("its checksum does not match", is_sealed=False)
    try:
        line = _decode_line(text)
    except msgspec.DecodeError as exc:
        raise BadLine(_explain(text, exc), is_sealed=True) from exc
    if line.v != VERSION:
        raise BadLine(newer(f"format {line.v}"), is_sealed=True)
    return line


def _to_step(line: Line, expected_n: int) -> Step:
    if line.n != expected_n:
        raise BadLine(f"its number is {line.n}, not {expected_n}", is_sealed=True)
    return Step(line.n, line.at, line.record)


def _explain(text: bytes, exc: msgspec.DecodeError) -> str:
    try:
        version = _decode_version(text).v
        if version != VERSION:
            return newer(f"format {version}")
        kind = _decode_outline(text).record.type
    except msgspec.DecodeError:
        return f"it is no record: {exc}"
    if kind not in KNOWN_TYPES:
        return newer(f"record type {kind!r}")
    return f"it is no valid record: {exc}"


def _is_end(later: list[bytes], number: int) -> bool:
    """Tell whether all good lines after the bad one of that number were being written together with it.

    The blocks of one long write reach the disk in any order, so its end may be there without its beginning.
    """
    return all(_is_part(text, number) for text in later if is_sealed(text))


def _is_part(text: bytes, number: int) -> bool:
    try:
        line = _open(text)
    except BadLine:
        return False
    return line.append is not None and line.append[0] <= number <= line.append[1]
