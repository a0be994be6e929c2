from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio

from crabd.masking import Masker
from crabd.tools.artifacts import Output
from crabd.tools.settings import SandboxMode, SandboxSettings
from crabd.tools.shell.bash import Bash
from crabd.tools.shell.choosing import choose_sandbox
from crabd.tools.shell.jobs import Jobs
from crabd.tools.shell.sandbox import Sandbox, Walls
from tests.tools.context import Surroundings

# For what takes tenths of a second on a quiet machine.
PATIENCE = 60
USUAL = "/usr/local/bin:/usr/bin:/bin"


async def choose(folder: Path, mode: SandboxMode, path: str) -> Sandbox:
    walls = Walls(
        settings=SandboxSettings(mode=mode),
        home=str(folder),
        hidden=(),
        temporary=str(folder / "tmp"),
        environment={"PATH": path},
    )
    with trio.fail_after(PATIENCE):
        return await choose_sandbox(walls)


def programs(folder: Path, **scripts: str) -> str:
    """Make a directory of programs, as a PATH of its own."""
    place = folder / "bin"
    place.mkdir()
    for name, script in scripts.items():
        (place / name).write_text(f"#!/bin/sh\n{script}\n")
        (place / name).chmod(0o755)
    return str(place)


async def test_what_earlier_commands_left_is_removed(tmp_path: Path) -> None:
    for name in ("tmp", "tmp.old-1"):
        (tmp_path / name / "deep").mkdir(parents=True)
    (tmp_path / "tmp" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "kept").mkdir()

    await choose(tmp_path, "off", USUAL)

    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


async def test_nothing_is_tried_when_it_is_off(tmp_path: Path) -> None:
    path = programs(tmp_path, bwrap=f"echo tried > {tmp_path}/tried")

    sandbox = await choose(tmp_path, "off", path)

    assert (sandbox.kind, sandbox.problems) == ("none", ())
    assert sandbox.describe().startswith("no sandbox: it can do what you can")
    assert not (tmp_path / "tried").exists()


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
@pytest.mark.parametrize("mode", ["auto", "require"])
async def test_bubblewrap_comes_first(tmp_path: Path, mode: SandboxMode) -> None:
    sandbox = await choose(tmp_path, mode, USUAL)

    assert (sandbox.kind, sandbox.problems) == ("bubblewrap", ())


async def test_an_older_bubblewrap_is_taken_too(tmp_path: Path) -> None:
    """One before 0.8 does not know every option, and says so."""
    script = 'for each; do test "$each" != --disable-userns || { echo "Unknown option $each"; exit 1; }; done'

    sandbox = await choose(tmp_path, "require", programs(tmp_path, bwrap=script))

    assert sandbox.kind == "bubblewrap"
    assert "--disable-userns" not in sandbox.wrap(("true",), str(tmp_path))


@pytest.mark.parametrize("mode", ["auto", "require"])
async def test_landlock_comes_next_and_it_is_told_why(tmp_path: Path, mode: SandboxMode) -> None:
    path = programs(tmp_path, bwrap="echo 'bwrap: Creating new namespace failed' >&2; exit 1")

    failed = await choose(tmp_path, mode, f"{path}:{USUAL}")
    # Programs in /tmp are hidden as all that is there.
    with TemporaryDirectory(dir="/var/tmp") as other:
        missing = await choose(tmp_path, mode, programs(Path(other), sh='exec /bin/sh "$@"'))

    assert (failed.kind, missing.kind) == ("landlock", "landlock")
    assert failed.problems == ("bubblewrap does not work here: bwrap: Creating new namespace failed",)
    assert missing.problems == ("bubblewrap is not installed: install the package bubblewrap",)
    assert missing.describe().endswith("no limits, for there is no prlimit")


async def test_where_nothing_works_commands_run_all_the_same_and_it_is_told(tmp_path: Path) -> None:
    sandbox = await choose(tmp_path, "auto", programs(tmp_path))

    assert sandbox.kind == "none"
    assert sandbox.problems[:2] == (
        "bubblewrap is not installed: install the package bubblewrap",
        "Landlock does not work here: sh: No such file or directory",
    )


async def test_where_nothing_works_and_one_is_required_nothing_runs(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    sandbox = await choose(tmp_path, "require", programs(tmp_path))
    surroundings = Surroundings(str(tmp_path), confinement=sandbox)
    bash = Bash(Jobs(nursery), lambda session, call: Output((tmp_path / "out").open("wb"), Masker()))

    direct = await surroundings.call(bash, command=f"touch {tmp_path}/ran")
    job = await surroundings.call(bash, command=f"touch {tmp_path}/ran", run_in_background=True)

    assert sandbox.kind == "refused"
    assert sandbox.describe() == "no sandbox works here and one is required: nothing runs"
    assert direct == job
    assert direct.is_error
    assert direct.output.startswith("no command can run: a sandbox is required, and none works (bubblewrap")
    assert direct.output.endswith('or to set sandbox = "auto" in config.toml, and then crabctl restart')
    assert not (tmp_path / "ran").exists()
