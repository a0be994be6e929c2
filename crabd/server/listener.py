"""The socket: where it is, that it is ours alone, and who comes in by it."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog
import trio
from structlog.typing import FilteringBoundLogger

from crabd.api.address import UnsafeDirectory, prepare_directory
from crabd.errors import CalledFromTool, CrabdError
from crabd.rpc.envelope import RpcError, encode_error
from crabd.rpc.framing import frame
from crabd.server.lineage import CREDENTIALS, is_from_below

# On a Unix socket a full backlog refuses at once, so a burst of clients must find room.
BACKLOG = 4096
# What accept(2) says when this process or the machine has no descriptor or memory left for one more.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
EXHAUSTED_PAUSE = 0.1
ADVICE = "close clients, or raise the limit of open files: LimitNOFILE in crabd.service, or ulimit -n"
# What newcomers leave to those who are in: a session's log, a connection to a model, the pipes of a tool. Of
# a small limit they leave a quarter.
RESERVED_DESCRIPTORS = 64
# What is read of a client that is turned away: bytes left unread would cost it the answer.
TURNED_AWAY_BYTES = 64 * 1024
# Who comes in before the others have their turn.
ACCEPT_BATCH = 16

log: FilteringBoundLogger = structlog.get_logger()


class AlreadyRunning(CrabdError):
    """Another daemon has the socket."""

    kind = "already_running"

    def __init__(self, socket: str, pid: str) -> None:
        self.socket = socket
        self.pid = pid

    def __str__(self) -> str:
        return f"crabd is already running on {self.socket} (pid {self.pid}): stop it with `crabctl stop`"


class UnsafeSocket(CrabdError):
    """The place of the socket is not one that only we can write to."""

    kind = "unsafe_socket"

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path} {self.problem}: remove it, or choose another place with $CRABD_SOCKET"


class Listener:
    """A listening socket, and the lock that says whose it is. ``close`` gives both back."""

    def __init__(self, sock: socket.socket, path: Path, lock: int | None) -> None:
        self.path = path
        self._sock = sock
        self._lock = lock
        sock.setblocking(False)

    def __repr__(self) -> str:
        return f"<Listener {self.path}{'' if self._lock is not None else ', inherited'}>"

    async def serve(self, welcome: Callable[[socket.socket], None]) -> None:
        """Accept clients until cancelled, and hand each to ``welcome``, which owns it from then on.

        When descriptors run short it pauses: those who wait stay in the backlog and are served later.
        """
        is_paused = False
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            problem = self._admit(welcome)
            if problem is None:
                if is_paused:
                    log.info("accept_resumed")
                is_paused = False
                continue
            if not is_paused:
                # Once for all who have to wait, however often it is tried again.
                log.warning("accept_paused", problem=problem, advice=ADVICE)
            is_paused = True
            await trio.sleep(EXHAUSTED_PAUSE)

    def _admit(self, welcome: Callable[[socket.socket], None]) -> str | None:
        """Let in who waits, up to a number; tell what keeps the next one out, if something does."""
        for _ in range(ACCEPT_BATCH):
            if not has_room(self._sock):
                return os.strerror(errno.EMFILE)
            try:
                client, _ = self._sock.accept()
            except BlockingIOError:
                break
            except ConnectionAbortedError:
                continue
            except OSError as exc:
                if exc.errno not in EXHAUSTED:
                    raise
                return exc.strerror
            client.setblocking(False)
            self._receive(client, welcome)
        return None

    def _receive(self, client: socket.socket, welcome: Callable[[socket.socket], None]) -> None:
        """Welcome a client, or send it away."""
        if not is_ours(client):
            log.warning("stranger_refused")
            client.close()
        elif is_from_below(client):
            log.warning("tool_refused")
            refusal = CalledFromTool()
            with client:
                turn_away(client, RpcError(refusal.code, str(refusal), refusal.data))
        else:
            welcome(client)

    def stop(self) -> None:
        """Refuse newcomers. The place stays ours, so that no other daemon begins before this one ends."""
        self._sock.close()

    def close(self) -> None:
        """Give the place up; the socket is removed unless a service manager owns it. Idempotent."""
        self.stop()
        if self._lock is not None:
            # Unlinked before it is unlocked: who gets the lock finds no socket of ours.
            self.path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None


def has_room(sock: socket.socket) -> bool:
    """Tell whether one more client would leave enough descriptors for the work of those who are in."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # The lowest number that is free: about as many are taken as it says.
        lowest = os.dup(sock.fileno())
    except OSError:
        return False
    os.close(lowest)
    return lowest < limit - min(RESERVED_DESCRIPTORS, limit // 4)


def is_ours(client: socket.socket) -> bool:
    """Tell whether the other end runs as our own user."""
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    _, uid, _ = CREDENTIALS.unpack(credentials)
    return bool(uid == os.getuid())


def turn_away(client: socket.socket, error: RpcError) -> None:
    """Tell a client why, framed as its first byte asks for if that is there. It is the caller's to close."""
    client.setblocking(False)
    try:
        first = client.recv(TURNED_AWAY_BYTES)[:1]
    except OSError:
        first = b""
    with suppress(OSError):
        client.send(frame([encode_error(None, error)], "headers" if first in (b"C", b"c") else "lines"))


def open_listener(path: Path) -> Listener:
    """Bind the socket, 0600 in a 0700 directory, replacing one that nobody listens on.

    Raises:
      AlreadyRunning: another daemon has it.
      UnsafeSocket: the directory is not ours alone, or something else is in the socket's place.
      OSError: it cannot be bound.
    """
    check_directory(path.parent)
    lock = take_lock(path)
    try:
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The mode a socket is bound with is what counts: a later chmod would leave a gap.
        mask = os.umask(0o177)
        try:
            sock.bind(str(path))
        except OSError:
            sock.close()
            raise
        finally:
            os.umask(mask)
        sock.listen(BACKLOG)
    except BaseException:
        os.close(lock)
        raise
    return Listener(sock, path, lock)


def check_directory(directory: Path) -> None:
    """Make sure that a directory is there, that only we can enter it, and that nobody else can replace it.

    Raises:
      UnsafeSocket: it is a link, somebody else's or open to others, or its parent is.
    """
    try:
        prepare_directory(str(directory))
    except UnsafeDirectory as exc:
        raise UnsafeSocket(exc.path, exc.problem) from exc


def take_lock(path: Path) -> int:
    """Take the lock beside the socket and note our pid in it; the file stays when the lock is given back.

    Raises:
      AlreadyRunning: another daemon holds it.
    """
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise AlreadyRunning(str(path), holder) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _remove_stale(path: Path) -> None:
    """Remove a socket whose daemon is gone: we hold its lock, so it is nobody's."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise UnsafeSocket(str(path), "is not a socket")
    path.unlink()
