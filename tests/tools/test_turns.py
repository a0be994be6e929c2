"""Commands and editors take turns in a directory."""

from __future__ import annotations

from pathlib import Path

import trio
from trio.testing import wait_all_tasks_blocked

from crabd.tools.turns import Turns

PATIENCE = 30


async def test_no_editor_is_asked_about_a_directory_in_which_a_command_runs(tmp_path: Path) -> None:
    turns = Turns()
    inner = tmp_path / "inner"
    inner.mkdir()
    link = tmp_path / "link"
    link.symlink_to(inner)
    found: list[bool] = []

    async with turns.command(str(link)):
        for place in (inner, tmp_path, inner / "deeper", tmp_path / "other"):
            async with turns.visit(str(place)) as may_ask:
                found.append(may_ask)
    async with turns.visit(str(inner)) as may_ask:
        found.append(may_ask)

    assert found == [False, False, False, True, True]


async def test_a_command_waits_until_the_editor_was_asked(tmp_path: Path, nursery: trio.Nursery) -> None:
    turns = Turns()
    began, over = trio.Event(), trio.Event()

    async def run_command() -> None:
        async with turns.command(str(tmp_path)):
            began.set()
            await over.wait()

    async with turns.visit(str(tmp_path)):
        nursery.start_soon(run_command)
        for _ in range(20):
            # It looks the directory up in a thread, too, and would begin then.
            await trio.to_thread.run_sync(tmp_path.exists)
        had_begun = began.is_set()
    with trio.fail_after(PATIENCE):
        await began.wait()
    over.set()

    assert not had_begun


async def test_one_visit_waits_for_another(tmp_path: Path, nursery: trio.Nursery) -> None:
    turns = Turns()
    came = trio.Event()

    async def come() -> None:
        async with turns.visit(str(tmp_path / "inner")):
            came.set()

    async with turns.visit(str(tmp_path)):
        nursery.start_soon(come)
        await wait_all_tasks_blocked()
        had_come = came.is_set()
    with trio.fail_after(PATIENCE):
        await came.wait()

    assert not had_come
