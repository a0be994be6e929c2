"""Starting the real daemon when it is needed: one, ready, and refused with a reason where it cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from socket import AF_UNIX, socket

import pytest

from tests.crabctl.program import PATIENCE, crabctl, home

CALLERS = 20


@pytest.fixture
def env(tmp_path: Path) -> Generator[dict[str, str]]:
    """Be a new user; whatever daemon was started is stopped at the end."""
    environment = home(tmp_path)
    yield environment
    crabctl("stop", "--grace", "1", env=environment)


def pid_of(env: dict[str, str]) -> int:
    pid: int = json.loads(crabctl("status", "--json", "--no-start", env=env).stdout)["pid"]
    return pid


def test_twenty_callers_at_once_start_one_daemon_and_get_twenty_answers(env: dict[str, str]) -> None:
    callers = [
        subprocess.Popen(
            [sys.executable, "-m", "crabctl", "status", "--json"],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(CALLERS)
    ]
    answers = [caller.communicate(timeout=PATIENCE) for caller in callers]

    assert [caller.returncode for caller in callers] == [0] * CALLERS, answers
    assert len({json.loads(out)["pid"] for out, _ in answers}) == 1


def test_an_editor_that_finds_no_daemon_gets_one_and_its_answers(env: dict[str, str]) -> None:
    asked = b'{"jsonrpc": "2.0", "id": 1, "method": "daemon/ping"}\n'

    done = crabctl("acp", env=env, text=asked)

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["id"] == 1


def test_a_conversation_outlives_crabctl_and_the_daemon(env: dict[str, str]) -> None:
    said = crabctl("send", "echo remember me", env=env)
    first = pid_of(env)
    restarted = crabctl("restart", env=env)
    log = crabctl("log", env=env)

    assert said.stdout == "remember me\n"
    assert restarted.stdout == f"crabd has started (pid {pid_of(env)})\n"
    assert pid_of(env) != first
    assert "\nremember me\n" in log.stdout


def test_stop_returns_when_the_process_is_gone(env: dict[str, str]) -> None:
    crabctl("start", env=env)
    pid = pid_of(env)

    stopped = crabctl("stop", env=env)

    assert (stopped.returncode, stopped.stdout) == (0, f"crabd has stopped (pid {pid})\n")
    assert not Path(env["XDG_RUNTIME_DIR"], "crabd/crabd.sock").exists()
    assert not _is_alive(pid)


def test_start_leaves_a_daemon_that_runs_alone(env: dict[str, str]) -> None:
    first = crabctl("start", "--json", env=env)
    started = json.loads(first.stdout)
    again = crabctl("start", env=env)

    assert (started["started"], first.stderr) == (True, "")
    assert (again.returncode, again.stdout) == (0, f"crabd is already running (pid {started['pid']})\n")


def test_a_daemon_that_was_killed_is_replaced(env: dict[str, str]) -> None:
    crabctl("start", env=env)
    os.kill(pid_of(env), signal.SIGKILL)

    status = crabctl("status", env=env)

    assert status.returncode == 0


def test_the_socket_that_was_asked_for_is_the_one_served(env: dict[str, str], tmp_path: Path) -> None:
    directory = tmp_path / "elsewhere"
    path = str(directory / "here.sock")

    status = crabctl("status", "--json", "--socket", path, env=env)
    crabctl("stop", "--socket", path, env=env)

    assert json.loads(status.stdout)["socket"] == path
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_daemon_that_cannot_start_says_why(env: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / ".config/crabd/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("this is = not toml")

    done = crabctl("status", env=env)

    assert done.returncode == 3
    assert done.stderr.startswith("crabctl: crabd did not start:\n")
    assert "config.toml" in done.stderr


def test_a_manager_that_is_gone_is_not_waited_for(env: dict[str, str]) -> None:
    private = Path(env["XDG_RUNTIME_DIR"]) / "systemd" / "private"
    private.parent.mkdir()
    with socket(AF_UNIX) as dead:
        dead.bind(str(private))

    done = crabctl("status", env=env)

    assert done.returncode == 0


def test_a_directory_that_others_can_replace_is_refused(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)

    done = crabctl("status", "--socket", str(tmp_path / "shared" / "crabd" / "s"), env=env)

    assert done.returncode == 3
    assert done.stderr.startswith(
        f"crabctl: the socket's directory {tmp_path}/shared can be changed by others"
    )


@pytest.mark.parametrize("kind", ["open to others", "a symbolic link"])
def test_an_unsafe_directory_for_the_socket_is_refused(
    env: dict[str, str], tmp_path: Path, kind: str
) -> None:
    directory = tmp_path / "unsafe"
    if kind == "open to others":
        directory.mkdir()
        directory.chmod(0o755)
    else:
        (tmp_path / "real").mkdir(mode=0o700)
        directory.symlink_to(tmp_path / "real")

    done = crabctl("status", "--socket", str(directory / "s"), env=env)

    assert done.returncode == 3
    assert done.stderr.startswith(f"crabctl: the socket's directory {directory} is {kind}")


def test_a_file_in_the_place_of_the_directory_is_said_so(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = crabctl("status", "--socket", str(tmp_path / "file" / "s"), env=env)

    assert (done.returncode, done.stderr.splitlines()) == (
        3,
        [f"crabctl: cannot connect to {tmp_path}/file/s: Not a directory"],
    )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(env: dict[str, str], tmp_path: Path) -> None:
    directory = tmp_path / "theirs"
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65534)

    done = crabctl("status", "--socket", str(directory / "s"), env=env)

    assert done.returncode == 3
    assert "belongs to another user (uid 65534)" in done.stderr


def test_the_daemon_stands_in_the_root_and_holds_no_terminal(env: dict[str, str]) -> None:
    crabctl("start", env=env)
    process = Path("/proc") / str(pid_of(env))

    assert (process / "cwd").readlink() == Path("/")
    assert (process / "fd/0").readlink() == Path("/dev/null")
    assert os.getsid(int(process.name)) == int(process.name)


def test_a_log_that_has_grown_large_is_set_aside(env: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / ".local/state/crabd/crabd.log"
    log.parent.mkdir(parents=True, mode=0o700)
    with log.open("wb") as file:
        file.truncate((10 << 20) + 1)

    crabctl("start", env=env)

    assert log.stat().st_size < 1 << 20
    assert log.with_name("crabd.log.1").stat().st_size == (10 << 20) + 1


def _is_alive(pid: int) -> bool:
    try:
        # A process that has ended and that nobody has waited for is one no more.
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
