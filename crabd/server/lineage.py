"""Whose child a client is. A tool runs as our user, so its user does not tell it from a person's programs.

All that this daemon starts are tools, hooks and tool servers, and none of them may answer for a person. Since
the daemon adopts orphans, whatever they start in turn stays below it, however it hides.

A client that got some other program to run for it, such as a service manager or a terminal that was there
before, is that program's child: that is for the sandbox to prevent.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct

# socket(7), since Linux 6.5: Python has no name for it.
_SO_PEERPIDFD = 77
# struct ucred of socket(7): pid, uid, gid.
CREDENTIALS = struct.Struct("3i")
_DESCRIPTOR = struct.Struct("i")
# Deeper than people's shells ever are; a chain that is made to be long must not hold up the others.
MAX_DEPTH = 64
# A name of up to 64 bytes and some fifty numbers.
MAX_STAT = 4096
# Between two looks at a chain, one of it may have ended; one that never holds still is up to something.
MAX_LOOKS = 4


def is_from_below(client: socket.socket) -> bool:
    """Tell whether whoever connected descends from us. One that has ended counts as if: nobody can tell."""
    pid, _, _ = CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    # Zero is a process that we cannot see, as one outside of our container: none of ours is.
    if pid in (0, os.getpid()):
        return False
    try:
        peer = _open_peer(client, pid)
    except OSError:
        return True
    try:
        # In this order: if it has not ended by now, its number has been its own all the time.
        return (has_children() and descends(pid, os.getpid())) or has_ended(peer)
    finally:
        os.close(peer)


def _open_peer(client: socket.socket, pid: int) -> int:
    """Open a descriptor of the process that connected.

    Raises:
      OSError: it has ended.
    """
    try:
        found = client.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, _DESCRIPTOR.size)
    except OSError as exc:
        if exc.errno != errno.ENOPROTOOPT:
            raise
        # An older kernel: its number may be another's by now, if it has ended since it connected.
        return os.pidfd_open(pid)
    descriptor: int = _DESCRIPTOR.unpack(found)[0]
    return descriptor


def has_ended(process: int) -> bool:
    """Tell whether the process of a descriptor has ended, whether or not its parent has taken note."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))


def has_children() -> bool:
    """Tell whether this process has any child, dead or alive: without one it has no descendants."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def descends(pid: int, ancestor: int) -> bool:
    """Tell whether a process descends from another; one whose ancestors cannot be made out does too."""
    before: list[int] = []
    for _ in range(MAX_LOOKS):
        line = ancestors(pid)
        if ancestor in line or len(line) > MAX_DEPTH:
            return True
        # Whoever loses its parent gets another, so a line that is the same twice was complete the first time.
        if line == before:
            return False
        before = line
    return True


def ancestors(pid: int) -> list[int]:
    """List a process and its ancestors, as far as they can be seen and no longer than is of use."""
    line = [pid]
    while len(line) <= MAX_DEPTH and (parent := _parent(line[-1])):
        line.append(parent)
    return line


def _parent(pid: int) -> int:
    """Find a process's parent; zero where there is none that we can see."""
    try:
        # Not by a path: this is done for each ancestor of each client that comes while a tool is at work.
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        stat = os.read(file, MAX_STAT)
    except ProcessLookupError:
        return 0
    finally:
        os.close(file)
    # The name of the program comes before it in brackets, and may be anything.
    return int(stat[stat.rindex(b")") + 4 :].split(b" ", 1)[0])
