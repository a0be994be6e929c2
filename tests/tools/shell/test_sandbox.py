from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal, TypeAlias

import pytest
import trio
from msgspec import structs

from crabd.tools.settings import SandboxSettings
from crabd.tools.shell.process import Ran, run_command
from crabd.tools.shell.sandbox import Bubblewrap, Landlock, Nothing, Sandbox, Walls
from tests.tools.processes import Token, wait_for_file, wait_until_gone

# For what takes tenths of a second on a quiet machine.
PATIENCE = 60
# A user that owns nothing else here.
SOMEBODY = 42_424
BWRAP, PRLIMIT = shutil.which("bwrap"), shutil.which("prlimit")
# One that everybody may run.
PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable

# How a test is confined, and as whom it runs: as ourselves, or as somebody without any rights of root's.
Way: TypeAlias = Literal["bubblewrap", "bubblewrap as somebody", "landlock", "none"]
CONFINED: tuple[Way, ...] = ("bubblewrap", "bubblewrap as somebody", "landlock")


class Machine:
    """A person's home with keys, a project, a daemon's places, and processes that belong to the person."""

    def __init__(self, place: Path, way: Way) -> None:
        self.home = place / "home"
        self.project = self.home / "project"
        self.state = self.home / ".local" / "state" / "crabd"
        self.elsewhere = place / "elsewhere"
        self.socket = self.elsewhere / "crabd.sock"
        self.settings = SandboxSettings()
        self.way = way
        files = {
            self.home / ".ssh" / "id": "a secret key",
            self.home / ".bashrc": "# mine",
            self.home / ".config" / "crabd" / "config.toml": "api_key = 'a secret key'",
            self.state / "sessions" / "another" / "log": "a secret conversation",
            self.elsewhere / "file": "not for it",
            self.project / "AGENTS.md": "Be kind.",
            self.project / ".crab" / "hooks.toml": "",
            self.project / ".git" / "config": "[core]\n",
            self.project / ".git" / "hooks" / "pre-commit": "true",
            self.project / "code.py": "print('hello')",
        }
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def belong_to(self, user: int) -> None:
        for path in [self.home, self.elsewhere, *self.home.rglob("*"), *self.elsewhere.rglob("*")]:
            os.chown(path, user, user)

    def sandbox(self, **settings: Any) -> Sandbox:
        walls = Walls(
            settings=structs.replace(self.settings, **settings),
            home=str(self.home),
            hidden=(str(self.home / ".config" / "crabd"), str(self.state), str(self.socket)),
            temporary=str(self.state / "tmp"),
            environment={
                "PATH": f"{Path(PYTHON).parent}:/usr/bin:/bin:/usr/sbin:/sbin",
                "HOME": str(self.home),
                "LC_TIME": "C",
                "AN_API_KEY": "a secret key",
                "GITHUB_TOKEN": "a secret key",
                "SSH_AUTH_SOCK": "/run/agent",
                "NOTIFY_SOCKET": "/run/notify",
            },
        )
        if self.way == "none":
            return Nothing(walls, prlimit=PRLIMIT)
        if self.way == "landlock":
            return Landlock(walls, prlimit=PRLIMIT)
        if BWRAP is None:
            pytest.skip("bubblewrap is not installed")
        return Bubblewrap(walls, BWRAP, prlimit=PRLIMIT)

    async def run(
        self, command: str, *, seconds: float = PATIENCE, cwd: Path | None = None, **settings: Any
    ) -> Ran:
        sandbox = self.sandbox(**settings)
        place = str(cwd or self.project)
        argv = sandbox.wrap(("bash", "-c", command), place)
        with trio.fail_after(PATIENCE):
            return await run_command(
                (*self.as_user(), *argv), cwd=place, env=sandbox.environment(), seconds=seconds
            )

    def as_user(self) -> tuple[str, ...]:
        if self.way != "bubblewrap as somebody":
            return ()
        # What the sandbox makes beforehand is its user's, as it would be there.
        self.belong_to(SOMEBODY)
        return ("setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups")


@pytest.fixture
def place() -> Iterator[Path]:
    """Not in /tmp, which is another one in a sandbox, and where every user may look."""
    place = Path(mkdtemp(dir="/var/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def machine(place: Path, request: pytest.FixtureRequest) -> Machine:
    way: Way = getattr(request, "param", "none")
    if way == "bubblewrap as somebody" and os.getuid() != 0:
        pytest.skip("only root becomes somebody else; the other tests run as an ordinary user anyhow")
    return Machine(place, way)


CONNECT = (
    PYTHON + ' -c \'import socket, sys; s = socket.socket(*map(int, sys.argv[1].split(","))); '
    's.connect(eval(sys.argv[2])); print("HIT")\' '
)
# What must not succeed: each prints HIT when it does.
ATTACKS = {
    "reads a key": "grep . ~/.ssh/id && echo HIT",
    "reads a key through a link": "ln -s ~/.ssh/id link; grep . link && echo HIT",
    "reads a key through a hard link": "ln ~/.ssh/id hard && grep . hard && echo HIT",
    "reads a key through its own root": "grep . /proc/self/root$HOME/.ssh/id && echo HIT",
    "reads a key through another's root": "grep . /proc/{victim}/root$HOME/.ssh/id && echo HIT",
    "reads a key through a walk upwards": "cd / && grep . ./usr/../$HOME/project/../.ssh/id && echo HIT",
    "lists keys": "ls ~/.ssh | grep id && echo HIT",
    "copies the home": "cp -r ~ /tmp/home; grep -r 'a secret' /tmp/home && echo HIT",
    "reads the configuration": "grep . ~/.config/crabd/config.toml && echo HIT",
    "reads another session": "grep -r secret ~/.local/state/crabd/sessions && echo HIT",
    "writes into the home": "echo x > ~/new && echo HIT",
    "writes what a shell runs": "echo x >> ~/.bashrc && echo HIT",
    "writes elsewhere": "echo x > {elsewhere}/file && echo HIT",
    "writes elsewhere through a link": "ln -s {elsewhere}/file out; echo x > out && echo HIT",
    "removes elsewhere": "rm {elsewhere}/file && echo HIT",
    "changes a mode elsewhere": "mv {elsewhere}/file {elsewhere}/moved && echo HIT",
    "uncovers by unmounting": "umount -l ~/.ssh; umount -l ~/.config/crabd; grep . ~/.ssh/id && echo HIT",
    "uncovers by mounting": "mkdir m; mount --bind ~/.ssh m; mount -o remount,rw /; grep . m/id && echo HIT",
    "uncovers in a namespace": "unshare -Urm sh -c 'umount -l ~/.ssh; mount --bind / /mnt; grep -r . "
    "~/.ssh /mnt$HOME/.ssh && echo HIT'",
    "calls the daemon": CONNECT + "1,1 '\"{socket}\"'",
    "calls a daemon without a path": CONNECT + "1,1 '\"\\0{abstract}\"'",
    "calls a server of this machine": CONNECT + "2,1 '(\"127.0.0.1\", {port})'",
    "asks a name server": CONNECT + "2,2 '(\"192.0.2.1\", 53)'",
    "signals the daemon": "kill -0 {victim} && echo HIT",
    "reads another's environment": "grep . /proc/{victim}/environ && echo HIT",
    "reads another's memory": "head -c 1 /proc/{victim}/maps | grep . && echo HIT",
    "sees what others leave": "ls {planted} && echo HIT",
    "gets more rights": "grep 'NoNewPrivs:.0' /proc/self/status && echo HIT",
}


@pytest.fixture
def victims(machine: Machine) -> Iterator[dict[str, object]]:
    """Run what a command could reach: sockets of three kinds, a process, a file in the shared /tmp."""
    user = SOMEBODY if machine.way == "bubblewrap as somebody" else os.getuid()
    abstract = f"crabd-{os.getpid()}"
    planted = Path(mkdtemp(dir="/tmp"))
    planted.chmod(0o755)
    victim = subprocess.Popen(["sleep", "1000"], env={"A_KEY": "a secret key"}, user=user)
    with (
        socket.socket(socket.AF_UNIX) as path,
        socket.socket(socket.AF_UNIX) as nameless,
        socket.create_server(("127.0.0.1", 0)) as tcp,
    ):
        path.bind(str(machine.socket))
        nameless.bind(f"\0{abstract}")
        for each in (path, nameless):
            each.listen()
        yield {
            "victim": victim.pid,
            "socket": machine.socket,
            "abstract": abstract,
            "port": tcp.getsockname()[1],
            "planted": planted,
            "elsewhere": machine.elsewhere,
        }
    victim.kill()
    victim.wait()
    shutil.rmtree(planted)


@pytest.mark.parametrize("machine", CONFINED, indirect=True)
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_a_sandbox_stops(machine: Machine, victims: dict[str, object], attack: str) -> None:
    ran = await machine.run(attack.format(**victims))

    assert b"HIT" not in ran.head, ran.head.decode()
    assert b"secret" not in ran.head
    assert (machine.elsewhere / "file").read_text() == "not for it"


# What needs no sandbox to fail: an ordinary user's or the kernel's own limits.
HARMLESS = {"uncovers by mounting", "uncovers in a namespace", "uncovers by unmounting"}


@pytest.mark.parametrize("attack", [ATTACKS[name] for name in ATTACKS if name not in HARMLESS])
async def test_without_a_sandbox_nothing_of_this_is_stopped(
    machine: Machine, victims: dict[str, object], attack: str
) -> None:
    """It shows that each attack is one."""
    ran = await machine.run(attack.format(**victims))

    assert b"HIT" in ran.head, ran.head.decode()


# What would be run or believed outside the next time; Landlock knows no exceptions within a directory.
GUARDED = {
    "a hook": "echo evil > .git/hooks/pre-commit && echo HIT",
    "a new hook": "echo evil > .git/hooks/post-merge && echo HIT",
    "the configuration of git": "git config core.pager evil && echo HIT",
    "the configuration itself": "echo evil >> .git/config && echo HIT",
    "a whole repository": "mv .git away && echo HIT",
    "hooks that are moved away": "mv .git/hooks .git/away && echo HIT",
    "instructions": "echo evil >> AGENTS.md && echo HIT",
    "instructions that are replaced": "echo evil > new; mv new AGENTS.md && echo HIT",
    "instructions that are removed": "rm -f AGENTS.md && echo HIT",
    "hooks of crabd": "echo evil >> .crab/hooks.toml && echo HIT",
    "hooks of crabd anew": "mv .crab away && echo HIT",
}


@pytest.mark.parametrize("machine", ["bubblewrap", "bubblewrap as somebody"], indirect=True)
@pytest.mark.parametrize("attack", GUARDED.values(), ids=GUARDED)
async def test_what_is_believed_outside_is_not_written(machine: Machine, attack: str) -> None:
    ran = await machine.run(attack)

    assert b"HIT" not in ran.head, ran.head.decode()
    assert (machine.project / ".git" / "hooks" / "pre-commit").read_text() == "true"
    assert (machine.project / "AGENTS.md").read_text() == "Be kind."


@pytest.mark.parametrize("machine", ["bubblewrap"], indirect=True)
async def test_a_repository_without_hooks_gets_none(machine: Machine) -> None:
    shutil.rmtree(machine.project / ".git" / "hooks")

    ran = await machine.run("mkdir -p .git/hooks; echo evil > .git/hooks/pre-commit && echo HIT")

    assert b"HIT" not in ran.head
    assert list((machine.project / ".git" / "hooks").iterdir()) == []


@pytest.mark.parametrize("machine", CONFINED, indirect=True)
async def test_work_goes_on_as_ever(machine: Machine) -> None:
    commit = "git -c user.name=Crab -c user.email=c@example.org commit -q"

    shutil.rmtree(machine.project / ".git")
    await machine.run("git init -q .")
    ran = await machine.run(
        f"git add -A && {commit} -m one && git log --format=%s && mkdir -p a/b && echo x | tee a/b/c "
        f"&& rm -r a && {PYTHON} code.py && echo y > /dev/null && head -c 3 /dev/urandom | wc -c"
    )

    assert ran.exit_code == 0, ran.head.decode()
    assert ran.head == b"one\nx\nhello\n3\n"
    assert (machine.project / ".git" / "HEAD").exists()


@pytest.mark.parametrize("machine", CONFINED, indirect=True)
async def test_temporary_files_last_from_call_to_call_but_are_nobody_elses(machine: Machine) -> None:
    other = machine.home / "other"
    other.mkdir()

    await machine.run("echo kept > $TMPDIR/notes")
    same, apart = await machine.run("cat $TMPDIR/notes"), await machine.run("ls $TMPDIR/notes", cwd=other)

    assert same.head == b"kept\n"
    assert apart.exit_code != 0


@pytest.mark.parametrize("machine", [*CONFINED, "none"], indirect=True)
async def test_the_environment_has_what_is_on_the_list(machine: Machine) -> None:
    ran = await machine.run("env", environment=("AN_*", "SSH_AUTH_SOCK"))

    names = {line.partition("=")[0] for line in ran.head.decode().splitlines()}
    # bash and python add the last ones.
    known = {"PATH", "HOME", "LC_TIME", "TMPDIR", "SSH_AUTH_SOCK", "CRABD_COMMAND"}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"} == known


@pytest.mark.parametrize("machine", ["none"], indirect=True)
def test_a_key_is_passed_on_when_it_is_named(machine: Machine) -> None:
    assert "GITHUB_TOKEN" not in machine.sandbox(environment=("*",)).environment()
    assert machine.sandbox(environment=("GITHUB_TOKEN",)).environment()["GITHUB_TOKEN"] == "a secret key"


@pytest.mark.parametrize("machine", CONFINED, indirect=True)
async def test_the_network_is_there_where_it_is_allowed(machine: Machine, victims: dict[str, object]) -> None:
    ran = await machine.run(ATTACKS["calls a server of this machine"].format(**victims), network=True)
    daemon = await machine.run(ATTACKS["calls the daemon"].format(**victims), network=True)

    assert ran.head == b"HIT\n"
    assert b"HIT" not in daemon.head


@pytest.mark.parametrize("machine", CONFINED, indirect=True)
async def test_further_paths_can_be_written_and_hidden(machine: Machine) -> None:
    cache = machine.home / ".cache"
    cache.mkdir()
    (machine.home / "diary").write_text("a secret thought")

    ran = await machine.run(
        "echo x > ~/.cache/x && echo written; cat ~/diary", write=("~/.cache",), hide=("~/diary",)
    )

    assert ran.head.startswith(b"written\n")
    assert b"secret" not in ran.head


@pytest.mark.parametrize("machine", CONFINED, indirect=True)
async def test_in_the_home_itself_keys_are_hidden_all_the_same(machine: Machine) -> None:
    ran = await machine.run("grep -r secret .; echo x >> project/code.py && echo written", cwd=machine.home)

    assert b"secret" not in ran.head
    assert ran.head.endswith(b"written\n")


@pytest.mark.parametrize("machine", CONFINED, indirect=True)
async def test_a_directory_within_what_is_hidden_can_be_worked_in(machine: Machine) -> None:
    inner = machine.home / ".config" / "crabd" / "agents"
    inner.mkdir()

    ran = await machine.run("echo x > new && cat new; cat ../config.toml", cwd=inner)

    assert ran.head.startswith(b"x\n")
    assert b"secret" not in ran.head


@pytest.mark.parametrize("machine", [*CONFINED, "none"], indirect=True)
async def test_files_are_bounded_and_there_are_no_cores(machine: Machine) -> None:
    ran = await machine.run("ulimit -c; head -c 1000000 /dev/zero > big; echo $?", file_bytes=1000)

    assert ran.head.split()[0] == b"0"
    assert ran.head.split()[-1] == str(128 + signal.SIGXFSZ).encode()
    assert (machine.project / "big").stat().st_size == 1000


@pytest.mark.parametrize("machine", [*CONFINED, "none"], indirect=True)
async def test_memory_is_bounded_where_that_is_wanted(machine: Machine) -> None:
    grow = f"{PYTHON} -c 'x = bytes(1 << 30); print(len(x))'"

    free, bound = await machine.run(grow), await machine.run(grow, memory_bytes=1 << 29)

    assert free.exit_code == 0
    assert b"MemoryError" in bound.head


@pytest.mark.parametrize("machine", ["bubblewrap as somebody"], indirect=True)
async def test_a_bomb_of_forks_stays_in_its_box(machine: Machine) -> None:
    token = Token()

    ran = await machine.run(
        f": {token.text}; b() {{ b | b & }}; trap '' TERM; b; wait", seconds=1, processes=50
    )

    assert b"Resource temporarily unavailable" in ran.head
    assert token.living() == []


LEFTOVERS = {
    "a daemon": "(env -i setsid /bin/sh -c 'sleep {token} & sleep {token}' &); echo started",
    "a daemon that ignores being asked": "(trap '' TERM; setsid sleep {token} &); echo started",
    "one that kills whom it can": "setsid sleep {token} & kill -KILL $PPID; kill -KILL -1",
}


@pytest.mark.parametrize("machine", ["bubblewrap", "landlock"], indirect=True)
@pytest.mark.parametrize("command", LEFTOVERS.values(), ids=LEFTOVERS)
async def test_nothing_is_left_of_a_confined_command(machine: Machine, command: str) -> None:
    token = Token()

    await machine.run(command.format(token=token.text))
    await machine.run(f"{command.format(token=token.text)}; trap '' TERM; sleep {token.text}", seconds=0.5)

    assert token.living() == []


@pytest.mark.parametrize("machine", CONFINED, indirect=True)
async def test_a_confined_command_may_tidy_up_too(machine: Machine) -> None:
    ran = await machine.run("trap 'echo tidied; exit' TERM; while :; do sleep 0.01; done", seconds=0.5)

    assert ran.head.endswith(b"tidied\n")


@pytest.mark.parametrize("machine", ["bubblewrap", "landlock"], indirect=True)
async def test_a_confined_command_dies_with_the_daemon(machine: Machine) -> None:
    ready, cwd = machine.project / "ready", str(machine.project)
    sandbox = machine.sandbox()
    command = "trap '' TERM; setsid sleep 86400 & echo go > ready; wait"
    argv, env = sandbox.wrap(("bash", "-c", command), cwd), sandbox.environment()
    code = (
        "import trio\n"
        "from functools import partial\n"
        "from crabd.tools.shell.process import run_command\n"
        f"trio.run(partial(run_command, {argv!r}, cwd={cwd!r}, env={env!r}, seconds=1000))\n"
    )

    with trio.fail_after(PATIENCE):
        daemon = await trio.lowlevel.open_process([sys.executable, "-c", code])
        await wait_for_file(ready)
        tasks = Path(f"/proc/{daemon.pid}/task").iterdir()
        (keeper,) = (int(child) for task in tasks for child in (task / "children").read_text().split())
        daemon.kill()
        await daemon.wait()
        # It goes when it has no child left.
        await wait_until_gone(keeper)
