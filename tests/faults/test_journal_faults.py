"""The journal under kills, cuts, flipped bits, full disks and failing syncs, all of them real."""

from __future__ import annotations

import itertools
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from crabd.errors import StoreError
from crabd.store.base import Cleared, Damage, Loaded, Step
from crabd.store.journal import JournalStore
from tests.store.samples import a_turn, said

PROJECT = Path(__file__).parents[2]
KILLS = 20
SECONDS = 120


def appender(root: Path, count: int, length: int = 40) -> list[str]:
    return [sys.executable, "-m", "tests.faults.appender", str(root), str(count), str(length)]


async def start(command: list[str]) -> trio.Process:
    return await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=PROJECT)


async def hear(process: trio.Process, lines: float = math.inf) -> str:
    """Listen until so many lines have come, or the process has ended."""
    assert process.stdout
    told = b""
    with trio.fail_after(SECONDS):
        async for piece in process.stdout:
            told += piece
            if told.count(b"\n") >= lines:
                break
    return told.decode()


async def run(command: list[str]) -> tuple[str, int]:
    with trio.fail_after(SECONDS):
        done = await trio.run_process(command, capture_stdout=True, cwd=PROJECT, check=False)
    return done.stdout.decode(), done.returncode


def acknowledged(told: str) -> int:
    """Find the last step that a process has acknowledged; its last line may be cut short by a kill."""
    whole = told[: told.rfind("\n") + 1].splitlines()
    return max((int(line.split()[-1]) for line in whole if line.startswith(("ready", "acked"))), default=0)


async def load(root: Path) -> tuple[tuple[Damage, ...], tuple[Step, ...]]:
    """Open a store as the next start would, and read its first session."""
    store = JournalStore(root)
    damage = await store.open()
    listed = store.meta("a_b_1")
    loaded = await store.load("a_b_1")
    assert loaded.log.meta == listed
    await store.aclose()
    return damage, loaded.steps


def assert_whole(steps: tuple[Step, ...]) -> None:
    """Nothing is lost in the middle, doubled, or half of an append."""
    assert [step.n for step in steps] == list(range(1, len(steps) + 1))
    said_numbers = [step.n for step in steps[1:] if step.record != Cleared()]
    for n in said_numbers:
        assert f"{n}:" in repr(steps[n - 1].record)
        assert (n - 1) % 3 or steps[n].record == Cleared()


def journal(root: Path) -> Path:
    return root / "sessions" / "a_b_1" / "journal.jsonl"


@pytest.fixture
async def filled(tmp_path: Path) -> Path:
    """A store whose log ends in three appends that its meta does not know of, as after a kill."""
    root = tmp_path / "store"
    store = JournalStore(root)
    await store.open()
    log = (await store.create("a", "b")).log
    await log.append(a_turn())
    await log.checkpoint()
    for text in ("one", "two", "three"):
        await log.append([said(text)])
    killed = tmp_path / "killed"
    shutil.copytree(root, killed)
    await store.aclose()
    return killed


async def test_every_cut_in_the_last_three_records_loses_only_what_is_cut(filled: Path) -> None:
    whole = journal(filled).read_bytes()
    meta = (journal(filled).parent / "meta.json").read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = [sum(map(len, lines[: n + 1])) for n in range(len(lines))]

    for cut in range(ends[-4], len(whole) + 1):
        for saved in journal(filled).parent.glob("journal.torn-*"):
            saved.unlink()
        (journal(filled).parent / "meta.json").write_bytes(meta)
        journal(filled).write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)

        damage, steps = await load(filled)

        assert len(steps) == kept
        assert len(damage) == (cut not in ends)
        torn = b"".join(saved.read_bytes() for saved in journal(filled).parent.glob("journal.torn-*"))
        assert journal(filled).read_bytes() + torn == whole[:cut]


async def test_a_flipped_bit_is_never_believed_and_cuts_only_an_unacknowledged_tail(filled: Path) -> None:
    whole = journal(filled).read_bytes()
    lines = whole.splitlines(keepends=True)
    meta = (journal(filled).parent / "meta.json").read_bytes()
    chance = random.Random(7)

    for index in range(len(lines)):
        position = sum(map(len, lines[:index])) + chance.randrange(len(lines[index]) - 1)
        flipped = bytearray(whole)
        flipped[position] ^= 1 << chance.randrange(8)
        journal(filled).write_bytes(flipped)
        (journal(filled).parent / "meta.json").write_bytes(meta)
        if index == len(lines) - 1:
            damage, steps = await load(filled)
            assert len(damage) == 1
            assert len(steps) == index
        else:
            store = JournalStore(filled)
            (found,) = await store.open()
            with pytest.raises(StoreError) as caught:
                await store.load("a_b_1")
            await store.aclose()
            assert caught.value.kind == "damaged"
            assert found.session == "a_b_1"
            assert journal(filled).read_bytes() == flipped


async def test_a_tail_of_zeros_is_cut(filled: Path) -> None:
    whole = journal(filled).read_bytes()
    journal(filled).write_bytes(whole + b"\0" * 8192)

    damage, steps = await load(filled)

    assert len(damage) == 1
    assert len(steps) == 9
    assert journal(filled).read_bytes() == whole


async def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    store = JournalStore(tmp_path)
    await store.open()

    refused, _ = await run(appender(tmp_path, 1))

    assert refused.startswith("locked ")
    assert f"process {os.getpid()})" in refused
    await store.aclose()
    assert await run(appender(tmp_path, 1)) == ("ready 1\nacked 2 2\n", 0)


async def test_the_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    process = await start(appender(tmp_path, 10**9))
    await hear(process, lines=1)
    with pytest.raises(StoreError, match=f"process {process.pid}"):
        await JournalStore(tmp_path).open()

    process.kill()
    await hear(process)

    with trio.fail_after(SECONDS):
        await process.wait()
    _, steps = await load(tmp_path)
    assert_whole(steps)


async def test_no_acknowledged_record_is_lost_to_sigkill(tmp_path: Path) -> None:
    chance = random.Random(11)
    acked = 1

    for _ in range(KILLS):
        process = await start(appender(tmp_path, 10**9, chance.choice((10, 3000, 60_000))))
        told = await hear(process, lines=1 + chance.randrange(15))
        process.kill()
        told += await hear(process)
        with trio.fail_after(SECONDS):
            await process.wait()
        acked = max(acked, acknowledged(told))

        damage, steps = await load(tmp_path)

        assert len(steps) >= acked
        assert_whole(steps)
        assert all("cut" in found.problem for found in damage)
        acked = len(steps)


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
class TestUnderStrace:
    """System calls that fail or kill at a chosen moment."""

    @pytest.fixture(autouse=True)
    def can_trace(self) -> None:
        if subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], check=False).returncode:
            pytest.skip("strace may not trace here")

    async def traced(self, root: Path, calls: str, fault: str) -> tuple[str, int]:
        strace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}"]
        return await run([*strace, "-e", f"inject={calls}:{fault}", *appender(root, 8)])

    async def test_a_failed_sync_is_not_acknowledged_and_the_file_is_made_anew(self, tmp_path: Path) -> None:
        await run(appender(tmp_path, 0))
        before = journal(tmp_path).stat().st_ino

        told, _ = await self.traced(tmp_path, "fdatasync", "error=EIO:when=2")

        lines = told.splitlines()
        assert lines.count("failed io") == 1
        assert len([line for line in lines if line.startswith("acked")]) == 7
        assert journal(tmp_path).stat().st_ino != before
        damage, steps = await load(tmp_path)
        assert damage == ()
        assert len(steps) == acknowledged(told)
        assert_whole(steps)

    async def test_while_the_file_cannot_be_made_anew_nothing_is_acknowledged(self, tmp_path: Path) -> None:
        await run(appender(tmp_path, 0))

        told, _ = await self.traced(tmp_path, "fdatasync,fsync", "error=EIO:when=5+")

        lines = told.splitlines()
        first = lines.index("failed io")
        assert set(lines[first:]) == {"failed io"}
        damage, steps = await load(tmp_path)
        assert damage == ()
        assert len(steps) == acknowledged(told)

    async def test_what_a_kill_left_is_not_believed_before_it_is_synced(self, filled: Path) -> None:
        told, _ = await self.traced(filled, "fdatasync", "error=EIO:when=1")

        # With its journal unsynced the old session is not there to be loaded, so a new one was made.
        assert told.splitlines()[0] == "ready 1"
        damage, steps = await load(filled)
        assert damage == ()
        assert len(steps) == 9

    @pytest.mark.parametrize("moment", [4, 5, 6])
    async def test_a_session_that_could_not_be_synced_was_not_made(self, tmp_path: Path, moment: int) -> None:
        told, _ = await self.traced(tmp_path, "fsync", f"error=EIO:when={moment}")

        assert told.startswith("io failed at making a session")
        store = JournalStore(tmp_path)
        assert await store.open() == ()
        assert store.metas() == ()
        await store.aclose()

    @pytest.mark.parametrize(
        ("call", "moments"),
        [("write", (1, 2, 3, 5)), ("fdatasync", (1, 2, 4)), ("fsync", (1, 4, 5, 6)), ("rename", (1, 2))],
    )
    async def test_a_kill_at_any_call_loses_nothing(
        self, tmp_path: Path, call: str, moments: tuple[int, ...]
    ) -> None:
        acked = 1
        for moment in moments:
            told, code = await self.traced(tmp_path, call, f"signal=KILL:when={moment}")
            assert code == -signal.SIGKILL
            acked = max(acked, acknowledged(told))
            if not journal(tmp_path).exists():
                # It was killed on the way to its first session.
                assert acked == 1
                continue

            _, steps = await load(tmp_path)

            assert len(steps) >= acked
            assert_whole(steps)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=24", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("only root may mount a small disk")
    # Out of sight at once, so that a killed test leaves no mount: the open directory keeps the disk.
    fd = os.open(disk, os.O_RDONLY | os.O_DIRECTORY)
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
    yield Path(f"/proc/self/fd/{fd}")
    os.close(fd)


def take_all_inodes(disk: Path) -> Iterator[Path]:
    with suppress(OSError):
        for number in itertools.count():
            filler = disk / f"filler-{number}"
            filler.touch()
            yield filler


async def opened(root: Path) -> tuple[JournalStore, Loaded]:
    store = JournalStore(root)
    await store.open()
    return store, await store.create("a", "b")


async def test_a_full_disk_refuses_says_so_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    store, created = await opened(small_disk / "store")
    ballast = small_disk / "ballast"
    await created.log.append([said("small")])
    with suppress(OSError):
        ballast.write_bytes(b"x" * 65536)

    with pytest.raises(StoreError) as caught:
        await created.log.append([said("x" * 9000)])
    with pytest.raises(StoreError):
        await store.create("a", "c")
    refused = created.log.meta
    ballast.unlink()
    steps = await created.log.append([said("y" * 9000)])

    assert caught.value.kind == "full"
    assert "free some space" in str(caught.value)
    assert refused.steps == 2
    assert [step.n for step in steps] == [3]
    await store.aclose()
    damage, steps = await load(small_disk / "store")
    assert damage == ()
    assert [step.record for step in steps[1:]] == [said("small"), said("y" * 9000)]


async def test_a_store_opens_and_mends_itself_on_a_full_disk(small_disk: Path) -> None:
    store, created = await opened(small_disk / "store")
    await created.log.append([said("small")])
    await store.aclose()
    good = journal(small_disk / "store").read_bytes()
    journal(small_disk / "store").write_bytes(good + b"torn" * 3000)
    with suppress(OSError):
        (small_disk / "ballast").write_bytes(b"x" * 65536)

    damage, steps = await load(small_disk / "store")

    assert len(damage) == 1
    assert "could not be saved" in damage[0].problem
    assert not list(journal(small_disk / "store").parent.glob("journal.torn-*"))
    assert len(steps) == 2
    assert journal(small_disk / "store").read_bytes() == good


async def test_a_session_that_could_not_be_made_is_never_seen(small_disk: Path) -> None:
    store, _ = await opened(small_disk / "store")
    fillers = list(take_all_inodes(small_disk))

    # First there is no room for a directory, then there is none for the journal in it.
    for filler in fillers[:2]:
        with pytest.raises(StoreError) as caught:
            await store.create("a", "c")
        assert caught.value.kind == "full"
        filler.unlink()
    await store.create("a", "c")

    seen = {meta.id for meta in store.metas()}
    await store.aclose()
    store = JournalStore(small_disk / "store")
    assert await store.open() == ()
    assert {meta.id for meta in store.metas()} == seen
    assert {path.name for path in (small_disk / "store" / "sessions").iterdir()} == seen
    await store.aclose()


async def test_a_short_write_is_taken_back(tmp_path: Path) -> None:
    store, created = await opened(tmp_path)
    await created.log.append([said("small")])
    before = journal(tmp_path).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        with pytest.raises(StoreError) as caught:
            await created.log.append([said("x" * 1000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    after = journal(tmp_path).read_bytes()
    steps = await created.log.append([said("y")])

    assert caught.value.kind == "io"
    assert after == before
    assert [step.n for step in steps] == [3]
    await store.aclose()
