"""What a person trusts: files of projects by path and digest, kept in one small file of the state directory.

A file that was changed is a stranger's again. Everything that blocks goes through a thread from here.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import msgspec
import structlog
import trio
from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from crabd.errors import BadRequest, StoreError, TrustStale
from crabd.events import ProjectFile
from crabd.runtime.instructions import NAMES, Found, places
from crabd.runtime.project import (
    FILES,
    FOLDER,
    FOLDERS,
    Project,
    compose_project,
    describe,
    kind_of,
)

FILE = "trust.json"
VERSION = 1
# What people write for agents is read by people; a file above this is something else.
MAX_BYTES = 1 << 20
# Whoever is to trust more than this cannot have looked at it.
MAX_FILES = 200

log: FilteringBoundLogger = structlog.get_logger()


class _Saved(Struct, frozen=True):
    v: int
    files: dict[str, str]


class Trust:
    """The files of a person and of directories that agents are to heed, and which of the latter may count.

    ``config`` is the directory of the person's own, ``state`` that of what is trusted.
    """

    def __init__(self, config: Path, state: Path) -> None:
        self._config = config
        self._file = state / FILE
        self._turn = trio.Lock()

    async def read(self, directory: str | None) -> Project:
        """Read what counts in a directory. What cannot be read is left out, and in the log."""
        return await trio.to_thread.run_sync(self._read, directory)

    async def look(self, directory: str) -> tuple[ProjectFile, ...]:
        """List the files that a directory brings along, as they are now.

        Raises:
          StoreError.
        """
        return await trio.to_thread.run_sync(self._look, directory)

    async def trusted(self) -> tuple[ProjectFile, ...]:
        """List the files that are trusted, be they changed or gone by now.

        Raises:
          StoreError.
        """
        return await trio.to_thread.run_sync(self._trusted)

    async def add(self, files: Mapping[str, str]) -> tuple[ProjectFile, ...]:
        """Trust files as they were shown: paths, each with the digest that it had.

        Raises:
          BadRequest: a file is none that a directory brings along.
          TrustStale: a file is not as it was shown; none is trusted then.
          StoreError.
        """
        async with self._turn:
            return await trio.to_thread.run_sync(self._add, files)

    async def remove(self, directory: str) -> tuple[ProjectFile, ...]:
        """Trust the files in a directory, and below it, no more; returns which.

        Raises:
          StoreError.
        """
        async with self._turn:
            return await trio.to_thread.run_sync(self._remove, directory)

    def _read(self, directory: str | None) -> Project:
        own = _read_files(str(self._config / name) for name in NAMES)
        found = self._find(directory)
        try:
            trusted = self._load() if found else {}
        except StoreError as exc:
            log.warning("trust_not_read", problem=str(exc))
            trusted = {}
        return compose_project(own, found, trusted)

    def _look(self, directory: str) -> tuple[ProjectFile, ...]:
        return describe(self._find(directory), self._load())

    def _trusted(self) -> tuple[ProjectFile, ...]:
        known = self._load()
        return _describe_all(sorted(known), known)

    def _add(self, files: Mapping[str, str]) -> tuple[ProjectFile, ...]:
        strange = [path for path in files if kind_of(path) is None]
        if strange:
            raise BadRequest("$.files", f"{strange[0]} is no file that counts in a project: trust/list")
        found = {each.path: each for each in _read_files(sorted(files))}
        stale = [path for path in sorted(files) if path not in found or found[path].digest != files[path]]
        if stale:
            raise TrustStale(tuple(stale))
        known = self._load() | dict(files)
        self._save(known)
        return describe(found.values(), known)

    def _remove(self, directory: str) -> tuple[ProjectFile, ...]:
        known = self._load()
        gone = [path for path in sorted(known) if Path(path).is_relative_to(directory)]
        if gone:
            self._save({path: digest for path, digest in known.items() if path not in gone})
        return _describe_all(gone, {})

    def _find(self, directory: str | None) -> tuple[Found, ...]:
        beside = [path for path in places(directory) if Path(path).parent != self._config]
        return _read_files((*beside, *_folder_files(directory)))

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


def _folder_files(directory: str | None) -> list[str]:
    """List the files of the nearest ``.crab`` from a directory upwards; none if there are too many."""
    if directory is None:
        return []
    folder = next(
        (f for place in (Path(directory), *Path(directory).parents) if (f := place / FOLDER).is_dir()), None
    )
    if folder is None:
        return []
    files = list(islice(_walk(folder), MAX_FILES + 1))
    if len(files) > MAX_FILES:
        log.warning("project_left_out", folder=str(folder), problem=f"it has more than {MAX_FILES} files")
        return []
    return sorted(files)


def _walk(folder: Path) -> Iterator[str]:
    yield from (str(folder / name) for name in FILES if (folder / name).exists())
    for name in FOLDERS:
        for place, _, files in os.walk(folder / name):
            yield from (path for file in files if kind_of(path := f"{place}/{file}") is not None)


def _describe_all(paths: Iterable[str], trusted: Mapping[str, str]) -> tuple[ProjectFile, ...]:
    """Describe files, of which some may be gone."""
    paths = tuple(paths)
    found = {each.path: each for each in describe(_read_files(paths), trusted)}
    return tuple(
        found.get(path)
        or ProjectFile(path, kind_of(path) or "instructions", trusted.get(path, ""), "gone", "")
        for path in paths
    )


def _read_files(paths: Iterable[str]) -> tuple[Found, ...]:
    found: list[Found] = []
    for path in paths:
        try:
            found.append(Found(path, _read_file(path)))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as exc:
            log.warning("file_left_out", file=path, problem=exc.strerror)
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
