"""What a person trusts: instructions files by path and digest, kept in one small file of the state directory.

A file that was changed is a stranger's again. Everything that blocks goes through a thread from here.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog
import trio
from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from crabd.errors import StoreError
from crabd.runtime.instructions import NAMES, Found, Instructions, compose, places

FILE = "trust.json"
VERSION = 1
# Instructions are read by people; a file above this is something else.
MAX_BYTES = 1 << 20

log: FilteringBoundLogger = structlog.get_logger()


class _Saved(Struct, frozen=True):
    v: int
    files: dict[str, str]


class Trust:
    """The instructions files of a person and of the directories, and which of the latter may be told.

    ``config`` is the directory of the person's own, ``state`` that of what is trusted.
    """

    def __init__(self, config: Path, state: Path) -> None:
        self._config = config
        self._file = state / FILE
        self._turn = trio.Lock()

    async def read(self, directory: str | None) -> Instructions:
        """Read what a model is told in a directory. What cannot be read is left out, and in the log."""
        return await trio.to_thread.run_sync(self._read, directory)

    async def trusted(self) -> tuple[str, ...]:
        """List the files that are trusted, be they changed or gone by now.

        Raises:
          StoreError.
        """
        return tuple(sorted(await trio.to_thread.run_sync(self._load)))

    async def add(self, directory: str) -> tuple[str, ...]:
        """Trust the files that are told in a directory, as they are now; returns their paths.

        Raises:
          StoreError.
        """
        async with self._turn:
            return await trio.to_thread.run_sync(self._add, directory)

    async def remove(self, directory: str) -> tuple[str, ...]:
        """Trust the files in a directory, and below it, no more; returns their paths.

        Raises:
          StoreError.
        """
        async with self._turn:
            return await trio.to_thread.run_sync(self._remove, directory)

    def _read(self, directory: str | None) -> Instructions:
        own = _read_files(str(self._config / name) for name in NAMES)
        found = _read_files(path for path in places(directory) if Path(path).parent != self._config)
        try:
            trusted = self._load() if found else {}
        except StoreError as exc:
            log.warning("trust_not_read", problem=str(exc))
            trusted = {}
        return compose(own, found, trusted)

    def _add(self, directory: str) -> tuple[str, ...]:
        found = _read_files(places(directory))
        if found:
            self._save(self._load() | {each.path: each.digest for each in found})
        return tuple(each.path for each in found)

    def _remove(self, directory: str) -> tuple[str, ...]:
        known = self._load()
        gone = tuple(path for path in sorted(known) if Path(path).is_relative_to(directory))
        if gone:
            self._save({path: digest for path, digest in known.items() if path not in gone})
        return gone

    def _load(self) -> dict[str, str]:
        try:
            saved = msgspec.json.decode(self._file.read_bytes(), type=_Saved)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise StoreError("damaged", f"{self._file}: {exc}: remove it, then trust anew") from exc
        if saved.v != VERSION:
            raise StoreError("io", f"{self._file}: a newer crabd wrote it: start that one")
        return saved.files

    def _save(self, files: dict[str, str]) -> None:
        made = self._file.with_suffix(".tmp")
        try:
            with open(made, "wb", opener=_open_private) as out:
                out.write(msgspec.json.encode(_Saved(VERSION, files)))
                out.flush()
                os.fsync(out.fileno())
            made.replace(self._file)
        except OSError as exc:
            raise StoreError("io", f"{self._file}: {exc.strerror}: mend that, then trust again") from exc


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _read_files(paths: Iterable[str]) -> tuple[Found, ...]:
    found: list[Found] = []
    for path in paths:
        try:
            found.append(Found(path, _read_file(path)))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as exc:
            log.warning("instructions_left_out", file=path, problem=exc.strerror)
    return tuple(found)


def _read_file(path: str) -> bytes:
    # Not blocking, lest a pipe of that name hold the run up.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if status.st_size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"it has more than {MAX_BYTES} bytes")
        return os.read(descriptor, MAX_BYTES)
    finally:
        os.close(descriptor)
