"""What this process asks of Linux for itself: memory that no child can read, and orphans that come to it.

A tool runs as our user, so the kernel by itself would let it read the keys in our memory and environment.
And a tool's child that outlives its parent would become init's: nobody could tell any more whose it was.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import trio

# prctl(2), by linux/prctl.h.
_SET_DUMPABLE = 4
_SET_CHILD_SUBREAPER = 36
# Whoever waits for a child knows of its end long before that; of one that has just been started it may not
# be known yet that somebody waits.
BURIAL_SECONDS = 2.0


def close_memory() -> None:
    """Keep our memory and environment from others of our user, and from core files.

    What is run from here opens itself again, and may raise its own limit of core files again.

    Raises:
      OSError: the kernel does not take it.
    """
    _prctl(_SET_DUMPABLE, 0)
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


def adopt_orphans() -> None:
    """Have every descendant whose parent ends become our own child, so that it stays a descendant.

    Raises:
      OSError: the kernel does not take it.
    """
    _prctl(_SET_CHILD_SUBREAPER, 1)


async def bury_orphans() -> None:
    """Take note of the end of adopted children, for which nobody waits; runs until cancelled.

    A child that somebody here waits for is left to them: as long as they do they hold a descriptor of it.
    """
    with trio.open_signal_receiver(signal.SIGCHLD) as deaths:
        async for _ in deaths:
            dead: set[int] = set()
            while True:
                seen, dead = dead, await trio.to_thread.run_sync(dead_children)
                if not dead:
                    break
                # One sight is not enough: it may have been started, and have ended, a moment ago.
                for pid in dead & seen:
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
                await trio.sleep(BURIAL_SECONDS)


def dead_children() -> set[int]:
    """Find the children that have ended and that nobody waits for."""
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return set()
    except ChildProcessError:
        return set()
    us = str(os.getpid())
    return {pid for pid, state, parent in _processes() if (state, parent) == ("Z", us)} - set(_awaited())


def _processes() -> Iterator[tuple[int, str, str]]:
    """Yield every process with its state and its parent."""
    for entry in os.listdir("/proc"):  # noqa: PTH208  # some hundred names, of which paths would cost more
        if entry.isdecimal():
            with suppress(OSError):
                # The name of a program comes before them in brackets, and may be anything.
                stat = Path("/proc", entry, "stat").read_text(errors="replace").rpartition(")")[2].split()
                yield int(entry), stat[0], stat[1]


def _awaited() -> Iterator[int]:
    """Yield the processes that this one holds a descriptor of; -1 stands for one that is gone."""
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if "pidfd" in str(link.readlink()):
                info = Path("/proc/self/fdinfo", link.name).read_text()
                yield int(info.partition("\nPid:")[2].split()[0])


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
