"""Sandboxes: what a process that a tool starts is kept from, by what this machine has to keep it.

Each is a way to put a command line into another one. They are the second wall: what may run at all is decided
before, by rules and people. Which one works is found out by trying it, see ``choosing``.
"""

from __future__ import annotations

import os
import resource
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeAlias

from msgspec import Struct

from crabd.tools.base import Confinement
from crabd.tools.settings import SandboxSettings

Kind: TypeAlias = Literal["bubblewrap", "landlock", "none", "refused"]

# Both are full of sockets, and of what others leave there.
TMP = "/tmp"  # noqa: S108 - nothing is written there but by who has another directory bound to it
RUN = "/run"
RESOLVED = "/run/systemd/resolve"
LANDLOCK = Path(__file__).with_name("landlock.py")
# Where people keep what opens doors, below the home directory.
SECRETS = (
    ".ssh", ".gnupg", ".password-store", ".local/share/keyrings", ".netrc", ".git-credentials", ".aws",
    ".azure", ".config/gcloud", ".kube", ".docker", ".config/gh", ".config/glab-cli", ".config/hub",
    ".config/op", ".config/sops", ".config/rclone", ".terraform.d", ".vault-token", ".npmrc", ".pypirc",
    ".config/pip", ".cargo/credentials", ".cargo/credentials.toml", ".gem/credentials", ".m2/settings.xml",
    ".pgpass", ".my.cnf", ".mozilla", ".thunderbird", ".config/chromium", ".config/google-chrome",
    ".bash_history", ".zsh_history",
)  # fmt: skip
# In the directory itself: what would be run, or believed, outside of the sandbox the next time.
PROTECTED = (".git/hooks", ".git/config", ".git/modules", ".crab", "AGENTS.md", "CRAB.md")
# What programs need to find themselves, their like and the person's language.
VARIABLES = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR",
    "VIRTUAL_ENV", "PYENV_ROOT", "CONDA_PREFIX", "NVM_DIR", "NODE_PATH", "CARGO_HOME", "RUSTUP_HOME",
    "GOPATH", "GOROOT", "JAVA_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "NIX_PATH", "NIX_PROFILES",
)  # fmt: skip
# Names that a pattern never means, only they themselves.
KEYS = ("*KEY*", "*TOKEN*", "*SECRET*", "*PASS*", "*CREDENTIAL*", "*AUTH*", "*COOKIE*")


class Walls(Struct, frozen=True, kw_only=True):
    """What is to be kept from whom. Paths are absolute.

    ``hidden`` are crabd's own places; those of the person's ``home`` and of the settings come to them. Each
    directory that commands run in has its own /tmp, below ``temporary``.
    """

    settings: SandboxSettings
    home: str
    hidden: tuple[str, ...]
    temporary: str
    environment: Mapping[str, str]

    def list_hidden(self) -> list[str]:
        """List what is hidden and there, as real paths, directories before what they hold."""
        secrets = (str(Path(self.home, name)) for name in SECRETS)
        wanted = [*self.hidden, *secrets, *map(self._expand, self.settings.hide)]
        return sorted({os.path.realpath(path) for path in wanted if Path(path).exists()})

    def list_writable(self, cwd: str) -> list[str]:
        """List where may be written, the directory itself first, as real paths."""
        further = (os.path.realpath(self._expand(path)) for path in self.settings.write)
        return [cwd, *(path for path in further if Path(path).exists())]

    def make_temporary(self, cwd: str) -> str:
        """Make the directory that is to be the /tmp of commands in ``cwd``."""
        path = Path(self.temporary, sha256(os.fsencode(cwd)).hexdigest()[:16])
        # One by one: the mode is not for parents that are made on the way.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        return str(path)

    def clear_temporary(self) -> None:
        """Remove what commands have left in their /tmp; it may take its time, and is taken up again later."""
        place = Path(self.temporary)
        if place.is_dir():
            place.rename(place.with_name(f"{place.name}.old-{secrets.token_hex(4)}"))
        for old in place.parent.glob(f"{place.name}.old-*"):
            shutil.rmtree(old, ignore_errors=True)

    def pick_environment(self) -> dict[str, str]:
        """Pick the variables that are on the list; of those that may be keys only what is there by name."""
        names = (*VARIABLES, *self.settings.environment)
        return {
            name: value
            for name, value in self.environment.items()
            if name in names or (any(fnmatchcase(name, each) for each in names) and not _may_be_key(name))
        }

    def _expand(self, path: str) -> str:
        return str(Path(self.home, path[2:])) if path.startswith("~/") else path


class Sandbox(Confinement):
    """What confines commands, or says why nothing does.

    ``problems`` are sentences for the person who looks after the daemon.
    """

    kind: Kind

    def __init__(self, walls: Walls, *, prlimit: str | None, problems: Sequence[str] = ()) -> None:
        self.problems = tuple(problems)
        self._walls = walls
        self._prlimit = prlimit

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind}>"

    def environment(self) -> dict[str, str]:
        return {"TMPDIR": TMP, **self._walls.pick_environment()}

    def _limit(self, command: Sequence[str], *, others: int) -> tuple[str, ...]:
        """Put limits on the command. That on processes counts the user's ``others`` as well."""
        if self._prlimit is None:
            return tuple(command)
        settings = self._walls.settings
        limits = [
            "--core=0",
            _limit_of("nproc", resource.RLIMIT_NPROC, settings.processes + others),
            _limit_of("fsize", resource.RLIMIT_FSIZE, settings.file_bytes),
        ]
        if settings.memory_bytes is not None:
            limits.append(_limit_of("as", resource.RLIMIT_AS, settings.memory_bytes))
        return (self._prlimit, *limits, "--", *command)

    def _describe(self, *parts: str) -> str:
        return ", ".join([*parts, *self._lacks()])

    def _lacks(self) -> Iterator[str]:
        if self._prlimit is None:
            yield "no limits, for there is no prlimit"
        elif os.geteuid() == 0:
            yield "no limit on processes, for crabd runs as root"


class Bubblewrap(Sandbox):
    """Namespaces of its own: it sees no other process, and of the files what is bound for it."""

    kind = "bubblewrap"

    def __init__(self, walls: Walls, program: str, *, prlimit: str | None, is_old: bool = False) -> None:
        super().__init__(walls, prlimit=prlimit)
        self._program = program
        self._is_old = is_old

    def wrap(self, command: Sequence[str], cwd: str) -> tuple[str, ...]:
        real = os.path.realpath(cwd)
        return (
            self._program,
            *("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
            *([] if self._is_old else ["--disable-userns"]),
            *(["--share-net"] if self._walls.settings.network else []),
            *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
            *("--bind", self._walls.make_temporary(real), TMP, "--tmpfs", RUN),
            # Where names are looked up, on many machines with systemd.
            *(["--ro-bind-try", RESOLVED, RESOLVED] if self._walls.settings.network else []),
            *self._bind(real),
            *("--remount-ro", RUN, "--setenv", "TMPDIR", TMP, "--chdir", real, "--"),
            *self._limit(command, others=0),
        )

    def _bind(self, cwd: str) -> Iterator[str]:
        """Bind what may be written, over what is hidden around it, and hide what is hidden within."""
        writable, hidden = self._walls.list_writable(cwd), self._walls.list_hidden()
        around = [path for path in hidden if any(each == path or is_below(each, path) for each in writable)]
        for path in around:
            yield from ("--tmpfs", path)
        for path in writable:
            yield from ("--bind", path, path)
        for path in around:
            if path not in writable:
                yield from ("--remount-ro", path)
        yield from _guard(cwd)
        within = [path for path in hidden if path not in around]
        for path in within:
            is_gone = any(is_below(path, each) for each in (*around, TMP, RUN))
            is_bound = any(is_below(path, each) for each in writable)
            if (is_bound or not is_gone) and not any(is_below(path, each) for each in within):
                yield from _hide(path)

    def describe(self) -> str:
        network = "the network" if self._walls.settings.network else "no network"
        return self._describe(
            "bubblewrap: it can write in its directory alone",
            "sees no keys and no other process",
            f"has {network}",
        )


class Landlock(Sandbox):
    """Rights given up: the same files and processes are there, and what is not allowed fails."""

    kind = "landlock"

    def wrap(self, command: Sequence[str], cwd: str) -> tuple[str, ...]:
        real = os.path.realpath(cwd)
        # Of the devices the wrapper allows those that are none.
        hidden = [*self._walls.list_hidden(), TMP, RUN, "/dev"]
        return (
            *(sys.executable, "-I", "-S", str(LANDLOCK)),
            *(part for path in hidden for part in ("-h", path)),
            *(part for path in self._walls.list_writable(real) for part in ("-w", path)),
            *("-t", self._walls.make_temporary(real)),
            *(["-n"] if self._walls.settings.network else []),
            "--",
            *self._limit(command, others=_count_tasks()),
        )

    def describe(self) -> str:
        network = "the network" if self._walls.settings.network else "no network"
        return self._describe(
            "Landlock: it can write in its directory alone, .git/hooks and .git/config among it",
            "reads no keys",
            f"has {network}",
        )


class Nothing(Sandbox):
    """No walls; but no keys in the environment either, and the limits."""

    kind = "none"

    def wrap(self, command: Sequence[str], cwd: str) -> tuple[str, ...]:
        return self._limit(command, others=_count_tasks())

    def describe(self) -> str:
        return self._describe("no sandbox: it can do what you can")


class Refusal(Sandbox):
    """A sandbox is required and there is none, so nothing runs."""

    kind = "refused"

    def wrap(self, command: Sequence[str], cwd: str) -> tuple[str, ...]:
        raise NoSandbox(self.problems)

    def describe(self) -> str:
        return "no sandbox works here and one is required: nothing runs"


class NoSandbox(OSError):
    """Nothing may run without a sandbox, and there is none."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__()
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return (
            f"no command can run: a sandbox is required, and none works ({'; '.join(self.problems)}). "
            "The person has to install bubblewrap, or to set "
            'sandbox = "auto" in config.toml, and then crabctl restart'
        )


def is_below(path: str, directory: str) -> bool:
    """Tell whether a path lies in a directory, by its components."""
    return path.startswith(directory.rstrip("/") + "/")


def _hide(path: str) -> Iterator[str]:
    if Path(path).is_dir():
        yield from ("--tmpfs", path, "--remount-ro", path)
    else:
        yield from ("--ro-bind", "/dev/null", path)


def _guard(cwd: str) -> Iterator[str]:
    """Bind read-only in the directory what would be run or believed outside.

    What is bound can be neither removed nor renamed, so ``.git`` as a whole is bound as well. A link is left
    as it is: what it leads to may be written, or not, for its own sake.
    """
    git = Path(cwd, ".git")
    if git.is_dir() and git.resolve() == git:
        yield from ("--bind", str(git), str(git))
        if not (git / "hooks").exists():
            yield from _make_empty(str(git / "hooks"))
    for path in (Path(cwd, name) for name in PROTECTED):
        if path.exists() and path.resolve() == path:
            yield from ("--ro-bind", str(path), str(path))


def _make_empty(path: str) -> Iterator[str]:
    # An empty directory stays behind, as git itself makes one.
    yield from ("--tmpfs", path, "--remount-ro", path)


def _limit_of(name: str, which: int, wanted: int) -> str:
    _, most = resource.getrlimit(which)
    return f"--{name}={wanted if most == resource.RLIM_INFINITY else min(wanted, most)}"


def _count_tasks() -> int:
    """Count the machine's tasks, which are no fewer than this user's."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])


def _may_be_key(name: str) -> bool:
    return any(fnmatchcase(name.upper(), each) for each in KEYS)
