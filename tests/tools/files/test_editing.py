"""write, edit and apply_patch: what changes, what must not, and what is left when something comes between."""

from __future__ import annotations

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from crabd.tools.base import BadArguments, Intent
from crabd.tools.files.changing import MAX_BYTES, Change, apply
from crabd.tools.files.paths import Refusal
from tests.tools.desk import Desk, say_error


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
async def file(desk: Desk, tmp_path: Path) -> Path:
    """A file that was read."""
    place = tmp_path / "a.txt"
    place.write_text("one\ntwo\nthree\ntwo\n")
    await desk.call("read", path="a.txt")
    return place


def names(place: Path) -> list[str]:
    return sorted(each.name for each in place.iterdir())


def update(name: str, old: str, new: str) -> str:
    return f"*** Update File: {name}\n@@\n-{old}\n+{new}\n"


def patch(*sections: str) -> str:
    return f"*** Begin Patch\n{''.join(sections)}*** End Patch"


async def test_a_new_file_is_made_with_its_directories(desk: Desk, tmp_path: Path) -> None:
    call = await desk.prepare("write", path="d/e/new.txt", content="hello\n")
    shown = await call.preview()
    outcome = await call.run()

    path = tmp_path / "d" / "e" / "new.txt"
    assert call.intent == Intent(title="write d/e/new.txt", writes=(str(path),))
    assert shown == f"--- /dev/null\n+++ {path}\n@@ -0,0 +1,1 @@\n+hello\n"
    assert outcome.output == f"made {path} with 1 lines"
    assert path.read_text() == "hello\n"
    assert names(path.parent) == ["new.txt"]


async def test_nothing_is_changed_before_a_call_is_run(desk: Desk, tmp_path: Path, file: Path) -> None:
    calls = [
        await desk.prepare("write", path="d/new.txt", content="x"),
        await desk.prepare("edit", path="a.txt", old="one", new="1"),
        await desk.prepare(
            "apply_patch", patch=patch(update("a.txt", "one", "1"), "*** Delete File: a.txt\n")
        ),
    ]
    for call in calls:
        await call.preview()

    assert names(tmp_path) == ["a.txt"]
    assert file.read_text() == "one\ntwo\nthree\ntwo\n"


async def test_a_new_file_has_the_usual_mode_and_a_changed_one_keeps_its_own(desk: Desk, file: Path) -> None:
    usual = file.with_name("usual")
    usual.touch()
    file.chmod(0o751)

    await desk.call("write", path="new", content="x")
    await desk.call("edit", path="a.txt", old="one", new="1")

    assert file.with_name("new").stat().st_mode == usual.stat().st_mode
    assert stat.S_IMODE(file.stat().st_mode) == 0o751


async def test_text_in_one_place_is_replaced(desk: Desk, file: Path) -> None:
    call = await desk.prepare("edit", path="a.txt", old="two\nthree", new="2\n3")
    shown = await call.preview()
    outcome = await call.run()

    assert call.intent == Intent(title="edit a.txt", reads=(str(file),), writes=(str(file),))
    assert shown.endswith("@@ -1,4 +1,4 @@\n one\n-two\n-three\n+2\n+3\n two\n")
    assert outcome.output == f"edited {file} in 1 place, at line 2"
    assert file.read_text() == "one\n2\n3\ntwo\n"


async def test_text_in_several_places_is_replaced_only_if_that_is_wanted(desk: Desk, file: Path) -> None:
    told = await desk.refused("edit", path="a.txt", old="two", new="2")
    done = await desk.call("edit", path="a.txt", old="two", new="2", replace_all=True)

    assert "2 times, at lines 2, 4: give lines around it, or set replace_all" in told
    assert done == f"edited {file} in 2 places, at lines 2, 4"
    assert file.read_text() == "one\n2\nthree\n2\n"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("none", "x", "is not in"),
        ("  one\n  two", "x", "is at line 1 with other blanks"),
        ("one", "one", "are the same"),
        ("", "x", "`old`"),
        ("one", "\ud800", "surrogate"),
        ("one", "x" * (MAX_BYTES + 1), "make such a file with bash"),
    ],
)
async def test_an_edit_that_cannot_be_is_told(
    desk: Desk, file: Path, old: str, new: str, problem: str
) -> None:
    assert problem in await desk.refused("edit", path="a.txt", old=old, new=new)
    assert file.read_text() == "one\ntwo\nthree\ntwo\n"


@pytest.mark.parametrize("tool", ["edit", "write"])
async def test_a_file_has_to_be_read_before_it_is_changed(desk: Desk, tmp_path: Path, tool: str) -> None:
    (tmp_path / "b.txt").write_text("secret\n")
    more = {"old": "secret", "new": "x"} if tool == "edit" else {"content": "x"}

    told = await desk.refused(tool, path="b.txt", **more)

    assert told == f"{tmp_path}/b.txt was not read in this session: read it first"
    assert (tmp_path / "b.txt").read_text() == "secret\n"


async def test_whether_an_unread_file_is_there_is_not_told_by_edit(desk: Desk, tmp_path: Path) -> None:
    told = await desk.refused("edit", path="nowhere", old="a", new="b")

    assert told == f"{tmp_path}/nowhere was not read in this session: read it first"


@pytest.mark.parametrize("tool", ["edit", "write", "apply_patch"])
async def test_a_file_that_was_changed_since_it_was_read_is_left(desk: Desk, file: Path, tool: str) -> None:
    arguments = {
        "edit": {"path": "a.txt", "old": "one", "new": "1"},
        "write": {"path": "a.txt", "content": "x"},
        "apply_patch": {"patch": patch(update("a.txt", "one", "1"))},
    }[tool]
    # Of the same length and time, so that only the content tells.
    before = file.stat()
    file.write_text("one\nTWO\nthree\ntwo\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    told = await desk.refused(tool, **arguments)

    assert told == f"{file} was changed by someone else since it was read: read it again"
    assert file.read_text() == "one\nTWO\nthree\ntwo\n"


@pytest.mark.parametrize("tool", ["edit", "write", "apply_patch"])
async def test_a_change_before_the_answer_is_noticed(desk: Desk, file: Path, tool: str) -> None:
    call = {
        "edit": await desk.prepare("edit", path="a.txt", old="one", new="1"),
        "write": await desk.prepare("write", path="a.txt", content="x"),
        "apply_patch": await desk.prepare("apply_patch", patch=patch(update("a.txt", "one", "1"))),
    }[tool]
    file.write_text("one\nmine\n")

    told = say_error(await call.run())

    assert "was changed by someone else" in told
    assert file.read_text() == "one\nmine\n"


async def test_a_file_that_came_between_is_not_overwritten(desk: Desk, tmp_path: Path) -> None:
    call = await desk.prepare("write", path="new", content="x")
    (tmp_path / "new").write_text("theirs")

    told = say_error(await call.run())

    assert "was not read in this session" in told
    assert (tmp_path / "new").read_text() == "theirs"


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_change_at_the_last_moment_is_noticed(tmp_path: Path, before: bytes | None) -> None:
    (tmp_path / "a").write_bytes(b"theirs")

    with pytest.raises(Refusal, match="by someone else just now"):
        apply([Change(str(tmp_path / "a"), before, b"mine")])

    assert (tmp_path / "a").read_bytes() == b"theirs"
    assert names(tmp_path) == ["a"]


async def test_calls_of_one_round_for_one_file_all_count(desk: Desk, file: Path) -> None:
    calls = [
        await desk.prepare("edit", path="a.txt", old="one", new="1"),
        await desk.prepare("edit", path="a.txt", old="three", new="3"),
        await desk.prepare("apply_patch", patch=patch("*** Update File: a.txt\n@@\n+four\n")),
    ]

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call.run)

    assert file.read_text() == "1\ntwo\n3\ntwo\nfour\n"


async def test_what_was_written_needs_no_reading(desk: Desk, tmp_path: Path) -> None:
    await desk.call("write", path="new", content="a\n")
    await desk.call("edit", path="new", old="a", new="b")
    await desk.call("write", path="new", content="c\n")

    assert (tmp_path / "new").read_text() == "c\n"


async def test_ends_of_lines_and_a_byte_order_mark_stay(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    await desk.call("read", path="a")

    await desk.call("edit", path="a", old="one\ntwo", new="1\n1.5\n2")
    edited = file.read_bytes()
    await desk.call("write", path="a", content="x\ny\n")

    assert edited == b"\xef\xbb\xbf1\r\n1.5\r\n2\r\n"
    assert file.read_bytes() == b"\xef\xbb\xbfx\r\ny\r\n"


async def test_mixed_ends_of_lines_stay_where_they_are(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"a\nb\r\nc\nd\n")
    await desk.call("read", path="a")

    await desk.call("edit", path="a", old="c\nd", new="C\nD")
    await desk.call("edit", path="a", old="a\n", new="A\n")

    assert file.read_bytes() == b"A\nb\r\nC\nD\n"


async def test_bytes_that_are_no_utf_8_stay(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"caf\xe9\nold\n")
    await desk.call("read", path="a")

    await desk.call("edit", path="a", old="old", new="new")

    assert file.read_bytes() == b"caf\xe9\nnew\n"


async def test_another_name_of_the_same_file_keeps_what_it_had(
    desk: Desk, file: Path, tmp_path: Path
) -> None:
    other = file.with_name("other")
    os.link(file, other)

    await desk.call("edit", path="a.txt", old="one", new="1")

    assert file.read_text() == "1\ntwo\nthree\ntwo\n"
    assert other.read_text() == "one\ntwo\nthree\ntwo\n"


async def test_a_link_stays_one_and_where_it_leads_is_told_and_changed(desk: Desk, file: Path) -> None:
    link = file.with_name("link")
    link.symlink_to("a.txt")

    call = await desk.prepare("edit", path="link", old="one", new="1")
    await call.run()

    assert call.intent.writes == (str(file),)
    assert link.is_symlink()
    assert file.read_text() == "1\ntwo\nthree\ntwo\n"


async def test_every_file_is_kept_before_it_is_changed(desk: Desk, file: Path, tmp_path: Path) -> None:
    await desk.call("edit", path="a.txt", old="one", new="1")
    await desk.call("write", path="new", content="x")
    await desk.call("apply_patch", patch=patch("*** Update File: a.txt\n*** Move to: b.txt\n"))

    paths = [str(tmp_path / name) for name in ("a.txt", "new", "b.txt", "a.txt")]
    assert desk.around.kept.paths == paths


class Unable:
    """Keeps nothing."""

    async def keep(self, path: str, content: bytes | None = None) -> None:
        raise OSError(28, "no space left", path)


async def test_what_cannot_be_kept_is_not_changed(file: Path, tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.around.kept = Unable()  # type: ignore[assignment]  # a keeper of another kind
    await desk.call("read", path="a.txt")

    told = await desk.refused("edit", path="a.txt", old="one", new="1")

    assert "no space left: its disk is full" in told
    assert file.read_text() == "one\ntwo\nthree\ntwo\n"


async def test_a_patch_changes_makes_moves_and_deletes(desk: Desk, file: Path, tmp_path: Path) -> None:
    (tmp_path / "gone").write_text("x\n")
    (tmp_path / "moved").write_text("m\n")
    (tmp_path / "moved").chmod(0o755)
    call = await desk.prepare(
        "apply_patch",
        patch=patch(
            update("a.txt", "one", "1"),
            "*** Update File: moved\n*** Move to: d/new\n@@\n-m\n+M\n",
            "*** Add File: e/made\n+x\n",
            "*** Delete File: gone\n",
        ),
    )
    shown = await call.preview()
    outcome = await call.run()

    paths = [str(tmp_path / name) for name in ("a.txt", "moved", "d/new", "e/made", "gone")]
    assert call.intent.title == "patch a.txt, moved, d/new, e/made, gone"
    assert call.intent.reads == tuple(sorted((paths[0], paths[1], paths[4])))
    assert call.intent.writes == tuple(sorted(paths))
    assert shown.count("--- ") == 5
    assert outcome.output.splitlines() == [
        f"changed {paths[0]}",
        f"made {paths[2]}",
        f"made {paths[3]}",
        f"deleted {paths[1]}",
        f"deleted {paths[4]}",
    ]
    assert names(tmp_path) == ["a.txt", "d", "e"]
    assert file.read_text() == "1\ntwo\nthree\ntwo\n"
    assert (tmp_path / "d" / "new").read_text() == "M\n"
    assert stat.S_IMODE((tmp_path / "d" / "new").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "section",
    [
        update("b.txt", "nowhere", "x"),
        "*** Add File: a.txt\n+x\n",
        "*** Delete File: none\n",
        "*** Update File: b.txt\n*** Move to: a.txt\n",
        "*** Add File: b.txt/x\n+x\n",
        "*** Delete File: d\n",
    ],
)
async def test_a_patch_that_does_not_fit_changes_nothing(
    desk: Desk, file: Path, tmp_path: Path, section: str
) -> None:
    (tmp_path / "b.txt").write_text("b\n")
    (tmp_path / "d").mkdir()

    told = await desk.refused(
        "apply_patch", patch=patch(update("a.txt", "one", "1"), section, "*** Add File: n\n+x\n")
    )

    assert told
    assert file.read_text() == "one\ntwo\nthree\ntwo\n"
    assert names(tmp_path) == ["a.txt", "b.txt", "d"]


async def test_whether_a_patch_fits_an_unread_file_is_told_late(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("b\n")

    call = await desk.prepare("apply_patch", patch=patch(update("b.txt", "nowhere", "x")))

    assert "it cannot be done as things are: hunk 1 of" in await call.preview()
    assert "fits nowhere" in say_error(await call.run())


async def test_two_sections_for_one_file_follow_each_other(desk: Desk, file: Path) -> None:
    await desk.call("apply_patch", patch=patch(update("a.txt", "one", "1"), update("./a.txt", "1", "eins")))

    assert file.read_text() == "eins\ntwo\nthree\ntwo\n"


def test_changes_that_fail_half_way_are_taken_back(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    changes = [
        Change(str(tmp_path / "a"), b"a", b"A"),
        Change(str(tmp_path / "new"), None, b"N"),
        Change(str(tmp_path / "c"), b"c", None),
        Change(str(tmp_path / "b"), b"not b", b"B"),
    ]

    with pytest.raises(Refusal, match="by someone else just now"):
        apply(changes)

    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"a": "a", "b": "b", "c": "c"}


@pytest.mark.parametrize("seconds", [0, 0.001, 0.005, 0.02])
async def test_a_cancelled_change_is_made_whole_or_not_at_all(
    desk: Desk, tmp_path: Path, seconds: float
) -> None:
    old, new = "a\n" * 500_000, "b\n" * 500_000
    file = tmp_path / "a"
    file.write_text(old)
    await desk.call("read", path="a")
    call = await desk.prepare("write", path="a", content=new)

    with trio.fail_after(60), trio.move_on_after(seconds):
        await call.run()

    assert file.read_text() in (old, new)
    assert names(tmp_path) == ["a"]


async def test_nobody_reads_half_a_file(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "a"
    contents = [str(n) * 200_000 for n in range(2)]
    await desk.call("write", path="a", content=contents[0])
    seen: set[str] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(file.read_text())

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, read)
            for number in range(1, 20):
                await desk.call("write", path="a", content=contents[number % 2])
            stop.set()

    assert seen <= set(contents)


async def test_two_who_edit_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("")
    desks = [Desk(tmp_path) for _ in range(2)]
    done: list[str] = []

    async def add(desk: Desk, who: str) -> None:
        for number in range(20):
            line = f"{who}{number}"
            while line not in done:
                await desk.call("read", path="a")
                with suppress(AssertionError, BadArguments):
                    await desk.call("write", path="a", content=f"{file.read_text()}{line}\n")
                    done.append(line)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for desk, who in zip(desks, "xy", strict=True):
                nursery.start_soon(add, desk, who)

    assert sorted(file.read_text().split()) == sorted(done)
