"""The journal under cuts, flipped bits, full disks and failing syncs, all of them real."""

from __future__ import annotations

import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from crabd.errors import StoreError
from crabd.store.journal.store import JournalStore
from tests.faults.appending import appender, can_trace, load, run, traced
from tests.store.samples import a_turn, said


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

        damage, steps = await load("journal", filled)

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
            damage, steps = await load("journal", filled)
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

    damage, steps = await load("journal", filled)

    assert len(damage) == 1
    assert len(steps) == 9
    assert journal(filled).read_bytes() == whole


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
class TestUnderStrace:
    """System calls that fail at a chosen moment."""

    @pytest.fixture(autouse=True)
    def need_to_trace(self) -> None:
        if not can_trace():
            pytest.skip("strace may not trace here")

    async def test_after_a_failed_sync_the_file_is_made_anew(self, tmp_path: Path) -> None:
        await run(appender("journal", tmp_path, 0))
        before = journal(tmp_path).stat().st_ino

        told, _ = await traced("journal", tmp_path, "fdatasync", "error=EIO:when=2")

        assert told.splitlines().count("failed io") == 1
        assert journal(tmp_path).stat().st_ino != before

    async def test_what_a_kill_left_is_not_believed_before_it_is_synced(self, filled: Path) -> None:
        told, _ = await traced("journal", filled, "fdatasync", "error=EIO:when=1+")

        assert told.startswith("io failed at loading a session: Input/output error")
        damage, steps = await load("journal", filled)
        assert damage == ()
        assert len(steps) == 9


async def test_a_store_opens_and_mends_itself_on_a_full_disk(small_disk: Path) -> None:
    store = JournalStore(small_disk / "store")
    await store.open()
    created = await store.create("a", "b")
    await created.log.append([said("small")])
    await store.aclose()
    good = journal(small_disk / "store").read_bytes()
    journal(small_disk / "store").write_bytes(good + b"torn" * 3000)
    with suppress(OSError):
        (small_disk / "ballast").write_bytes(b"x" * 65536)

    damage, steps = await load("journal", small_disk / "store")

    assert len(damage) == 1
    assert "could not be saved" in damage[0].problem
    assert not list(journal(small_disk / "store").parent.glob("journal.torn-*"))
    assert len(steps) == 2
    assert journal(small_disk / "store").read_bytes() == good
