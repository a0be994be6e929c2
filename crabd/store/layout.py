"""How a backend keeps a session in its directory: the part in which the stores on disk differ.

What they share is in ``root``, the directory of them all, and in ``ondisk``, which awaits. Every call here
blocks, so it runs in a thread; none of them knows of another session.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Protocol

from msgspec import Struct

from crabd.errors import StoreError
from crabd.store.base import Partial
from crabd.store.meta import SessionMeta
from crabd.store.record import Step

ADVICE = "it was left as it is; crabctl doctor tells what can be kept of it"


class Found(Struct, frozen=True):
    """A session as it is on the disk. With a ``problem`` it cannot be loaded; ``notes`` tell what was cut.

    ``meta`` is what its log adds up to, or a guess if that cannot be read.
    """

    meta: SessionMeta | None
    problem: str | None = None
    notes: tuple[str, ...] = ()


class SessionFiles(Protocol):
    """The files of one session, open for appending. Not for two threads at once; whoever opens closes."""

    @property
    def size(self) -> int:
        """How many bytes the acknowledged records take, about."""
        ...

    @property
    def checksum(self) -> int:
        """The CRC-32 of these bytes; 0 where nobody keeps one."""
        ...

    def append(self, steps: Sequence[Step]) -> None:
        """Put steps behind the acknowledged ones, all or none; they are on the disk on return.

        Raises:
          OSError, StoreError: none of them count, and the next append starts where this one did.
          ValueError: one of them cannot be kept; nothing was written.
        """
        ...

    def save_meta(self, meta: SessionMeta) -> None:
        """Write what the steps add up to. It vouches for them, so they must be in no doubt.

        Raises:
          OSError, StoreError: the old one is still there.
        """
        ...

    def close(self) -> None:
        """Give the files back. What counts is on the disk, so an error has nothing to tell."""
        ...


class Opened(Struct, frozen=True):
    """A session's finding; its files, open, and what is needed of its steps, unless it has a problem."""

    found: Found
    files: SessionFiles | None = None
    steps: tuple[Step, ...] = ()
    partial: Partial | None = None
    goal: Step | None = None


class Layout(Protocol):
    """A backend's way with a session's directory, which the root has made and moves about."""

    # What the setting ``store`` calls the backend.
    name: ClassVar[str]

    def read_catalogue(self, root: Path) -> None:
        """Read what ``save_catalogue`` has left, if anything, for the calls of ``recall`` to come."""
        ...

    def recall(self, home: os.DirEntry[str]) -> Found | None:
        """Tell what a directory holds without looking into it; null if that is not known."""
        ...

    def save_catalogue(self, root: Path, sessions: Path) -> None:
        """Write down what spares the next start the reading of every session, if that is worth while.

        Raises:
          OSError: what was written before is still there.
        """
        ...

    def examine(self, home: Path) -> Found:
        """Find out what a directory holds, and mend what a crash has left there.

        Raises:
          OSError: the disk fails, or a name that should be a file is none.
        """
        ...

    def fill(self, home: Path, steps: Sequence[Step]) -> None:
        """Write a whole log into a new directory; it is on the disk once that directory is synced.

        Raises:
          OSError: some of it may be there.
          ValueError: a step cannot be kept.
        """
        ...

    def open(self, home: Path, steps: Sequence[Step]) -> SessionFiles:
        """Open the files of a session that was just filled with its steps.

        Raises:
          OSError: the disk fails.
        """
        ...

    def load(self, home: Path) -> Opened:
        """Open a session's files and read what is needed to go on with it.

        Raises:
          OSError: the disk fails.
        """
        ...

    def read(self, home: Path, after: int, upto: int | None) -> tuple[Step, ...]:
        """Read the steps above ``after``, up to ``upto`` or to the end.

        Raises:
          OSError: the disk fails.
          StoreError: ``damaged``.
        """
        ...


def other_store(home: Path, name: str) -> StoreError:
    """Make the refusal of a directory that the store of that name has written."""
    advice = f"set store = {name!r} again; to change over, export all sessions before, and import them then"
    return StoreError("io", f"{home} was not written by the configured store: {advice}")


def guess_meta(home: Path) -> SessionMeta:
    """Make up what a session is called by, where all that can be read of it is its directory's name.

    Raises:
      OSError: the disk fails.
    """
    agent, sender, _ = home.name.split("_")
    at = datetime.fromtimestamp(home.stat().st_mtime, UTC)
    return SessionMeta(id=home.name, agent=agent, sender=sender, created_at=at, updated_at=at, steps=0)
