"""Sessions brought in and out with crabctl, by real daemons."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.crabtalk import V22_META, assistant, user, write_root, write_steps
from tests.e2e.daemon import PATIENCE, Daemon, Home, start_daemon

MANY = 60


async def crabctl(home: Home, *words: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(PATIENCE):
        return await trio.run_process(
            [sys.executable, "-m", "crabctl", *words, "--no-start"],
            env=home.env,
            stdin=text,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


def other_home(home: Home) -> Home:
    directory = home.directory / "other"
    directory.mkdir()
    return Home(directory)


async def test_what_crabtalk_has_left_is_imported_listed_read_and_goes_on(home: Home, daemon: Daemon) -> None:
    write_root(home.directory / ".crabtalk")

    dry = await crabctl(home, "import", "--dry-run", str(home.directory / ".crabtalk"))
    none = await crabctl(home, "ls", "--json")
    done = await crabctl(home, "import", str(home.directory / ".crabtalk"))
    again = await crabctl(home, "import", "--json", str(home.directory / ".crabtalk"))
    listed = await crabctl(home, "ls", "--json")
    log = await crabctl(home, "log", "crab_user_1")
    sent = await crabctl(home, "send", "-S", "crab_tg-12345_1", "echo on it goes")

    assert (dry.returncode, done.returncode, again.returncode) == (0, 0, 0)
    assert dry.stdout.endswith(b"\n3 to import\n")
    assert json.loads(none.stdout)["sessions"] == []
    assert done.stdout.endswith(b"\n3 imported\n")
    assert b"crab_tg-12345_1: imported as crab_tg-12345_1, 4 messages \xe2\x80\x9cDeploy notes" in done.stdout
    assert [one["status"] for one in json.loads(again.stdout)["sessions"]] == ["there"] * 3
    ids = {info["id"] for info in json.loads(listed.stdout)["sessions"]}
    assert ids == {"crab_tg-12345_1", "crab_user_1", "crab_user_2"}
    assert b"A zebra." in log.stdout
    assert sent.stdout == b"on it goes\n"


async def test_the_summary_of_an_imported_session_is_what_the_model_is_shown(
    home: Home, daemon: Daemon
) -> None:
    write_root(home.directory / ".crabtalk")
    await crabctl(home, "import", str(home.directory / ".crabtalk"))
    client = await daemon.connect()

    page = await client.call("session/export", session="crab_tg-12345_1")

    records = [json.loads(line).get("record", {}) for line in page["jsonl"].splitlines()]
    assert [r["summary"] for r in records if r.get("type") == "compacted"] == ["They deployed."]


async def test_sessions_go_through_a_pipe_to_another_daemon_and_are_equal_there(home: Home) -> None:
    elsewhere = other_home(home)
    async with start_daemon(home) as first, start_daemon(elsewhere) as second:
        for sender in ("one", "two"):
            await crabctl(home, "send", "-s", sender, "-t", "work", "echo hello")
            await crabctl(home, "send", "-s", sender, "-t", "work", "count 3")
        exported = await crabctl(home, "export", "--all")
        imported = await crabctl(elsewhere, "import", "-", text=exported.stdout)
        back = await crabctl(elsewhere, "export", "--all")
        known = await crabctl(home, "import", "-", text=exported.stdout)
        here, there = await first.connect(), await second.connect()
        infos = [await client.call("session/get", session="crab_one_1") for client in (here, there)]

    assert imported.stdout.endswith(b"\n2 imported\n"), imported
    assert known.stdout.endswith(b"\n2 there already\n")
    assert back.stdout == exported.stdout
    live = ("state", "active", "seq")
    assert [{k: v for k, v in info["info"].items() if k not in live} for info in infos[:1]] == [
        {k: v for k, v in info["info"].items() if k not in live} for info in infos[1:]
    ]
    assert list((elsewhere.directory / "run" / "crabd").glob("import-*")) == []


async def test_an_export_to_a_file_is_private_and_there_when_it_is_whole(home: Home, daemon: Daemon) -> None:
    await crabctl(home, "send", "echo hello")
    path = home.directory / "out.jsonl"

    missing = await crabctl(home, "export", "crab_user_9", "-o", str(path))
    assert not path.exists()
    done = await crabctl(home, "export", "-o", str(path))

    assert missing.returncode == 4
    assert (done.returncode, done.stdout) == (0, b"")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == (await crabctl(home, "export", "crab_user_1")).stdout
    assert [file.name for file in home.directory.glob("out*")] == ["out.jsonl"]


async def test_what_cannot_be_imported_is_told_with_its_place_and_an_exit_code(
    home: Home, daemon: Daemon
) -> None:
    place = write_steps(home.directory / "s" / "crab_user_1", V22_META, [user("hi"), assistant("ho")])
    (place / "step-000002").write_bytes(b"{")
    partly = await crabctl(home, "import", str(place), "--agent", "nobody")
    (place / "meta").unlink()

    refused = await crabctl(home, "import", str(place))
    nowhere = await crabctl(home, "import", str(home.directory / "nowhere"))

    assert partly.returncode == 0
    assert b"  step-000002: it cannot be read: " in partly.stdout
    assert b"there is no agent 'nobody' yet" in partly.stdout
    assert refused.returncode == 1
    assert b"its meta is missing, so nobody knows whose it is" in refused.stdout
    assert refused.stdout.endswith(b"\n1 refused\n")
    assert nowhere.returncode == 2
    assert b"nowhere" in nowhere.stderr


async def test_a_cut_export_brings_nothing_of_its_last_session(home: Home, daemon: Daemon) -> None:
    await crabctl(home, "send", "echo hello")
    whole = (await crabctl(home, "export")).stdout
    await crabctl(home, "rm", "crab_user_1")

    done = await crabctl(home, "import", "-", text=whole[:-20])
    listed = await crabctl(home, "ls", "--json")
    after = await crabctl(home, "import", "-", text=whole)

    assert done.returncode == 1
    assert b"cut short" in done.stdout or b"damaged" in done.stdout
    assert json.loads(listed.stdout)["sessions"] == []
    # Its own number was used by the one that was removed.
    assert b"imported as crab_user_2" in after.stdout


@pytest.mark.parametrize("seen", [1, 7, 30])
async def test_a_daemon_killed_in_an_import_has_whole_sessions_and_the_rest_comes_when_it_is_repeated(
    home: Home, seen: int
) -> None:
    root = home.directory / "crabtalk" / "sessions"
    steps = [message for n in range(20) for message in (user(f"ask {n}"), assistant(f"answer {n}"))]
    for number in range(1, MANY + 1):
        write_steps(root / f"crab_user_{number}", V22_META, steps)
    sessions = home.state / "sessions"
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        await client.ask("session/import", path=str(root))
        with trio.fail_after(PATIENCE):
            while sum(1 for path in sessions.iterdir() if not path.name.startswith(".")) < seen:
                await trio.lowlevel.checkpoint()
        await daemon.stop(signal.SIGKILL)

    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        status = await client.call("daemon/status")
        survivors = (await client.call("session/list", limit=1000))["sessions"]
        done = await client.call("session/import", path=str(root))
        listed = (await client.call("session/list", limit=1000))["sessions"]

    assert status["store"]["problems"] == []
    assert len(survivors) >= seen
    assert {info["message_count"] for info in survivors} == {40}
    assert (done["there"], done["imported"]) == (len(survivors), MANY - len(survivors))
    assert {info["id"] for info in listed} == {f"crab_user_{n}" for n in range(1, MANY + 1)}
    assert not [path for path in sessions.iterdir() if path.name.startswith(".")]


async def test_an_import_reads_no_path_that_is_not_absolute(daemon: Daemon, tmp_path: Path) -> None:
    client = await daemon.connect()

    with pytest.raises(Exception, match="path"):
        await client.call("session/import", path="sessions")
