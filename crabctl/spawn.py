"""Starts the daemon when nobody listens. However many callers want one at once, one is started.

The user's service manager does it, where crabd is one of its services. Elsewhere the daemon is a process of
ours that outlives us: it has its own session and its own log file, and it stands in ``/``.
"""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from crabctl import systemd
from crabctl.client import Link, NoDaemon, RemoteError, dial
from crabd.api.address import UnsafeDirectory, prepare_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

# From the start of the process until it accepts and its recovery is done, in seconds.
READY_LIMIT = 30.0
# How long a daemon that is stopping is waited for: the usual grace of its runs, and a margin. In seconds.
STOPPING_LIMIT = 30.0
# Whoever holds the lock lets go within the limits above; this leaves it a margin.
LOCK_LIMIT = READY_LIMIT + STOPPING_LIMIT + 10
LOCK_PAUSE = 0.02
# Beyond this size a log is set aside when a daemon starts, so that two of them bound what is kept, in bytes.
LOG_LIMIT = 10 << 20
# What of the log is shown when the daemon did not start, in bytes and lines.
TAIL_BYTES = 4096
TAIL_LINES = 10


def start(path: str) -> Link:
    """Start a daemon that listens at ``path``, unless somebody else has by now, and connect to it.

    Raises:
      NoDaemon: it did not start; the sentence ends with what the daemon itself said.
    """
    path = os.path.abspath(path)  # noqa: PTH100  # resolve() would follow the links that are checked below
    with only_one_starts(path):
        link = dial_when_free(path)
        if link is not None:
            return link
        return _start_process(path) if systemd.find(path) is None else _start_service(path)


def log_file() -> Path:
    """Find the log of a daemon that was started here: it is in the daemon's state directory."""
    state = os.environ.get("CRABD_STATE_DIR")
    if state:
        return Path(state) / "crabd.log"
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local/state") / "crabd/crabd.log"


@contextmanager
def only_one_starts(path: str) -> Generator[None]:
    """Make the socket's directory and hold the lock of those who start a daemon there; the wait has a limit.

    Raises:
      NoDaemon: the directory is not safe, or somebody holds the lock for too long.
    """
    try:
        prepare_directory(os.path.dirname(path))  # noqa: PTH120  # as the path is text
    except UnsafeDirectory as exc:
        advice = "mend that, or choose another with --socket or $CRABD_SOCKET"
        raise NoDaemon(f"the socket's directory {exc}: {advice}") from exc
    except OSError as exc:
        raise NoDaemon(f"cannot make the directory of {path}: {exc.strerror}") from exc
    with _locked(f"{path}.spawn"):
        yield


@contextmanager
def _locked(lock: str) -> Generator[None]:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise NoDaemon(f"cannot open the lock {lock}: {exc.strerror}") from exc
    deadline = monotonic() + LOCK_LIMIT
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                if monotonic() > deadline:
                    raise NoDaemon(
                        f"somebody else has been starting crabd for too long (they hold {lock})"
                    ) from exc
                sleep(LOCK_PAUSE)
        yield
    finally:
        os.close(descriptor)


def dial_when_free(path: str) -> Link | None:
    """Connect, or return null once no daemon has the socket: one that is stopping is waited for.

    Raises:
      NoDaemon: a daemon has it, and neither answers nor ends.
    """
    deadline = monotonic() + STOPPING_LIMIT
    while True:
        link = dial(path)
        if link is not None or not _is_held(f"{path}.lock"):
            return link
        if monotonic() > deadline:
            raise NoDaemon(
                f"a crabd that does not answer has {path}: it is stopping, or stuck; wait, or kill it"
            )
        sleep(LOCK_PAUSE)


def _is_held(lock: str) -> bool:
    """Tell whether a daemon holds its lock, which it does from before it listens until it is gone."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _start_service(path: str) -> Link:
    """Have the service manager listen at ``path``, where a socket of it belongs, and the daemon answer.

    Raises:
      NoDaemon: it does not; the sentence ends with what the daemon or the manager said.
    """
    systemd.control("start", systemd.SOCKET)
    try:
        with _dial_service(path) as link:
            link.call("daemon/ping", {})
    except (NoDaemon, RemoteError) as exc:
        units = systemd.show()
        raise NoDaemon(systemd.GIVEN_UP_ADVICE if units and units.is_given_up else str(exc)) from exc
    return _dial_service(path)


def _dial_service(path: str) -> Link:
    link = dial(path)
    if link is None:
        advice = f"systemctl --user restart {systemd.SOCKET}"
        raise NoDaemon(f"{systemd.SOCKET} listens, but {path} is gone: {advice}")
    return link


def _start_process(path: str) -> Link:
    """Start a daemon of our own and connect to it."""
    log = log_file()
    told_before = _open_log(log)
    _launch(path, log)
    link = dial(path)
    if link is None:
        raise NoDaemon(f"crabd did not start:\n{_tail(log, told_before)}\n  the whole log: {log}")
    return link


def _open_log(log: Path) -> int:
    """Make room for the log and return how much of it is older than the daemon to come."""
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        size = log.stat().st_size if log.exists() else 0
        if size > LOG_LIMIT:
            log.replace(f"{log}.1")
            size = 0
        log.touch(mode=0o600)
    except OSError as exc:
        raise NoDaemon(f"cannot write crabd's log {log}: {exc.strerror}") from exc
    return size


def _launch(path: str, log: Path) -> None:
    """Start the process and wait until it is ready, or has given up."""
    ready, told = os.pipe()
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603  # our own module, in our own interpreter
                [sys.executable, "-m", "crabd", "--socket", path, "--ready-fd", str(told)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment(),
                start_new_session=True,
                pass_fds=[told],
            )
    except OSError as exc:
        os.close(ready)
        raise NoDaemon(f"cannot start crabd with {sys.executable}: {exc.strerror}") from exc
    finally:
        os.close(told)
    try:
        if _wait_ready(ready, log):
            # It outlives us, and must not be taken for a child that somebody forgot to wait for.
            process.returncode = 0
        else:
            # It has given up, and has said why when it is gone.
            process.wait(READY_LIMIT)
    except subprocess.TimeoutExpired as exc:
        raise NoDaemon(f"crabd neither starts nor ends; its log tells why: {log}") from exc
    finally:
        os.close(ready)


def environment() -> dict[str, str]:
    """Make the environment of a crabd: the caller's, and from a source tree also the way back to it."""
    root = str(Path(__file__).parent.parent)
    if sys.path[0] != root:
        return dict(os.environ)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def _wait_ready(descriptor: int, log: Path) -> bool:
    """Wait for the line; false if the pipe ends without one, as that of a daemon that has given up does."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    deadline = monotonic() + READY_LIMIT
    told = b""
    while b"READY" not in told:
        if not poll.poll(max(deadline - monotonic(), 0) * 1000):
            raise NoDaemon(f"crabd is not ready after {READY_LIMIT:.0f} s; its log tells why: {log}")
        chunk = os.read(descriptor, 64)
        if not chunk:
            return False
        told += chunk
    return True


def _tail(log: Path, start: int) -> str:
    """Read the end of what the log has gained since ``start``."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - TAIL_BYTES))
        lines = file.read(TAIL_BYTES).decode("utf-8", "replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:]) or "  it said nothing"
