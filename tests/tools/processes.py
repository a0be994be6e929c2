"""Looking for processes of a command, by a token in their command line or their environment."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import trio


class Token:
    """A text that only the processes of one test have, for ``sleep`` it is a number of seconds."""

    def __init__(self) -> None:
        self.text = f"86400.{secrets.randbelow(10**12):012}"

    def living(self) -> list[str]:
        """Find who still runs with the token, as command lines."""
        return [
            line.replace(b"\0", b" ").decode(errors="replace")
            for process in Path("/proc").iterdir()
            if process.name.isdigit() and int(process.name) != os.getpid()
            if self.text.encode() in (line := read(process / "cmdline")) + read(process / "environ")
        ]


def members(group: int) -> list[str]:
    """Find who lives in a process group. Whom init has yet to bury does not live."""
    states = [
        read(process / "stat").decode(errors="replace").rpartition(")")[2].split()
        for process in Path("/proc").iterdir()
        if process.name.isdigit()
    ]
    return [state[0] for state in states if state and state[2] == str(group) and state[0] not in "ZX"]


def read(file: Path) -> bytes:
    """Read a file of /proc; nothing of who has gone."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


async def wait_until_gone(process: int) -> None:
    """Wait until a process, whosever child it is, has ended."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


async def wait_for_file(path: Path) -> str:
    """Wait until another process has written a line to the file; under a deadline of the caller's."""
    while True:
        text = path.read_text() if path.exists() else ""
        if text.endswith("\n"):
            return text
        await trio.lowlevel.checkpoint()
