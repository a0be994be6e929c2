"""Files of another program, read with a bound, and the sessions and summaries that crabtalk keeps in them.

Nothing here writes, or follows a symbolic link. Every call blocks, so it runs in a thread.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BufferedReader
from itertools import pairwise
from pathlib import Path

from msgspec import Struct, structs

from crabd.messages import clean_text, utc_now
from crabd.store.base import Reading, Skipped
from crabd.store.disk import open_file
from crabd.store.porting.assembly import Found, assemble
from crabd.store.porting.crabtalk import BadDocument, Meta, read_line, read_meta, read_time
from crabd.store.porting.memory import read_memory, read_page
from crabd.store.record import Created, Source

# One message is at most 16 MiB on our wire; the rest is for what JSON makes of it.
MAX_DOCUMENT = 32 * 1024 * 1024
# What one session, or a memory, may take while it is being read.
MAX_SESSION = 256 * 1024 * 1024
MAX_NAME = 256
# Six digits with zeros in front; above a million there are more, and none in front.
_STEP = re.compile(r"step-([0-9]{6}|[1-9][0-9]{6,15})")


class TooMuch(Exception):
    """More than is read. It says how much that is."""


class Document(Struct, frozen=True):
    """The bytes at a place, and when that was written last."""

    where: str
    data: bytes
    written_at: datetime


class Session(Struct, frozen=True, kw_only=True):
    """A session as it was found: in a place, under a name that stays when its title changes."""

    place: str
    name: str
    meta: Meta
    documents: Sequence[Document]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()
    created_at: datetime | None
    last_write: datetime | None


def shown(path: Path | str) -> str:
    """Spell a path for people and for the wire, whatever bytes it is made of."""
    return clean_text(str(path))


def has_steps(place: Path) -> bool:
    """Tell whether a directory is one session, though it may lack a part."""
    if os.path.lexists(place / "meta"):
        return True
    with os.scandir(place) as entries:
        return any(entry.name.startswith("step-") for entry in entries)


def read_steps(place: Path, archives: Mapping[str, str]) -> Reading:
    """Read a session that is a directory: its meta, and a file for each step.

    Raises:
      OSError, TooMuch: a part of it cannot be read.
      BadDocument: it has no meta.
    """
    numbered, skipped = _list_steps(place)
    try:
        meta, strange = read_meta(load(place / "meta").data)
    except FileNotFoundError:
        raise BadDocument("its meta is missing, so nobody knows whose it is") from None
    except BadDocument as exc:
        raise BadDocument(f"its meta: {exc}") from exc
    documents = _load_steps(place, numbered, skipped)
    began, updated = read_time(meta.created_at), read_time(meta.updated_at)
    session = Session(
        place=shown(place),
        name=place.name,
        meta=meta,
        documents=documents,
        skipped=(*skipped, *_misfits(strange)),
        notes=tuple(_gaps(sorted(numbered))),
        # The older form has the time of the last write where the newer one has that of the first.
        created_at=began if updated else None,
        last_write=updated or began,
    )
    return _read(session, archives)


def read_lines(place: Path, first: bytes, lines: Iterable[bytes], archives: Mapping[str, str]) -> Reading:
    """Read a session that is one file: its meta is the ``first`` line, and the others are the rest.

    Raises:
      OSError, TooMuch: it cannot be read.
      BadDocument: it has no meta.
    """
    meta, strange = read_meta(first)
    written_at = _written_at(place.lstat())
    name, title, began = _parse_name(place.stem, meta)
    told = read_time(meta.created_at)
    session = Session(
        place=shown(place),
        name=name,
        meta=meta if meta.title else structs.replace(meta, title=title),
        documents=[
            Document(f"line {number}", line, written_at)
            for number, line in enumerate(within_bounds(lines), 2)
            if line.strip()
        ],
        skipped=tuple(_misfits(strange)),
        # With its beginning in its name it is of the form whose meta is written anew each time.
        created_at=began or told,
        last_write=told if began else written_at,
    )
    return _read(session, archives)


def load_archives(place: Path) -> dict[str, str]:
    """Read the summaries by name, from a memory file or from the tree of a dump.

    Raises:
      OSError, TooMuch, BadMemory.
    """
    if not place.is_dir():
        return read_memory(load(place, MAX_SESSION).data)
    tree = place / "archives" if (place / "archives").is_dir() else place
    with os.scandir(tree) as entries:
        pages = [each.name for each in entries if each.name.endswith(".md") and each.is_file()]
    return {
        name.removesuffix(".md"): read_page(load(tree / name).data.decode("utf-8", "replace"))
        for name in pages
    }


def load(path: Path, limit: int = MAX_DOCUMENT) -> Document:
    """Read a file whole.

    Raises:
      OSError: it is missing, a link, or no file.
      TooMuch: it is longer than ``limit`` bytes.
    """
    with os.fdopen(open_file(path, os.O_RDONLY), "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        data = file.read(limit + 1) if found.st_size <= limit else None
        if data is None or len(data) > limit:
            raise TooMuch(f"it is longer than {limit >> 20} MiB")
        return Document(path.name, data, _written_at(found))


@contextmanager
def open_lines(path: Path) -> Generator[Iterator[bytes]]:
    """Give a file's lines without their newlines, as they are asked for.

    Raises:
      OSError: as ``load``.
      TooMuch: a line is longer than any document.
    """
    with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
        yield _split(file)


def within_bounds(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Pass the lines of a session on.

    Raises:
      TooMuch: all together they are longer than a session may be.
    """
    room = MAX_SESSION
    for line in lines:
        room -= len(line)
        if room < 0:
            raise TooMuch(f"it has more than {MAX_SESSION >> 20} MiB")
        yield line


def _split(file: BufferedReader) -> Iterator[bytes]:
    while line := file.readline(MAX_DOCUMENT + 1):
        if len(line) > MAX_DOCUMENT:
            raise TooMuch(f"it has a line of more than {MAX_DOCUMENT >> 20} MiB")
        yield line.removesuffix(b"\n")


def _list_steps(place: Path) -> tuple[dict[int, str], list[Skipped]]:
    """Find the files of steps, by number, and say of all else why it is none."""
    numbered: dict[int, str] = {}
    skipped: list[Skipped] = []
    with os.scandir(place) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            number = _STEP.fullmatch(entry.name)
            if entry.is_symlink():
                skipped.append(Skipped(shown(entry.name), "it is a symbolic link, which is not followed"))
            elif number and entry.is_file():
                numbered[int(number[1])] = entry.name
            elif entry.name != "meta":
                skipped.append(Skipped(shown(entry.name), "its name is not that of a step"))
    return numbered, skipped


def _load_steps(place: Path, numbered: Mapping[int, str], skipped: list[Skipped]) -> list[Document]:
    documents: list[Document] = []
    room = MAX_SESSION
    for number in sorted(numbered):
        try:
            documents.append(load(place / numbered[number]))
        except TooMuch as exc:
            skipped.append(Skipped(numbered[number], str(exc)))
            continue
        room -= len(documents[-1].data)
        if room < 0:
            raise TooMuch(f"it has more than {MAX_SESSION >> 20} MiB")
    return documents


def _gaps(numbers: list[int]) -> Iterator[str]:
    """Tell which numbers are not there; a write that failed has left such a gap, and so may a lost file."""
    for before, after in pairwise([0, *numbers]):
        if after > before + 1:
            missing = f"{before + 1} to {after - 1}" if after > before + 2 else f"{before + 1}"
            yield f"there is no step {missing}"


def _misfits(keys: Iterable[str]) -> Iterator[Skipped]:
    for key in keys:
        yield Skipped("meta", f"its key {key!r} has no place here")


def _parse_name(stem: str, meta: Meta) -> tuple[str, str, datetime | None]:
    """Find what stays of a file's name, its title, and the moment of its beginning, in either old form."""
    rest = stem.removeprefix(f"{meta.agent}_")
    if found := re.fullmatch(rf"({re.escape(_slug(meta.created_by))}_[0-9]+)(?:_(.+))?", rest):
        return f"{meta.agent}_{found[1]}", (found[2] or "").replace("-", " "), None
    if found := re.fullmatch(r"([0-9]{9,11})_.+", rest):
        return stem, "", datetime.fromtimestamp(int(found[1]), UTC)
    return stem, "", None


def _slug(name: str) -> str:
    """Spell a name as crabtalk does in a file's: letters of ASCII small, other letters as they are."""
    kept = "".join(char if char.isalnum() or char == "-" else "-" for char in name)
    small = "".join(char.lower() if char.isascii() else char for char in kept)
    return "-".join(filter(None, small.split("-")))


def _written_at(found: os.stat_result) -> datetime:
    try:
        return datetime.fromtimestamp(found.st_mtime, UTC)
    except (OverflowError, ValueError):
        # A file system may tell of no year that there is.
        return utc_now()


def _read(session: Session, archives: Mapping[str, str]) -> Reading:
    meta = session.meta
    for name in (meta.agent, meta.created_by):
        if len(name) > MAX_NAME:
            raise BadDocument(f"its meta has a name of more than {MAX_NAME} characters")
    if not meta.agent:
        raise BadDocument("its meta names no agent")
    found, skipped = _decode(session.documents)
    created = Created(
        session=session.name,
        agent=meta.agent,
        # Which is whom crabtalk itself means by nobody.
        sender=meta.created_by or "user",
        topic=meta.topic or None,
        source=_fingerprint(session),
    )
    made = assemble(
        meta,
        found,
        archives,
        created=created,
        created_at=session.created_at,
        last_write=session.last_write or utc_now(),
    )
    return Reading(
        place=session.place,
        steps=made.steps,
        skipped=(*session.skipped, *skipped, *made.skipped),
        notes=(*session.notes, *made.notes),
    )


def _decode(documents: Iterable[Document]) -> tuple[list[Found], list[Skipped]]:
    found: list[Found] = []
    skipped: list[Skipped] = []
    for document in documents:
        try:
            found.append(Found(document.where, read_line(document.data), document.written_at))
        except BadDocument as exc:
            skipped.append(Skipped(document.where, str(exc)))
    return found, skipped


def _fingerprint(session: Session) -> Source:
    """Make what a session is known by when it is read again: its names and how it began, and all of it."""
    first = session.documents[0].data if session.documents else b""
    names = "\0".join((session.name, session.meta.agent, session.meta.created_by))
    key, whole = hashlib.sha256(names.encode() + first), hashlib.sha256()
    for document in session.documents:
        whole.update(len(document.data).to_bytes(8) + document.data)
    return Source(shown(session.name), key.hexdigest()[:16], whole.hexdigest()[:16])
