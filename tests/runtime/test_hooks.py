"""Hooks as their users write them: real commands that block, change, tell, hang, and print nonsense."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from msgspec import structs

from crabd.errors import HookBlocked
from crabd.events import PendingQuestion, Question
from crabd.messages import ImageBlock, TextBlock, utc_now
from crabd.runtime.hooking import MAX_UNTOLD, CommandHooks
from crabd.runtime.hooks import Hook, HookedCall, HookPoint
from crabd.runtime.router import Identity
from crabd.runtime.session import Session
from crabd.store.record import Rewound
from crabd.tools.base import ToolOutcome
from crabd.tools.shell.process import Ran, run_command
from tests.fakes import says
from tests.runtime.test_runtime import Bench, history, open_bench, outcome_of, texts

# Far more than any of these commands takes.
PATIENCE = 60


def question(session: str) -> PendingQuestion:
    asked = (Question("Which port?"),)
    return PendingQuestion(
        id="q1", session=session, run="r1", call="c0", tool="ask_user", since=utc_now(), questions=asked
    )


class Yard:
    """A directory with hooks in it, and a session that works there."""

    def __init__(self, bench: Bench, session: Session, place: Path) -> None:
        self.bench = bench
        self.session = session
        self.place = place

    def has(self, *hooks: Hook) -> None:
        self.bench.runtime.hooks.own = hooks

    def heard(self, name: str) -> list[dict[str, Any]]:
        """Read what a hook that notes its occasions was told."""
        file = self.place / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def call(self, **arguments: Any) -> HookedCall:
        return HookedCall(
            session=self.session.id,
            run="r1",
            call="c0",
            tool="bash",
            arguments=arguments,
            cwd=str(self.place),
        )


@pytest.fixture
async def yard(tmp_path: Path, nursery: trio.Nursery) -> AsyncGenerator[Yard]:
    async with open_yard(tmp_path, nursery) as made:
        yield made


@asynccontextmanager
async def open_yard(place: Path, nursery: trio.Nursery) -> AsyncGenerator[Yard]:
    async with open_bench(says("one"), says("two"), says("three")) as bench:
        runtime = bench.runtime
        runtime.hooks = runtime.edits.hooks = CommandHooks(run_command, runtime.sessions.find_live, nursery)
        session, _ = await runtime.get_or_create(
            Identity("crab", "user"), topic=None, description=None, cwd=str(place)
        )
        with trio.fail_after(PATIENCE):
            yield Yard(bench, session, place)


async def until(condition: Callable[[], bool]) -> None:
    """Let commands work until something is so; the yard has the deadline."""
    while not condition():
        await trio.lowlevel.checkpoint()


def on(point: HookPoint, run: str, **more: Any) -> Hook:
    return Hook(on=point, run=run, **more)


def notes(point: HookPoint) -> Hook:
    return on(point, f"cat >> {point}")


async def test_what_a_hook_says_of_a_message_reaches_the_model_once_and_never_the_history(yard: Yard) -> None:
    yard.has(
        notes("before_prompt"),
        on("before_prompt", """printf '{"context": "It is %s."}' Monday"""),
        on("before_prompt", """echo '{"context": "It rains."}'"""),
    )
    await yard.bench.ask(yard.session, "go")
    yard.has()
    await yard.bench.ask(yard.session, "on")

    first, second = yard.bench.provider.requests
    assert "<hooks>\nIt is Monday.\nIt rains.\n</hooks>" in first.system
    assert "Monday" not in second.system + repr(second.messages) + repr(yard.session.steps)
    assert yard.heard("before_prompt") == [
        {
            "hook": "before_prompt",
            "session": "crab_user_1",
            "agent": "crab",
            "sender": "user",
            "cwd": str(yard.place),
            "run": "r1",
            "prompt": "go",
        }
    ]


async def test_a_hook_is_told_in_words_that_there_is_a_picture(yard: Yard) -> None:
    yard.has(notes("before_prompt"))
    shown = (TextBlock("Look:"), ImageBlock("image/png", b"x" * 2000))
    admission = yard.bench.runtime.admit(yard.session, shown, on_ticket=lambda _: None)

    await outcome_of(admission.ticket)

    assert [told["prompt"] for told in yard.heard("before_prompt")] == ["Look:\n[picture: image/png, 2 kB]"]


async def test_a_message_that_a_hook_blocks_is_answered_by_nobody_and_no_model_ever_reads_it(
    yard: Yard,
) -> None:
    yard.has(on("before_prompt", "grep -q secret && { echo 'no secrets here' >&2; exit 2; }; exit 0"))

    blocked = await yard.bench.ask(yard.session, "a secret")
    passed = await yard.bench.ask(yard.session, "go")

    assert (blocked.stop_reason, blocked.persisted) == ("refused", True)
    assert blocked.error is not None
    assert blocked.error.kind == "hook_blocked"
    assert "no secrets here (`grep -q secret" in blocked.error.message
    assert passed.stop_reason == "end_turn"
    (request,) = yard.bench.provider.requests
    assert texts(request.messages) == ["go"]
    assert [type(step.record) for step in yard.session.steps].count(Rewound) == 1
    assert texts(history(yard.session)) == ["a secret", "go", "one"]


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("sleep 600", "was not done in 0.5 s"),
        ("echo out of order >&2; exit 7", "exit code 7: out of order"),
        ("kill -9 $$", "it ended with exit code"),
        ("nonsense-that-nobody-has", "exit code 127"),
        ("echo hello", "no answer"),
        ('echo \'{"decision": "allow"}\'', "no answer"),
        ("echo '{\"context\": 7}'", "no answer"),
        ('echo \'{"contxt": "x"}\'', "no answer"),
        ("printf '\\377'", "no answer"),
        ("yes | head -c 300000", "more than 65536 bytes"),
        ("echo '{\"arguments\": {}}'", "no arguments to change"),
    ],
)
async def test_a_gate_whose_hook_fails_is_closed_and_says_why(yard: Yard, command: str, problem: str) -> None:
    yard.has(on("before_prompt", command, seconds=0.5 if "sleep" in command else 30))

    outcome = await yard.bench.ask(yard.session, "go")

    assert outcome.stop_reason == "refused"
    assert outcome.error is not None
    assert problem in outcome.error.message
    assert yard.bench.provider.requests == []


async def test_where_there_is_no_gate_a_hook_that_fails_or_blocks_holds_nothing_up(yard: Yard) -> None:
    yard.has(on("after_tool", "exit 3"), on("after_tool", 'echo \'{"context": "mind the gap"}\''))

    said = await yard.bench.runtime.hooks.after_tool(yard.call(), ToolOutcome("done"))

    assert said == "mind the gap"


async def test_hooks_are_asked_in_order_and_each_sees_what_the_former_have_left(yard: Yard) -> None:
    (yard.place / "add.py").write_text(
        "import json, sys\n"
        "arguments = json.load(sys.stdin)['arguments']\n"
        "print(json.dumps({'arguments': arguments | {'n': arguments['n'] + 1}}))\n"
    )
    yard.has(*[on("before_tool", "python3 add.py")] * 3, notes("before_tool"))

    verdict = await yard.bench.runtime.hooks.before_tool(yard.call(n=1, text="é\n"))

    assert (verdict.arguments, verdict.block) == ({"n": 4, "text": "é\n"}, None)
    assert [each["arguments"]["n"] for each in yard.heard("before_tool")] == [4]


async def test_the_first_that_blocks_is_the_last_that_is_asked(yard: Yard) -> None:
    yard.has(
        on("before_tool", 'echo \'{"context": "beware"}\''),
        on("before_tool", 'echo \'{"decision": "block", "reason": "not on Fridays"}\''),
        notes("before_tool"),
    )

    verdict = await yard.bench.runtime.hooks.before_tool(yard.call())

    assert verdict.block is not None
    assert verdict.block.startswith("not on Fridays (`echo")
    assert yard.heard("before_tool") == []


async def test_a_hook_is_for_the_tools_that_it_names(yard: Yard) -> None:
    yard.has(
        structs.replace(notes("after_tool"), tools=("web_*",)),
        on("after_tool", "cat >> other", tools=("edit", "bash")),
    )

    await yard.bench.runtime.hooks.after_tool(yard.call(command="ls"), ToolOutcome("oops", is_error=True))

    assert yard.heard("after_tool") == []
    (heard,) = yard.heard("other")
    assert (heard["tool"], heard["status"], heard["output"]) == ("bash", "error", "oops")
    with pytest.raises(msgspec.ValidationError, match="`tools` means nothing on run_end"):
        msgspec.convert({"on": "run_end", "run": "true", "tools": ["bash"]}, Hook)


async def test_a_hook_knows_where_it_is_and_no_secrets(yard: Yard) -> None:
    yard.has(on("run_end", "pwd > place; env > made; mv made variables"))

    await yard.bench.ask(yard.session, "go")
    variables = yard.place / "variables"
    await until(lambda: variables.exists() and "CRABD_HOOK=run_end" in variables.read_text())

    names = {line.partition("=")[0] for line in variables.read_text().splitlines()}
    assert (yard.place / "place").read_text().strip() == str(yard.place)
    assert {"PATH", "CRABD_HOOK", "CRABD_SESSION"} <= names
    assert {name for name in names if name.startswith(("PYTEST", "HYPOTHESIS"))} == set()
    assert any(name.startswith("PYTEST") for name in os.environ)


async def test_a_session_begins_once_while_it_is_live_and_ends_when_it_is_not(
    yard: Yard, nursery: trio.Nursery
) -> None:
    yard.has(
        notes("session_start"),
        on("session_start", 'echo \'{"context": "Welcome."}\''),
        notes("session_end"),
        notes("run_end"),
    )

    await yard.bench.ask(yard.session, "go")
    await yard.bench.ask(yard.session, "on")
    await yard.bench.runtime.close(yard.session.id, cancel=False)
    await until(lambda: bool(yard.heard("session_end")) and len(yard.heard("run_end")) == 2)

    assert ["Welcome." in request.system for request in yard.bench.provider.requests] == [True, True]
    assert len(yard.heard("session_start")) == 1
    assert [each["reason"] for each in yard.heard("session_end")] == ["closed"]
    assert [(each["run"], each["stop_reason"], each["text"]) for each in yard.heard("run_end")] == [
        ("r1", "end_turn", "one"),
        ("r2", "end_turn", "two"),
    ]


async def test_ends_of_runs_are_told_in_their_order_and_only_so_many_wait(yard: Yard) -> None:
    told: list[str] = []
    go = trio.Event()

    async def run(argv: Sequence[str], *, env: Mapping[str, str], stdin: bytes, **_: object) -> Ran:
        await go.wait()
        told.append(json.loads(stdin)["run"])
        return Ran(exit_code=0, head=b"", tail=b"", dropped=0)

    async with trio.open_nursery() as ends:
        hooks = CommandHooks(run, yard.bench.runtime.sessions.find_live, ends, (on("run_end", "told"),))
        for number in range(MAX_UNTOLD + 5):
            ends.start_soon(hooks.run_end, yard.session, f"r{number}", "end_turn", "")
            await trio.testing.wait_all_tasks_blocked()
        go.set()

    # One was being told, and so many waited.
    assert told == [f"r{number}" for number in range(1 + MAX_UNTOLD)]


async def test_when_the_daemon_stops_sessions_that_had_begun_are_told(yard: Yard) -> None:
    yard.has(notes("session_end"))
    await yard.bench.session("another")
    await yard.bench.ask(yard.session, "go")

    await yard.bench.runtime.drain(trio.CancelScope())

    assert [(each["session"], each["reason"]) for each in yard.heard("session_end")] == [
        ("crab_user_1", "stopped")
    ]


async def test_a_summary_heeds_what_hooks_say_and_is_not_made_when_one_forbids_it(yard: Yard) -> None:
    await yard.bench.ask(yard.session, "words " * 400)
    await yard.bench.ask(yard.session, "more words " * 400)
    steps = len(yard.session.steps)
    yard.has(on("before_compact", "exit 2"))

    with pytest.raises(HookBlocked, match="before_compact hook stops it"):
        await yard.bench.runtime.edits.compact(yard.session, None)
    assert len(yard.session.steps) == steps
    yard.has(notes("before_compact"), on("before_compact", 'echo \'{"context": "Keep the names."}\''))
    await yard.bench.runtime.edits.compact(yard.session, "Be brief.")

    assert "Be brief.\nKeep the names." in texts(yard.bench.provider.requests[-1].messages)[-1]
    assert [each["instructions"] for each in yard.heard("before_compact")] == ["Be brief."]


async def test_a_person_who_is_waited_for_can_be_told_elsewhere(yard: Yard) -> None:
    yard.has(notes("notification"))

    yard.bench.runtime.hooks.notify(question(yard.session.id))
    yard.bench.runtime.hooks.notify(question("crab_gone_1"))
    await until(lambda: bool(yard.heard("notification")))

    (heard,) = yard.heard("notification")
    assert heard["message"] == "session crab_user_1 waits for you (ask_user): Which port?"


async def test_cancelling_a_run_ends_the_hook_that_it_waits_for(yard: Yard) -> None:
    yard.has(on("before_prompt", "echo $$ > pid; sleep 600", seconds=600))
    ticket, _ = await yard.bench.accept(yard.session, "go")
    pid = yard.place / "pid"
    await until(lambda: pid.exists() and pid.read_text().endswith("\n"))

    await yard.bench.runtime.cancel(yard.session, None)

    assert (await outcome_of(ticket)).stop_reason == "cancelled"
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()
