"""One link to the daemon: JSON-RPC, one JSON text a line, over its Unix socket.

Knows requests, answers and notifications, not what they mean. Whoever opens a link closes it.
"""

from __future__ import annotations

import json

# The public module wraps this one in what a client does not need, at a tenth of its whole start-up time.
from _socket import AF_UNIX, SOCK_STREAM, SOL_SOCKET, socket
from os import getuid
from sys import platform
from time import monotonic, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

# Until a daemon that is too busy to accept counts as one that is not there, in seconds.
CONNECT_LIMIT = 10.0
# Between two tries at a full backlog: a daemon accepts thousands in this time.
RETRY_PAUSE = 0.02
# For answers that need no model and no run to settle, in seconds.
ANSWER_LIMIT = 60.0

_CHUNK = 1 << 16


class NoDaemon(Exception):
    """There is no daemon that answers at the socket; the sentence says why, and what to do."""


class RemoteError(Exception):
    """The daemon answered with an error."""

    def __init__(self, code: int, message: str, data: dict[str, Any]) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Link:
    """A connection to the daemon. Use it as a context: it closes at the end."""

    def __init__(self, sock: socket) -> None:
        self._sock = sock
        self._received = bytearray()
        self._searched = 0
        self._last_id = 0
        self._beside: tuple[int, Callable[[], None]] | None = None

    def __repr__(self) -> str:
        return f"<Link {self._last_id} requests, {len(self._received)} bytes unread>"

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sock.close()

    def call(self, method: str, params: dict[str, Any], *, limit: float | None = ANSWER_LIMIT) -> Any:
        """Ask and wait for the result; notifications meanwhile are dropped.

        The wait ends when nothing arrives for ``limit`` seconds; with null, only when the link ends.

        Raises:
          RemoteError: the daemon answered with an error.
          NoDaemon: the link ended, or the limit passed, before the answer.
        """
        self._sock.settimeout(limit)
        events = self.follow(self.post(method, params))
        while True:
            try:
                next(events)
            except StopIteration as end:
                return end.value

    def post(self, method: str, params: dict[str, Any]) -> int:
        """Send a request and return its id, for ``follow``."""
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        try:
            self._sock.sendall(json.dumps(request).encode() + b"\n")
        except TimeoutError as exc:
            raise NoDaemon("crabd does not read what it is sent: crabctl restart") from exc
        except OSError:
            # A daemon that hangs up on a request has said why: the answer is still to be read.
            pass
        return self._last_id

    def follow(self, request: int) -> Generator[dict[str, Any], None, Any]:
        """Yield the notifications' parameters until the request's answer comes, and return its result.

        Raises:
          RemoteError, NoDaemon: as ``call``.
        """
        while True:
            message = self._read()
            if "method" in message:
                if "id" not in message:
                    yield message.get("params") or {}
            elif message.get("id") in (request, None):
                return _result(message)

    def notifications(self) -> Generator[dict[str, Any], None, None]:
        """Yield the notifications' parameters for as long as the link lasts; answers are dropped."""
        self._sock.settimeout(None)
        while True:
            message = self._read()
            if "method" in message and "id" not in message:
                yield message.get("params") or {}

    def attend(self, descriptor: int | None, on_ready: Callable[[], None]) -> None:
        """While waiting, also call ``on_ready`` whenever the descriptor can be read; null for no more."""
        self._beside = None if descriptor is None else (descriptor, on_ready)

    def wait_closed(self, limit: float) -> bool:
        """Wait until the other end is gone; false if it is still there after ``limit`` seconds."""
        deadline = monotonic() + limit
        while (left := deadline - monotonic()) > 0:
            self._sock.settimeout(left)
            try:
                if not self._sock.recv(_CHUNK):
                    return True
            except TimeoutError:
                return False
            except OSError:
                return True
        return False

    @property
    def socket(self) -> socket:
        """The socket itself, for whoever speaks another protocol over it and nothing else here any more."""
        return self._sock

    def wait_forever(self) -> None:
        """Let the answers take as long as a run takes."""
        self._sock.settimeout(None)

    def _read(self) -> dict[str, Any]:
        line = self._read_line()
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError as exc:
            raise NoDaemon(f"what answers at the socket does not speak JSON-RPC: {line[:80]!r}") from exc
        return message

    def _wait_beside(self) -> None:
        """Wait until the socket can be read, and look after what is attended meanwhile."""
        while self._beside is not None:
            # Imported here: only who sits at a terminal and is asked something needs it.
            from select import select

            descriptor, on_ready = self._beside
            watched: list[Any] = [self._sock, descriptor]
            ready, _, _ = select(watched, [], [])
            if descriptor in ready:
                on_ready()
            if self._sock in ready:
                return

    def _read_line(self) -> str:
        while (end := self._received.find(b"\n", self._searched)) < 0:
            self._searched = len(self._received)
            try:
                self._wait_beside()
                chunk = self._sock.recv(_CHUNK)
            except TimeoutError as exc:
                raise NoDaemon("crabd does not answer: crabctl restart") from exc
            except ConnectionError:
                chunk = b""
            if not chunk:
                raise NoDaemon("crabd went away before it answered: crabctl status")
            self._received += chunk
        line = self._received[:end].decode("utf-8", "replace")
        del self._received[: end + 1]
        self._searched = 0
        return line


def dial(path: str) -> Link | None:
    """Connect to a daemon; null if none listens there.

    Raises:
      NoDaemon: there is something, but it cannot be or must not be talked to.
    """
    deadline = monotonic() + CONNECT_LIMIT
    while True:
        sock = socket(AF_UNIX, SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_LIMIT)
            sock.connect(path)
            _check_owner(sock, path)
            return Link(sock)
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            return None
        except BlockingIOError as exc:
            # The backlog is full, and a Unix socket does not wait for its turn by itself.
            sock.close()
            if monotonic() > deadline:
                raise NoDaemon(f"crabd is too busy to accept at {path}: try again") from exc
            sleep(RETRY_PAUSE)
        except OSError as exc:
            sock.close()
            raise NoDaemon(f"cannot connect to {path}: {exc.strerror or exc}") from exc
        except NoDaemon:
            sock.close()
            raise


def _check_owner(sock: socket, path: str) -> None:
    if platform != "linux":
        return
    from _socket import SO_PEERCRED

    # struct ucred: pid, uid, gid.
    uid = int.from_bytes(sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[4:8], "little")
    if uid != getuid():
        raise NoDaemon(
            f"{path} belongs to another user (uid {uid}): choose your own with --socket or $CRABD_SOCKET"
        )


def _result(message: dict[str, Any]) -> Any:
    error = message.get("error")
    if error is None:
        return message.get("result")
    raise RemoteError(error["code"], error["message"], error.get("data") or {})
