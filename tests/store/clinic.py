"""Stores for a doctor to look at: made sound, hurt on purpose, and compared before and after."""

from __future__ import annotations

import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

from msgspec import structs

from crabd.doctor import close_log
from crabd.store.doctor.doctor import Doctor
from crabd.store.doctor.flaws import Flaw
from crabd.store.journal.store import JournalStore
from crabd.store.ondisk import DiskStore
from crabd.store.record import Record
from crabd.store.stepfiles.store import StepStore
from tests.store.samples import a_turn

Wound: TypeAlias = Callable[[Path], None]
# What a directory holds: a file's bytes, a link's target, null for a directory; and the mode of each.
Tree: TypeAlias = dict[str, tuple[bytes | str | None, int]]

BACKENDS: dict[str, type[JournalStore] | type[StepStore]] = {"journal": JournalStore, "stepfiles": StepStore}


@asynccontextmanager
async def opened(root: Path, backend: str = "journal") -> AsyncGenerator[DiskStore]:
    store = BACKENDS[backend](root)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


async def fill(root: Path, backend: str = "journal") -> None:
    """Leave two sessions of four turns that were closed in order, and the note of one that was deleted."""
    async with opened(root, backend) as store:
        for sender in ("b", "c"):
            log = (await store.create("a", sender, topic="t", request_key=f"key {sender}")).log
            for run in ("r1", "r2", "r3", "r4"):
                await log.append(turn_of(run)[:2])
                await log.append(turn_of(run)[2:])
        await store.create("a", "b")
        await store.delete("a_b_2", request_key="key")


def turn_of(run: str) -> list[Record]:
    return [structs.replace(record, run=run) for record in a_turn(f"this is {run}")]


def examine(root: Path, *, repairs: bool = False) -> list[Flaw]:
    """Have a store looked at that nobody has open."""
    doctor = Doctor(root, close_log, repairs=repairs)
    doctor.check_root()
    for session in doctor.sessions():
        doctor.check_session(session)
    return doctor.chart.flaws


def home(root: Path, session: str = "a_b_1") -> Path:
    return root / "sessions" / session


def journal(root: Path, session: str = "a_b_1") -> Path:
    return home(root, session) / "journal.jsonl"


def tree(folder: Path) -> Tree:
    return {
        str(path.relative_to(folder)): (content_of(path), stat.S_IMODE(path.lstat().st_mode))
        for path in sorted(folder.rglob("*"))
    }


def content_of(path: Path) -> bytes | str | None:
    if path.is_symlink():
        return str(path.readlink())
    return path.read_bytes() if path.is_file() else None


def flip(line: bytes, at: int = 40) -> bytes:
    return line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :]


def lost_between(before: Tree, after: Tree) -> set[str]:
    """List the files of which the content is nowhere any more."""
    kept = {content for content, _ in after.values() if isinstance(content, bytes)}
    return {
        path
        for path, (content, _) in before.items()
        if isinstance(content, bytes) and not is_kept(content, kept)
    }


def is_kept(content: bytes, after: set[bytes]) -> bool:
    """Tell whether something is there still, or in two pieces; more may stand behind it by now."""
    beginnings = [
        content,
        *(content.removesuffix(piece) for piece in after if piece and content.endswith(piece)),
    ]
    return any(other.startswith(begin) for other in after for begin in beginnings)
