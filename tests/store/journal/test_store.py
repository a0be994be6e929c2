"""The store on disk: its files, its lock, and what it makes of what it finds."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from zlib import crc32

import pytest

from crabd.errors import NotFound, StoreError
from crabd.messages import user_text, utc_now
from crabd.store.base import SessionLog
from crabd.store.deletion import write_note
from crabd.store.journal.recovery import save_meta
from crabd.store.journal.store import JournalStore
from crabd.store.meta import KEY_AGE, Deletion, SessionMeta
from crabd.store.record import Cleared, Configured, MessageAdded, RunOpened
from crabd.store.seal import seal
from tests.store.samples import a_turn, said


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state" / "store"


@asynccontextmanager
async def opened(root: Path) -> AsyncGenerator[JournalStore]:
    store = JournalStore(root)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


async def fill(root: Path, *turns: str) -> SessionMeta:
    """Leave one session with a turn of these words each."""
    async with opened(root) as store:
        log = (await store.create("a", "b")).log
        for turn in turns:
            await log.append(a_turn(turn))
        return log.meta


def home(root: Path, session: str = "a_b_1") -> Path:
    return root / "sessions" / session


def journal(root: Path, session: str = "a_b_1") -> Path:
    return home(root, session) / "journal.jsonl"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def killed_copy(root: Path) -> Path:
    """Copy a store in use: what a SIGKILL at this moment would leave."""
    copy = root.with_name("killed")
    shutil.copytree(root, copy, symlinks=True)
    return copy


@pytest.mark.usefixtures("umask")
async def test_everything_is_ours_alone_whatever_the_umask(root: Path) -> None:
    root.parent.mkdir()
    root.parent.chmod(0o755)
    await fill(root, "hello")
    async with opened(root) as store:
        await store.create("a", "c")
        await store.delete("a_c_1")

    modes = {path.relative_to(root): stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*"))}
    directories = {path for path in modes if (root / path).is_dir()}
    assert {modes[path] for path in directories} == {0o700}
    assert {mode for path, mode in modes.items() if path not in directories} == {0o600}


async def test_a_root_that_others_could_read_is_closed_to_them(root: Path) -> None:
    root.mkdir(mode=0o755, parents=True)

    async with opened(root):
        assert stat.S_IMODE(root.stat().st_mode) == 0o700


async def test_a_session_is_a_journal_and_its_sum(root: Path) -> None:
    meta = await fill(root, "hello")

    assert names(root) == ["catalogue.json", "lock", "sessions"]
    assert names(home(root)) == ["journal.jsonl", "meta.json"]
    lines = journal(root).read_text().splitlines()
    assert [json.loads(line)["n"] for line in lines] == list(range(1, meta.steps + 1))
    saved = json.loads((home(root) / "meta.json").read_text())
    assert saved["journal_size"] == journal(root).stat().st_size
    assert saved["meta"]["id"] == "a_b_1"


async def test_a_second_opener_is_refused_with_the_name_of_the_holder(root: Path) -> None:
    async with opened(root):
        with pytest.raises(StoreError) as caught:
            await JournalStore(root).open()

    assert caught.value.kind == "locked"
    assert f"process {os.getpid()}" in str(caught.value)
    async with opened(root):
        pass


async def test_a_closed_store_writes_nothing(root: Path) -> None:
    store = JournalStore(root)
    await store.open()
    log = (await store.create("a", "b")).log
    await store.aclose()

    for attempt in (
        store.create("a", "b"),
        store.load("a_b_1"),
        store.delete("a_b_1"),
        log.append([Cleared()]),
    ):
        with pytest.raises(StoreError, match="closed"):
            await attempt

    assert len(journal(root).read_bytes().splitlines()) == 1


async def test_a_record_that_cannot_be_kept_leaves_the_log_as_it_was(root: Path) -> None:
    async with opened(root) as store:
        log = (await store.create("a", "b")).log
        with pytest.raises(UnicodeEncodeError):
            await log.append([Cleared(), MessageAdded("r1", user_text("\ud800"))])

        steps = await log.append([Cleared()])

    assert [step.n for step in steps] == [2]


async def test_a_kill_after_the_commit_leaves_true_lists(root: Path) -> None:
    async with opened(root) as store:
        log = (await store.create("a", "b")).log
        await log.append([RunOpened("r1"), said("hello")])
        meta, copy = log.meta, killed_copy(root)

    async with opened(copy) as store:
        assert store.metas() == (meta,)
        assert store.damage() == ()
    assert meta.open_run == "r1"


def forget_catalogue(root: Path) -> None:
    """Have the next start look into every session."""
    (root / "catalogue.json").unlink()


def spoil(path: Path, how: str) -> None:
    good = path.read_bytes()
    path.unlink()
    match how:
        case "empty":
            path.write_bytes(b"")
        case "no meta":
            path.write_bytes(b"{}")
        case "changed":
            path.write_bytes(good.replace(b'"runs":1', b'"runs":2'))
        case "cut":
            path.write_bytes(good[:-3])
        case "link":
            path.symlink_to("/etc/passwd")
        case "fifo":
            os.mkfifo(path)
        case _:
            pass


@pytest.mark.parametrize("how", ["missing", "empty", "no meta", "changed", "cut", "link", "fifo"])
async def test_a_meta_that_cannot_be_believed_is_made_again(root: Path, how: str) -> None:
    meta = await fill(root, "hello")
    saved = home(root) / "meta.json"
    good = saved.read_bytes()
    spoil(saved, how)
    forget_catalogue(root)

    async with opened(root) as store:
        assert store.metas() == (meta,)
        assert store.damage() == ()

    assert saved.read_bytes() == good
    assert not saved.is_symlink()


async def test_damage_in_a_journal_that_its_meta_accounts_for_is_found_with_its_place(root: Path) -> None:
    meta = await fill(root, "one", "two", "three")
    whole = journal(root).read_bytes()
    lines = whole.splitlines(keepends=True)

    for index in range(len(lines)):
        place = sum(map(len, lines[:index]))
        broken = bytearray(whole)
        broken[place + len(lines[index]) // 2] ^= 1
        journal(root).write_bytes(broken)
        async with opened(root) as store:
            with pytest.raises(
                StoreError, match=f"record {index + 1} at byte {place}: its checksum"
            ) as caught:
                await store.load(meta.id)
        assert caught.value.kind == "damaged"
        assert journal(root).read_bytes() == broken


async def test_a_journal_of_the_same_length_is_added_up_anew(root: Path) -> None:
    async with opened(root) as store:
        log = (await store.create("a", "b")).log
        old = killed_copy(root)
        await log.append([Configured(title="one")])
    async with opened(old) as store:
        log = (await store.load("a_b_1")).log
        await log.append([Configured(title="two")])
    shutil.copy(journal(old), journal(root))

    async with opened(root) as store:
        loaded = await store.load("a_b_1")
        listed = store.meta("a_b_1")

    assert loaded.log.meta == listed
    assert loaded.log.meta.title == "two"
    assert loaded.steps[-1].record == Configured(title="two")


async def test_a_record_of_a_newer_crabd_is_named_though_the_meta_accounts_for_it(root: Path) -> None:
    meta = await fill(root, "hello")
    *lines, last = journal(root).read_bytes().splitlines()
    newer = seal(last[: -len(b',"crc":"00000000"}')].replace(b'"run_closed"', b'"dream"') + b"}")
    data = b"\n".join((*lines, newer, b""))
    journal(root).write_bytes(data)
    save_meta(home(root), meta, len(data), crc32(data))

    async with opened(root) as store:
        with pytest.raises(StoreError, match=f"record {meta.steps} .*newer crabd .*'dream'"):
            await store.load(meta.id)


async def test_a_meta_of_another_session_is_not_believed(root: Path) -> None:
    async with opened(root) as store:
        logs = [(await store.create("a", sender)).log for sender in ("b", "c")]
        metas = {log.meta for log in logs}
    shutil.copy(home(root, "a_b_1") / "meta.json", home(root, "a_c_1") / "meta.json")

    async with opened(root) as store:
        assert set(store.metas()) == metas


async def test_left_overs_are_swept(root: Path) -> None:
    await fill(root, "hello")
    (root / ".tmp-numbers.json").write_bytes(b"half")
    (home(root) / ".tmp-meta.json").write_bytes(b"half")
    (home(root) / ".tmp-journal.jsonl").write_bytes(b"half")
    forget_catalogue(root)
    for name in (".new-a_b_2", ".deleted-a_b_3"):
        shutil.copytree(home(root), home(root, name))

    async with opened(root) as store:
        assert store.damage() == ()
        assert len(store.metas()) == 1

    assert names(root / "sessions") == ["a_b_1"]
    assert names(root) == ["catalogue.json", "lock", "sessions"]
    assert names(home(root)) == ["journal.jsonl", "meta.json"]


async def test_names_that_are_no_sessions_are_reported_and_left_alone(root: Path, tmp_path: Path) -> None:
    meta = await fill(root, "hello")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(home(root), elsewhere)
    home(root, "a_b_2").symlink_to(elsewhere)
    home(root, "Notes").mkdir()
    home(root, "a_b_3").write_text("a file")
    home(root, ".new-link").symlink_to(elsewhere)
    home(root, "caf\udce9").mkdir()

    async with opened(root) as store:
        found = {damage.session: damage.problem for damage in store.damage()}
        created = await store.create("a", "b")

    assert set(found) == {"a_b_2", "Notes", "a_b_3", ".new-link", "caf\ufffd"}
    assert "symbolic link" in found["a_b_2"]
    assert created.log.meta.id == "a_b_4"
    assert {path.name for path in (root / "sessions").iterdir()} > {"a_b_2", "Notes", "a_b_3", ".new-link"}
    assert names(elsewhere) == ["journal.jsonl", "meta.json"]
    assert meta.id == "a_b_1"


async def test_a_name_that_somebody_has_taken_meanwhile_is_passed_over(root: Path) -> None:
    async with opened(root) as store:
        home(root, "a_b_1").mkdir()
        home(root, "a_b_2").symlink_to("nowhere")

        created = await store.create("a", "b")

    assert created.log.meta.id == "a_b_3"


async def test_a_session_behind_a_link_is_not_found(root: Path, tmp_path: Path) -> None:
    await fill(root, "hello")
    home(root).rename(tmp_path / "elsewhere")
    home(root).symlink_to(tmp_path / "elsewhere")

    async with opened(root) as store:
        with pytest.raises(NotFound):
            await store.load("a_b_1")
        assert not await store.delete("a_b_1")

    assert (tmp_path / "elsewhere" / "journal.jsonl").exists()


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "missing"])
async def test_a_journal_that_is_no_file_is_refused(root: Path, tmp_path: Path, kind: str) -> None:
    meta = await fill(root, "hello")
    journal(root).rename(tmp_path / "elsewhere")
    match kind:
        case "link":
            journal(root).symlink_to(tmp_path / "elsewhere")
        case "fifo":
            os.mkfifo(journal(root))
        case "directory":
            journal(root).mkdir()
        case _:
            pass

    async with opened(root) as store:
        assert [damage.session for damage in store.damage()] == ["a_b_1"]
        with pytest.raises(StoreError):
            await store.load("a_b_1")
        assert (await store.create("a", "b")).log.meta.id == "a_b_2"

    assert len((tmp_path / "elsewhere").read_bytes().splitlines()) == meta.steps


async def test_a_damaged_session_is_listed_refused_and_left_as_it_is(root: Path) -> None:
    meta = await fill(root, "one", "two")
    broken = journal(root).read_bytes().replace(b"one", b"0ne", 1)
    journal(root).write_bytes(broken)
    (home(root) / "meta.json").unlink()

    async with opened(root) as store:
        (damage,) = store.damage()
        with pytest.raises(StoreError) as caught:
            await store.load(meta.id)
        assert [listed.id for listed in store.metas()] == [meta.id]
        assert store.damage() == (damage,)

    assert caught.value.kind == "damaged"
    assert str(journal(root)) in damage.problem
    assert "record 3" in damage.problem
    assert "crabctl doctor" in damage.problem
    assert journal(root).read_bytes() == broken


async def test_damage_that_its_meta_hides_is_found_on_loading(root: Path) -> None:
    meta = await fill(root, "one")
    journal(root).write_bytes(journal(root).read_bytes().replace(b"one yourself", b"0ne yourself"))

    async with opened(root) as store:
        assert store.damage() == ()
        with pytest.raises(StoreError) as caught:
            await store.load(meta.id)
        assert [damage.session for damage in store.damage()] == [meta.id]

    assert caught.value.kind == "damaged"


async def test_a_session_restored_from_a_backup_loads_without_a_restart(root: Path) -> None:
    meta = await fill(root, "one")
    good = journal(root).read_bytes()
    journal(root).write_bytes(good.replace(b"one", b"0ne"))

    async with opened(root) as store:
        with pytest.raises(StoreError):
            await store.load(meta.id)
        journal(root).write_bytes(good)
        loaded = await store.load(meta.id)
        assert store.damage() == ()

    assert len(loaded.steps) == meta.steps


async def test_a_damaged_session_can_be_deleted(root: Path) -> None:
    await fill(root, "one")
    journal(root).write_bytes(b"rubbish\n" * 3)
    (home(root) / "meta.json").unlink()

    async with opened(root) as store:
        assert [damage.session for damage in store.damage()] == ["a_b_1"]
        deleted = await store.delete("a_b_1")
        assert store.damage() == ()

    assert deleted
    assert names(root / "sessions") == []


async def test_a_log_in_the_wrong_directory_is_damage(root: Path) -> None:
    await fill(root, "hello")
    shutil.copytree(home(root), home(root, "a_b_7"))

    async with opened(root) as store:
        (damage,) = store.damage()

    assert damage.session == "a_b_7"
    assert "the log of a_b_1" in damage.problem


async def test_a_torn_tail_is_cut_saved_and_reported_every_time(root: Path) -> None:
    meta = await fill(root, "hello")
    good = journal(root).read_bytes()

    for life in (1, 2):
        journal(root).write_bytes(good + b'{"v":1,"n":7,' + b"x" * life)
        async with opened(root) as store:
            (damage,) = store.damage()
            loaded = await store.load(meta.id)

        saved = home(root) / f"journal.torn-{life}"
        assert saved.read_bytes() == b'{"v":1,"n":7,' + b"x" * life
        assert str(saved) in damage.problem
        assert damage.session == meta.id
        assert loaded.log.meta == meta
        assert journal(root).read_bytes() == good
    async with opened(root) as store:
        assert store.damage() == ()


async def test_a_bad_last_record_that_was_acknowledged_is_damage_and_not_a_torn_tail(root: Path) -> None:
    meta = await fill(root, "hello")
    broken = journal(root).read_bytes()[:-4] + b"x" * 9
    journal(root).write_bytes(broken)

    async with opened(root) as store:
        with pytest.raises(StoreError) as caught:
            await store.load(meta.id)

    assert caught.value.kind == "damaged"
    assert journal(root).read_bytes() == broken


async def test_a_journal_that_lost_its_end_says_so(root: Path) -> None:
    await fill(root, "one", "two")
    lines = journal(root).read_bytes().splitlines(keepends=True)
    journal(root).write_bytes(b"".join(lines[:6]))

    async with opened(root) as store:
        (damage,) = store.damage()
        loaded = await store.load("a_b_1")

    assert f"{len(b''.join(lines[6:]))} bytes shorter" in damage.problem
    assert len(loaded.steps) == 6


async def test_what_a_newer_crabd_wrote_is_not_touched(root: Path) -> None:
    await fill(root)
    line = b'{"v":2,"n":2,"moment":0'
    newer = journal(root).read_bytes() + line + b',"crc":"%08x"}\n' % crc32(line)
    journal(root).write_bytes(newer)

    async with opened(root) as store:
        (damage,) = store.damage()

    assert "newer crabd" in damage.problem
    assert journal(root).read_bytes() == newer


async def test_damaged_numbers_are_set_aside_and_reported(root: Path) -> None:
    async with opened(root) as store:
        await store.create("a", "b")
        await store.delete("a_b_1")
    (root / "numbers.json").write_bytes(b'{"deleted":{"a_b":9}}\n')

    async with opened(root) as store:
        (damage,) = store.damage()

    assert damage.session == "numbers.json"
    assert (root / "numbers.damaged").exists()
    async with opened(root) as store:
        assert store.damage() == ()


async def test_numbers_of_a_newer_crabd_keep_the_store_shut_and_are_left_alone(root: Path) -> None:
    async with opened(root) as store:
        await store.create("a", "b")
    newer = seal(b'{"gone":[],"v":2}') + b"\n"
    (root / "numbers.json").write_bytes(newer)

    with pytest.raises(StoreError, match=r"newer crabd .*format 2"):
        await JournalStore(root).open()

    assert (root / "numbers.json").read_bytes() == newer


async def test_deleting_takes_the_whole_directory_and_only_it(root: Path) -> None:
    await fill(root, "hello")
    async with opened(root) as store:
        other = (await store.create("a", "c")).log.meta.id
        (home(root) / "extra").mkdir()
        (home(root) / "extra" / "link").symlink_to(home(root, other))
        await store.delete("a_b_1")

    assert names(root / "sessions") == [other]
    assert journal(root, other).exists()


async def test_of_a_session_deleted_by_a_key_only_the_note_stays_and_for_a_day(root: Path) -> None:
    await fill(root, "hello")
    async with opened(root) as store:
        (home(root) / "extra").mkdir()
        (home(root) / "extra" / "file").write_bytes(b"private")
        await store.delete("a_b_1", request_key="k")
    kept = names(home(root, ".deleted-a_b_1"))
    old = Deletion("a_b_1", utc_now() - KEY_AGE - timedelta(seconds=1), "k")
    write_note(home(root, ".deleted-a_b_1"), old)

    async with opened(root) as store:
        assert (store.deletions(), store.damage()) == ((), ())

    assert kept == ["deletion.json"]
    assert names(root / "sessions") == []


@pytest.mark.parametrize("is_gone", [False, True])
async def test_a_deletion_that_a_crash_cut_short_is_remembered_if_the_session_is_gone(
    root: Path, is_gone: bool
) -> None:
    meta = await fill(root, "hello")
    write_note(home(root), Deletion("a_b_1", utc_now(), "k"))
    if is_gone:
        home(root).rename(home(root, ".deleted-a_b_1"))

    async with opened(root) as store:
        left, remembered = store.metas(), [deletion.request_key for deletion in store.deletions()]

    assert (left, remembered) == (((), ["k"]) if is_gone else ((meta,), []))
    assert names(root / "sessions") == [".deleted-a_b_1" if is_gone else "a_b_1"]
    if is_gone:
        assert names(home(root, ".deleted-a_b_1")) == ["deletion.json"]


@pytest.mark.parametrize("how", ["flipped", "of another", "cut", "empty"])
async def test_a_note_that_cannot_be_believed_is_swept_with_its_session(root: Path, how: str) -> None:
    await fill(root, "hello")
    async with opened(root) as store:
        await store.delete("a_b_1", request_key="k")
    note = home(root, ".deleted-a_b_1") / "deletion.json"
    good = note.read_bytes()
    bad = {"flipped": good.replace(b'"k"', b'"x"'), "cut": good[:-9], "empty": b"", "of another": good}
    note.write_bytes(bad[how])
    if how == "of another":
        note.parent.rename(home(root, ".deleted-a_b_7"))

    async with opened(root) as store:
        assert (store.deletions(), store.damage()) == ((), ())

    assert names(root / "sessions") == []


async def test_a_deletion_that_failed_half_way_can_be_tried_again_by_its_key(root: Path) -> None:
    await fill(root, "hello")
    async with opened(root) as store:
        # Of a directory in the way nothing can be moved there, whoever asks.
        blocker = home(root, ".deleted-a_b_1")
        blocker.mkdir()
        (blocker / "file").write_bytes(b"")
        with pytest.raises(StoreError):
            await store.delete("a_b_1", request_key="k")
        before = store.metas(), store.deletions()
        shutil.rmtree(blocker)

        deleted = await store.delete("a_b_1", request_key="k")

        assert ([meta.id for meta in before[0]], before[1]) == (["a_b_1"], ())
        assert deleted
        assert store.metas() == ()
        assert [deletion.request_key for deletion in store.deletions()] == ["k"]


async def test_a_log_from_before_there_were_keys_loads(root: Path) -> None:
    meta = await fill(root, "hello")
    lines = journal(root).read_bytes()

    assert b"request_key" not in lines
    assert b"position" not in lines
    async with opened(root) as store:
        loaded = await store.load("a_b_1")
        assert loaded.log.meta == meta
        assert meta.claims == ()


async def test_the_states_of_a_store_and_a_log_can_be_read(root: Path) -> None:
    async with opened(root) as store:
        log: SessionLog = (await store.create("a", "b")).log
        assert repr(store) == "<JournalStore open, 1 sessions, 1 logs open>"
        assert repr(log) == "<DiskLog a_b_1 open, 1 steps>"
        await log.aclose()
        assert repr(log) == "<DiskLog a_b_1 closed, 1 steps>"
    assert repr(store) == "<JournalStore closed, 1 sessions, 0 logs open>"
