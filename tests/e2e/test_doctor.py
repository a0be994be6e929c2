"""``crabctl doctor`` as people use it: with a daemon, without one, and where none can start."""

from __future__ import annotations

import json
import signal
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import trio

from tests.crabctl.program import crabctl
from tests.e2e.daemon import Home, start_daemon

SESSION = "crab_user_1"


async def run(home: Home, *words: str, **variables: str) -> CompletedProcess[str]:
    """Run one command line beside the daemon."""
    return await trio.to_thread.run_sync(partial(crabctl, *words, env={**home.env, **variables}))


async def look(home: Home, *words: str, **variables: str) -> tuple[int, list[dict[str, Any]]]:
    """Have the doctor look; returns the exit code, and what is not in order."""
    done = await run(home, "doctor", "--json", *words, **variables)
    assert done.stderr == ""
    return done.returncode, [each for each in json.loads(done.stdout)["findings"] if each["grade"] != "ok"]


async def talk(home: Home, *texts: str) -> None:
    """Leave a session in which each text was said and answered."""
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        await client.call("session/get_or_create", agent="crab")
        for text in texts:
            await client.call("session/send", session=SESSION, content=f"echo {text}")
        await daemon.stop()


def journal(home: Home) -> Path:
    return home.state / "sessions" / SESSION / "journal.jsonl"


def damage(home: Home) -> None:
    """Flip a bit in the first record of the second run."""
    lines = journal(home).read_bytes().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if b'"run_opened","run":"r2"' in line)
    lines[at] = lines[at].replace(b"r2", b"r3")
    journal(home).write_bytes(b"".join(lines))


async def test_a_new_user_is_told_that_all_is_sound_and_no_daemon_is_started(home: Home) -> None:
    done = await run(home, "doctor")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nall is sound\n")
    assert not home.socket.exists()
    assert not home.state.exists()


async def test_a_daemon_that_runs_is_asked(home: Home) -> None:
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        await client.call("session/get_or_create", agent="crab")
        told = await client.call("daemon/doctor")
        done = await run(home, "doctor")

        assert (told["problems"], told["sessions"], told["records"]) == (0, 1, 1)
        assert done.returncode == 0
        assert f"0.1.0 runs (pid {daemon.process.pid})" in done.stdout
        assert "looked at 1 sessions with 1 records" in done.stdout


async def test_a_damaged_session_is_listed_as_damaged_and_the_doctor_is_named(home: Home) -> None:
    await talk(home, "one", "two", "three")
    damage(home)
    async with start_daemon(home):
        refused = await run(home, "send", "are you there?")
        listed = await run(home, "ls", "--json")
        shown = await run(home, "show")

    assert refused.returncode == 1
    assert "its checksum does not match" in refused.stderr
    assert "next: crabctl doctor" in refused.stderr
    assert [each["state"] for each in json.loads(listed.stdout)["sessions"]] == ["damaged"]
    assert "damaged" in shown.stdout


@pytest.mark.parametrize("with_daemon", [False, True])
async def test_a_damaged_session_is_repaired_and_goes_on(home: Home, with_daemon: bool) -> None:
    await talk(home, "one", "two", "three")
    damage(home)
    whole = journal(home).read_bytes()

    async with AsyncExitStack() as stack:
        if with_daemon:
            await stack.enter_async_context(start_daemon(home))
        code, (found,) = await look(home)
        mended_code, (mended,) = await look(home, "--repair")
        again = await look(home)

    assert (code, found["kind"], found["where"], found["mended"]) == (1, "damaged", SESSION, None)
    assert "of r2, r3" in found["told"]
    assert (mended_code, mended["kind"]) == (0, "damaged")
    assert again == (0, [])
    (copy,) = (home.state / "quarantine").glob("*/journal.jsonl")
    assert str(copy.parent) in mended["mended"]
    assert copy.read_bytes() == whole
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        history = await client.call("session/history", session=SESSION)
        answer = await client.call("session/send", session=SESSION, content="echo again")
    said = [entry["message"]["content"][0]["text"] for entry in history["messages"]]
    assert said == ["echo one", "one"]
    assert answer["text"] == "again"


async def test_a_session_in_use_is_left_alone_until_it_is_closed(home: Home) -> None:
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        await client.call("session/get_or_create", agent="crab")
        (journal(home).parent / "notes.txt").write_text("mine")
        (journal(home).parent / "notes.txt").chmod(0o600)

        _, (in_use,) = await look(home, "--repair")
        await run(home, "close", SESSION)
        _, (closed,) = await look(home, "--repair")

    assert (in_use["mended"], in_use["advice"]) == (
        None,
        f"crabctl close {SESSION}, then crabctl doctor --repair",
    )
    assert closed["mended"]


async def test_a_daemon_that_was_killed_leaves_nothing_that_is_a_problem(home: Home) -> None:
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        await client.call("session/get_or_create", agent="crab")
        await client.ask("session/send", session=SESSION, content="slow 1000")
        await client.event("run_started")
        await daemon.stop(signal.SIGKILL)

    code, flaws = await look(home)

    assert code == 0
    assert {each["grade"] for each in flaws} == {"notice"}
    assert {"daemon", "open_run"} <= {each["kind"] for each in flaws}


@pytest.mark.parametrize("has_sessions", [False, True])
async def test_where_a_wrong_configuration_keeps_the_daemon_from_starting(
    home: Home, has_sessions: bool
) -> None:
    if has_sessions:
        await talk(home, "one", "two", "three")
        damage(home)
    home.configure('log_level = "info"\ngrace = "long"\n')

    started = await run(home, "start")
    code, flaws = await look(home)

    assert started.returncode == 3
    assert code == 1
    assert [each["area"] for each in flaws] == (["store"] if has_sessions else []) + ["configuration"]
    assert flaws[-1]["where"] == f"{home.config / 'config.toml'}:2"


async def test_a_key_file_that_others_can_read_is_told(home: Home) -> None:
    home.configure('[providers.test]\nbase_url = "https://example.org/v1"\napi_key_file = "~/key"\n')
    (home.directory / "key").write_text("sk-1")
    (home.directory / "key").chmod(0o640)

    code, flaws = await look(home)

    assert (code, [each["area"] for each in flaws]) == (1, ["keys"])
    assert f"chmod 600 {home.directory / 'key'}" in flaws[0]["told"]


async def test_a_store_that_a_daemon_at_another_socket_has_is_not_looked_into(
    home: Home, tmp_path: Path
) -> None:
    async with start_daemon(home) as daemon:
        code, flaws = await look(home, CRABD_SOCKET=str(tmp_path / "run" / "other" / "crabd.sock"))

        assert (code, [each["kind"] for each in flaws]) == (1, ["locked"])
        assert f"process {daemon.process.pid}" in flaws[0]["told"]


async def test_a_daemon_that_hangs_is_told_and_so_is_what_is_to_be_done(home: Home) -> None:
    async with start_daemon(home) as daemon:
        daemon.process.send_signal(signal.SIGSTOP)
        code, flaws = await look(home)
        daemon.process.send_signal(signal.SIGCONT)

    assert code == 1
    assert [(each["area"], each["kind"]) for each in flaws] == [("daemon", "daemon"), ("store", "locked")]
    assert "crabctl restart" in flaws[0]["told"]


async def test_a_person_is_told_what_is_wrong_where_and_what_to_do(home: Home) -> None:
    await talk(home, "one", "two")
    damage(home)

    found = await run(home, "doctor")
    mended = await run(home, "doctor", "--repair")

    assert found.returncode == 1
    head, told, advice = found.stdout.splitlines()[:3]
    assert head.split() == ["problem", "store", SESSION]
    assert "its checksum does not match" in told
    assert advice.strip().startswith("next: restore it from a backup; without one, crabctl doctor --repair")
    assert found.stdout.splitlines()[-1] == "1 problem"
    assert mended.returncode == 0
    assert mended.stdout.splitlines()[0].split() == ["mended", "store", SESSION]
    assert mended.stdout.splitlines()[-1] == "1 mended"
