"""read: lines of a file, however long it or they may be."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
import trio

from crabd.masking import Masker
from crabd.tools.artifacts import Artifacts
from crabd.tools.base import Intent
from tests.tools.desk import Desk

GIGABYTE = 1024**3


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def write(place: Path, content: bytes | str) -> None:
    place.write_bytes(content if isinstance(content, bytes) else content.encode())


async def test_lines_come_with_their_numbers(desk: Desk, tmp_path: Path) -> None:
    write(tmp_path / "a", "one\n\n  three\nfour")

    assert await desk.call("read", path="a") == "1\tone\n2\t\n3\t  three\n4\tfour"


async def test_a_call_says_what_it_reads(desk: Desk, tmp_path: Path) -> None:
    write(tmp_path / "a", "x")

    call = await desk.prepare("read", path="a")

    assert call.intent == Intent(title="read a", reads=(str(tmp_path / "a"),))
    assert await call.preview() == ""


async def test_a_range_is_read_alone_and_told_from_where_to_go_on(desk: Desk, tmp_path: Path) -> None:
    write(tmp_path / "a", "".join(f"line {n}\n" for n in range(1, 101)))

    text = await desk.call("read", path="a", offset=40, limit=2)

    assert text == "40\tline 40\n41\tline 41\n(more lines follow: read on with offset 42)"
    assert await desk.call("read", path="a", offset=100) == "100\tline 100"


async def test_an_offset_behind_the_end_is_told(desk: Desk, tmp_path: Path) -> None:
    write(tmp_path / "a", "one\ntwo\n")

    assert "has 2 lines" in await desk.refused("read", path="a", offset=3)
    assert "has 2 lines" in await desk.refused("read", path="a", offset=99)
    assert "offset" in await desk.refused("read", path="a", offset=0)


async def test_long_lines_are_shortened(desk: Desk, tmp_path: Path) -> None:
    write(tmp_path / "a", "é" * 3000 + "\nshort\n")

    first, second = (await desk.call("read", path="a")).split("\n")

    assert first == "1\t" + "é" * 2000 + "… (2,000 more bytes)"
    assert second == "2\tshort"


async def test_many_lines_end_where_a_model_has_enough(desk: Desk, tmp_path: Path) -> None:
    write(tmp_path / "a", "".join(f"{n} {'x' * 90}\n" for n in range(1, 5001)))

    *lines, more = (await desk.call("read", path="a")).split("\n")

    assert sum(map(len, lines)) < 30_000
    assert more == f"(more lines follow: read on with offset {len(lines) + 1})"
    assert (await desk.call("read", path="a", offset=len(lines) + 1)).startswith(f"{len(lines) + 1}\t")


async def test_ends_of_lines_and_a_byte_order_mark_are_not_shown(desk: Desk, tmp_path: Path) -> None:
    write(tmp_path / "a", b"\xef\xbb\xbfone\r\ntwo\r\n")

    assert await desk.call("read", path="a") == "1\tone\n2\ttwo"


async def test_only_a_newline_ends_a_line(desk: Desk, tmp_path: Path) -> None:
    write(tmp_path / "a", "a\x0bb\x0cc\u2028d\x85e\rf\n")

    assert await desk.call("read", path="a") == "1\ta\x0bb\x0cc\u2028d\x85e\rf"


async def test_what_is_no_utf_8_is_replaced(desk: Desk, tmp_path: Path) -> None:
    write(tmp_path / "a", b"caf\xe9\n")

    assert await desk.call("read", path="a") == "1\tcaf\ufffd"


async def test_an_empty_file_is_told_as_such(desk: Desk, tmp_path: Path) -> None:
    write(tmp_path / "a", b"")

    assert await desk.call("read", path="a") == f"({tmp_path}/a is empty)"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89PNG\r\n\x1a\nrest", "a PNG image"),
        (b"%PDF-1.7", "a PDF document"),
        (b"text\0and more", "a binary file"),
        ("\ufefftext".encode("utf-16-le"), "UTF-16 text"),
    ],
)
async def test_what_is_no_text_is_named(desk: Desk, tmp_path: Path, content: bytes, kind: str) -> None:
    write(tmp_path / "a", content)

    told = await desk.refused("read", path="a")

    assert told == f"{tmp_path}/a is {kind} of {len(content)} bytes: look into it with bash"


async def test_a_directory_is_for_ls(desk: Desk, tmp_path: Path) -> None:
    assert await desk.refused("read", path=".") == f"{tmp_path} is a directory: look with ls"


async def test_a_gigabyte_is_read_by_range_in_little_memory(desk: Desk, tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        block = (b"x" * 99 + b"\n") * 100_000
        # Most of it is one line of zeros, which take no room on the disk.
        file.write(block)
        file.seek(GIGABYTE)
        file.write(b"\nlast\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with trio.fail_after(120):
        late = await desk.call("read", path="a", offset=99_999, limit=2)
        last = await desk.call("read", path="a", offset=100_002)
        long = await desk.call("read", path="a", offset=100_001, limit=1)

    assert late.startswith("99999\txxx")
    assert last == "100002\tlast"
    assert long.split("\n")[0].endswith(f"… ({GIGABYTE - len(block) - 2000:,} more bytes)")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


async def test_a_long_read_can_be_cancelled(desk: Desk, tmp_path: Path) -> None:
    os.truncate(_make(tmp_path / "a", b"text\n" * 10_000), 1024 * GIGABYTE)
    call = await desk.prepare("read", path="a", offset=1_000_000_000)

    with trio.fail_after(30), trio.move_on_after(0.1) as scope:
        await call.run()

    assert scope.cancelled_caught


async def test_an_artifact_of_the_session_is_read_by_range_and_touches_nothing_else(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts", Masker())
    mine = await artifacts.keep("crab_user_1", "call_1", "one\ntwo\nthree\n")
    other = await artifacts.keep("crab_user_10", "call_1", "secret\n")
    desk = Desk(tmp_path, artifacts=Path(artifacts.directory("crab_user_1")))

    call = await desk.prepare("read", path=mine, offset=2, limit=1)
    foreign = await desk.prepare(
        "read", path=f"{artifacts.directory('crab_user_1')}/../crab_user_10/call_1.txt"
    )

    assert call.intent.reads == ()
    assert (await call.run()).output == "2\ttwo\n(more lines follow: read on with offset 3)"
    assert foreign.intent.reads == (other,)


def _make(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
