"""What files were before they were changed: kept by digest, put back, and compared with what they are now.

Each session has a directory, so that what is kept goes with it. Nothing here knows when something was kept or
why: whoever asks remembers the states.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import TypeVar, TypeVarTuple

import structlog
import trio
from structlog.typing import FilteringBoundLogger

from crabd.tools.base import FileState
from crabd.tools.files.changing import MAX_BYTES, TEMP_PREFIX, Change, apply, digest_of, load
from crabd.tools.files.paths import Refusal, show
from crabd.tools.files.text import compare
from crabd.tools.threads import change, look

# All that is kept of one session; beyond, what was kept longest ago goes.
MAX_KEPT = 64 * MAX_BYTES

log: FilteringBoundLogger = structlog.get_logger()

T = TypeVar("T")
Args = TypeVarTuple("Args")


class Checkpoints:
    """Keeps contents of files, up to a bound, in a directory for each session below ``root``.

    An ``OSError`` says in its ``strerror`` what to do. What has begun is finished.
    """

    def __init__(self, root: Path, *, max_kept: int = MAX_KEPT) -> None:
        self._root = root
        self._max_kept = max_kept
        self._turn = trio.Lock()

    async def keep(self, session: str, path: str, content: bytes | None = None) -> FileState:
        """Keep the file of a real path as it is now, or that there is none; with ``content`` that instead.

        Raises:
          OSError: it is no file, or too large, or there is no room.
        """
        async with self._turn:
            return await change(_plainly, self._keep, session, path, content)

    async def look(self, path: str) -> str | None:
        """Find the digest of a file as it is now; null if there is none.

        Raises:
          OSError: it cannot be read.
        """
        return await look(_plainly, _look, path)

    async def restore(self, session: str, path: str, state: FileState) -> None:
        """Make a file again what was kept, or remove it if there was none.

        Raises:
          OSError: what it was is kept no more, or it cannot be put there; the file is as it was.
        """
        async with self._turn:
            await change(_plainly, self._restore, session, path, state)

    async def compare(self, session: str, path: str, state: FileState) -> str:
        """Show as a unified diff of bounded size what a file became since; empty if it is the same.

        Raises:
          OSError: one of the two cannot be read.
        """
        return await look(_plainly, self._compare, session, path, state)

    async def drop(self, session: str) -> None:
        """Keep nothing of a session any more. Never raises."""
        async with self._turn:
            await change(self._drop, session)

    def _keep(self, session: str, path: str, content: bytes | None) -> FileState:
        on_disk, mode = load(path) or (None, None)
        content = on_disk if content is None else content
        if content is None:
            return FileState(None)
        state = FileState(digest_of(content), mode)
        place = self._place(session, digest_of(content))
        if place.exists():
            os.utime(place)
        else:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.parent.mkdir(mode=0o700, exist_ok=True)
            self._make_room(place.parent, len(content))
            temp = place.with_name(f"{TEMP_PREFIX}{place.name}")
            temp.unlink(missing_ok=True)
            with open(temp, "xb", opener=_open_private) as file:
                file.write(content)
            temp.replace(place)
        return state

    def _restore(self, session: str, path: str, state: FileState) -> None:
        content = self._load(session, state)
        before, mode = load(path) or (None, None)
        if (before, mode) != (content, state.mode):
            apply([Change(path, before, content, state.mode)])

    def _compare(self, session: str, path: str, state: FileState) -> str:
        now = load(path)
        return compare(show(path), self._load(session, state), now and now[0])

    def _load(self, session: str, state: FileState) -> bytes | None:
        if state.digest is None:
            return None
        try:
            content = self._place(session, state.digest).read_bytes()
        except FileNotFoundError:
            raise Refusal("what it was is kept no more, for much was changed since") from None
        if digest_of(content) != state.digest:
            raise Refusal("what was kept of it is damaged: check the disk")
        return content

    def _place(self, session: str, digest: str) -> Path:
        return self._root / session / digest

    def _make_room(self, directory: Path, size: int) -> None:
        files = sorted(directory.iterdir(), key=lambda each: each.stat().st_mtime_ns)
        total = sum(each.stat().st_size for each in files) + size
        for each in files:
            if total <= self._max_kept:
                break
            total -= each.stat().st_size
            each.unlink()

    def _drop(self, session: str) -> None:
        try:
            with suppress(FileNotFoundError):
                rmtree(self._root / session)
        except OSError as exc:
            log.warning("checkpoints_not_dropped", session=session, problem=exc.strerror)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _look(path: str) -> str | None:
    there = load(path)
    return there and digest_of(there[0])


def _plainly(work: Callable[[*Args], T], *args: *Args) -> T:
    """Have those who do not know this room read what is in the way."""
    try:
        return work(*args)
    except Refusal as exc:
        raise OSError(errno.EINVAL, str(exc)) from exc
