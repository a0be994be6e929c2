"""A whole task in a repository, done by a scripted model: with leave from others, over deaths, taken back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.daemon import PATIENCE, Client, Daemon, Home
from tests.e2e.test_confirmations import allow_all, open_session, reply, results, watch
from tests.e2e.test_search import crabctl

CODE = "def total(prices):\n    return max(prices)\n"
WRONG = "def total(prices):\n    return len(prices)\n"
RIGHT = "def total(prices):\n    return sum(prices)\n"
TESTS = """\
import unittest

from prices import total


class Totals(unittest.TestCase):
    def test_the_total_is_the_sum(self):
        self.assertEqual(total([2, 3, 4]), 9)


unittest.main()
"""
# Without compiled files: two versions within a second, of the same length, are one to Python.
RUN_TESTS = "python3 -B test_prices.py 2>&1"
ALLOW_TESTS = ("--allow", "bash(python3 -B test_prices.py)")
# It looks, sees the tests fail, mends it wrongly, sees them fail again, and mends it well.
TASK = f"""script
say I look first.
call glob {{"pattern": "*.py"}}
and grep {{"pattern": "def total"}}
call read {{"path": "prices.py"}}
and read {{"path": "test_prices.py"}}
call bash {{"command": "{RUN_TESTS}"}}
say I try the number of the prices.
call edit {{"path": "prices.py", "old": "max(prices)", "new": "len(prices)"}}
call bash {{"command": "{RUN_TESTS}"}}
call edit {{"path": "prices.py", "old": "len(prices)", "new": "sum(prices)"}}
call write {{"path": "CHANGES.md", "content": "The total is the sum.\\n"}}
call bash {{"command": "{RUN_TESTS}"}}
say The tests say: $result
"""
# What is asked for, in this order, unless a rule allows it.
ASKED = [RUN_TESTS, "prices.py", RUN_TESTS, "prices.py", "CHANGES.md", RUN_TESTS]


def make_repository(home: Home) -> Path:
    project = home.directory / "project"
    project.mkdir()
    (project / "prices.py").write_text(CODE)
    (project / "test_prices.py").write_text(TESTS)
    git(project, "init", "--quiet")
    git(project, "add", ".")
    git(project, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "--message", "begin")
    return project


def git(project: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=project, check=True, capture_output=True, text=True).stdout


def what_was_asked(client: Client) -> list[str]:
    """List the commands and the names of the files that leave was asked for."""
    asked = [event["confirmation"] for event in client.events("confirmation_requested")]
    return [each["command"] or Path(each["writes"][0]).name for each in asked]


def heard(events: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Part events from what was said, which comes in pieces as large as the reader is slow."""
    kept = list(events)
    deltas = [event["text"] for event in kept if event["type"] == "text_delta"]
    return [event for event in kept if event["type"] != "text_delta"], "".join(deltas)


async def check_done(client: Client, project: Path, session: str) -> None:
    """See that the task was done as it was meant to be: with two failures, and in order."""
    outputs = await results(client, session)
    of_tests = [output for _, output in outputs if "Ran 1 test" in output]
    assert (project / "prices.py").read_text() == RIGHT
    assert "AssertionError: 4 != 9" in of_tests[0]
    assert "AssertionError: 3 != 9" in of_tests[1]
    assert of_tests[2].rstrip().endswith("OK")
    assert len(of_tests) == 3
    assert git(project, "status", "--porcelain") == " M prices.py\n?? CHANGES.md\n"


async def test_a_bug_is_mended_with_leave_from_a_second_client(home: Home, daemon: Daemon) -> None:
    project, client = make_repository(home), await daemon.connect()
    session = await open_session(client, project)
    editor, _ = await watch(daemon, session)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(allow_all, editor)
        with trio.fail_after(2 * PATIENCE):
            done = await client.call("session/send", session=session, content=TASK)
        nursery.cancel_scope.cancel()

    assert done["stop_reason"] == "end_turn"
    assert done["text"].startswith("The tests say: ")
    assert done["text"].rstrip().endswith("OK")
    assert what_was_asked(editor) == ASKED
    assert [event["by"] for event in editor.events("confirmation_resolved")] == ["editor"] * len(ASKED)
    await check_done(client, project, session)


async def test_a_client_that_was_lost_comes_back_and_has_missed_nothing(home: Home, daemon: Daemon) -> None:
    project, client = make_repository(home), await daemon.connect()
    session = await open_session(client, project)
    editor, _ = await watch(daemon, session)
    lost, _ = await watch(daemon, session)
    await client.ask("session/send", session=session, content=TASK, events=False)
    await lost.event("confirmation_requested")
    await lost.hang_up()
    await client.hang_up()
    last_seen = lost.notifications[-1]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(allow_all, editor)
        await editor.event("confirmation_requested", 3)
        back = await daemon.connect()
        subscribed = await back.call(
            "session/subscribe", session=session, epoch=last_seen["epoch"], after=last_seen["seq"]
        )
        with trio.fail_after(2 * PATIENCE):
            ended = await back.event("run_ended")
            await editor.event("run_ended")
        nursery.cancel_scope.cancel()

    both = [*lost.notifications, *back.notifications]
    assert subscribed["replay"] == "complete"
    assert ended["stop_reason"] == "end_turn"
    assert heard(both) == heard(event for event in editor.notifications if event["seq"] <= ended["seq"])
    await check_done(back, project, session)


async def test_a_killed_crabctl_asks_again_with_its_key_and_gets_the_whole_reply(
    home: Home, daemon: Daemon
) -> None:
    project, client = make_repository(home), await daemon.connect()
    session = await open_session(client, project)
    editor, _ = await watch(daemon, session)
    words = ["send", "-S", session, "--key", "mend-it", "--json", TASK]
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "crabctl", "--no-start", *words],
        env=home.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    await editor.event("run_started")
    process.send_signal(signal.SIGKILL)
    await process.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(allow_all, editor)
        attached = await crabctl(home, "attach", session)
        with trio.fail_after(2 * PATIENCE):
            await editor.event("run_ended")
        nursery.cancel_scope.cancel()
    again = await crabctl(home, *[word for word in words if word != "--json"])

    assert (attached.returncode, again.returncode) == (0, 0), attached.stderr + again.stderr
    assert "The tests say: " in attached.stdout.decode()
    assert again.stdout.decode().rstrip().endswith("OK")
    assert len(editor.events("run_started")) == 1
    await check_done(client, project, session)


async def test_every_question_is_answered_from_the_command_line(home: Home, daemon: Daemon) -> None:
    project, client = make_repository(home), await daemon.connect()
    session = await open_session(client, project)
    running = await client.ask("session/send", session=session, content=TASK)

    answers: list[bytes] = []
    for count in range(1, len(ASKED) + 1):
        asked = (await client.event("confirmation_requested", count))["confirmation"]
        listed = json.loads((await crabctl(home, "confirm", "--json")).stdout)["confirmations"]
        assert listed == [asked]
        answers.append((await crabctl(home, "confirm", asked["id"])).stdout)
    done = await client.answer(running)

    assert all(answer.endswith(b": allowed\n") for answer in answers)
    assert [event["by"] for event in client.events("confirmation_resolved")] == ["crabctl"] * len(ASKED)
    assert done["stop_reason"] == "end_turn"
    await check_done(client, project, session)


async def test_a_model_reads_why_it_was_denied_and_finds_another_way(home: Home, daemon: Daemon) -> None:
    project, client = make_repository(home), await daemon.connect()
    session = await open_session(client, project)
    task = """script
        call read {"path": "prices.py"}
        call edit {"path": "prices.py", "old": "max(prices)", "new": "len(prices)"}
        say You said: $result
        call edit {"path": "prices.py", "old": "max(prices)", "new": "sum(prices)"}
        say Done.
        """
    running = await client.ask("session/send", session=session, content=task)
    first = (await client.event("confirmation_requested"))["confirmation"]

    await reply(client, first, "deny", reason="the number is no total: add them")
    second = (await client.event("confirmation_requested", 2))["confirmation"]
    await reply(client, second, "allow")
    done = await client.answer(running)

    said = "".join(event["text"] for event in client.events("text_delta"))
    assert "the number is no total: add them" in said
    assert [status for status, _ in await results(client, session)] == ["ok", "error", "ok"]
    assert done["text"] == "Done."
    assert (project / "prices.py").read_text() == RIGHT


@pytest.mark.parametrize(
    "leave",
    [("--yes",), (*ALLOW_TESTS, "--allow", "edit(prices.py)", "--allow", "write(CHANGES.md)")],
    ids=["everything", "by rules"],
)
async def test_a_shell_script_has_the_task_done_by_itself(
    home: Home, daemon: Daemon, leave: tuple[str, ...]
) -> None:
    project = make_repository(home)
    script = 'said=$("$@") && printf "%s" "$said" > said.txt'
    words = [sys.executable, "-m", "crabctl", "--no-start", "send", *leave, TASK]

    with trio.fail_after(2 * PATIENCE):
        ran = await trio.run_process(
            ["sh", "-c", script, "script", *words],
            cwd=project,
            env=home.env,
            capture_stderr=True,
            check=False,
        )

    said = (project / "said.txt").read_text()
    (project / "said.txt").unlink()
    assert ran.returncode == 0, ran.stderr.decode()
    assert said.startswith("The tests say: ")
    assert said.endswith("OK")
    assert "denied" not in ran.stderr.decode()
    await check_done(await daemon.connect(), project, "crab_user_1")


async def test_what_no_rule_of_a_script_allows_is_denied_and_the_rest_is_done(
    home: Home, daemon: Daemon
) -> None:
    project, client = make_repository(home), await daemon.connect()

    ran = await crabctl(home, "send", "--cwd", str(project), *ALLOW_TESTS, TASK)

    outputs = await results(client, "crab_user_1")
    assert ran.returncode == 0, ran.stderr.decode()
    assert sum("nobody is at a terminal" in output for _, output in outputs) == 2
    assert sum("AssertionError: 4 != 9" in output for _, output in outputs) == 3
    assert ran.stdout.decode().rstrip().endswith("[exit code 1]")
    assert git(project, "status", "--porcelain") == ""


async def test_what_a_task_has_changed_is_shown_and_taken_back(home: Home, daemon: Daemon) -> None:
    project, client = make_repository(home), await daemon.connect()
    sent = await crabctl(home, "send", "--cwd", str(project), "--yes", TASK)
    await check_done(client, project, "crab_user_1")

    diff = await crabctl(home, "diff")
    patch = home.directory / "task.diff"
    patch.write_bytes(diff.stdout)
    rewound = await crabctl(home, "rewind", "--files")
    status = git(project, "status", "--porcelain")
    shown = await crabctl(home, "diff")
    again = await client.call("session/send", session="crab_user_1", content="echo from the start")

    assert sent.returncode == 0, sent.stderr.decode()
    assert "-    return max(prices)\n+    return sum(prices)" in diff.stdout.decode()
    assert "+The total is the sum." in diff.stdout.decode()
    assert rewound.returncode == 0, rewound.stderr.decode()
    assert f"restored {project / 'prices.py'}" in rewound.stdout.decode()
    assert f"removed {project / 'CHANGES.md'}" in rewound.stdout.decode()
    assert (status, shown.stdout) == ("", b"")
    assert (project / "prices.py").read_text() == CODE
    assert again["text"] == "from the start"
