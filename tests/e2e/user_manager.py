"""A systemd user manager of a test's own: in private namespaces, without a login, gone when the block ends.

It needs root, because a user's manager has to be given a control group; the manager then is root's own.
Nothing of it is seen outside but its control group, which the block removes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from tests.e2e.daemon import PATIENCE, Client

MANAGER = Path("/lib/systemd/systemd")
RUNTIME = f"/run/user/{os.getuid()}"
PROGRAMS = Path(sys.executable).parent

# The first process of the namespace. It ends, and all others with it, when nobody holds its input any more:
# when the block ends, or the test dies.
FIRST_PROCESS = """
set -eu
echo $$ >"$1/cgroup.procs"
mount --make-rprivate /
mount -t tmpfs tmpfs /run
# Without the first directory systemctl takes it that systemd is not there.
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR"
chmod 700 "$XDG_RUNTIME_DIR"
# One hierarchy alone, as on a machine of today, also where the machine has the old ones beside it.
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
/lib/systemd/systemd --user </dev/null >"$HOME/manager.log" 2>&1 &
until systemctl --user is-system-running >/dev/null 2>&1; do
  kill -0 $! || exit 1
  sleep 0.02
done
echo running
read -r _ || true
"""


def why_not() -> str:
    """Tell why there can be no manager here; empty if there can be one."""
    if os.getuid() != 0:
        return "only root can make namespaces and control groups for a manager"
    missing = [tool for tool in ("unshare", "nsenter", "systemctl", "bash") if shutil.which(tool) is None]
    if missing or not MANAGER.exists():
        return f"there is no {missing[0] if missing else 'systemd'} here"
    if not all((PROGRAMS / name).exists() for name in ("crabd", "crabctl")):
        return "crabd is not installed beside this interpreter"
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode:
        return "namespaces cannot be made here"
    try:
        with control_group():
            return ""
    except OSError as exc:
        return f"a control group cannot be made here: {exc}"


@contextmanager
def control_group() -> Generator[Path]:
    """Make a control group, and remove it with all below it, which must have ended by then.

    Raises:
      OSError: it cannot be made.
    """
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    unified = [Path(mount[4]) for mount in mounts if mount[mount.index("-") + 1] == "cgroup2"]
    if not unified:
        raise FileNotFoundError("no hierarchy of version 2 is mounted")
    group = unified[0] / f"crabd-test-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        for below in sorted(group.rglob("*/"), reverse=True):
            below.rmdir()
        group.rmdir()


class UserManager:
    """A running manager, and the life of its user."""

    def __init__(self, home: Path, env: dict[str, str], process: int, nursery: trio.Nursery) -> None:
        self.home = home
        self.config = home / ".config" / "crabd"
        self.units = home / ".config" / "systemd" / "user"
        self._env = env
        self._process = process
        self._nursery = nursery

    @property
    def socket(self) -> Path:
        """The daemon's socket, as it is reached from outside."""
        return Path(f"/proc/{self._process}/root{RUNTIME}/crabd/crabd.sock")

    async def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program inside."""
        inside = ["--mount", f"--pid=/proc/{self._process}/ns/pid_for_children"]
        with trio.fail_after(PATIENCE):
            done = await trio.run_process(
                ["nsenter", f"--target={self._process}", *inside, *words],
                env=self._env | variables,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())

    async def crabctl(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run crabctl as the user does."""
        return await self.run(str(PROGRAMS / "crabctl"), *words, **variables)

    async def systemctl(self, *words: str) -> str:
        """Have the manager do something; returns what systemctl said."""
        done = await self.run("systemctl", "--user", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def show(self, unit: str, *names: str) -> dict[str, str]:
        """Look up properties of a unit."""
        lines = (await self.systemctl("show", f"--property={','.join(names)}", unit)).splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    async def until(self, unit: str, **wanted: str) -> None:
        """Ask for properties of a unit until they are so."""
        with trio.fail_after(PATIENCE):
            while await self.show(unit, *wanted) != wanted:
                pass

    async def pid(self) -> str:
        """Look up the service's process, as it is numbered inside; 0 if there is none."""
        return (await self.show("crabd.service", "MainPID"))["MainPID"]

    async def install(self, drop_in: str = "") -> None:
        """Install the service, with a drop-in of the user's if there is to be one."""
        if drop_in:
            folder = self.units / "crabd.service.d"
            folder.mkdir(parents=True)
            (folder / "test.conf").write_text(drop_in)
        done = await self.crabctl("service", "install")
        assert done.returncode == 0, done.stderr

    async def connect(self) -> Client:
        """Open a link from outside; it is closed with the manager's block."""
        client = Client(await trio.open_unix_socket(str(self.socket)))
        self._nursery.start_soon(client.read)
        return client


@asynccontextmanager
async def start_user_manager(home: Path) -> AsyncGenerator[UserManager]:
    """Run a manager for a new user until the block ends."""
    env = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "XDG_RUNTIME_DIR": RUNTIME,
        # Nobody listens there, so a model server of the machine is never found.
        "OLLAMA_HOST": "http://127.0.0.1:1",
    }
    namespaces = ["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    with control_group() as group:
        process = await trio.lowlevel.open_process(
            ["unshare", *namespaces, "bash", "-c", FIRST_PROCESS, "bash", str(group)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with trio.fail_after(PATIENCE):
                said = await process.stdout.receive_some()
            assert said == b"running\n", (home / "manager.log").read_text()
            async with trio.open_nursery() as nursery:
                yield UserManager(home, env, process.pid, nursery)
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(PATIENCE, shield=True):
                await process.stdin.aclose()
                # The first process of a namespace ends after all the others.
                await process.wait()
            if process.returncode is None:
                process.kill()
