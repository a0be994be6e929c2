"""Long outputs as files: private, bounded, and gone with their session."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import trio

from crabd.masking import Masker
from crabd.tools.artifacts import Artifacts

SESSION = "crab_user_1"


async def test_an_output_is_kept_whole_for_us_alone(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts", Masker())

    path = Path(await artifacts.keep(SESSION, "call_1", "all of it\n\ud800"))

    assert path == tmp_path / "artifacts" / SESSION / "call_1.txt"
    assert path.read_text() == "all of it\n?"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700


async def test_two_outputs_of_one_name_are_two_files(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, Masker())

    paths = [await artifacts.keep(SESSION, "call_1", text) for text in ("a", "b")]

    assert [Path(path).read_text() for path in paths] == ["a", "b"]


@pytest.mark.parametrize("call", ["../../escape", "/etc/passwd", "a\0b", "..", "", "x" * 500, "a\nb"])
async def test_a_calls_id_never_leads_out(tmp_path: Path, call: str) -> None:
    artifacts = Artifacts(tmp_path, Masker())

    path = Path(await artifacts.keep(SESSION, call, "x"))

    assert path.parent == tmp_path / SESSION


@pytest.mark.parametrize("session", ["..", "a/b", "", "../x", "A"])
def test_what_is_no_session_has_no_directory(tmp_path: Path, session: str) -> None:
    with pytest.raises(ValueError, match="no session's id"):
        Artifacts(tmp_path, Masker()).directory(session)


async def test_an_output_over_the_bound_says_what_is_missing(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, Masker(), max_file=10)

    path = await artifacts.keep(SESSION, "call_1", "0123456789abcdef")

    assert Path(path).read_text() == "0123456789\n(6 more bytes were not kept)\n"


async def test_the_oldest_make_room_for_the_newest(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, Masker(), max_file=100, max_session=250)

    paths = [Path(await artifacts.keep(SESSION, f"call_{n}", "x" * 100)) for n in range(4)]
    other = await artifacts.keep("crab_user_2", "call_0", "x" * 100)

    assert [path.exists() for path in paths] == [False, False, True, True]
    assert Path(other).exists()


async def test_an_output_that_is_still_coming_is_written_by_others(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, Masker())

    output = await trio.to_thread.run_sync(artifacts.open, SESSION, "call_1")
    output.write(b"so far ")

    assert output.name == str(tmp_path / SESSION / "call_1.txt")
    assert Path(output.name).read_bytes() == b"so far "
    output.close()


async def test_an_output_that_is_still_coming_makes_room_for_itself(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, Masker(), max_file=100, max_session=250)
    paths = [Path(await artifacts.keep(SESSION, f"call_{n}", "x" * 100)) for n in range(2)]

    output = await trio.to_thread.run_sync(artifacts.open, SESSION, "call_2")

    assert [path.exists() for path in paths] == [False, True]
    output.close()


async def test_a_secret_never_lies_in_a_file_and_all_else_does_byte_for_byte(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, Masker(["correct-horse"]))
    output = await trio.to_thread.run_sync(artifacts.open, SESSION, "call_1")

    for piece in (b"\xff\x00 caf\xc3", b"\xa9\r\nit is correct-", b"horse, or sk-0123456789", b"abcdefghij"):
        output.write(piece)
    output.close()
    kept = await artifacts.keep(SESSION, "call_2", "it is correct-horse")

    assert Path(output.name).read_bytes() == b"\xff\x00 caf\xc3\xa9\r\nit is [secret], or [secret]"
    assert Path(kept).read_text() == "it is [secret]"


async def test_a_session_that_is_gone_leaves_nothing(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, Masker())
    await artifacts.keep(SESSION, "call_1", "x")

    await artifacts.drop(SESSION)
    await artifacts.drop(SESSION)

    assert list(tmp_path.iterdir()) == []
