"""The socket: real ones, in real directories, with real strangers."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from crabd.server.listener import AlreadyRunning, Listener, UnsafeSocket, is_ours, open_listener
from tests.crabctl.program import PATIENCE, ROOT

NOBODY = 65534
as_root = pytest.mark.skipif(
    os.getuid() != 0, reason="only root can give a file or a process to somebody else"
)

# A process that changes its user, connects, and says how it was received.
STRANGER = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
os.setuid(int(sys.argv[2]))
sock.connect("\\0" + sys.argv[1])
print(sock.recv(1))
"""
# A daemon's door in a process that has no descriptor left. They come back once it has tried for ten seconds,
# of which the clock makes none; it counts how often it looked.
EXHAUSTED = """
import os, resource, socket, sys
from contextlib import suppress
from pathlib import Path
import structlog, trio, trio.testing
from crabd.server.listener import open_listener

taken = []
steps = 0

class Steps(trio.abc.Instrument):
    def task_scheduled(self, task):
        global steps
        steps += task.name.endswith("Listener.serve")

async def main():
    welcomed = trio.Event()
    listener = open_listener(Path(sys.argv[1]))
    client = socket.socket(socket.AF_UNIX)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with suppress(OSError):
        while True:
            taken.append(os.dup(0))
    client.connect(sys.argv[1])
    def welcome(sock):
        sock.send(b"hello")
        sock.close()
        welcomed.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve, welcome)
        await trio.sleep(10)
        print("looked", steps // 2, "times")
        while len(taken) > int(sys.argv[2]):
            os.close(taken.pop())
        with trio.move_on_after(10):
            await welcomed.wait()
        nursery.cancel_scope.cancel()
    client.setblocking(False)
    print(client.recv(5).decode() if welcomed.is_set() else "nobody")

structlog.configure(processors=[structlog.processors.KeyValueRenderer(key_order=["event"])],
                    logger_factory=structlog.PrintLoggerFactory(sys.stdout))
trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), instruments=[Steps()])
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "crabd" / "s"


@contextmanager
def opened(path: Path) -> Generator[Listener]:
    listener = open_listener(path)
    try:
        yield listener
    finally:
        listener.close()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def connect(address: str | Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(str(address))
    except OSError:
        sock.close()
        raise
    return sock


def leave_stale(path: Path) -> None:
    """Leave a socket behind as a daemon does that was killed."""
    path.parent.mkdir(mode=0o700, parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


async def welcome_of(listener: Listener, count: int, act: Callable[[], object]) -> list[socket.socket]:
    """Serve while ``act`` is at work in a thread, until so many have been welcomed."""
    welcomed: list[socket.socket] = []
    enough = trio.Event()

    def welcome(sock: socket.socket) -> None:
        welcomed.append(sock)
        if len(welcomed) == count:
            enough.set()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.serve, welcome)
            await trio.to_thread.run_sync(act)
            await enough.wait()
            nursery.cancel_scope.cancel()
    return welcomed


def test_the_socket_and_everything_round_it_is_for_us_alone(path: Path) -> None:
    with opened(path):
        modes = [mode_of(each) for each in (path.parent.parent, path.parent, path, Path(f"{path}.lock"))]

        assert modes == [0o700, 0o700, 0o600, 0o600]
        assert Path(f"{path}.lock").read_text() == f"{os.getpid()}\n"


def test_a_generous_mask_of_the_process_opens_nothing(path: Path) -> None:
    before = os.umask(0)
    try:
        with opened(path):
            assert (mode_of(path.parent), mode_of(path)) == (0o700, 0o600)
        assert os.umask(0) == 0
    finally:
        os.umask(before)


async def test_clients_that_came_early_and_late_are_all_welcomed(path: Path) -> None:
    with opened(path) as listener:
        early = [connect(path) for _ in range(3)]
        late: list[socket.socket] = []

        welcomed = await welcome_of(listener, 4, lambda: late.append(connect(path)))

        assert len(welcomed) == 4
        assert not any(sock.getblocking() for sock in welcomed)
        for sock in (*early, *late, *welcomed):
            sock.close()


def test_a_socket_whose_daemon_is_gone_is_replaced(path: Path) -> None:
    leave_stale(path)
    with pytest.raises(ConnectionRefusedError):
        connect(path)

    with opened(path):
        connect(path).close()


def test_a_daemon_that_lives_is_not_replaced_and_is_named(path: Path) -> None:
    with opened(path):
        with pytest.raises(AlreadyRunning) as refused:
            open_listener(path)

        assert (refused.value.socket, refused.value.pid) == (str(path), str(os.getpid()))
        assert "is already running" in str(refused.value)
        connect(path).close()


def test_a_lock_is_given_back_with_the_socket(path: Path) -> None:
    with opened(path):
        pass
    assert not path.exists()

    with opened(path):
        connect(path).close()


def test_closing_twice_leaves_the_socket_of_the_next_daemon_alone(path: Path) -> None:
    first = open_listener(path)
    first.close()
    with opened(path):
        first.close()

        connect(path).close()


def test_a_daemon_that_stops_refuses_newcomers_and_keeps_its_place(path: Path) -> None:
    with opened(path) as listener:
        listener.stop()

        with pytest.raises(ConnectionRefusedError):
            connect(path)
        with pytest.raises(AlreadyRunning):
            open_listener(path)


def test_an_inherited_socket_is_closed_and_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    listener = Listener(sock, path, None)
    told = repr(listener)

    listener.close()
    listener.close()

    assert told == f"<Listener {path}, inherited>"
    assert path.is_socket()
    with pytest.raises(ConnectionRefusedError):
        connect(path)


def be_a_link(directory: Path) -> None:
    (directory.parent / "elsewhere").mkdir(mode=0o700)
    directory.symlink_to("elsewhere")


def be_open(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o750)


def be_below_an_open_one(directory: Path) -> None:
    directory.parent.chmod(0o777)


def be_below_a_group(directory: Path) -> None:
    directory.parent.chmod(0o770)


def be_somebody_elses(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    os.chown(directory, NOBODY, NOBODY)


def be_below_somebody_elses(directory: Path) -> None:
    os.chown(directory.parent, NOBODY, NOBODY)


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (be_a_link, "is a symbolic link"),
        (be_open, "is open to others (mode 0750)"),
        (be_below_an_open_one, "can be changed by others"),
        (be_below_a_group, "can be changed by others"),
        pytest.param(be_somebody_elses, f"belongs to another user (uid {NOBODY})", marks=as_root),
        pytest.param(be_below_somebody_elses, "can be changed by others", marks=as_root),
    ],
)
def test_a_directory_that_others_have_a_hand_in_is_refused(
    path: Path, prepare: Callable[[Path], None], problem: str
) -> None:
    path.parent.parent.mkdir(mode=0o700)
    prepare(path.parent)

    with pytest.raises(UnsafeSocket) as refused:
        open_listener(path)

    assert refused.value.problem == problem
    assert "choose another place" in str(refused.value)
    assert not path.exists()


def test_a_directory_below_a_sticky_one_is_as_safe_as_any(path: Path) -> None:
    path.parent.parent.mkdir()
    path.parent.parent.chmod(0o1777)

    with opened(path):
        connect(path).close()


def be_a_file(path: Path) -> None:
    path.write_text("precious")


def be_a_link_to_a_socket(path: Path) -> None:
    leave_stale(path.parent / "other" / "s")
    path.symlink_to(path.parent / "other" / "s")


@pytest.mark.parametrize("prepare", [be_a_file, be_a_link_to_a_socket])
def test_what_is_no_socket_is_not_removed_and_the_place_is_free_again(
    path: Path, prepare: Callable[[Path], None]
) -> None:
    path.parent.mkdir(mode=0o700, parents=True)
    prepare(path)
    with pytest.raises(UnsafeSocket, match="is not a socket"):
        open_listener(path)
    assert path.exists()

    path.unlink()
    with opened(path):
        connect(path).close()


def test_a_lock_that_is_a_link_is_not_followed(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True)
    precious = path.parent / "precious"
    precious.write_text("precious")
    Path(f"{path}.lock").symlink_to(precious)

    with pytest.raises(OSError, match="symbolic link"):
        open_listener(path)

    assert precious.read_text() == "precious"


def test_a_path_that_is_too_long_is_refused_and_its_lock_given_back(path: Path) -> None:
    too_long = path.parent / ("x" * 108)

    for _ in range(2):
        with pytest.raises(OSError, match="too long"):
            open_listener(too_long)


def test_the_other_end_of_our_own_socket_is_ours() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert is_ours(one)


@as_root
async def test_a_stranger_is_hung_up_on_and_the_next_one_is_welcomed() -> None:
    name = f"crabd-test-{os.getpid()}"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"\0{name}")
    sock.listen()
    listener = Listener(sock, Path("inherited"), None)
    told: list[str] = []

    def come_by() -> None:
        stranger = [sys.executable, "-c", STRANGER, name, str(NOBODY)]
        told.append(subprocess.run(stranger, capture_output=True, text=True, timeout=PATIENCE).stdout)
        connect(f"\0{name}").close()

    (welcomed,) = await welcome_of(listener, 1, come_by)

    welcomed.close()
    listener.close()
    assert told == ["b''\n"]


def exhaust(path: Path, *, kept: int) -> list[str]:
    """Run a listener without descriptors, then with all of 64 but those of its own and ``kept`` more."""
    done = subprocess.run(
        [sys.executable, "-c", EXHAUSTED, str(path), str(kept)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_without_descriptors_it_says_so_once_and_looks_ten_times_a_second(path: Path) -> None:
    told, looked, *_ = exhaust(path, kept=0)

    assert told.startswith("event='accept_paused' problem='Too many open files' advice=")
    assert looked in {f"looked {times} times" for times in range(99, 102)}


def test_who_waits_is_welcomed_when_there_are_descriptors_again(path: Path) -> None:
    assert exhaust(path, kept=0)[2:] == ["event='accept_resumed'", "hello"]


def test_the_last_quarter_of_few_descriptors_is_not_for_newcomers(path: Path) -> None:
    # Of 64 it has some eight for itself, so that less than a quarter is free.
    assert exhaust(path, kept=48)[2:] == ["nobody"]
