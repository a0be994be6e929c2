"""glob, grep and ls: the same with ripgrep and without it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from crabd.tools.base import BadArguments, Intent
from crabd.tools.files.globs import translate
from crabd.tools.files.searching import Searcher
from tests.tools.desk import RIPGREP, Desk

SECONDS = 60


@pytest.fixture(params=["ripgrep", "own"])
def searcher(request: pytest.FixtureRequest) -> Searcher:
    if request.param == "own":
        return Searcher(None, seconds=SECONDS)
    if RIPGREP is None:
        pytest.skip("ripgrep is not installed")
    return Searcher(RIPGREP, seconds=SECONDS)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project as there are many."""
    files = {
        "README.md": "hello\nHello world\n",
        "src/main.py": "import os\n\ndef hello():\n    return 1\n\n\n\ndef bye():\n    return hello()\n",
        "src/deep/er/util.py": "x = 1\n",
        "src/deep/data.json": '{"hello": 1}\n',
        ".github/ci.yml": "run: hello\n",
        ".gitignore": "build/\n*.log\n!keep.log\n/top.txt\n# no rule\n",
        "build/out.py": "hello\n",
        "a.log": "hello\n",
        "keep.log": "hello\n",
        "top.txt": "hello\n",
        "src/top.txt": "hello\n",
        "src/.gitignore": "data.json\n",
        ".git/config": "hello\n",
        "win.txt": "one\r\nhello\r\n",
        "binary": "hello\0\n",
        "inner/.git/HEAD": "hello\n",
        "inner/a.log": "hello\n",
        "latin": "x\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content.encode())
    (tmp_path / "latin").write_bytes(b"caf\xe9 hello\n")
    (tmp_path / "link.py").symlink_to("src/main.py")
    (tmp_path / "dir").symlink_to("src")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.fixture
def desk(tree: Path, searcher: Searcher) -> Desk:
    return Desk(tree, searcher=searcher)


GLOBS = {
    "*": "README.md binary keep.log latin win.txt .gitignore",
    "*.py": "",
    "**/*.py": "src/deep/er/util.py src/main.py",
    "src/*.py": "src/main.py",
    "src/**": "src/.gitignore src/deep/er/util.py src/main.py src/top.txt",
    "**/er/*": "src/deep/er/util.py",
    "**/*.{md,yml}": "README.md .github/ci.yml",
    "**/[m-u]*.py": "src/deep/er/util.py src/main.py",
    "**/*.log": "keep.log inner/a.log",
    "./src/mai?.py": "src/main.py",
    "dir/*.py": "src/main.py",
    "src/deep/../*.py": "src/main.py",
    "src/": "src/.gitignore src/deep/er/util.py src/main.py src/top.txt",
}


@pytest.mark.parametrize("pattern", GLOBS)
async def test_globs_find_what_is_not_ignored(desk: Desk, tree: Path, pattern: str) -> None:
    text = await desk.call("glob", pattern=pattern)

    found = [] if text.startswith("no file") else text.split("\n")
    assert found == sorted(GLOBS[pattern].split())


async def test_globs_find_what_is_ignored_if_that_is_wanted(desk: Desk) -> None:
    text = await desk.call("glob", pattern="**/*.{py,json}", include_ignored=True)

    assert text.split("\n") == ["build/out.py", "src/deep/data.json", "src/deep/er/util.py", "src/main.py"]


async def test_a_glob_says_where_it_looks(desk: Desk, tree: Path) -> None:
    intents = [
        (await desk.prepare("glob", pattern=pattern)).intent
        for pattern in ("*.py", "src/**/*.py", "/etc/*", "../*", "~/*")
    ]

    places = [str(tree), f"{tree}/src", "/etc", str(tree.parent), os.path.realpath(Path.home())]
    assert [intent.reads for intent in intents] == [(place,) for place in places]
    assert intents[1] == Intent(title="find src/**/*.py in src", reads=(f"{tree}/src",))


async def test_a_glob_elsewhere_gives_whole_paths(desk: Desk, tree: Path) -> None:
    other = Desk(tree / "src", searcher=desk.searcher)

    assert await other.call("glob", pattern="*.md", path=str(tree)) == f"{tree}/README.md"


async def test_the_first_files_by_path_are_shown_and_the_others_counted(desk: Desk, tree: Path) -> None:
    shutil.rmtree(tree / "src")
    (tree / "many").mkdir()
    for number in range(300):
        (tree / "many" / f"{number:03}.c").touch()

    text = await desk.call("glob", pattern="many/*.c", limit=2)

    assert text.split("\n") == [
        "many/000.c",
        "many/001.c",
        "(298 more files: use a narrower pattern or place)",
    ]


@pytest.mark.parametrize("pattern", ["{a,b,c,d,e}" * 4, "[z-a]*"])
async def test_a_glob_that_is_none_is_told(desk: Desk, pattern: str) -> None:
    assert "pattern" in await desk.refused("glob", pattern=pattern)


async def test_lines_are_found_below_their_files(desk: Desk) -> None:
    assert await desk.call("grep", pattern="hello") == "\n".join(
        [
            ".github/ci.yml",
            "1:run: hello",
            "README.md",
            "1:hello",
            "inner/a.log",
            "1:hello",
            "keep.log",
            "1:hello",
            "latin",
            "1:caf\ufffd hello",
            "src/main.py",
            "3:def hello():",
            "9:    return hello()",
            "src/top.txt",
            "1:hello",
            "win.txt",
            "2:hello",
        ]
    )


async def test_lines_around_are_shown(desk: Desk) -> None:
    assert await desk.call("grep", pattern="hello", path="src", glob="*.py", context=1) == "\n".join(
        [
            "src/main.py",
            "2-",
            "3:def hello():",
            "4-    return 1",
            "--",
            "8-def bye():",
            "9:    return hello()",
        ]
    )


GREPS: dict[str, tuple[dict[str, object], str]] = {
    "case": (
        {"pattern": "hELLO", "ignore_case": True, "path": "README.md"},
        "README.md\n1:hello\n2:Hello world",
    ),
    "class": ({"pattern": r"^\w+ = \d$"}, "src/deep/er/util.py\n1:x = 1"),
    "end": ({"pattern": "^hello$", "path": "win.txt"}, "win.txt\n2:hello"),
    "start with a dash": ({"pattern": "-v|x = 1"}, "src/deep/er/util.py\n1:x = 1"),
    "file": ({"pattern": "import", "path": "src/main.py"}, "src/main.py\n1:import os"),
    "link": ({"pattern": "import", "path": "link.py"}, "src/main.py\n1:import os"),
    "deep glob": ({"pattern": "1", "glob": "src/deep/**/*.py"}, "src/deep/er/util.py\n1:x = 1"),
    "braces": (
        {"pattern": "world|run", "glob": "*.{md,yml}", "output": "files"},
        ".github/ci.yml\nREADME.md",
    ),
    "ignored": ({"pattern": "hello", "glob": "build/*", "include_ignored": True}, "build/out.py\n1:hello"),
    "glob of ignored": ({"pattern": "hello", "glob": "build/*"}, "no line in {} matches hello"),
    "files": ({"pattern": "hello", "path": "src", "output": "files"}, "src/main.py\nsrc/top.txt"),
    "one file": ({"pattern": "hello", "path": "src/top.txt", "output": "files"}, "src/top.txt"),
    "limit": (
        {"pattern": "hello|def", "path": "src/main.py", "limit": 1},
        "src/main.py\n3:def hello():\n(2 more lines match: use a narrower pattern or place)",
    ),
    "nothing": ({"pattern": "nowhere"}, "no line in {} matches nowhere"),
}


@pytest.mark.parametrize("case", GREPS)
async def test_greps_find(desk: Desk, tree: Path, case: str) -> None:
    arguments, expected = GREPS[case]

    assert await desk.call("grep", **arguments) == expected.format(tree)


async def test_long_lines_are_shortened(desk: Desk, tree: Path) -> None:
    (tree / "long").write_text("needle" + "x" * 100_000 + "\nneedle\n")

    path, first, second = (await desk.call("grep", pattern="needle")).split("\n")

    assert path == "long"
    assert first.startswith("1:needlexxx")
    assert len(first) < 400
    assert second == "2:needle"


async def test_too_many_lines_are_told_as_such(desk: Desk, tree: Path) -> None:
    (tree / "many").write_text("needle\n" * 200_000)

    lines = (await desk.call("grep", pattern="needle", limit=3)).split("\n")

    assert lines[:4] == ["many", "1:needle", "2:needle", "3:needle"]
    assert lines[4].startswith("(more than 5,000 lines")


async def test_a_pattern_that_is_none_is_told(desk: Desk) -> None:
    assert "regex parse error" in await desk.refused("grep", pattern="(")
    assert "for one line" in await desk.refused("grep", pattern="a\nb")


async def test_the_whole_machine_is_not_searched(desk: Desk) -> None:
    assert "is the whole machine" in await desk.refused("grep", pattern="x", path="/")
    assert "is the whole machine" in await desk.refused("glob", pattern="/**")


async def test_a_place_that_is_not_there_is_told(desk: Desk) -> None:
    assert "did you mean src?" in await desk.refused("grep", pattern="x", path="scr")
    assert "look with ls" in await desk.refused("glob", pattern="nowhere/at/all/*")


async def test_a_link_that_was_put_in_the_place_is_not_followed(desk: Desk, tree: Path) -> None:
    calls = [
        await desk.prepare("grep", pattern="hello", path="src"),
        await desk.prepare("glob", pattern="src/*"),
        await desk.prepare("ls", path="src"),
        await desk.prepare("grep", pattern="hello", path="win.txt"),
    ]
    (tree / "src").rename(tree / "kept")
    (tree / "src").symlink_to("kept")
    (tree / "win.txt").unlink()
    (tree / "win.txt").symlink_to("README.md")

    outcomes = [await call.run() for call in calls]

    assert ["is a link now" in outcome.output for outcome in outcomes] == [True] * 4


async def test_links_in_a_tree_are_not_followed(desk: Desk, tree: Path) -> None:
    (tree / "loop").symlink_to(".")
    (tree / "src" / "out").symlink_to("/etc")

    assert (await desk.call("glob", pattern="**/main.py")) == "src/main.py"


async def test_a_pattern_that_takes_for_ever_is_ended(tree: Path) -> None:
    (tree / "evil").write_text("a" * 40 + "b\n")
    desk = Desk(tree, searcher=Searcher(None, seconds=1))

    with trio.fail_after(SECONDS):
        told = await desk.refused("grep", pattern="(a+)+$", path="evil")

    assert told == "the search took more than 1 s: name a smaller place or a simpler pattern"


async def test_a_cancelled_search_leaves_no_process(tree: Path) -> None:
    (tree / "evil").write_text("a" * 40 + "b\n")
    desk = Desk(tree, searcher=Searcher(None, seconds=SECONDS))
    call = await desk.prepare("grep", pattern="(a+)+$", path="evil")

    with trio.fail_after(SECONDS), trio.move_on_after(0.5) as scope:
        await call.run()

    assert scope.cancelled_caught
    assert children() == set()


def children() -> set[str]:
    """List the processes that this one has, but for those of other tests' making that have ended."""
    listed = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(os.getpid())], check=True, capture_output=True, text=True
    )
    return {line for line in listed.stdout.splitlines() if "crabd.tools.files.searcher" in line}


async def test_what_a_person_has_set_up_for_ripgrep_changes_nothing(
    desk: Desk, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "config").write_text("--hidden\n--follow\n--glob=!*.md\n")
    (tree / ".ignore").write_text("*.md\n")
    monkeypatch.setenv("RIPGREP_CONFIG_PATH", str(tree / "config"))

    assert await desk.call("grep", pattern="world", output="files") == "README.md"


async def test_a_directory_is_listed(desk: Desk, tree: Path) -> None:
    shutil.rmtree(tree / ".git")

    text = await desk.call("ls")

    assert text.split("\n") == [
        ".github/",
        ".gitignore 42",
        "README.md 18",
        "a.log 6",
        "binary 7",
        "build/",
        "dir -> src",
        "inner/",
        "keep.log 6",
        "latin 11",
        "link.py -> src/main.py",
        "pipe (no file)",
        "src/",
        "top.txt 6",
        "win.txt 12",
    ]


async def test_a_long_directory_is_cut_and_an_empty_one_told(desk: Desk, tree: Path) -> None:
    (tree / "empty").mkdir()

    assert (await desk.call("ls", limit=2)).split("\n") == [
        ".git/",
        ".github/",
        "(more follow: find a part of them with glob)",
    ]
    assert await desk.call("ls", path="empty") == f"({tree}/empty is empty)"
    assert "it is no directory" in await desk.refused("ls", path="README.md")


@pytest.mark.parametrize(
    ("glob", "path"),
    [("*a" * 60 + "b", "a" * 250), ("**/a/" * 30 + "b", "a/" * 2000 + "c"), ("[!b]*" * 50 + "b", "a" * 250)],
)
def test_a_glob_is_matched_soon_whatever_it_is(glob: str, path: str) -> None:
    assert re.compile(translate(glob), re.DOTALL).fullmatch(path) is None


async def test_a_session_without_a_directory_names_one(searcher: Searcher) -> None:
    desk = Desk(None, searcher=searcher)

    with pytest.raises(BadArguments, match="this session has no directory"):
        await desk.prepare("grep", pattern="x")
