"""Every store on disk under kills, full disks and failing syncs, all of them real."""

from __future__ import annotations

import itertools
import os
import random
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from crabd.errors import StoreError
from crabd.store.base import Loaded, Store
from tests.faults.appending import (
    SECONDS,
    acknowledged,
    appender,
    assert_whole,
    can_trace,
    hear,
    load,
    run,
    start,
    traced,
)
from tests.faults.backends import BACKENDS, record_bytes
from tests.store.samples import said

KILLS = 20

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


async def test_a_second_process_is_refused_with_the_pid_of_the_first(backend: str, tmp_path: Path) -> None:
    store = BACKENDS[backend].make(tmp_path)
    await store.open()

    refused, _ = await run(appender(backend, tmp_path, 1))

    assert refused.startswith("locked ")
    assert f"process {os.getpid()})" in refused
    await store.aclose()
    assert await run(appender(backend, tmp_path, 1)) == ("ready 1\nacked 2 2\n", 0)


async def test_the_lock_goes_with_the_process_that_held_it(backend: str, tmp_path: Path) -> None:
    process = await start(appender(backend, tmp_path, 10**9))
    await hear(process, lines=1)
    with pytest.raises(StoreError, match=f"process {process.pid}"):
        await BACKENDS[backend].make(tmp_path).open()

    process.kill()
    await hear(process)

    with trio.fail_after(SECONDS):
        await process.wait()
    _, steps = await load(backend, tmp_path)
    assert_whole(steps)


async def test_no_acknowledged_record_is_lost_to_sigkill(backend: str, tmp_path: Path) -> None:
    chance = random.Random(11)
    acked = 1

    for _ in range(KILLS):
        process = await start(appender(backend, tmp_path, 10**9, chance.choice((10, 3000, 60_000))))
        told = await hear(process, lines=1 + chance.randrange(15))
        process.kill()
        told += await hear(process)
        with trio.fail_after(SECONDS):
            await process.wait()
        acked = max(acked, acknowledged(told))

        damage, steps = await load(backend, tmp_path)

        assert len(steps) >= acked
        assert_whole(steps)
        assert all("cut" in found.problem for found in damage)
        acked = len(steps)


# Which syncs make a session, and one that is in the middle of an append of a second life.
MAKING = {"journal": (4, 5, 6), "stepfiles": (4, 5, 6, 7, 8)}
APPENDING = {"journal": ("fdatasync", 2), "stepfiles": ("fsync", 7)}
CALLS = ("write", "fdatasync", "fsync", "rename")
MOMENTS = (1, 2, 4, 5, 6, 9)


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
class TestUnderStrace:
    """System calls that fail or kill at a chosen moment."""

    @pytest.fixture(autouse=True)
    def need_to_trace(self) -> None:
        if not can_trace():
            pytest.skip("strace may not trace here")

    async def test_a_failed_sync_is_not_acknowledged_and_the_next_append_is(
        self, backend: str, tmp_path: Path
    ) -> None:
        call, number = APPENDING[backend]
        await run(appender(backend, tmp_path, 0))

        told, _ = await traced(backend, tmp_path, call, f"error=EIO:when={number}")

        lines = told.splitlines()
        assert lines.count("failed io") == 1
        assert len([line for line in lines if line.startswith("acked")]) == 7
        damage, steps = await load(backend, tmp_path)
        assert damage == ()
        assert len(steps) == acknowledged(told)
        assert_whole(steps)

    async def test_while_no_sync_comes_to_its_end_nothing_is_acknowledged(
        self, backend: str, tmp_path: Path
    ) -> None:
        await run(appender(backend, tmp_path, 0))

        told, _ = await traced(backend, tmp_path, "fdatasync,fsync", "error=EIO:when=6+")

        lines = told.splitlines()
        first = lines.index("failed io")
        assert set(lines[first:]) == {"failed io"}
        damage, steps = await load(backend, tmp_path)
        assert damage == ()
        assert len(steps) == acknowledged(told)

    async def test_a_session_that_could_not_be_synced_was_not_made(
        self, backend: str, tmp_path: Path
    ) -> None:
        for moment in MAKING[backend]:
            root = tmp_path / str(moment)
            root.mkdir()

            told, _ = await traced(backend, root, "fsync", f"error=EIO:when={moment}")

            assert told.startswith("io failed at making a session"), moment
            store = BACKENDS[backend].make(root)
            assert await store.open() == ()
            assert store.metas() == ()
            await store.aclose()

    @pytest.mark.parametrize("call", CALLS)
    async def test_a_kill_at_any_call_loses_nothing(self, backend: str, tmp_path: Path, call: str) -> None:
        acked, killed = 1, 0
        for moment in MOMENTS:
            told, code = await traced(backend, tmp_path, call, f"signal=KILL:when={moment}")
            killed += code == -signal.SIGKILL
            acked = max(acked, acknowledged(told))
            if not (tmp_path / "sessions" / "a_b_1").exists():
                # It was killed on the way to its first session.
                assert acked == 1
                continue

            _, steps = await load(backend, tmp_path)

            assert len(steps) >= acked
            assert_whole(steps)
        # Not every store makes every call.
        assert killed or (backend, call) == ("stepfiles", "fdatasync")


def take_all_inodes(disk: Path) -> Iterator[Path]:
    with suppress(OSError):
        for number in itertools.count():
            filler = disk / f"filler-{number}"
            filler.touch()
            yield filler


async def opened(backend: str, root: Path) -> tuple[Store, Loaded]:
    store = BACKENDS[backend].make(root)
    await store.open()
    return store, await store.create("a", "b")


async def test_a_full_disk_refuses_says_so_and_goes_on_when_there_is_room(
    backend: str, small_disk: Path
) -> None:
    store, created = await opened(backend, small_disk / "store")
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
    damage, steps = await load(backend, small_disk / "store")
    assert damage == ()
    assert [step.record for step in steps[1:]] == [said("small"), said("y" * 9000)]


async def test_a_session_that_could_not_be_made_is_never_seen(backend: str, small_disk: Path) -> None:
    store, _ = await opened(backend, small_disk / "store")
    fillers = list(take_all_inodes(small_disk))

    # First there is no room for a directory, then there is none for a file in it.
    for filler in fillers[:2]:
        with pytest.raises(StoreError) as caught:
            await store.create("a", "c")
        assert caught.value.kind == "full"
        filler.unlink()
    for filler in fillers[2:5]:
        filler.unlink()
    await store.create("a", "c")

    seen = {meta.id for meta in store.metas()}
    assert seen == {"a_b_1", "a_c_1"}
    await store.aclose()
    store = BACKENDS[backend].make(small_disk / "store")
    assert await store.open() == ()
    assert {meta.id for meta in store.metas()} == seen
    assert {path.name for path in (small_disk / "store" / "sessions").iterdir()} == seen
    await store.aclose()


async def test_a_short_write_is_taken_back(backend: str, tmp_path: Path) -> None:
    store, created = await opened(backend, tmp_path)
    await created.log.append([said("small")])
    before = record_bytes(backend, tmp_path, "a_b_1")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(StoreError) as caught:
            await created.log.append([said("fits"), said("x" * 10_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    after = record_bytes(backend, tmp_path, "a_b_1")
    steps = await created.log.append([said("y")])

    assert caught.value.kind == "io"
    assert after == before
    assert [step.n for step in steps] == [3]
    await store.aclose()
