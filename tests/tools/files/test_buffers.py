"""Files through a person's editor: its unsaved text is read and edited, and nothing that held holds less."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.tools.desk import Desk
from tests.tools.files.editor import OpenEditor

PATIENCE = 30


@pytest.fixture
def editor() -> OpenEditor:
    return OpenEditor()


@pytest.fixture
def desk(tmp_path: Path, editor: OpenEditor) -> Desk:
    desk = Desk(tmp_path)
    desk.around.editor = editor
    return desk


@pytest.fixture
async def file(desk: Desk, editor: OpenEditor, tmp_path: Path) -> Path:
    """A file with a line that is not saved, which was read."""
    place = tmp_path / "a.txt"
    place.write_text("one\ntwo\n")
    editor.buffers[str(place)] = "one\ntwo\nthree\n"
    await desk.call("read", path="a.txt")
    return place


def update(name: str, old: str, new: str) -> str:
    return f"*** Update File: {name}\n@@\n-{old}\n+{new}\n"


def patch(*sections: str) -> str:
    return f"*** Begin Patch\n{''.join(sections)}*** End Patch"


async def test_what_is_not_saved_is_read_and_said_not_to_be(
    desk: Desk, editor: OpenEditor, tmp_path: Path
) -> None:
    place = tmp_path / "a.txt"
    place.write_text("old\n")
    saved = await desk.call("read", path="a.txt")
    editor.buffers[str(place)] = "new\nmore\n"

    text = await desk.call("read", path="a.txt")
    second = await desk.call("read", path="a.txt", offset=2, limit=1)

    assert saved == "1\told"
    assert text.startswith("1\tnew\n2\tmore\n(this is how the person's editor has it")
    assert second.startswith("2\tmore\n(this is how")


async def test_an_edit_is_made_in_the_unsaved_text_and_shown_as_such(desk: Desk, file: Path) -> None:
    call = await desk.prepare("edit", path="a.txt", old="three", new="3")
    shown = await call.preview()
    outcome = await call.run()

    assert (outcome.output, outcome.is_error) == (f"edited {file} in 1 place, at line 3", False)
    assert "-three\n+3\n" in shown
    assert "one" in shown, "the line before is no change"
    assert file.read_text() == "one\ntwo\n3\n"
    assert desk.around.kept.paths == [str(file)]
    assert desk.around.kept.contents == [b"one\ntwo\nthree\n"], "what the person had is what comes back"


async def test_a_new_file_is_made_by_the_editor_in_directories_that_are_made(
    desk: Desk, editor: OpenEditor, tmp_path: Path
) -> None:
    place = tmp_path / "d" / "e" / "new.txt"

    await desk.call("write", path="d/e/new.txt", content="hello\n")
    await desk.call("edit", path="d/e/new.txt", old="hello", new="bye")

    assert editor.was_written == [str(place), str(place)]
    assert place.read_text() == "bye\n"


async def test_a_file_that_an_editor_shows_as_empty_though_it_is_not_there_is_new(
    desk: Desk, editor: OpenEditor, tmp_path: Path
) -> None:
    editor.buffers[str(tmp_path / "new.txt")] = ""

    told = await desk.call("write", path="new.txt", content="hello\n")

    assert told.startswith("made ")


async def test_a_file_that_was_never_saved_is_read_before_it_is_replaced(
    desk: Desk, editor: OpenEditor, tmp_path: Path
) -> None:
    editor.buffers[str(tmp_path / "draft")] = "my thoughts\n"

    refused = await desk.refused("write", path="draft", content="x\n")
    text = await desk.call("read", path="draft")
    told = await desk.call("write", path="draft", content="x\n")

    assert "was not read in this session" in refused
    assert text.startswith("1\tmy thoughts\n")
    assert told.startswith("replaced ")


async def test_what_the_person_types_in_between_is_not_written_over(
    desk: Desk, editor: OpenEditor, file: Path
) -> None:
    call = await desk.prepare("write", path="a.txt", content="mine\n")
    editor.buffers[str(file)] += "typed\n"

    outcome = await call.run()

    assert "was changed by someone else since it was read" in outcome.output
    assert editor.buffers[str(file)].endswith("typed\n")
    assert editor.was_written == []


async def test_what_changes_on_the_disk_while_the_editor_has_other_text_is_not_written_over(
    desk: Desk, editor: OpenEditor, file: Path
) -> None:
    class Meddling(OpenEditor):
        async def read(self, path: str) -> str | None:
            text = await super().read(path)
            if len(self.was_read) == 2:
                # Once it is being made.
                file.write_text("from elsewhere\n")
            return text

    desk.around.editor = Meddling()
    desk.around.editor.buffers = dict(editor.buffers)

    refused = await desk.refused("edit", path="a.txt", old="three", new="3")

    assert "was changed by someone else just now" in refused
    assert file.read_text() == "from elsewhere\n"


@pytest.mark.parametrize(
    "shown", ["one\ntwo\n", "one\ntwo", "one\r\ntwo"], ids=["lf", "no last newline", "crlf"]
)
async def test_an_editor_that_shows_other_ends_of_lines_has_changed_nothing(
    desk: Desk, editor: OpenEditor, tmp_path: Path, shown: str
) -> None:
    place = tmp_path / "dos.txt"
    place.write_bytes(b"one\r\ntwo\r\n")
    editor.buffers[str(place)] = shown

    text = await desk.call("read", path="dos.txt")
    await desk.call("edit", path="dos.txt", old="one\ntwo", new="1\n2")

    assert text == "1\tone\n2\ttwo"
    assert place.read_bytes() == b"1\r\n2\r\n"


async def test_a_file_whose_lines_end_in_different_ways_keeps_them(
    desk: Desk, editor: OpenEditor, tmp_path: Path
) -> None:
    place = tmp_path / "mixed.txt"
    place.write_bytes(b"one\r\ntwo\nthree\r\n")
    editor.buffers[str(place)] = "one\ntwo\nthree\n"

    text = await desk.call("read", path="mixed.txt")
    await desk.call("edit", path="mixed.txt", old="three", new="3")

    assert text == "1\tone\n2\ttwo\n3\tthree"
    assert place.read_bytes() == b"one\r\ntwo\n3\r\n"


async def test_changes_in_an_editor_that_drops_the_ends_keep_those_of_the_file(
    desk: Desk, editor: OpenEditor, tmp_path: Path
) -> None:
    place = tmp_path / "dos.txt"
    place.write_bytes(b"one\r\ntwo\r\n")
    editor.buffers[str(place)] = "one\ntwo\nthree"

    await desk.call("read", path="dos.txt")
    await desk.call("edit", path="dos.txt", old="three", new="3")

    assert place.read_bytes() == b"one\r\ntwo\r\n3\r\n"


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n\0", b"caf\xe9\n", b"\xef\xbb\xbfone\n"], ids=["binary", "latin-1", "bom"]
)
async def test_what_an_editor_could_not_give_back_as_it_is_never_goes_through_it(
    desk: Desk, editor: OpenEditor, tmp_path: Path, content: bytes
) -> None:
    place = tmp_path / "a"
    place.write_bytes(content)

    call = await desk.prepare("read", path="a")
    await call.run()
    if not content.startswith(b"\x89"):
        await desk.call("write", path="a", content="new\n")

    assert editor.was_read == []
    assert editor.was_written == []


async def test_a_file_outside_of_the_directory_is_none_of_the_editors(
    desk: Desk, editor: OpenEditor, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("other") / "a.txt"

    await desk.call("write", path=str(place), content="one\n")
    await desk.call("read", path=str(place))

    assert (editor.was_read, editor.was_written) == ([], [])
    assert place.read_text() == "one\n"


async def test_a_link_that_was_put_in_the_way_is_not_handed_to_the_editor(
    desk: Desk, editor: OpenEditor, file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = tmp_path_factory.mktemp("other") / "secret"
    secret.write_text("one\ntwo\n")
    call = await desk.prepare("edit", path="a.txt", old="three", new="3")
    editor.was_read.clear()
    file.unlink()
    file.symlink_to(secret)

    outcome = await call.run()

    assert "is a link now" in outcome.output
    assert (editor.was_read, editor.was_written) == ([], [])
    assert secret.read_text() == "one\ntwo\n"


async def test_no_editor_opens_files_while_a_command_may_put_links_there(
    desk: Desk, editor: OpenEditor, file: Path, tmp_path: Path
) -> None:
    editor.was_read.clear()

    async with desk.turns.command(str(tmp_path)):
        text = await desk.call("read", path="a.txt")
        await desk.call("edit", path="a.txt", old="two", new="2")

    assert text == "1\tone\n2\ttwo", "as the disk has it"
    assert file.read_text() == "one\n2\n"
    assert (editor.was_read, editor.was_written) == ([], [])


async def test_where_the_editor_does_not_tell_the_disk_is_read_and_written(
    desk: Desk, editor: OpenEditor, tmp_path: Path
) -> None:
    place = tmp_path / "a.txt"
    place.write_text("one\n")
    editor.refused.add(str(place))

    text = await desk.call("read", path="a.txt")
    await desk.call("edit", path="a.txt", old="one", new="1")

    assert text == "1\tone"
    assert place.read_text() == "1\n"


async def test_an_editor_that_is_gone_when_the_call_is_made_leaves_the_disk_to_be_read_anew(
    desk: Desk, file: Path
) -> None:
    call = await desk.prepare("edit", path="a.txt", old="three", new="3")
    desk.around.editor = None

    outcome = await call.run()

    assert "was changed by someone else since it was read: read it again" in outcome.output
    assert file.read_text() == "one\ntwo\n"


async def test_an_editor_that_refuses_to_write_is_told_of(
    desk: Desk, editor: OpenEditor, tmp_path: Path
) -> None:
    place = tmp_path / "new.txt"
    editor.refused.add(str(place))

    told = await desk.refused("write", path="new.txt", content="x\n")

    assert told == f"the editor may not have written {place}: it is locked; read it to see how it is"


async def test_an_editor_that_makes_another_text_of_it_has_it_read_again(
    desk: Desk, editor: OpenEditor, file: Path
) -> None:
    editor.on_save = str.upper

    told = await desk.call("edit", path="a.txt", old="three", new="3")
    refused = await desk.refused("edit", path="a.txt", old="ONE", new="1")

    assert told.endswith(f"the editor made {file} other than it was written: read it again")
    assert "was changed by someone else since it was read: read it again" in refused


async def test_an_editor_that_has_not_seen_what_a_command_did_is_behind(
    desk: Desk, editor: OpenEditor, tmp_path: Path
) -> None:
    place = tmp_path / "a.txt"
    place.write_text("one\ntwo\n")
    editor.buffers[str(place)] = "one\ntwo\n"
    await desk.call("read", path="a.txt")
    place.write_text("one\n2\n")

    text = await desk.call("read", path="a.txt")
    await desk.call("edit", path="a.txt", old="one", new="1")

    assert text == "1\tone\n2\t2"
    assert place.read_text() == editor.buffers[str(place)] == "1\n2\n"


async def test_a_change_that_the_person_undoes_in_the_editor_stays_undone(
    desk: Desk, editor: OpenEditor, tmp_path: Path
) -> None:
    place = tmp_path / "a.txt"
    place.write_text("one\ntwo\n")
    await desk.call("read", path="a.txt")
    await desk.call("edit", path="a.txt", old="two", new="2")
    editor.buffers[str(place)] = "one\ntwo\n"

    text = await desk.call("read", path="a.txt")
    await desk.call("edit", path="a.txt", old="one", new="1")

    assert text.startswith("1\tone\n2\ttwo\n(this is how")
    assert place.read_text() == "1\ntwo\n"


async def test_what_a_command_did_to_a_file_that_is_not_saved_is_not_written_over_unseen(
    desk: Desk, editor: OpenEditor, file: Path
) -> None:
    file.write_text("1\ntwo\n")

    refused = await desk.refused("edit", path="a.txt", old="three", new="3")
    on_disk = file.read_text()
    text = await desk.call("read", path="a.txt")
    await desk.call("edit", path="a.txt", old="three", new="3")

    assert refused == (
        f"{file} was changed on the disk, and has other changes in the editor: read it again, and ask the "
        "person which of them count"
    )
    assert on_disk == "1\ntwo\n"
    assert "the disk has other changes, which are lost if this is edited" in text
    assert file.read_text() == "one\ntwo\n3\n"


async def test_an_editor_that_does_not_save_is_told_of_and_its_text_goes_on(
    desk: Desk, editor: OpenEditor, file: Path
) -> None:
    editor.is_saving = False

    told = await desk.call("edit", path="a.txt", old="three", new="3")
    await desk.call("edit", path="a.txt", old="3", new="4")

    assert told.endswith(f"{file} is not saved yet: commands do not see the change")
    assert editor.buffers[str(file)] == "one\ntwo\n4\n"


async def test_an_editor_that_says_it_made_a_file_and_did_not_is_found_out(
    desk: Desk, editor: OpenEditor, tmp_path: Path
) -> None:
    class Lying(OpenEditor):
        async def write(self, path: str, text: str) -> None:
            await trio.lowlevel.checkpoint()

    desk.around.editor = Lying()

    told = await desk.call("write", path="new.txt", content="x\n")

    assert told.endswith(f"the editor did not make {tmp_path / 'new.txt'}, though it says so: look with ls")


async def test_a_patch_that_the_editor_refuses_in_the_middle_leaves_everything_as_it_was(
    desk: Desk, editor: OpenEditor, file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "z.txt"
    other.write_text("zed\n")
    await desk.call("read", path="z.txt")

    class Stubborn(OpenEditor):
        async def write(self, path: str, text: str) -> None:
            if path == str(other):
                self.refused.add(path)
            await super().write(path, text)

    desk.around.editor = stubborn = Stubborn()
    stubborn.buffers = dict(editor.buffers)
    told = await desk.refused(
        "apply_patch",
        patch=patch(
            update("a.txt", "three", "3"), "*** Add File: new.txt\n+new\n", update("z.txt", "zed", "Z")
        ),
    )

    assert "it is locked" in told
    assert "stays so" not in told
    assert stubborn.buffers[str(file)] == "one\ntwo\nthree\n"
    assert other.read_text() == "zed\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.txt", "z.txt"]


async def test_a_patch_deletes_on_the_disk_what_it_does_not_change_in_the_editor(
    desk: Desk, editor: OpenEditor, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "old.txt").write_text("old\n")

    await desk.call("apply_patch", patch=patch(update("a.txt", "three", "3"), "*** Delete File: old.txt\n"))

    assert editor.was_written == [str(file)]
    assert list(tmp_path.iterdir()) == [file]


async def test_a_file_with_unsaved_changes_is_not_deleted(desk: Desk, editor: OpenEditor, file: Path) -> None:
    told = await desk.refused("apply_patch", patch=patch("*** Delete File: a.txt\n"))

    assert told == f"{file} has changes in the editor that are not saved: ask the person to save it first"
    assert file.exists()


async def test_a_moved_program_keeps_its_mode(desk: Desk, editor: OpenEditor, tmp_path: Path) -> None:
    place = tmp_path / "run.sh"
    place.write_text("echo\n")
    place.chmod(0o755)
    await desk.call("read", path="run.sh")

    moved = "*** Update File: run.sh\n*** Move to: go.sh\n@@\n-echo\n+true\n"
    await desk.call("apply_patch", patch=patch(moved))

    assert (tmp_path / "go.sh").stat().st_mode & 0o777 == 0o755
    assert not place.exists()


async def test_two_calls_for_one_file_at_once_both_count(desk: Desk, editor: OpenEditor, file: Path) -> None:
    calls = [await desk.prepare("edit", path="a.txt", old=old, new=old.upper()) for old in ("one", "three")]

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call.run)

    assert file.read_text() == "ONE\ntwo\nTHREE\n"
