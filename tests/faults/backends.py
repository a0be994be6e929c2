"""The stores on disk that the fault suites are run over, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from crabd.store.base import Store
from crabd.store.journal.store import JournalStore
from crabd.store.stepfiles.store import StepStore


class Backend(Struct, frozen=True):
    """How to make a store in a directory, and which files of a session's directory have its records."""

    make: Callable[[Path], Store]
    records: str


BACKENDS = {
    "journal": Backend(JournalStore, "journal.jsonl"),
    "stepfiles": Backend(StepStore, "step-*"),
}


def record_bytes(backend: str, root: Path, session: str) -> bytes:
    """Read all bytes that have a session's records, in their order."""
    home = root / "sessions" / session
    return b"".join(path.read_bytes() for path in sorted(home.glob(BACKENDS[backend].records)))
