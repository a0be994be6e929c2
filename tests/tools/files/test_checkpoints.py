"""Checkpoints: what files were, put back and compared."""

from __future__ import annotations

import os
import stat
from hashlib import sha256
from pathlib import Path

import pytest

from crabd.tools.base import FileState
from crabd.tools.files.changing import MAX_BYTES
from crabd.tools.files.checkpoints import Checkpoints

SESSION = "crab_user_1"


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "project" / "a.txt"
    place.parent.mkdir()
    place.write_bytes(b"one\r\ntwo\xff\n")
    place.chmod(0o754)
    return place


async def test_a_file_is_what_it_was_again(kept: Checkpoints, file: Path) -> None:
    state = await kept.keep(SESSION, str(file))
    file.write_text("changed")
    file.chmod(0o600)

    await kept.restore(SESSION, str(file), state)

    assert state == FileState(sha256(b"one\r\ntwo\xff\n").hexdigest(), 0o754)
    assert file.read_bytes() == b"one\r\ntwo\xff\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o754


async def test_a_file_that_was_removed_is_there_again(kept: Checkpoints, file: Path) -> None:
    state = await kept.keep(SESSION, str(file))
    file.unlink()
    file.parent.rmdir()

    await kept.restore(SESSION, str(file), state)

    assert file.read_bytes() == b"one\r\ntwo\xff\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o754


async def test_a_file_that_was_not_there_is_gone_again(kept: Checkpoints, file: Path) -> None:
    new = str(file.with_name("new"))
    state = await kept.keep(SESSION, new)
    Path(new).write_text("x")

    await kept.restore(SESSION, new, state)
    await kept.restore(SESSION, new, state)

    assert state == FileState(None)
    assert not Path(new).exists()


async def test_contents_are_kept_once_and_for_us_alone(kept: Checkpoints, file: Path, tmp_path: Path) -> None:
    other = file.with_name("b.txt")
    other.write_bytes(file.read_bytes())

    states = [await kept.keep(SESSION, str(each)) for each in (file, other, file)]

    (place,) = (tmp_path / "checkpoints" / SESSION).iterdir()
    assert {state.digest for state in states} == {place.name}
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(place.parent.parent.stat().st_mode) == 0o700


async def test_what_a_session_changed_is_shown(kept: Checkpoints, file: Path) -> None:
    file.write_text("".join(f"{n}\n" for n in range(20)))
    state = await kept.keep(SESSION, str(file))
    unchanged = await kept.compare(SESSION, str(file), state)
    file.write_text(file.read_text().replace("10\n", "ten\n"))

    diff = await kept.compare(SESSION, str(file), state)

    assert unchanged == ""
    assert diff == (f"--- {file}\n+++ {file}\n@@ -8,7 +8,7 @@\n 7\n 8\n 9\n-10\n+ten\n 11\n 12\n 13\n")


async def test_a_digest_tells_whether_a_file_is_what_it_was(kept: Checkpoints, file: Path) -> None:
    state = await kept.keep(SESSION, str(file))

    assert await kept.look(str(file)) == state.digest
    assert await kept.look(str(file.with_name("none"))) is None


async def test_what_was_kept_longest_ago_makes_room(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "checkpoints", max_kept=250)
    file = tmp_path / "a"
    states: list[FileState] = []
    for number in range(4):
        file.write_text(str(number) * 100)
        states.append(await kept.keep(SESSION, str(file)))

    with pytest.raises(OSError, match="is kept no more"):
        await kept.restore(SESSION, str(file), states[0])
    await kept.restore(SESSION, str(file), states[2])

    assert file.read_text() == "2" * 100


async def test_damage_is_never_put_back(kept: Checkpoints, file: Path, tmp_path: Path) -> None:
    state = await kept.keep(SESSION, str(file))
    (place,) = (tmp_path / "checkpoints" / SESSION).iterdir()
    place.write_bytes(b"something else")
    file.write_text("now")

    with pytest.raises(OSError, match="damaged"):
        await kept.restore(SESSION, str(file), state)

    assert file.read_text() == "now"


async def test_what_cannot_be_kept_is_told(kept: Checkpoints, file: Path) -> None:
    os.mkfifo(file.with_name("pipe"))
    large = file.with_name("large")
    large.touch()
    os.truncate(large, MAX_BYTES + 1)

    for path, problem in (
        (file.with_name("pipe"), "a pipe"),
        (large, "too many"),
        (file.parent, "a directory"),
    ):
        with pytest.raises(OSError, match=problem):
            await kept.keep(SESSION, str(path))


async def test_a_link_in_its_place_is_neither_kept_nor_restored(kept: Checkpoints, file: Path) -> None:
    state = await kept.keep(SESSION, str(file))
    secret = file.with_name("secret")
    secret.write_text("secret")
    file.unlink()
    file.symlink_to(secret)

    with pytest.raises(OSError, match="is a link now"):
        await kept.keep(SESSION, str(file))
    with pytest.raises(OSError, match="is a link now"):
        await kept.restore(SESSION, str(file), state)

    assert secret.read_text() == "secret"


async def test_a_session_that_is_gone_leaves_nothing(kept: Checkpoints, file: Path, tmp_path: Path) -> None:
    await kept.keep(SESSION, str(file))

    await kept.drop(SESSION)
    await kept.drop(SESSION)

    assert list((tmp_path / "checkpoints").iterdir()) == []
