"""The service manager's protocol, on real sockets and through a real child process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from crabd.service import ServiceManager
from tests.crabctl.program import PATIENCE, ROOT

# As a service manager starts a service: descriptor 3 is open, and LISTEN_PID is the process it is meant for.
SERVICE = 'export LISTEN_PID={pid} LISTEN_FDS=1 LISTEN_FDNAMES=crabd; exec "$0" -c "$1" 3<&0 0</dev/null'
# The service: says what it found, to the first client of the socket, or to its output when it got none.
SCRIPT = """
import os
from crabd.service import ServiceManager

manager = ServiceManager.from_environment()
sock = manager.inherited_listener()
left = [name for name in os.environ if name.startswith("LISTEN_")]
told = f"{manager.is_listening} {left} {os.get_inheritable(3)}"
if sock is None:
    print(told)
else:
    client, _ = sock.accept()
    client.sendall(told.encode())
"""

# A service that cannot start, and says so to all who wait, after its listener is closed.
TURNING_AWAY = """
from crabd.service import ServiceManager

manager = ServiceManager.from_environment()
manager.inherited_listener().close()
count = 0
for client in manager.waiting():
    with client:
        client.sendall(b"not today")
    count += 1
print(count)
"""


def connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(str(path))
    return sock


@contextmanager
def sink(address: str) -> Generator[socket.socket]:
    """Be a service manager that listens for notifications."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.settimeout(PATIENCE)
        yield sock


@contextmanager
def service(listener: socket.socket, pid: str, script: str = SCRIPT) -> Generator[subprocess.Popen[str]]:
    """Start the service with a listening socket that is meant for ``pid``."""
    with subprocess.Popen(
        ["/bin/sh", "-c", SERVICE.format(pid=pid), sys.executable, script],
        stdin=listener.fileno(),
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_notification_is_one_datagram_of_lines(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with sink(address) as sock:
        manager = ServiceManager({"NOTIFY_SOCKET": address})

        manager.notify("READY=1", "STATUS=three sessions")
        manager.notify("STOPPING=1")

        assert sock.recv(1024) == b"READY=1\nSTATUS=three sessions"
        assert sock.recv(1024) == b"STOPPING=1"


def test_an_abstract_address_is_written_with_an_at_sign() -> None:
    name = f"crabd-test-{os.getpid()}"
    with sink(f"\0{name}") as sock:
        manager = ServiceManager({"NOTIFY_SOCKET": f"@{name}"})

        manager.notify("READY=1")

        assert sock.recv(1024) == b"READY=1"


def test_a_manager_that_is_not_there_or_is_gone_costs_nothing(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with sink(address):
        pass

    ServiceManager({}).notify("READY=1")
    ServiceManager({"NOTIFY_SOCKET": address}).notify("READY=1")
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nowhere")}).notify("READY=1")


async def test_a_manager_that_does_not_read_delays_nobody(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with sink(address) as sock:
        manager = ServiceManager({"NOTIFY_SOCKET": address})

        def notify_often() -> None:
            for number in range(2000):
                manager.notify(f"STATUS={number}")

        with trio.fail_after(PATIENCE):
            await trio.to_thread.run_sync(notify_often, abandon_on_cancel=True)

        assert sock.recv(1024) == b"STATUS=0"


def test_a_socket_that_was_handed_over_is_taken_and_the_variables_are_removed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        client.settimeout(PATIENCE)
        with service(listener, "$$"):
            client.connect(str(tmp_path / "s"))

            told = client.makefile().read()

    # No variable is left and the descriptor is closed on exec, so that no child believes it is meant.
    assert told == "True [] False"


def test_a_socket_that_is_meant_for_another_process_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with service(listener, "1") as process:
            told, _ = process.communicate(timeout=PATIENCE)

    assert told == "False [] True\n"


def test_those_who_wait_at_a_socket_that_was_handed_over_can_be_turned_away(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        clients = [connected(tmp_path / "s") for _ in range(3)]
        with service(listener, "$$", TURNING_AWAY) as process:
            told, _ = process.communicate(timeout=PATIENCE)
            answers = [client.makefile().read() for client in clients]
        for client in clients:
            client.close()

    assert (told, answers) == ("3\n", ["not today"] * 3)


def test_a_process_may_open_as_many_files_as_it_may_at_most() -> None:
    script = "import resource; from crabd.service import raise_descriptor_limit as act; act()\n"
    script += "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"

    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -Sn 64; ulimit -Hn 512; exec "$0" -c "$1"', sys.executable, script],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )

    assert done.stdout == "512 512\n"


def test_reading_the_environment_removes_every_variable_of_the_protocol(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))

    manager = ServiceManager.from_environment()

    assert (manager.notify_socket, manager.watchdog_seconds) == ("/run/notify", 3.0)
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "500000"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, 0.0),
    ],
)
def test_a_watchdog_counts_when_it_watches_this_process(variables: dict[str, str], seconds: float) -> None:
    assert ServiceManager(variables).watchdog_seconds == seconds


def test_without_a_service_manager_nothing_is_inherited() -> None:
    manager = ServiceManager({})

    assert (manager.is_listening, manager.inherited_listener()) == (False, None)
    assert list(manager.waiting()) == []
