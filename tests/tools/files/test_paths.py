"""Paths: what a model's text leads to, and that nothing else is opened than what was judged."""

from __future__ import annotations

import os
import socket
import subprocess
import unicodedata
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from crabd.tools.base import BadArguments
from crabd.tools.files.paths import (
    Refusal,
    brief,
    is_within,
    open_directory,
    open_file,
    parent_of,
    resolve,
    show,
)
from tests.tools.desk import Desk, say_error


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A project with a file, beside a secret."""
    (tmp_path / "project" / "src").mkdir(parents=True)
    (tmp_path / "project" / "src" / "main.py").write_text("main\n")
    (tmp_path / "secret").write_text("secret\n")
    return tmp_path / "project"


@contextmanager
def mounted(place: Path, *what: str) -> Generator[None]:
    """Mount something for a while; the test ends here where that cannot be done."""
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", *what, place], check=False, capture_output=True).returncode
    ):
        pytest.skip(f"nobody can mount {' '.join(what)} here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_paths_are_absolute_and_real_whatever_leads_there(place: Path) -> None:
    (place / "link").symlink_to("src")
    (place / "src" / "up").symlink_to("..")
    file = str(place / "src" / "main.py")

    texts = ["src/main.py", "./src//main.py", "link/main.py", "src/up/link/main.py", file, "x/../src/main.py"]

    assert [resolve(text, str(place)) for text in texts] == [file] * len(texts)


@pytest.mark.parametrize("text", ["../secret", "src/../../secret", "link", "out/secret", "src/up/../secret"])
def test_a_way_out_is_told_as_where_it_leads(place: Path, text: str) -> None:
    (place / "link").symlink_to("../secret")
    (place / "out").symlink_to("..")
    (place / "src" / "up").symlink_to("..")

    path = resolve(text, str(place))

    assert path == str(place.parent / "secret")
    assert not is_within(path, str(place))


def test_dots_after_a_link_start_where_it_leads(place: Path) -> None:
    (place.parent / "far" / "away").mkdir(parents=True)
    (place / "link").symlink_to("../far/away")

    assert resolve("link/../x", str(place)) == str(place.parent / "far" / "x")


def test_a_path_through_the_own_process_is_told_as_what_it_is(place: Path) -> None:
    secret = str(place.parent / "secret")

    assert resolve(f"/proc/self/root{secret}", str(place)) == secret
    assert resolve(f"/proc/{os.getpid()}/cwd", None) == str(Path.cwd())


@pytest.mark.parametrize("text", ["/proc/self/environ", "/proc/self/mem", "/proc", "/proc/1/maps"])
def test_processes_are_no_files(text: str) -> None:
    with pytest.raises(BadArguments, match="about processes"):
        resolve(text, None)


def test_processes_are_no_files_under_another_name_either(tmp_path: Path) -> None:
    with mounted(tmp_path, "--bind", "/proc"):
        with pytest.raises(Refusal, match="about processes"), open_file(f"{tmp_path}/{os.getpid()}/environ"):
            pass
        with pytest.raises(Refusal, match="about processes"), open_directory(str(tmp_path)):
            pass


@pytest.mark.parametrize("text", ["", "a\0b", "a/\ud800", "x" * 5000])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(BadArguments):
        resolve(text, "/tmp")


def test_a_relative_path_needs_a_directory_to_start_in() -> None:
    with pytest.raises(BadArguments, match="src is nowhere: write an absolute path"):
        resolve("src", None)


def test_home_is_the_persons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert resolve("~/notes", "/") == str(tmp_path / "notes")
    assert resolve("~", None) == str(tmp_path)
    assert resolve("~other", "/srv") == "/srv/~other"


def test_names_of_different_letters_are_different_files(tmp_path: Path) -> None:
    for name in ("Readme", "README", unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")):
        (tmp_path / name).write_text(name)

    found = {resolve(each.name, str(tmp_path)) for each in tmp_path.iterdir()}

    assert found == {str(each) for each in tmp_path.iterdir()}


def test_where_letters_do_not_differ_the_name_is_the_one_that_is_there(tmp_path: Path) -> None:
    with mounted(tmp_path, "-t", "tmpfs", "-o", "casefold,size=1m", "tmpfs"):
        folding = tmp_path / "folding"
        folding.mkdir()
        subprocess.run(["chattr", "+F", folding], check=True)
        (folding / ".git").mkdir()
        (folding / ".git" / "config").write_text("")

        found = {resolve(text, str(folding)) for text in (".git/config", ".GIT/Config", ".Git/CONFIG", "New")}

    assert found == {f"{folding}/.git/config", f"{folding}/New"}


def test_hard_links_are_as_good_as_the_file(place: Path) -> None:
    os.link(place.parent / "secret", place / "innocent")
    os.link(place.parent / "secret", place / "INNOCENT")

    assert resolve("innocent", str(place)) == str(place / "innocent")
    assert resolve("INNOCENT", str(place)) == str(place / "INNOCENT")


def test_odd_names_are_shown_on_one_line(tmp_path: Path) -> None:
    assert show("a b/ü.py") == "a b/ü.py"
    assert show("a\nb\x1b[31m") == r"'a\nb\x1b[31m'"
    assert brief("/a/b/c", "/a") == "b/c"
    assert brief("/ab/c", "/a") == "/ab/c"
    assert brief("/a", "/a") == "/a"


def test_a_link_that_was_put_in_the_place_of_a_file_is_not_followed(place: Path) -> None:
    path = resolve("src/main.py", str(place))
    (place / "src" / "main.py").unlink()
    (place / "src" / "main.py").symlink_to(place.parent / "secret")

    with pytest.raises(Refusal, match="is a link now"), open_file(path):
        pass


def test_a_link_that_was_put_in_the_place_of_a_directory_is_not_followed(place: Path) -> None:
    path = resolve("src/secret", str(place))
    (place / "src").rename(place / "gone")
    (place / "src").symlink_to(place.parent)

    with pytest.raises(Refusal, match="is a link now"), open_file(path):
        pass
    with pytest.raises(Refusal, match="is a link now"), open_directory(str(place / "src")):
        pass
    with pytest.raises(Refusal, match="is a link now"), parent_of(path, make=True):
        pass


def test_a_ring_of_links_is_no_file(place: Path) -> None:
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")

    path = resolve("a", str(place))

    with pytest.raises(Refusal, match="is a link now"), open_file(path):
        pass


async def test_links_swapped_all_the_time_never_lead_out(place: Path) -> None:
    desk = Desk(place)
    stop = trio.Event()
    read: set[str] = set()

    def swap() -> None:
        (place / "src").rename(place / "kept")
        (place / "src").symlink_to("..")
        (place / "src").unlink()
        (place / "kept").rename(place / "src")

    async def swap_until() -> None:
        while not stop.is_set():
            await trio.to_thread.run_sync(swap)

    (place / "src" / "secret").write_text("mine\n")
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swap_until)
            for _ in range(300):
                try:
                    call = await desk.prepare("read", path="src/secret")
                except BadArguments:
                    # It was swapped while it was looked up, which is told as such.
                    continue
                outcome = await call.run()
                if call.intent.reads == (str(place / "src" / "secret"),) and not outcome.is_error:
                    read.add(outcome.output)
            stop.set()

    assert read <= {"1\tmine"}


@pytest.mark.parametrize("tool", ["read", "grep"])
async def test_what_is_no_file_is_told_and_never_waited_for(place: Path, tool: str) -> None:
    os.mkfifo(place / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "socket"))
        desk = Desk(place)
        more = {"pattern": "x"} if tool == "grep" else {}

        with trio.fail_after(30):
            told = {
                path: await desk.refused(tool, path=path, **more)
                for path in ("pipe", "socket", "/dev/zero", "/dev/tty")
            }

    advice = "only files are read and written"
    assert told == {
        "pipe": f"{place}/pipe is a pipe: {advice}",
        "socket": f"{place}/socket is a socket: {advice}",
        "/dev/zero": f"/dev/zero is a device: {advice}",
        "/dev/tty": f"/dev/tty is a device: {advice}",
    }


@pytest.mark.parametrize("tool", ["write", "edit"])
async def test_what_is_no_file_is_not_written(place: Path, tool: str) -> None:
    os.mkfifo(place / "pipe")
    desk = Desk(place)
    more = {"content": "x"} if tool == "write" else {"old": "x", "new": "y"}

    with trio.fail_after(30):
        told = [await desk.refused(tool, path=path, **more) for path in ("pipe", "/dev/null", "src")]

    assert all(told)
    assert (place / "pipe").is_fifo()


async def test_a_missing_file_is_told_with_what_is_like_it(place: Path) -> None:
    desk = Desk(place)
    (place / "Straße.txt").write_text("")

    assert "did you mean main.py?" in await desk.refused("read", path="src/mian.py")
    assert "did you mean main.py?" in await desk.refused("read", path="src/MAIN.PY")
    assert "did you mean Straße.txt?" in await desk.refused("read", path="strasse.txt")
    assert "look with ls" in await desk.refused("read", path="nowhere/x")


async def test_names_with_newlines_are_files_like_others(place: Path) -> None:
    desk = Desk(place)
    await desk.call("write", path="a\nb.txt", content="hello\n")

    assert (place / "a\nb.txt").read_text() == "hello\n"
    assert await desk.call("read", path="a\nb.txt") == "1\thello"
    assert r"'a\nb.txt' 6" in await desk.call("ls")
    assert r"'a\nb.txt'" in await desk.call("glob", pattern="*.txt")
    assert await desk.call("grep", pattern="hello") == "'a\\nb.txt'\n1:hello"


async def test_a_call_is_run_on_what_was_judged_alone(place: Path) -> None:
    desk = Desk(place)
    await desk.call("read", path="src/main.py")
    call = await desk.prepare("edit", path="src/main.py", old="main", new="changed")
    (place / "src").rename(place / "kept")
    (place / "other").mkdir()
    (place / "other" / "main.py").write_text("main\n")
    (place / "src").symlink_to("other")

    told = say_error(await call.run())

    assert "is a link now" in told
    assert (place / "other" / "main.py").read_text() == "main\n"
