"""The user's service manager, by its own client: whether crabd is a service of it, and in what state.

Knows units, not what the daemon says. Every call ends: systemctl is killed when its limit has passed.
"""

from __future__ import annotations

import os

from crabctl.client import NoDaemon

SOCKET = "crabd.socket"
SERVICE = "crabd.service"
UNITS = (SOCKET, SERVICE)

# For an answer about units, and for a job that has to wait until a service starts or stops, in seconds.
ANSWER_LIMIT = 10.0
JOB_LIMIT = 120.0

# What ``systemctl show`` is asked for; it tells nothing of what a unit of that kind has not.
PROPERTIES = (
    "Id,LoadState,UnitFileState,FragmentPath,DropInPaths,NeedDaemonReload,ActiveState,SubState,Result,"
    "StateChangeTimestamp,Listen,MainPID,ExecMainStatus,NRestarts"
)

# The results with which a unit was given up; it stays so until somebody resets it.
GIVEN_UP = {"start-limit-hit", "service-start-limit-hit", "trigger-limit-hit"}
GIVEN_UP_ADVICE = f"""\
{SERVICE} has failed too often and was given up
  why:  journalctl --user --unit {SERVICE} --lines 30
  then: systemctl --user reset-failed {SERVICE} {SOCKET}"""


class Units:
    """The state of the socket and of the service, as properties of systemd by their names."""

    def __init__(self, shown: str) -> None:
        blocks = [_read_properties(block) for block in shown.strip().split("\n\n")]
        by_name = {block.get("Id"): block for block in blocks}
        self.socket = by_name.get(SOCKET, {})
        self.service = by_name.get(SERVICE, {})

    def listen_at(self, path: str) -> bool:
        """Tell whether the socket unit is there, and for this path."""
        is_loaded = self.socket.get("LoadState") == "loaded"
        return is_loaded and f"{path} (Stream)" in self.socket.get("Listen", "").splitlines()

    @property
    def is_listening(self) -> bool:
        """Whether the manager has the socket, be it a daemon's by now or not."""
        return self.socket.get("ActiveState") == "active"

    @property
    def is_asleep(self) -> bool:
        """Whether the manager listens and no daemon runs, or none for long: who connects starts one."""
        is_idle = self.service.get("ActiveState") in ("inactive", "failed", "deactivating")
        return self.is_listening and is_idle

    @property
    def is_given_up(self) -> bool:
        """Whether the daemon failed so often that the manager starts it no more."""
        return bool(GIVEN_UP & {self.socket.get("Result"), self.service.get("Result")})

    @property
    def pid(self) -> int:
        """The daemon's process; 0 if there is none."""
        return int(self.service.get("MainPID", "0"))


def has_manager() -> bool:
    """Tell whether a manager of this user's services is there to be asked."""
    return os.path.exists(f"{_runtime_directory()}/systemd/private")  # noqa: PTH110  # pathlib costs a tenth of the start-up


def find(path: str) -> Units | None:
    """Look up the units that serve this socket; null if there are none."""
    units = show() if has_manager() else None
    return units if units is not None and units.listen_at(os.path.abspath(path)) else None  # noqa: PTH100  # likewise


def show() -> Units | None:
    """Look up the units, installed or not; null if the manager does not answer."""
    code, told = run("show", "--timestamp=unix", f"--property={PROPERTIES}", *UNITS)
    return Units(told) if code == 0 else None


def control(*words: str) -> None:
    """Have the manager do something, and wait until it is done.

    Raises:
      NoDaemon: it could not; the sentence ends with what it said.
    """
    code, told = run(*words, limit=JOB_LIMIT)
    if code:
        raise NoDaemon(f"systemctl --user {' '.join(words)} failed:\n  {told.strip() or f'exit code {code}'}")


def run(*words: str, limit: float = ANSWER_LIMIT) -> tuple[int, str]:
    """Run systemctl for the user's manager; returns its exit code and what it said."""
    # Imported here: most calls find no manager to ask, and need no process.
    import subprocess

    try:
        done = subprocess.run(  # noqa: S603  # words of our own
            ["systemctl", "--user", "--no-pager", "--no-ask-password", "--plain", *words],  # noqa: S607  # wherever it is
            env=os.environ | {"XDG_RUNTIME_DIR": _runtime_directory(), "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit,
        )
    except FileNotFoundError:
        return 127, "there is no systemctl"
    except subprocess.TimeoutExpired:
        return 124, f"it took more than {limit:.0f} s: systemctl --user status {SERVICE} tells how far it is"
    return done.returncode, (done.stderr if done.returncode else done.stdout).decode("utf-8", "replace")


def _runtime_directory() -> str:
    # Where systemd has it, also for a shell that did not come by way of a login.
    return os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"


def _read_properties(block: str) -> dict[str, str]:
    """Read ``NAME=VALUE`` lines; a name that repeats gets its values as lines."""
    found: dict[str, str] = {}
    for line in block.splitlines():
        name, _, value = line.partition("=")
        found[name] = f"{found[name]}\n{value}" if name in found else value
    return found
