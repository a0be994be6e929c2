"""crabd as a service of systemd: real units, real socket activation, a real user manager."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from socket import AF_UNIX, socket

import pytest
import trio

from crabctl.units import render
from tests.e2e.daemon import PATIENCE, Client, Daemon, Home
from tests.e2e.user_manager import UserManager, start_user_manager, why_not

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
# As a service manager starts a service: descriptor 3 listens, and LISTEN_PID is the process it is meant for.
HANDING_OVER = 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" -m crabd 3<&0 0</dev/null'
GIVEN_UP = "systemctl --user reset-failed crabd.service crabd.socket"


@cache
def reason() -> str:
    return why_not()


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[UserManager]:
    if reason():
        pytest.skip(reason())
    async with start_user_manager(tmp_path) as running:
        yield running


def configure(manager: UserManager, text: str) -> None:
    manager.config.mkdir(parents=True, exist_ok=True)
    (manager.config / "config.toml").write_text(text)


async def session_of(client: Client) -> str:
    session: str = (await client.call("session/get_or_create", agent="crab"))["id"]
    return session


async def connect_soon(daemon: Daemon) -> Client:
    """Connect as soon as somebody listens."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                return await daemon.connect()
            except (FileNotFoundError, ConnectionRefusedError):
                await trio.lowlevel.checkpoint()


@needs_systemd
@pytest.mark.parametrize("folder", ["plain", "a 100%h ${HOME} folder"])
def test_the_units_mean_to_systemd_what_they_say(tmp_path: Path, folder: str) -> None:
    programs = tmp_path / folder
    programs.mkdir()
    for name in ("crabd", "crabctl"):
        (programs / name).symlink_to("/bin/true")
    files = [tmp_path / "crabd.socket", tmp_path / "crabd.service"]
    for file, text in zip(
        files, render(programs, str(programs / "s"), "/run/crabd.sock").values(), strict=True
    ):
        file.write_text(text)

    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", "--recursive-errors=yes", *files],
        env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )

    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
async def test_a_socket_that_is_handed_over_starts_the_daemon_and_outlives_it(home: Home) -> None:
    home.socket.parent.mkdir(mode=0o700)
    log = (home.directory / "crabd.log").open("wb")
    variables = [f"--setenv={name}={value}" for name, value in home.env.items()]
    process = await trio.lowlevel.open_process(
        ["systemd-socket-activate", f"--listen={home.socket}", *variables, sys.executable, "-m", "crabd"],
        stderr=log,
    )
    log.close()
    try:
        async with trio.open_nursery() as nursery:
            daemon = Daemon(home, process, nursery)
            client = await connect_soon(daemon)

            status = await client.call("daemon/status")
            code = await daemon.stop()

            assert (status["pid"], status["socket"]) == (process.pid, str(home.socket))
            assert (code, home.socket.is_socket()) == (0, True)
            nursery.cancel_scope.cancel()
    finally:
        if process.returncode is None:
            process.kill()


def test_those_who_wait_for_a_daemon_that_cannot_start_are_told_in_their_own_framing(home: Home) -> None:
    home.configure("this is = not toml")
    home.socket.parent.mkdir(mode=0o700)
    with socket(AF_UNIX) as listener, socket(AF_UNIX) as lines, socket(AF_UNIX) as headers:
        listener.bind(str(home.socket))
        listener.listen()
        for client, request in ((lines, b"{}\n"), (headers, b"Content-Length: 2\r\n\r\n{}")):
            client.settimeout(PATIENCE)
            client.connect(str(home.socket))
            client.send(request)

        done = subprocess.run(
            ["/bin/sh", "-c", HANDING_OVER, sys.executable],
            stdin=listener.fileno(),
            env=home.env,
            capture_output=True,
            timeout=PATIENCE,
        )
        told, told_framed = lines.recv(4096), headers.recv(4096)

    head, _, body = told_framed.partition(b"\r\n\r\n")
    assert (done.returncode, told) == (78, body + b"\n")
    assert head == b"Content-Length: %d" % len(body)
    assert json.loads(body)["error"]["message"].startswith(f"crabd did not start: {home.config}/config.toml")


async def test_a_manager_of_a_test_leaves_nothing_behind(tmp_path: Path) -> None:
    if reason():
        pytest.skip(reason())
    mounts = Path("/proc/self/mountinfo").read_text()

    async with start_user_manager(tmp_path) as manager:
        inside = (await manager.run("cat", "/proc/self/mountinfo")).stdout

    assert inside != mounts
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert list(Path("/sys/fs/cgroup").rglob("crabd-test-*")) == []


async def test_an_installed_service_starts_when_somebody_connects(manager: UserManager) -> None:
    installed = await manager.crabctl("service", "install")
    before = await manager.show("crabd.service", "ActiveState")
    without = await manager.crabctl("status", "--no-start")
    said = await manager.crabctl("send", "echo hello")
    status = json.loads((await manager.crabctl("service", "status", "--json")).stdout)

    assert installed.stdout.startswith(f"crabd.socket and crabd.service written to {manager.units}\n")
    assert before == {"ActiveState": "inactive"}
    assert (without.returncode, without.stderr) == (3, "crabctl: crabd is not running: crabctl start\n")
    assert said.stdout == "hello\n"
    assert (status["socket"]["enabled"], status["socket"]["state"]) == ("enabled", "running")
    assert status["advice"] == []
    assert status["daemon"]["pid"] == status["service"]["pid"] == int(await manager.pid())
    assert (manager.socket.stat().st_mode & 0o777, manager.socket.parent.stat().st_mode & 0o777) == (
        0o600,
        0o700,
    )


async def test_a_service_may_open_as_many_files_as_is_allowed(manager: UserManager) -> None:
    await manager.install()
    await manager.crabctl("start")

    limits = (await manager.run("cat", f"/proc/{await manager.pid()}/limits")).stdout

    (line,) = (line.split() for line in limits.splitlines() if line.startswith("Max open files"))
    assert line[3] == line[4]


async def test_a_service_that_is_reloaded_keeps_its_process_and_its_sessions(manager: UserManager) -> None:
    await manager.install()
    client = await manager.connect()
    session = await session_of(client)
    pid = await manager.pid()
    (manager.config / "agents").mkdir(parents=True)
    (manager.config / "agents" / "scout.md").write_text("---\ndescription: looks around\n---\nLook.\n")

    await manager.systemctl("reload", "crabd.service")
    result = await client.call("session/send", session=session, content="echo still here")
    agents = await client.call("agent/list")

    assert result["text"] == "still here"
    assert {agent["name"] for agent in agents["agents"]} == {"crab", "scout"}
    assert await manager.pid() == pid


async def test_a_service_that_hangs_is_killed_and_the_next_request_is_served(manager: UserManager) -> None:
    await manager.install("[Service]\nWatchdogSec=3\n")
    await manager.crabctl("send", "echo before")
    pid = await manager.pid()

    await manager.run("kill", "-STOP", pid)
    await manager.until("crabd.service", NRestarts="1")
    listed = await manager.crabctl("ls", "--json")

    assert [session["id"] for session in json.loads(listed.stdout)["sessions"]] == ["crab_user_1"]
    assert await manager.pid() not in (pid, "0")


async def test_a_service_that_is_killed_comes_back_with_its_sessions(manager: UserManager) -> None:
    await manager.install()
    await manager.crabctl("send", "echo before")
    pid = await manager.pid()

    await manager.run("kill", "-KILL", pid)
    log = await manager.crabctl("log")
    again = await manager.crabctl("send", "echo after")

    assert "\nbefore\n" in log.stdout
    assert again.stdout == "after\n"
    assert await manager.pid() not in (pid, "0")


async def test_a_service_that_is_stopped_ends_its_runs_in_order(manager: UserManager) -> None:
    configure(manager, "grace = 0.2")
    await manager.install()
    client = await manager.connect()
    session = await session_of(client)
    running = await client.ask("session/send", session=session, content="slow 10000 100")
    await client.event("text_delta")

    await manager.systemctl("stop", "crabd.service")
    ended = await client.event("run_ended")
    result = await client.answer(running)
    await client.until(lambda: client.order[-1] == "hung up")

    found = await manager.show("crabd.service", "Result", "ExecMainStatus", "ActiveState")
    assert (ended["stop_reason"], result["stop_reason"]) == ("cancelled", "cancelled")
    assert found == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}


async def test_a_grace_beyond_the_patience_of_the_manager_is_waited_for(manager: UserManager) -> None:
    await manager.install("[Service]\nTimeoutStopSec=1\n")
    client = await manager.connect()
    session = await session_of(client)
    running = await client.ask("session/send", session=session, content="slow 25 100")
    await client.event("text_delta")

    await manager.systemctl("stop", "crabd.service")
    result = await client.answer(running)

    assert result["stop_reason"] == "end_turn"
    assert (await manager.show("crabd.service", "Result")) == {"Result": "success"}


async def test_a_wrong_configuration_is_told_to_each_who_asks_and_starts_nothing_twice(
    manager: UserManager,
) -> None:
    configure(manager, "this is = not toml")
    await manager.install(f"[Service]\nExecStartPre=/bin/sh -c 'echo again >>{manager.home}/starts'\n")

    for asked in range(1, 4):
        done = await manager.crabctl("ls")
        await manager.until("crabd.service", ActiveState="failed", NRestarts="0", ExecMainStatus="78")

        assert (done.returncode, "config.toml" in done.stderr) == (3, True)
        assert done.stderr.startswith("crabctl: crabd did not start: ")
        assert (manager.home / "starts").read_text() == "again\n" * asked
    configure(manager, "")
    assert (await manager.crabctl("ls")).returncode == 0


async def test_a_service_that_was_given_up_is_told_with_what_mends_it(manager: UserManager) -> None:
    await manager.install("[Unit]\nStartLimitBurst=1\n[Service]\nExecStartPre=/bin/false\nRestart=no\n")
    await manager.crabctl("ls")
    await manager.until("crabd.socket", ActiveState="failed")

    told = await manager.crabctl("ls")
    status = await manager.crabctl("service", "status")
    (manager.units / "crabd.service.d" / "test.conf").unlink()
    await manager.systemctl("daemon-reload")
    await manager.run(*GIVEN_UP.split())
    after = await manager.crabctl("ls")

    assert (told.returncode, GIVEN_UP in told.stderr, GIVEN_UP in status.stdout) == (3, True, True)
    assert after.returncode == 0


async def test_a_command_has_the_manager_start_what_it_finds_stopped(manager: UserManager) -> None:
    await manager.install()
    await manager.systemctl("stop", "crabd.socket")

    said = await manager.crabctl("send", "echo hello")
    status = json.loads((await manager.crabctl("status", "--json")).stdout)

    assert said.stdout == "hello\n"
    assert str(status["pid"]) == await manager.pid()
    assert not (manager.home / ".local/state/crabd/crabd.log").exists()


async def test_another_socket_than_the_service_has_gets_a_daemon_of_its_own(manager: UserManager) -> None:
    await manager.install()
    variables = {"CRABD_SOCKET": f"{manager.home}/run/s", "CRABD_STATE_DIR": f"{manager.home}/state"}

    started = json.loads((await manager.crabctl("start", "--json", **variables)).stdout)
    await manager.crabctl("stop", **variables)

    assert (started["started"], started["socket"]) == (True, variables["CRABD_SOCKET"])
    assert await manager.pid() == "0"


async def test_a_service_is_started_stopped_and_restarted_as_any_daemon(manager: UserManager) -> None:
    await manager.install()

    none = await manager.crabctl("stop")
    started = await manager.crabctl("start")
    first = await manager.pid()
    restarted = await manager.crabctl("restart")
    second = await manager.pid()
    again = await manager.crabctl("restart", "--grace", "1")
    third = await manager.pid()
    stopped = await manager.crabctl("stop")
    await manager.until("crabd.service", ActiveState="inactive", Result="success")

    assert none.stdout == "crabd is not running\n"
    assert started.stdout == f"crabd has started (pid {first})\n"
    assert restarted.stdout == f"crabd has started (pid {second})\n"
    assert again.stdout == f"crabd has started (pid {third})\n"
    assert stopped.stdout == f"crabd has stopped (pid {third}); whoever connects next starts it again\n"
    assert len({first, second, third, "0"}) == 4


async def test_a_service_that_hangs_can_be_restarted(manager: UserManager) -> None:
    await manager.install("[Service]\nTimeoutStopSec=1\n")
    await manager.crabctl("start")
    pid = await manager.pid()
    await manager.run("kill", "-STOP", pid)

    done = await manager.crabctl("restart")

    assert done.stdout == f"crabd has started (pid {await manager.pid()})\n"
    assert await manager.pid() != pid


async def test_installing_takes_over_from_a_daemon_that_is_no_service(manager: UserManager) -> None:
    await manager.crabctl("send", "echo before")
    old = json.loads((await manager.crabctl("status", "--json")).stdout)["pid"]

    done = await manager.crabctl("service", "install")
    log = await manager.crabctl("log")

    assert done.stdout.startswith(f"the crabd that was no service (pid {old}) has stopped\n")
    assert "\nbefore\n" in log.stdout
    assert await manager.pid() not in (str(old), "0")


async def test_installing_ends_no_run(manager: UserManager) -> None:
    await manager.crabctl("send", "--detach", "slow 10000 100")

    done = await manager.crabctl("service", "install")

    assert done.returncode == 1
    assert "has 1 run going: crabctl stop lets runs finish; install then" in done.stderr
    assert not manager.units.exists()
    await manager.crabctl("stop", "--grace", "0")


async def test_the_places_of_a_shell_are_those_of_the_service(manager: UserManager) -> None:
    path, state = f"{manager.home}/100% mine/s", f'{manager.home}/my "\\state"'
    variables = {"CRABD_SOCKET": path, "CRABD_STATE_DIR": state}

    installed = await manager.crabctl("service", "install", SOME_API_KEY="secret", **variables)
    status = json.loads((await manager.crabctl("status", "--json", **variables)).stdout)

    assert "it does not see SOME_API_KEY of this shell" in installed.stdout
    assert (status["socket"], status["store"]["path"]) == (path, state)
    assert str(status["pid"]) == await manager.pid()


async def test_a_unit_that_was_changed_is_not_replaced_unasked(manager: UserManager) -> None:
    await manager.install()
    file = manager.units / "crabd.service"
    changed = file.read_text().replace("WatchdogSec=30", "WatchdogSec=60")
    file.write_text(changed)

    refused = [await manager.crabctl("service", word) for word in ("install", "uninstall")]
    kept = file.read_text()
    replaced = await manager.crabctl("service", "install", "-y")

    assert [done.returncode for done in refused] == [5, 5]
    assert "systemctl --user edit crabd.service" in refused[0].stderr
    assert kept == changed
    assert replaced.returncode == 0
    assert "WatchdogSec=30" in file.read_text()


async def test_uninstalling_leaves_nothing_of_the_service(manager: UserManager) -> None:
    await manager.install("[Service]\nWatchdogSec=10\n")
    await manager.crabctl("send", "echo hello")

    done = await manager.crabctl("service", "uninstall")
    again = await manager.crabctl("service", "uninstall")
    (manager.units / "crabd.service.d" / "test.conf").unlink()

    assert done.stdout.startswith("removed crabd.socket and crabd.service\n")
    assert f"your drop-ins are still there: {manager.units}/crabd.service.d" in done.stdout
    assert (again.returncode, again.stdout.splitlines()[0]) == (
        0,
        f"there is no unit of crabd in {manager.units}",
    )
    assert [found for found in manager.units.rglob("*") if not found.is_dir()] == []
    assert await manager.systemctl("list-units", "--all", "--plain", "--no-legend", "crabd*") == ""
    assert not manager.socket.exists()
    assert (manager.home / ".local/state/crabd/sessions").is_dir()
