"""Files that sessions change: what the log says of them, and how they come back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from crabd.runtime.changes import Change, FilePlan, find_changes, plan_files
from crabd.runtime.files import Files, Restored
from crabd.runtime.session import Session
from crabd.store.record import FileChanged, FileKept, Rewound
from crabd.tools.base import FileState
from tests.fakes import says
from tests.runtime.checkpoints import FolderCheckpoints
from tests.runtime.test_runtime import Bench, open_bench
from tests.store.samples import numbered, said


class Shop:
    """A session whose calls change files in a directory."""

    def __init__(self, bench: Bench, session: Session, files: Files, place: Path) -> None:
        self.bench = bench
        self.session = session
        self.files = files
        self.place = place

    async def change(self, name: str, text: str | None) -> None:
        """Have a call change a file, or remove it."""
        file = self.place / name
        await self.files.preserver(self.session.id, "r1", "c0").keep(str(file))
        write(file, text)
        await self.files.settle(self.session)

    async def rewind(self, *, force: bool = False) -> list[tuple[str, str, bool, str]]:
        _, files = await self.bench.runtime.edits.rewind(self.session, None, restore_files=True, force=force)
        return [told(each) for each in files]

    def contents(self) -> dict[str, str]:
        return {file.name: file.read_text() for file in sorted(self.place.iterdir())}


def write(file: Path, text: str | None) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


def told(restored: Restored) -> tuple[str, str, bool, str]:
    plan = restored.plan
    return Path(plan.path).name, plan.action, restored.is_done, plan.problem.partition(":")[0]


@asynccontextmanager
async def open_shop(root: Path) -> AsyncGenerator[Shop]:
    place = root / "place"
    place.mkdir()
    async with open_bench(*[says("ok")] * 9) as bench:
        files = Files(FolderCheckpoints(root / "kept"), bench.runtime.sessions.find_live)
        bench.runtime.files = bench.runtime.edits.files = files
        bench.runtime.sessions.discard = files.drop
        yield Shop(bench, await bench.session(), files, place)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncGenerator[Shop]:
    async with open_shop(tmp_path) as made:
        yield made


def test_the_first_change_behind_a_step_says_what_was_before_and_the_last_what_was_left() -> None:
    log = numbered(
        FileKept("r1", "c0", "/a", "one", 0o644),
        FileChanged("r1", "c0", "/a", "two"),
        said("then"),
        FileKept("r2", "c1", "/a", "two", 0o600),
        FileKept("r2", "c1", "/b", None),
        FileChanged("r2", "c1", "/a", "three"),
    )

    whole, late = find_changes(log, 0), find_changes(log, 4)

    assert whole == (
        Change("/a", FileState("one", 0o644), FileState("three")),
        Change("/b", FileState(None), None),
    )
    assert late == (
        Change("/a", FileState("two", 0o600), FileState("three")),
        Change("/b", FileState(None), None),
    )
    assert find_changes(log, 7) == ()


def test_what_is_as_before_is_left_out_and_what_another_has_changed_takes_a_word() -> None:
    changes = (
        Change("/same", FileState("one"), FileState("two")),
        Change("/ours", FileState("one"), FileState("two")),
        Change("/theirs", FileState(None), FileState("two")),
        Change("/unsure", FileState("one"), None),
    )

    plans = plan_files(changes, {"/same": "one", "/ours": "two", "/theirs": "three", "/unsure": "two"})

    assert plans[0] == FilePlan("/ours", "restore", FileState("one"))
    assert [(plan.path, plan.action, plan.problem != "") for plan in plans[1:]] == [
        ("/theirs", "remove", True),
        ("/unsure", "restore", True),
    ]


async def test_files_are_as_they_were_when_the_message_was_sent(shop: Shop) -> None:
    write(shop.place / "old", "old")
    (shop.place / "old").chmod(0o750)
    write(shop.place / "gone", "gone")
    await shop.bench.ask(shop.session, "first")
    await shop.change("kept", "by the first")
    await shop.bench.ask(shop.session, "second")
    await shop.change("old", "new")
    await shop.change("old", "newer")
    await shop.change("new", "new")
    await shop.change("gone", None)

    files = await shop.rewind()

    assert files == [
        ("old", "restore", True, ""),
        ("new", "remove", True, ""),
        ("gone", "restore", True, ""),
    ]
    assert shop.contents() == {"old": "old", "gone": "gone", "kept": "by the first"}
    assert (shop.place / "old").stat().st_mode & 0o777 == 0o750


async def test_without_being_asked_to_nothing_is_restored_and_all_of_it_is_told(shop: Shop) -> None:
    await shop.bench.ask(shop.session, "first")
    await shop.change("new", "new")

    _, files = await shop.bench.runtime.edits.rewind(shop.session, None)

    assert [told(each) for each in files] == [("new", "remove", False, "")]
    assert shop.contents() == {"new": "new"}


async def test_what_somebody_else_has_changed_since_is_left_unless_forced(shop: Shop) -> None:
    await shop.bench.ask(shop.session, "first")
    await shop.change("new", "new")
    await shop.change("other", "other")
    write(shop.place / "new", "a person's own work")

    left = await shop.rewind()
    write(shop.place / "other", "back by hand")
    forced = await shop.bench.runtime.edits.rewind(shop.session, 1, restore_files=True, force=True)

    assert left == [
        ("new", "remove", False, "somebody else has changed it since"),
        ("other", "remove", True, ""),
    ]
    assert [told(each) for each in forced[1]] == [
        ("new", "remove", True, ""),
        ("other", "remove", True, ""),
    ]
    assert shop.contents() == {}


async def test_a_restored_file_can_be_had_again_for_what_it_was_is_kept_too(shop: Shop) -> None:
    write(shop.place / "file", "one")
    await shop.bench.ask(shop.session, "first")
    await shop.change("file", "two")
    before = len(shop.session.steps)

    await shop.rewind()
    one = shop.contents()
    rewound = next(step.n for step in shop.session.steps[before:] if isinstance(step.record, Rewound))
    _, files = await shop.bench.runtime.edits.rewind(shop.session, rewound, restore_files=True)

    assert one == {"file": "one"}
    assert [told(each) for each in files] == [("file", "restore", True, "")]
    assert shop.contents() == {"file": "two"}


async def test_a_change_that_a_crash_has_cut_off_is_nobodys_until_a_person_says_so(shop: Shop) -> None:
    write(shop.place / "file", "one")
    await shop.bench.ask(shop.session, "first")
    await shop.files.preserver(shop.session.id, "r1", "c0").keep(str(shop.place / "file"))
    write(shop.place / "file", "half")
    shop.session.changing.clear()

    left = await shop.rewind()
    forced = await shop.bench.runtime.edits.rewind(shop.session, 1, restore_files=True, force=True)

    assert [each[2] for each in left] == [False]
    assert [each.is_done for each in forced[1]] == [True]
    assert shop.contents() == {"file": "one"}


async def test_what_cannot_be_restored_is_told_and_the_rest_is(shop: Shop, tmp_path: Path) -> None:
    write(shop.place / "lost", "one")
    write(shop.place / "file", "uno")
    await shop.bench.ask(shop.session, "first")
    await shop.change("lost", "two")
    (kept,) = (tmp_path / "kept" / shop.session.id).iterdir()
    kept.unlink()
    await shop.change("file", "due")

    files = await shop.rewind()

    assert [each[:3] for each in files] == [("lost", "restore", False), ("file", "restore", True)]
    assert shop.contents() == {"lost": "two", "file": "uno"}


async def test_a_session_shows_what_is_different_since_it_began_and_what_is_gone_with_it(
    shop: Shop, tmp_path: Path
) -> None:
    write(shop.place / "file", "one\n")
    write(shop.place / "undone", "as it was\n")
    await shop.change("file", "two\n")
    await shop.change("undone", "not\n")
    await shop.change("new", "new\n")
    write(shop.place / "undone", "as it was\n")

    diffs, is_cut = await shop.bench.runtime.edits.diff(shop.session.id)
    kept = tmp_path / "kept" / shop.session.id
    was_kept = kept.exists()
    await shop.bench.runtime.delete(shop.session.id)

    assert [(Path(diff.path).name, diff.before is None, diff.problem) for diff in diffs] == [
        ("file", False, ""),
        ("new", True, ""),
    ]
    assert "-one\n+two\n" in diffs[0].text
    assert (is_cut, was_kept, kept.exists()) == (False, True, False)


async def test_a_fork_has_changed_nothing(shop: Shop) -> None:
    await shop.bench.ask(shop.session, "first")
    await shop.change("new", "new")

    info, _ = await shop.bench.runtime.edits.fork(shop.session.id, None)

    assert await shop.bench.runtime.edits.diff(info.id) == ((), False)
