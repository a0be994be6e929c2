"""A daemon of a few lines on a real socket: it answers as it is told, and remembers what it was asked."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# How long a handler may wait for something a test does, in seconds.
PATIENCE = 10.0

Json = dict[str, Any]


class Failure(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, message: str, **data: object) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message, "data": data}


class Peer:
    """One client, as a handler sees it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def tell(self, **event: object) -> None:
        """Send an event of the session ``crab_user_1``."""
        envelope = {"session": "crab_user_1", "epoch": "e", "seq": 0, "at": "2026-01-01T00:00:00Z"}
        self.write({"jsonrpc": "2.0", "method": "session/event", "params": envelope | event})

    def write(self, message: object) -> None:
        """Send anything."""
        with self._lock:
            self._sock.sendall(json.dumps(message).encode() + b"\n")

    def hang_up(self) -> None:
        """End the link in the middle of everything."""
        self._sock.shutdown(socket.SHUT_RDWR)


Handler = Callable[[Peer, Json], Any]


class SmallDaemon:
    """``handlers`` answer methods; each request is answered in a thread of its own, as a daemon would."""

    def __init__(self, path: Path, handlers: dict[str, Handler]) -> None:
        self.path = path
        self.asked: list[tuple[str, Json]] = []
        self._handlers = handlers
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)

    def asked_for(self, method: str) -> list[Json]:
        """List the parameters with which a method was called."""
        return [params for name, params in self.asked if name == method]

    def serve(self) -> None:
        """Accept until closed."""
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_one, args=[sock], daemon=True).start()

    def close(self) -> None:
        """Stop accepting."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve_one(self, sock: socket.socket) -> None:
        peer = Peer(sock)
        # A client that leaves with something unread resets the link.
        with suppress(ConnectionError), sock, sock.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                self.asked.append((request["method"], request["params"]))
                threading.Thread(target=self._answer, args=[peer, request], daemon=True).start()

    def _answer(self, peer: Peer, request: Json) -> None:
        answer: Json = {"jsonrpc": "2.0", "id": request["id"]}
        try:
            answer["result"] = self._handlers[request["method"]](peer, request["params"])
        except Failure as failure:
            answer["error"] = failure.error
        except KeyError:
            answer["error"] = {"code": -32601, "message": f"no method {request['method']}"}
        try:
            peer.write(answer)
        except OSError:
            # The client has left, or the handler hung up.
            return


@contextmanager
def small_daemon(directory: Path, **handlers: Handler) -> Generator[SmallDaemon]:
    """Serve in ``directory``; a method's slash is written as two underscores."""
    named = {name.replace("__", "/"): handler for name, handler in handlers.items()}
    daemon = SmallDaemon(directory / "s", named)
    thread = threading.Thread(target=daemon.serve, daemon=True)
    thread.start()
    try:
        yield daemon
    finally:
        daemon.close()
        thread.join(PATIENCE)


def always(result: object) -> Handler:
    """Make a handler that gives the same result to everybody."""
    return lambda _peer, _params: result
