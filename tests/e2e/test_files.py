"""What a session changes in files, shown and taken back by a person at a terminal."""

from __future__ import annotations

import trio

from tests.e2e.daemon import PATIENCE, Home, start_daemon
from tests.e2e.test_search import crabctl


async def test_a_file_that_a_tool_has_written_is_shown_and_restored(home: Home) -> None:
    project = home.directory / "project"
    project.mkdir()
    home.configure('[permissions]\nmode = "full"\n')
    async with start_daemon(home):
        call = 'call write {"path": "new.txt", "content": "one\\n"}'
        sent = await crabctl(home, "send", "--cwd", str(project), call)
        was_there = (project / "new.txt").exists()
        diff = await crabctl(home, "diff")
        told = await crabctl(home, "rewind")
        restored = await crabctl(home, "rewind", "--at", "1", "--files")

        assert (was_there, sent.returncode) == (True, 0), sent.stderr
        assert b"+one" in diff.stdout
        assert b"left" in told.stdout
        assert b"removed" in restored.stdout
        assert not (project / "new.txt").exists()


async def test_what_was_kept_for_a_session_that_is_gone_goes_with_the_next_start(home: Home) -> None:
    project = home.directory / "project"
    project.mkdir()
    (project / "a").write_text("old")
    home.configure('[permissions]\nmode = "full"\n')
    async with start_daemon(home):
        script = 'script\ncall read {"path": "a"}\ncall write {"path": "a", "content": "new"}'
        await crabctl(home, "send", "--cwd", str(project), script)
    kept = home.state / "checkpoints"
    before = [place.name for place in kept.iterdir()]
    leftovers = [kept / "crab_user_9", home.state / "artifacts" / "crab_user_9"]
    for leftover in leftovers:
        leftover.mkdir(parents=True)
        (leftover / "file").write_text("left by a kill")

    async with start_daemon(home):
        with trio.fail_after(PATIENCE):
            while any(leftover.exists() for leftover in leftovers):
                await trio.sleep(0)

    assert before == [place.name for place in kept.iterdir()] == ["crab_user_1"]
