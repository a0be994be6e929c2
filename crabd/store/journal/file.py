"""The file of a journal, open for appending, and what is done when a sync of it has failed.

Every call here blocks, so it runs in a thread. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from crabd.errors import StoreError
from crabd.store.disk import create_temp, open_file, read_file, sync_dir, temp_path, write_all


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

    def read_from(self, offset: int) -> bytes:
        """Read the acknowledged bytes from ``offset`` on.

        Raises:
          OSError: the disk fails.
        """
        return read_file(self._fd, offset)[: self.size - offset]

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
