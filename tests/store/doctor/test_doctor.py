"""The doctor of a store: every kind of damage, planted on purpose, is found, named and mended."""

from __future__ import annotations

import shutil
import signal
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
from msgspec import Struct

from crabd.doctor import close_log
from crabd.errors import StoreError
from crabd.messages import AssistantMessage, TextBlock, ToolMessage, utc_now
from crabd.store.base import Partial
from crabd.store.deletion import write_note
from crabd.store.doctor.doctor import Doctor
from crabd.store.journal.line import scan
from crabd.store.journal.recovery import load_meta
from crabd.store.meta import Deletion, add_up
from crabd.store.record import MessageAdded, RunOpened
from crabd.store.seal import seal
from tests.crabctl.program import PATIENCE, ROOT
from tests.store.clinic import (
    BACKENDS,
    Wound,
    examine,
    fill,
    flip,
    home,
    journal,
    lost_between,
    opened,
    tree,
)
from tests.store.samples import said
from tests.store.wounds import LACKS_RESULT, WOUNDS, double_line, flip_line, plant, swap_lines, write_log

EVERY_WOUND = [(backend, name) for backend, wounds in WOUNDS.items() for name in wounds]
# Repairs in a process that is killed at the file operation of that number that changes something.
DIES = """
import os, pathlib, signal, sys
from crabd.doctor import close_log
from crabd.store.doctor.doctor import Doctor

def watch(event, args):
    global left
    changes = event in ("os.rename", "os.remove", "os.mkdir", "os.chmod", "os.truncate")
    if changes or (event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

left = int(sys.argv[2])
sys.addaudithook(watch)
Doctor(pathlib.Path(sys.argv[1]), close_log, repairs=True).check_session("a_b_1")
"""


class Patient(Struct):
    """A store that was hurt, and the kinds of flaws that are to be found in it."""

    backend: str
    root: Path
    kinds: list[str]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def root(tmp_path: Path) -> Path:
    root = tmp_path / "state"
    await fill(root)
    return root


@pytest.fixture(params=EVERY_WOUND, ids=": ".join)
async def patient(request: pytest.FixtureRequest, tmp_path: Path) -> Patient:
    backend, name = request.param
    hurt, kinds = WOUNDS[backend][name]
    root = tmp_path / "state"
    await fill(root, backend)
    await trio.to_thread.run_sync(hurt, root)
    return Patient(backend, root, kinds)


async def test_a_store_that_nothing_is_wrong_with_has_no_flaws(tmp_path: Path, backend: str) -> None:
    await fill(tmp_path, backend)
    before = tree(tmp_path)

    assert examine(tmp_path) == []
    assert examine(tmp_path, repairs=True) == []
    assert tree(tmp_path) == before


async def test_a_store_that_has_not_begun_has_no_flaws(tmp_path: Path) -> None:
    assert examine(tmp_path / "none", repairs=True) == []
    assert not (tmp_path / "none").exists()


async def test_all_damage_is_found_and_named_and_nothing_is_touched(patient: Patient) -> None:
    before = tree(patient.root)

    flaws = examine(patient.root)

    assert [flaw.kind for flaw in flaws] == patient.kinds
    assert all(flaw.problem and flaw.advice and flaw.mended is None for flaw in flaws)
    assert tree(patient.root) == before


async def test_a_repair_leaves_a_store_that_is_sound_and_loads(patient: Patient) -> None:
    flaws = examine(patient.root, repairs=True)

    assert all(flaw.mended for flaw in flaws)
    assert {flaw.kind for flaw in flaws} >= set(patient.kinds)
    assert examine(patient.root) == []
    async with opened(patient.root, patient.backend) as store:
        assert store.damage() == ()
        for meta in store.metas():
            loaded = await store.load(meta.id)
            assert add_up(await store.read(meta.id)) == loaded.log.meta == meta
            assert meta.open_run is None


async def test_what_a_repair_takes_away_is_in_quarantine_as_it_was(patient: Patient) -> None:
    before = tree(patient.root)

    examine(patient.root, repairs=True)

    # One was asked to go; of the numbers there may be more now, and crabtalk's meta keeps up with the log.
    may_go = {"sessions/.deleted-a_b_7/journal.jsonl"}
    may_go |= {"numbers.json"} if "numbers" not in patient.kinds else set()
    may_go |= {"sessions/a_b_1/meta"} if patient.kinds != ["meta"] else set()
    assert lost_between(before, tree(patient.root)) <= may_go
    quarantine = patient.root / "quarantine"
    assert not quarantine.exists() or stat.S_IMODE(quarantine.stat().st_mode) == 0o700


async def test_any_flipped_bit_of_a_record_is_found(root: Path) -> None:
    whole = journal(root).read_bytes()
    lines = whole.splitlines(keepends=True)
    begin = len(b"".join(lines[:4]))

    for at in range(begin, begin + len(lines[4])):
        journal(root).write_bytes(flip(whole, at))
        (flaw,) = examine(root)

        assert (flaw.kind, flaw.grade, flaw.where) == ("damaged", "problem", "a_b_1"), at
        assert "record 5 at byte" in flaw.problem


@pytest.mark.parametrize("hurt", [swap_lines, double_line])
async def test_lines_in_disorder_are_put_in_order_and_none_is_lost(root: Path, hurt: Wound) -> None:
    whole = journal(root).read_bytes()
    hurt(root)

    (flaw,) = examine(root, repairs=True)

    assert "none is lost" in flaw.problem
    assert journal(root).read_bytes() == whole


async def test_a_repair_keeps_what_is_sound_and_tells_what_is_lost(root: Path) -> None:
    whole = journal(root).read_bytes().splitlines(keepends=True)
    flip_line(root, 9)

    (told,) = examine(root)
    (done,) = examine(root, repairs=True)

    assert "8 records can be kept, and 13 lost, of r2, r3, r4" in told.problem
    assert done.mended is not None
    assert done.mended.startswith("8 records kept, and 13 lost, of r2, r3, r4; all as it was: ")
    steps = scan(journal(root).read_bytes()).steps
    assert steps[:8] == scan(b"".join(whole)).steps[:8]
    # Of the second turn there is the question alone, so its run is closed.
    assert [type(step.record).__name__ for step in steps[6:]] == ["RunOpened", "MessageAdded", "RunClosed"]


async def test_a_first_record_that_is_lost_is_made_again_from_the_meta(root: Path) -> None:
    before = load_meta(home(root))
    flip_line(root, 1)

    examine(root, repairs=True)

    after = load_meta(home(root))
    assert before is not None
    assert after is not None
    assert after.meta == before.meta


async def test_of_a_session_that_cannot_be_kept_the_number_is_not_used_again(root: Path) -> None:
    for session in ("a_b_1", "a_c_1"):
        journal(root, session).write_bytes(b"nothing")
        (home(root, session) / "meta.json").unlink()

    examine(root, repairs=True)

    async with opened(root) as store:
        assert store.metas() == ()
        assert (await store.create("a", "c")).log.meta.id == "a_c_2"
        assert (await store.create("a", "b")).log.meta.id == "a_b_3"


async def test_what_a_newer_crabd_has_written_is_left_alone(root: Path) -> None:
    line = seal(b'{"v":2,"n":22,"at":"2026-01-31T08:00:00Z","record":{"type":"dreamt"}}') + b"\n"
    with journal(root).open("ab") as file:
        file.write(line)
    before = tree(root)

    (flaw,) = examine(root, repairs=True)

    assert (flaw.kind, flaw.grade, flaw.mended) == ("newer", "problem", None)
    assert tree(root) == before


async def test_calls_without_a_result_get_one_that_says_so(root: Path) -> None:
    await trio.to_thread.run_sync(write_log(*LACKS_RESULT), root)

    examine(root, repairs=True)

    last = scan(journal(root).read_bytes()).steps[-1].record
    assert isinstance(last, MessageAdded)
    assert isinstance(last.message, ToolMessage)
    assert (last.run, last.message.call, last.message.status) == ("r1", "c1", "interrupted")


async def test_the_part_of_a_reply_that_was_streamed_joins_the_log(root: Path) -> None:
    await trio.to_thread.run_sync(write_log(RunOpened("r1"), said("go")), root)
    async with opened(root) as store:
        log = (await store.load("a_b_1")).log
        await log.keep_partial(Partial("r1", 3, (TextBlock("I was saying"),)), is_first=True)
        piece = (home(root) / "partial.jsonl").read_bytes()
    (home(root) / "partial.jsonl").write_bytes(piece)
    (home(root) / "partial.jsonl").chmod(0o600)

    assert [flaw.kind for flaw in examine(root)] == ["open_run"]
    assert [flaw.kind for flaw in examine(root, repairs=True)] == ["open_run"]

    records = [step.record for step in scan(journal(root).read_bytes()).steps]
    assert MessageAdded("r1", AssistantMessage((TextBlock("I was saying"),), partial=True)) in records
    assert examine(root) == []


async def test_a_repair_may_be_killed_at_any_moment_and_is_done_again(tmp_path: Path, backend: str) -> None:
    await fill(tmp_path / "whole", backend)
    await trio.to_thread.run_sync(WOUNDS[backend]["a flipped bit"][0], tmp_path / "whole")
    before = tree(tmp_path / "whole")
    # Most moments of a copy of many files are alike.
    moment, stride, has_died = 0, {"journal": 1, "stepfiles": 7}[backend], True

    while has_died:
        moment += stride
        root = tmp_path / str(moment)
        shutil.copytree(tmp_path / "whole", root)
        has_died = die_at(root, moment)

        assert lost_between(before, tree(root)) == set(), moment
        examine(root, repairs=True)
        assert examine(root) == [], moment
        async with opened(root, backend) as store:
            assert store.damage() == ()
            assert (await store.load("a_b_1")).log.meta.steps >= 9

    assert moment > 10


def die_at(root: Path, moment: int) -> bool:
    """Repair in a process that is killed at that moment; false if it came to its end before."""
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", DIES, root, str(moment)], env=environment, timeout=PATIENCE)
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0


async def test_a_repair_that_cannot_keep_a_copy_changes_nothing(root: Path) -> None:
    flip_line(root, 9)
    plant("quarantine")(root)
    before = tree(root)

    (flaw,) = examine(root, repairs=True)

    assert "mending it has failed" in flaw.problem
    assert flaw.mended is None
    assert tree(root) == before


async def test_nothing_in_quarantine_is_written_over(root: Path) -> None:
    for text in ("one", "two"):
        (root / "sessions" / "notes").write_text(text)
        examine(root, repairs=True)

    assert {path.read_text() for path in (root / "quarantine").iterdir()} == {"one", "two"}


async def test_a_session_in_use_is_checked_and_not_changed(root: Path) -> None:
    async with opened(root) as store:
        await store.load("a_b_1")
        await (await store.load("a_c_1")).log.append([RunOpened("r9")])
        flip_line(root, 9)
        before = tree(root)
        doctor = Doctor(root, close_log, repairs=True)

        await store.look_around(doctor.check_root)
        for session in doctor.sessions():
            await store.look_into(session, partial(doctor.check_session, session))

        assert [(flaw.kind, flaw.where) for flaw in doctor.chart.flaws] == [
            ("changed", "a_b_1"),
            ("damaged", "a_b_1"),
        ]
        assert {flaw.advice for flaw in doctor.chart.flaws} == {
            "crabctl close a_b_1, then crabctl doctor --repair"
        }
        assert tree(root) == before


async def test_only_what_is_acknowledged_counts_in_a_session_in_use(tmp_path: Path, backend: str) -> None:
    root, other = tmp_path / "state", tmp_path / "other"
    await fill(root, backend)
    async with opened(root, backend) as store:
        log = (await store.load("a_b_1")).log
        await log.append([RunOpened("r5"), said("go")])
        await log.keep_partial(Partial("r5", 23, (TextBlock("I was"),)), is_first=True)
        # Files as an append leaves them that fails at its sync, and cannot be taken back.
        shutil.copytree(root, other)
        async with opened(other, backend) as copy:
            await (await copy.load("a_b_1")).log.append([RunOpened("r6")])
        for path in (*home(other).glob("journal*"), *home(other).glob("step-*")):
            (home(root) / path.name).write_bytes(path.read_bytes())
            (home(root) / path.name).chmod(0o600)
        plant("sessions", "a_b_1", "notes.txt")(root)
        before = tree(root)
        doctor = Doctor(root, close_log, repairs=True)

        await store.look_into("a_b_1", partial(doctor.check_session, "a_b_1"))

        assert [flaw.kind for flaw in doctor.chart.flaws] == ["foreign"]
        assert doctor.chart.records == 23
        assert tree(root) == before


async def test_a_store_in_use_knows_at_once_what_was_mended(root: Path) -> None:
    flip_line(root, 9)
    journal(root, "a_c_1").write_bytes(b"nothing")
    (home(root, "a_c_1") / "meta.json").unlink()
    changed: list[str] = []
    async with opened(root) as store:
        with pytest.raises(StoreError):
            await store.load("a_b_1")
        assert store.is_damaged("a_b_1")
        store.on_commit(changed.append)
        doctor = Doctor(root, close_log, repairs=True)

        for session in doctor.sessions():
            await store.look_into(session, partial(doctor.check_session, session))

        assert changed == ["a_b_1", "a_c_1"]
        assert not store.is_damaged("a_b_1")
        assert store.meta("a_c_1") is None
        assert (await store.load("a_b_1")).log.meta.steps == 9
        assert (await store.create("a", "c")).log.meta.id == "a_c_2"


async def test_a_session_of_which_only_the_name_can_be_read_is_listed_as_damaged(root: Path) -> None:
    journal(root).write_bytes(b"nothing")
    (home(root) / "meta.json").unlink()

    async with opened(root) as store:
        meta = store.meta("a_b_1")
        assert meta is not None
        assert (meta.agent, meta.sender, meta.steps) == ("a", "b", 0)
        assert store.is_damaged("a_b_1")


async def test_an_old_note_of_a_deletion_is_no_damage(root: Path) -> None:
    place = root / "sessions" / ".deleted-a_d_1"
    place.mkdir(mode=0o700)
    write_note(place, Deletion("a_d_1", utc_now(), "key"))

    assert examine(root) == []
