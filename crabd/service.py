"""The service manager's side of things: readiness, the watchdog, sockets that were handed over, limits.

The protocol of sd_notify(3) and sd_listen_fds(3), which is a datagram and three environment variables; the
packages that offer it are unmaintained or bring a build of libsystemd along. Without a service manager every
function here does nothing.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Generator
from contextlib import suppress

# The first descriptor that systemd hands over; sd_listen_fds(3) fixes it.
LISTEN_FDS_START = 3
# As many as can wait at the socket, by Backlog= of its unit.
MOST_WAITING = 4096
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """What was found in the environment, which is cleaned of it, so that no child believes it is meant."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.notify_socket = environ.get("NOTIFY_SOCKET")
        self.is_listening = environ.get("LISTEN_PID") == str(os.getpid())
        self._fds = int(environ.get("LISTEN_FDS", "0")) if self.is_listening else 0
        watched = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds = int(environ.get("WATCHDOG_USEC", "0")) / 1_000_000 if watched else 0.0

    @classmethod
    def from_environment(cls) -> ServiceManager:
        """Read the variables and remove them."""
        found = cls({name: os.environ[name] for name in _VARIABLES if name in os.environ})
        for name in _VARIABLES:
            os.environ.pop(name, None)
        return found

    def inherited_listener(self) -> socket.socket | None:
        """Take over the listening socket, if one was handed to us. It is not ours to unlink."""
        if not self._fds:
            return None
        os.set_inheritable(LISTEN_FDS_START, False)
        # A second descriptor of it, so that those who wait can be turned away when this one is closed.
        return socket.socket(fileno=os.dup(LISTEN_FDS_START))

    def waiting(self) -> Generator[socket.socket]:
        """Accept, one by one, the clients that wait at the socket that was handed over; each is the caller's.

        A daemon that cannot start owes them this: who is left waiting has the manager start it again at once.
        """
        if not self._fds:
            return
        with socket.socket(fileno=os.dup(LISTEN_FDS_START)) as door:
            door.setblocking(False)
            for _ in range(MOST_WAITING):
                try:
                    client, _ = door.accept()
                except OSError:
                    return
                yield client

    def notify(self, *lines: str) -> None:
        """Tell the manager, as ``READY=1`` or ``STATUS=…``. One that is gone is none of our trouble."""
        if not self.notify_socket:
            return
        address = self.notify_socket
        if address.startswith("@"):
            address = "\0" + address[1:]
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sink:
            sink.setblocking(False)
            sink.sendto("\n".join(lines).encode(), address)


def raise_descriptor_limit() -> None:
    """Let this process open as many files as it may at most: each client is one, each run some more.

    A tool is not to inherit this: programs that use select(2) cannot live with numbers above 1023, and others
    close every number up to the limit one by one. Whoever starts children for tools gives them the old one.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
