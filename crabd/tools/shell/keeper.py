"""Keeps one command, and leaves nothing behind of whatever it starts. A program of its own, never imported.

    python -I -S keeper.py LIFELINE -- COMMAND …

The keeper stands between the daemon and the command. Whoever starts the command's daemons by forking twice,
leaving its group or its session only makes them children of the keeper, which is a subreaper: prctl(2). So
"nothing of it is left" is "I have no child any more", without guesses about groups, names and environments.

It reads the end of the pipe LIFELINE, which the daemon holds open as long as the command may run. When that
is closed, be it because time is over or because the daemon was killed, the command is told to end, and a
second later it is made to. When the command ends by itself, so does all that it has left running. The keeper
ends as the command did, with its exit status or by its signal.

Who is not root has a limit of processes from whoever made the command line. Root has none, so a command of
root's that has come to thousands of processes is killed.

It knows neither tools nor sandboxes, and imports little even of the standard library, to start fast. What it
cannot keep is a process that kills it with SIGKILL, which a sandbox makes impossible, or one that another
user's rights protect.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress

PR_SET_CHILD_SUBREAPER = 36
# What well-behaved programs need to end is far less, and nobody wants to wait longer for the others.
TERM_SECONDS = 1.0
# How long killed processes may take to go until they, or what they forked meanwhile, are killed again.
KILL_SECONDS = 0.05
# Who has not gone by then will not: it belongs to another user by now, or hangs in the kernel. A machine that
# is full of processes needs some seconds to be empty again.
END_SECONDS = 20.0
# More processes than any command needs, and so few that the machine still answers; a bomb of forks has them
# in a second.
CROWD = 4096
LOOK_SECONDS = 0.05
# The convention: who can handle more than select(2) raises it. The daemon has, for itself.
OPEN_FILES = 1024
# As a shell tells that there is no such program, or that it is none.
NOT_FOUND = 127
NOT_EXECUTABLE = 126
# A sandbox ends at once when told to, and takes with it whoever would rather have tidied up first.
SANDBOX = "bwrap"
# The command begins with what every program may rely on; python and the daemon have ignored some of these.
USUAL = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def main(lifeline: int, command: list[str]) -> int:
    """Run the command to its end or the lifeline's; give its status as wait(2) has it."""
    os.set_inheritable(lifeline, False)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, most), most))
    for number in USUAL:
        signal.signal(number, signal.SIG_IGN)
    deaths, crowd = watch_deaths(), Crowd()
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setsid=True, setsigdef=USUAL)
    except OSError as exc:
        os.write(2, f"{command[0]}: {exc.strerror}\n".encode(errors="replace"))
        return (NOT_FOUND if isinstance(exc, FileNotFoundError) else NOT_EXECUTABLE) << 8
    let_go_of_output()
    status = wait(child, lifeline, deaths, crowd)
    end_all(deaths, crowd)
    return status


def watch_deaths() -> int:
    """Make a descriptor that can be read when a child has died."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    # Python writes to the descriptor for handled signals only; there is nothing else to do.
    signal.signal(signal.SIGCHLD, note_death)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    return readable


def note_death(_number: int, _frame: object) -> None:
    """Leave it at the descriptor's being readable."""


def let_go_of_output() -> None:
    """Close what the command writes to, so that its readers see the end when it has one."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)


def wait(child: int, lifeline: int, deaths: int, crowd: Crowd) -> int:
    """Wait for the child's end, the lifeline's or a crowd; give the child's status, 0 if it has none."""
    while True:
        ready, _, _ = select.select([lifeline, deaths], [], [], crowd.look_seconds)
        if lifeline in ready:
            return 0
        if crowd.is_there():
            kill_all()
            return signal.SIGKILL
        status = reap(deaths).get(child)
        if status is not None:
            return status


def reap(deaths: int) -> dict[int, int]:
    """Take the status of every child that has died."""
    try:
        while os.read(deaths, 4096):
            pass
    except BlockingIOError:
        pass
    found: dict[int, int] = {}
    try:
        while (died := os.waitpid(-1, os.WNOHANG))[0]:
            found[died[0]] = died[1]
    except ChildProcessError:
        pass
    return found


def end_all(deaths: int, crowd: Crowd) -> None:
    """End whatever descends from us: first ask, then kill until there is nobody."""
    began = time.monotonic()
    if not crowd.is_there():
        ask_all()
    while has_children() and (passed := time.monotonic() - began) < END_SECONDS:
        if passed >= TERM_SECONDS or crowd.is_there():
            kill_all()
        left = max(TERM_SECONDS - passed, KILL_SECONDS)
        select.select([deaths], [], [], min(left, crowd.look_seconds or left))
        reap(deaths)


def ask_all() -> None:
    """Ask whatever descends from us to end."""
    for process, (name, _) in descendants().items():
        if name != SANDBOX:
            send(process, signal.SIGTERM)
            # Who is stopped would not notice.
            send(process, signal.SIGCONT)


def kill_all() -> None:
    """Kill whatever descends from us, by groups: out of one that is killed nobody forks any more.

    No group of theirs has strangers in it, for all of them are in sessions that began below us.
    """
    for group in {group for _, group in descendants().values()}:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


class Crowd:
    """Tells when a command has more processes than it can need.

    It is for root, whom the kernel lets have any number, limit or not; whoever else it is has his limit.
    """

    def __init__(self) -> None:
        # How often to look; null for never.
        self.look_seconds = LOOK_SECONDS if os.geteuid() == 0 else None
        self._most = count_tasks() + CROWD

    def is_there(self) -> bool:
        """Look at the machine's number of tasks, and only if it has grown by so many, whose they are."""
        if self.look_seconds is None or count_tasks() <= self._most:
            return False
        self._most = count_tasks() + CROWD
        return len(descendants()) >= CROWD


def count_tasks() -> int:
    """Count all tasks of the machine: the fourth of what proc(5) has in loadavg is ``running/all``."""
    return int(read("/proc/loadavg").split()[3].partition("/")[2])


def descendants() -> dict[int, tuple[str, int]]:
    """Find the living processes that descend from us, and their names and groups."""
    living: dict[int, tuple[str, int]] = {}
    children: dict[int, list[int]] = {}
    with os.scandir("/proc") as entries:
        processes = [int(entry.name) for entry in entries if entry.name.isdigit()]
    for process in processes:
        # A name may have spaces and brackets of its own.
        name, _, rest = read(f"/proc/{process}/stat").partition("(")[2].rpartition(")")
        state, parent, group = rest.split()[:3] if rest else ("X", "", "")
        if state not in "ZX":
            living[process] = name, int(group)
            children.setdefault(int(parent), []).append(process)
    found: list[int] = [os.getpid()]
    for process in found:
        found += children.get(process, ())
    return {process: living[process] for process in found[1:]}


def read(path: str) -> str:
    """Read a file of proc(5); nothing of a process that has gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.read(descriptor, 4096).decode(errors="replace")
    except ProcessLookupError:
        return ""
    finally:
        os.close(descriptor)


def send(process: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have gone, or have become somebody else's by setuid."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(process, number)


def end_as(status: int) -> None:
    """End this process as another one did."""
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # SIGKILL has no other action than its own.
        with suppress(OSError):
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    end_as(main(int(sys.argv[1]), sys.argv[3:]))
