"""Where repairs put what is damaged or does not belong: moved or copied there, never written over.

    <root>/quarantine/<moment>-<name>

Every call here blocks, so it runs in a thread.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from crabd.messages import utc_now
from crabd.store.disk import TEMP_PREFIX, make_dir, sync_dir

QUARANTINE = "quarantine"


class Quarantine:
    """The quarantine of a store's root; its directory is made when something comes."""

    def __init__(self, root: Path) -> None:
        self.path = root / QUARANTINE

    def describe(self) -> str:
        """Say how much is here, to go on with a sentence; empty if there is nothing."""
        try:
            count = len(list(self.path.iterdir()))
        except OSError:
            return ""
        return f"; what earlier repairs put aside lies in {self.path} ({count}), for you to remove"

    def move(self, path: Path, session: str = "") -> Path:
        """Move a file, a link or a directory here as it is, under the name of the session it was in, if any.

        Returns its new place, durable on return.

        Raises:
          OSError: it is where it was.
        """
        place = self._place(f"{session}-{path.name}" if session else path.name)
        path.rename(place)
        sync_dir(self.path)
        sync_dir(path.parent)
        return place

    def copy(self, path: Path) -> Path:
        """Copy a file or a directory here byte for byte, following no links; whole and durable on return.

        Raises:
          OSError: there is no copy.
        """
        place = self._place(path.name)
        making = self.path / (TEMP_PREFIX + place.name)
        if path.is_dir():
            shutil.rmtree(making, ignore_errors=True)
            shutil.copytree(path, making, symlinks=True)
        else:
            shutil.copy2(path, making, follow_symlinks=False)
        for each in (*making.rglob("*"), making):
            _sync(each)
        making.rename(place)
        sync_dir(self.path)
        return place

    def _place(self, name: str) -> Path:
        """Choose a name that nothing has; the store's lock keeps others from choosing it too."""
        if not self.path.exists():
            make_dir(self.path)
            sync_dir(self.path.parent)
        return next(place for place in _names(self.path, name) if not os.path.lexists(place))


def _names(folder: Path, name: str) -> Iterator[Path]:
    moment = f"{utc_now():%Y%m%dT%H%M%SZ}"
    # A hidden name would be overlooked, and one of 255 bytes has no room for the moment.
    plain = os.fsdecode(os.fsencode(name.lstrip("."))[:200])
    for number in count(1):
        yield folder / (f"{moment}-{plain}" if number == 1 else f"{moment}-{number}-{plain}")


def _sync(path: Path) -> None:
    if path.is_symlink():
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
