"""Long outputs of a session's calls as files, which its model reads by range. Bounded for each and in all."""

from __future__ import annotations

import codecs
import os
import re
from contextlib import suppress
from itertools import count
from pathlib import Path
from shutil import rmtree
from typing import BinaryIO

import structlog
import trio
from structlog.typing import FilteringBoundLogger

from crabd.masking import Masker
from crabd.tools.threads import change

MAX_FILE = 16 * 1024 * 1024
# What one session may have; beyond, its oldest go.
MAX_SESSION = 16 * MAX_FILE
_SESSION = re.compile(r"[a-z0-9_-]{1,255}")
_ODD = re.compile(r"[^A-Za-z0-9_-]+")

log: FilteringBoundLogger = structlog.get_logger()


class Output:
    """A file for an output that comes in pieces; what is no secret arrives as it is, be it text or not."""

    def __init__(self, file: BinaryIO, masker: Masker) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._stream = masker.open_stream()

    @property
    def name(self) -> str:
        """Its path."""
        return self._file.name

    def write(self, data: bytes) -> None:
        """Write the next piece, but for a last word of which it is not known yet what it becomes.

        Raises:
          OSError.
        """
        self._put(self._stream.feed(self._decoder.decode(data)))

    def close(self) -> None:
        """Write what was held back.

        Raises:
          OSError: that could not be written; it is closed all the same.
        """
        with self._file:
            self._put(self._stream.feed(self._decoder.decode(b"", final=True)) + self._stream.close())

    def _put(self, text: str) -> None:
        self._file.write(text.encode("utf-8", "surrogateescape"))
        self._file.flush()


class Artifacts:
    """Keeps files in a directory for each session below ``root``; what is needed is made, for us alone.

    They have no secrets in them that the ``masker`` knows.
    """

    def __init__(
        self, root: Path, masker: Masker, *, max_file: int = MAX_FILE, max_session: int = MAX_SESSION
    ) -> None:
        self._root = root
        self._masker = masker
        self._max_file = max_file
        self._max_session = max_session
        self._turn = trio.Lock()

    def directory(self, session: str) -> str:
        """Name the directory of a session, be it there or not."""
        if not _SESSION.fullmatch(session):
            raise ValueError(f"{session!r} is no session's id")
        return str(self._root / session)

    async def keep(self, session: str, call: str, text: str) -> str:
        """Keep the whole output of a call, up to a bound that it then tells; returns the file's path.

        Raises:
          OSError: there is no room.
        """
        async with self._turn:
            return await change(self._keep, session, call, text)

    def open(self, session: str, call: str) -> Output:
        """Make a file for an output that is still coming, from a thread; who opens closes, and bounds it.

        Raises:
          OSError.
        """
        file = self._create(session, call)
        # Another thread may have made room meanwhile.
        with suppress(FileNotFoundError):
            self._make_room(Path(file.name), self._max_file)
        return Output(file, self._masker)

    def _create(self, session: str, call: str) -> BinaryIO:
        directory = Path(self.directory(session))
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        # The id of a call is a provider's, and so any text.
        name = _ODD.sub("_", call)[:80] or "call"
        for number in count(1):
            path = directory / (f"{name}-{number}.txt" if number > 1 else f"{name}.txt")
            with suppress(FileExistsError):
                # As text of the path, for that is the name that the file tells.
                return open(str(path), "xb", opener=_open_private)
        raise AssertionError("there is always another number")

    async def drop(self, session: str) -> None:
        """Forget a session's. Never raises."""
        async with self._turn:
            await change(_drop, self.directory(session))

    def _keep(self, session: str, call: str, text: str) -> str:
        data = self._masker.mask(text).encode("utf-8", "replace")
        left_out = len(data) - self._max_file
        if left_out > 0:
            data = data[: self._max_file] + f"\n({left_out:,} more bytes were not kept)\n".encode()
        with self._create(session, call) as file:
            self._make_room(Path(file.name), len(data))
            try:
                file.write(data)
                file.flush()
            except OSError:
                Path(file.name).unlink(missing_ok=True)
                raise
            return file.name

    def _make_room(self, made: Path, size: int) -> None:
        files = sorted(made.parent.iterdir(), key=lambda each: each.stat().st_mtime_ns)
        total = sum(each.stat().st_size for each in files) + size
        for each in files:
            if total <= self._max_session:
                break
            if each != made:
                total -= each.stat().st_size
                each.unlink()


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _drop(directory: str) -> None:
    try:
        with suppress(FileNotFoundError):
            rmtree(directory)
    except OSError as exc:
        log.warning("artifacts_not_dropped", directory=directory, problem=exc.strerror)
