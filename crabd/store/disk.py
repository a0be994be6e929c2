"""Files that keep their promises: written whole, synced, private, and never through a link.

Every call here blocks, so it runs in a thread. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from zlib import crc32

from crabd.errors import StoreError

TEMP_PREFIX = ".tmp-"
# O_NONBLOCK means nothing to a file, and keeps a fifo of that name from holding the thread for ever.
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


class JournalFile:
    """The journal of one session, open for appending.

    Only its first ``size`` bytes are acknowledged, and ``checksum`` is theirs. Not for two threads at once;
    whoever opened it closes it.
    """

    def __init__(self, path: Path, checksum: int) -> None:
        """Open the journal at ``path``, all of whose bytes are on the disk and have that CRC-32.

        Raises:
          OSError: it is gone, a link, or no regular file.
        """
        self._path = path
        self._fd = open_file(path, os.O_RDWR | os.O_APPEND)
        self._is_trusted = True
        self.size = os.fstat(self._fd).st_size
        self.checksum = checksum

    def append(self, data: bytes) -> None:
        """Put bytes behind the acknowledged ones; they are on the disk on return.

        Raises:
          OSError: none of them count, and the next append starts where this one did.
          StoreError: as ``mend``.
        """
        self.mend()
        try:
            self._write(data)
        except OSError:
            self._take_back()
            raise
        self.size += len(data)
        self.checksum = crc32(data, self.checksum)

    def mend(self) -> None:
        """Write the file anew if a failed sync has left it in doubt.

        Raises:
          OSError: it is still in doubt.
          StoreError: ``damaged`` when its acknowledged bytes cannot be read back.
        """
        if not self._is_trusted:
            self._rewrite()

    def close(self) -> None:
        """Give the file back. What counts is on the disk, so an error has nothing to tell."""
        with suppress(OSError):
            os.close(self._fd)

    def _write(self, data: bytes) -> None:
        write_all(self._fd, data)
        try:
            os.fdatasync(self._fd)
        except OSError:
            # The kernel now takes the pages for clean: syncing again would succeed and write nothing.
            self._is_trusted = False
            raise

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._fd, self.size)
        except OSError:
            self._is_trusted = False

    def _rewrite(self) -> None:
        """Move the acknowledged bytes to a new file, whose pages no failed sync has touched."""
        kept = read_file(self._fd)[: self.size]
        if len(kept) != self.size or crc32(kept) != self.checksum:
            problem = f"{self._path} is not what was written, after a failed sync: check the disk"
            raise StoreError("damaged", problem)
        fresh = create_temp(self._path)
        try:
            write_all(fresh, kept)
            os.fsync(fresh)
            temp_path(self._path).replace(self._path)
        except OSError:
            os.close(fresh)
            # On a full disk a half-made copy would keep the room that the next try needs.
            temp_path(self._path).unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd = fresh
        sync_dir(self._path.parent)
        self._is_trusted = True


@contextmanager
def disk_errors(doing: str, session: str | None = None) -> Generator[None]:
    """Turn the system's errors into a ``StoreError`` that says what was being done, and what to do now."""
    try:
        yield
    except OSError as exc:
        reason = exc.strerror or str(exc)
        where = f" ({exc.filename})" if exc.filename else ""
        if exc.errno in _NO_ROOM:
            problem = f"no room for {doing}: {reason}{where}; free some space and try again"
            raise StoreError("full", problem, session=session) from exc
        advice = "check the disk and its permissions"
        if exc.errno in _NO_DESCRIPTOR:
            advice = "close clients, or raise the limit of open files"
        problem = f"failed at {doing}: {reason}{where}; {advice}, then try again"
        raise StoreError("io", problem, session=session) from exc


def make_dir(path: Path) -> None:
    """Make a directory that is ours alone, whatever the umask.

    Raises:
      FileExistsError: the name is taken.
    """
    path.mkdir(0o700)
    path.chmod(0o700)


def open_file(path: Path, flags: int) -> int:
    """Open an existing regular file, never through a link.

    Raises:
      OSError: it is missing, a link, or something else than a file.
    """
    fd = os.open(path, flags | _SAFE)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd


def create_file(path: Path) -> int:
    """Make a new file that is ours alone, open for appending and reading.

    Raises:
      FileExistsError: the name is taken.
    """
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | _SAFE, 0o600)
    os.fchmod(fd, 0o600)
    return fd


def open_lock(path: Path) -> int:
    """Open the file that processes lock, making it if there is none. It does not outlive ``exec``."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | _SAFE, 0o600)
    os.fchmod(fd, 0o600)
    return fd


def temp_path(path: Path) -> Path:
    """Name the file in which the next content of ``path`` is made."""
    return path.with_name(TEMP_PREFIX + path.name)


def create_temp(path: Path) -> int:
    """Make the temporary file of ``path`` anew, whatever an earlier life left there."""
    temp = temp_path(path)
    temp.unlink(missing_ok=True)
    return create_file(temp)


def replace_file(path: Path, data: bytes) -> None:
    """Put a file in the place of another at once; a reader finds the old or the new one whole.

    It survives SIGKILL. For a power cut the caller uses ``replace_file_durably``.
    """
    fd = create_temp(path)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)
    temp_path(path).replace(path)


def save_new_file(path: Path, data: bytes) -> None:
    """Make a new file; it is on the disk on return, once its directory is synced.

    Raises:
      FileExistsError: the name is taken.
      OSError: there is no new file.
    """
    fd = create_file(path)
    try:
        write_all(fd, data)
        os.fsync(fd)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)


def replace_file_durably(path: Path, data: bytes) -> None:
    """Like ``replace_file``, and on the disk on return."""
    temp_path(path).unlink(missing_ok=True)
    save_new_file(temp_path(path), data)
    temp_path(path).replace(path)
    sync_dir(path.parent)


def load_file(path: Path) -> bytes:
    """Read a small file whole.

    Raises:
      OSError: as ``open_file``.
    """
    fd = open_file(path, os.O_RDONLY)
    try:
        return read_file(fd)
    finally:
        os.close(fd)


def read_file(fd: int) -> bytes:
    """Read an open file from its beginning to its end."""
    os.lseek(fd, 0, os.SEEK_SET)
    with os.fdopen(fd, "rb", buffering=0, closefd=False) as file:
        return file.readall()


def write_all(fd: int, data: bytes) -> None:
    """Write with one call; more follow only when the system took less, so that it says why."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def sync_dir(path: Path) -> None:
    """Put the names in a directory on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
