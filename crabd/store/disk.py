"""Files that keep their promises: written whole, synced, private, and never through a link.

Every call here blocks, so it runs in a thread. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

from crabd.errors import StoreError

TEMP_PREFIX = ".tmp-"
# Bytes read ahead of a line that is wanted: fewer calls for a long file, next to nothing for a short one.
LINES_AT_ONCE = 128 * 1024
# O_NONBLOCK means nothing to a file, and keeps a fifo of that name from holding the thread for ever.
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
# What is left to runs that are going when a disk fills up: some of the largest rounds there are. On a small
# disk it is a part of all.
RESERVE = 16 * 1024 * 1024
RESERVE_PART = 64
# The unit of a file's blocks, whatever those of its disk are.
BLOCK = 512
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


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


def load_file(path: Path, offset: int = 0) -> bytes:
    """Read a file from ``offset`` to its end.

    Raises:
      OSError: as ``open_file``.
    """
    fd = open_file(path, os.O_RDONLY)
    try:
        return read_file(fd, offset)
    finally:
        os.close(fd)


def read_file(fd: int, offset: int = 0) -> bytes:
    """Read an open file from ``offset`` to its end."""
    os.lseek(fd, offset, os.SEEK_SET)
    with os.fdopen(fd, "rb", buffering=0, closefd=False) as file:
        return file.readall()


@contextmanager
def open_lines(path: Path, offset: int = 0) -> Generator[Iterable[bytes]]:
    """Give a file's lines from ``offset`` on, with their newlines, as they are asked for.

    Raises:
      OSError: as ``open_file``.
    """
    with os.fdopen(open_file(path, os.O_RDONLY), "rb", buffering=LINES_AT_ONCE) as file:
        file.seek(offset)
        yield file


def write_all(fd: int, data: bytes) -> None:
    """Write with one call; more follow only when the system took less, so that it says why."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def disk_usage(directory: str) -> int:
    """Measure what the files in a directory take on the disk, in bytes; 0 for one that has just gone."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        return sum(entry.stat(follow_symlinks=False).st_blocks * BLOCK for entry in entries)
    return 0


def require_room(path: Path) -> None:
    """Make sure that the disk of ``path`` has more room left than is kept in reserve.

    Raises:
      OSError: it has not.
    """
    disk = os.statvfs(path)
    left = disk.f_bavail * disk.f_frsize
    reserve = min(RESERVE, disk.f_blocks * disk.f_frsize // RESERVE_PART)
    if left < reserve:
        reason = f"{left:,} bytes are left, and runs that are going may need them"
        raise OSError(errno.ENOSPC, reason, str(path))


def sync_dir(path: Path) -> None:
    """Put the names in a directory on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
