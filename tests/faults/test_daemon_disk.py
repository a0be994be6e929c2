"""A running daemon whose disk is full or fails: clients are told, and it goes on by itself afterwards."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.daemon import PATIENCE, Client, Daemon, Home, WireError, start_daemon
from tests.faults.appending import can_trace
from tests.faults.small import mounted

MEGABYTE = 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes, of which a sixty-fourth is kept in reserve."""
    with mounted(tmp_path / "disk", "size=4m") as fd:
        yield Path(f"/proc/{os.getpid()}/fd/{fd}")


@asynccontextmanager
async def daemon_at(tmp_path: Path, state: Path) -> AsyncGenerator[tuple[Daemon, Client]]:
    home = Home(tmp_path, CRABD_STATE_DIR=str(state))
    home.configure('model = "offline/echo"\n')
    async with start_daemon(home) as daemon:
        yield daemon, await daemon.connect()


async def open_session(client: Client) -> str:
    session: str = (await client.call("session/get_or_create", agent="crab"))["id"]
    return session


async def refusal(client: Client, method: str, **params: object) -> WireError:
    with pytest.raises(WireError) as caught:
        await client.call(method, **params)
    return caught.value


async def read_texts(client: Client, session: str) -> list[str]:
    page = await client.call("session/history", session=session, from_=1)
    return ["".join(block["text"] for block in entry["message"]["content"]) for entry in page["messages"]]


def fill(disk: Path, *, left: int) -> None:
    """Leave so many bytes of a disk."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with (disk / "ballast").open("ab") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, free - left)


async def test_a_disk_that_is_nearly_full_takes_no_new_runs_and_again_when_there_is_room(
    tmp_path: Path, disk: Path
) -> None:
    async with daemon_at(tmp_path, disk / "state") as (_, client):
        session = await open_session(client)
        await client.call("session/send", session=session, content="echo first")
        fill(disk, left=MEGABYTE // 32)

        refused = await refusal(client, "session/send", session=session, content="echo refused")
        (disk / "ballast").unlink()
        answered = await client.call("session/send", session=session, content="echo second")

        assert (refused.code, refused.data["kind"]) == (-32020, "full")
        assert "free some space" in refused.message
        assert answered["persisted"]
        assert await read_texts(client, session) == ["echo first", "first", "echo second", "second"]


async def test_a_run_whose_disk_is_full_keeps_what_it_could_not_save_until_there_is_room(
    tmp_path: Path, disk: Path
) -> None:
    async with daemon_at(tmp_path, disk / "state") as (_, client):
        session = await open_session(client)
        # More than fits behind the records in the last block of the file.
        request = await client.ask("session/send", session=session, content="slow 2000 1")
        await client.event("text_delta")
        fill(disk, left=0)

        ended = await client.answer(request)
        failed = await client.event("persistence_failed")
        (disk / "ballast").unlink()
        await client.call("session/send", session=session, content="echo second")

        assert (ended["stop_reason"], ended["persisted"]) == ("error", False)
        assert (ended["error"]["code"], ended["error"]["kind"]) == (-32020, "full")
        assert failed["unsaved"] > 0
        asked, reply, *rest = await read_texts(client, session)
        assert (asked, rest) == ("slow 2000 1", ["echo second", "second"])
        assert reply == ended["text"]


@asynccontextmanager
async def faulty(daemon: Daemon, call: str, error: str, path: Path) -> AsyncGenerator[None]:
    """Have a call of the daemon fail that is made on a path, each time."""
    strace = ["strace", "-f", "-p", str(daemon.process.pid), "-o", os.devnull, "-P", str(path)]
    fault = ["-e", f"trace={call}", "-e", f"inject={call}:error={error}", "-e", "signal=none"]
    process = await trio.lowlevel.open_process([*strace, *fault], stderr=subprocess.PIPE)
    assert process.stderr
    try:
        said = b""
        with trio.fail_after(PATIENCE):
            while b"attached" not in said:
                piece = await process.stderr.receive_some()
                assert piece, said
                said += piece
        yield
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            await process.wait()


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
class TestUnderStrace:
    @pytest.fixture(autouse=True)
    def needs_tracing(self) -> None:
        if not can_trace():
            pytest.skip("strace may not trace here")

    @pytest.mark.parametrize(
        ("call", "error", "kind"),
        [("write", "EIO", "io"), ("write", "EDQUOT", "full"), ("fdatasync", "EIO", "io")],
    )
    async def test_a_record_that_the_disk_refuses_is_told_and_written_once_when_the_fault_ends(
        self, tmp_path: Path, call: str, error: str, kind: str
    ) -> None:
        async with daemon_at(tmp_path, tmp_path / "state") as (daemon, client):
            session = await open_session(client)
            await client.call("session/send", session=session, content="echo first")
            journal = tmp_path / "state" / "sessions" / session / "journal.jsonl"

            async with faulty(daemon, call, error, journal):
                refused = await refusal(client, "session/send", session=session, content="echo refused")
            await client.call("session/send", session=session, content="echo second")
            told = await read_texts(client, session)

            assert (refused.code, refused.data["kind"]) == (-32020, kind)
            assert refused.data["session"] == session
            assert told == ["echo first", "first", "echo refused", "echo second", "second"]
            assert await daemon.stop() == 0
        async with start_daemon(daemon.home) as daemon:
            again = await daemon.connect()
            assert await read_texts(again, session) == told
            assert (await again.call("daemon/status"))["store"]["problems"] == []

    @pytest.mark.parametrize(("call", "error"), [("mkdir", "EROFS"), ("fsync", "EIO"), ("rename", "EIO")])
    async def test_a_session_that_the_disk_refuses_is_not_there_and_is_made_when_the_fault_ends(
        self, tmp_path: Path, call: str, error: str
    ) -> None:
        async with daemon_at(tmp_path, tmp_path / "state") as (daemon, client):
            path = tmp_path / "state" / "sessions"
            if call != "fsync":
                path = path / ".new-crab_user_1"

            async with faulty(daemon, call, error, path):
                refused = await refusal(client, "session/get_or_create", agent="crab")
                listed = await client.call("session/list")
            session = await open_session(client)

            assert (refused.code, refused.data["kind"]) == (-32020, "io")
            assert listed["sessions"] == []
            assert (await client.call("session/send", session=session, content="echo hi"))["persisted"]


async def test_a_daemon_without_descriptors_serves_what_is_open_and_refuses_the_rest(tmp_path: Path) -> None:
    async with daemon_at(tmp_path, tmp_path / "state") as (daemon, client):
        closed = (await client.call("session/get_or_create", agent="crab", sender="other"))["id"]
        await client.call("session/close", session=closed)
        session = await open_session(client)
        await client.call("session/send", session=session, content="echo warm")
        pid = daemon.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        taken = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
        # From the first number on that is free there are no more to be had.
        limit = next(number for number in itertools.count() if number not in taken)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))

        refused = await refusal(client, "session/load", session=closed)
        answered = await client.call("session/send", session=session, content="echo hi")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        loaded = await client.call("session/load", session=closed)

        assert (refused.code, refused.data["kind"]) == (-32020, "io")
        assert "limit of open files" in refused.message
        assert answered["persisted"]
        assert loaded["id"] == closed


async def test_a_second_daemon_on_the_same_store_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    async with daemon_at(tmp_path, tmp_path / "state") as (daemon, _):
        env: dict[str, Any] = daemon.home.env | {"CRABD_SOCKET": str(tmp_path / "run" / "other.sock")}
        with trio.fail_after(PATIENCE):
            second = await trio.run_process(
                [sys.executable, "-m", "crabd"], env=env, capture_stderr=True, check=False
            )

        assert second.returncode != 0
        assert f"process {daemon.process.pid})".encode() in second.stderr
