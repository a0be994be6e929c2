"""The gate: in which order a call is judged, and that nothing is done that was not let through."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import structs
from structlog.testing import capture_logs
from trio.testing import MockClock

from crabd.errors import BadRequest, StoreError
from crabd.events import Budget, Confirmation, Mode, Question, Resolution, RuleLists
from crabd.messages import TextBlock, ToolMessage
from crabd.runtime.gate import MAX_OUTPUT, MAX_SHOWN
from crabd.runtime.guards import Guards
from crabd.runtime.hooks import HookVerdict
from crabd.runtime.intake import confirm
from crabd.runtime.permissions.rulebook import Rulebook
from crabd.runtime.session import Session
from crabd.runtime.ticket import Outcome, Ticket
from crabd.store.inmemory import InMemoryLog
from crabd.store.record import Answered, Asked, Record, Step
from crabd.tools.base import BadArguments, Intent, PreparedCall, Tool, ToolContext, ToolOutcome, ToolSpec
from crabd.tools.offers import MAX_DESCRIPTION
from crabd.tools.typed import Call
from tests.fakes import FixedTools, Hooked, Part, Shelf, calls, guards, says
from tests.runtime.test_races import OddStore
from tests.runtime.test_runtime import NOWHERE, Bench, history, open_bench, outcome_of, until


class Brush(Tool):
    """A tool that does what it was let do, and notes it; ``color`` is all that it takes."""

    def __init__(self, name: str = "paint", *, output: str = "", about: str = "paint the wall") -> None:
        self._name = name
        self._about = about
        self._output = output
        self.painted: list[str] = []
        self.prepared: list[dict[str, Any]] = []

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(self._name, self._about, {"type": "object"})

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        await trio.lowlevel.checkpoint()
        self.prepared.append(arguments)
        if "color" not in arguments:
            raise BadArguments("missing argument `color`; the arguments are: color")
        color = str(arguments["color"])
        intent = Intent(title=f"paint it {color}", writes=("/wall",), command=arguments.get("command"))

        async def preview() -> str:
            return f"-white\n+{color}\n"

        async def run() -> ToolOutcome:
            self.painted.append(color)
            return ToolOutcome(self._output or f"it is {color}")

        return Call(intent, run, preview)


class Asker(Tool):
    """A tool that asks a person, and says what it was told."""

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec("ask", "ask", {"type": "object"})

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        async def run() -> ToolOutcome:
            return ToolOutcome(repr(await context.ask([Question("Which?"), Question("Why?")])))

        return Call(Intent(title="ask"), run)


RED = '{"color": "red"}'
BLUE = '{"color": "blue"}'


async def rules(mode: Mode = "ask", *, allow: str = "", deny: str = "") -> Rulebook:
    """Make a person's rules, which are kept nowhere."""
    rulebook = Rulebook(NOWHERE, "/")
    lists = RuleLists(allow=tuple(allow.split()), deny=tuple(deny.split()))
    await rulebook.load(lists, "a test", mode, "ask")
    return rulebook


def results(session: Session) -> list[tuple[str, str]]:
    return [(m.status, m.output) for m in history(session) if isinstance(m, ToolMessage)]


def records(session: Session, *kinds: type[Record]) -> list[Record]:
    return [step.record for step in session.steps if isinstance(step.record, kinds)]


class Studio:
    """A session whose model paints, and whoever looks over its shoulder."""

    def __init__(self, bench: Bench, session: Session, brush: Brush) -> None:
        self.bench = bench
        self.session = session
        self.brush = brush

    async def start(self, *allow: str) -> Ticket:
        admission = self.bench.runtime.admit(
            self.session, (TextBlock("go"),), on_ticket=lambda _: None, allow=allow
        )
        await confirm(self.session, admission)
        return admission.ticket

    async def run(self, *allow: str) -> Outcome:
        return await outcome_of(await self.start(*allow))

    async def waiting(self, count: int = 1) -> Confirmation:
        """Wait until so many calls wait; returns the first."""
        await until(lambda: len(self.session.desk.confirmations) == count)
        return self.session.desk.confirmations[0]

    async def decide(self, decision: Resolution, reason: str = "") -> None:
        """Decide about the call that waits first."""
        desk = self.session.desk
        await until(lambda: bool(desk.confirmations))
        await self.bench.runtime.decide(
            self.session, desk.confirmations[0], decision, by="nvim", reason=reason
        )


@asynccontextmanager
async def open_studio(
    *replies: Sequence[Part],
    rulebook: Rulebook | None = None,
    guarded: Guards | None = None,
    brush: Brush | None = None,
    more: Sequence[Tool] = (),
) -> AsyncGenerator[Studio]:
    """Open a studio, where painting has to be asked for unless the rules say otherwise."""
    brush = brush or Brush()
    async with open_bench(
        *replies, tools=[brush, *more], guarded=guarded, rulebook=rulebook or await rules()
    ) as bench:
        yield Studio(bench, await bench.session(), brush)


async def test_a_call_that_the_rules_allow_is_made_and_nobody_is_asked() -> None:
    rulebook = await rules(allow="edit(/wall)")
    async with open_studio(calls("paint", arguments=RED), says("done"), rulebook=rulebook) as studio:
        outcome = await studio.run()

        assert (outcome.text, studio.brush.painted) == ("done", ["red"])
        assert results(studio.session) == [("ok", "it is red")]
        assert records(studio.session, Asked, Answered) == []


async def test_arguments_that_make_no_call_are_refused_before_anybody_else_is_troubled() -> None:
    hooks = Hooked()
    async with open_studio(calls("paint"), says("ok"), guarded=guards(hooks)) as studio:
        await studio.run()

        assert results(studio.session) == [
            (
                "error",
                "The call was not made: missing argument `color`; the arguments are: color",
            )
        ]
        assert hooks.before == []


async def test_a_hook_forbids_a_call_before_the_rules_are_asked() -> None:
    hooks = Hooked(HookVerdict(block="the wall is listed"))
    async with open_studio(calls("paint", arguments=RED), says("ok"), guarded=guards(hooks)) as studio:
        await studio.run()

        assert results(studio.session) == [
            ("error", "The call was not made: a hook forbids it: the wall is listed")
        ]
        assert (studio.brush.painted, hooks.outcomes) == ([], [])


async def test_what_a_hook_rewrites_is_prepared_anew_and_that_is_what_a_person_sees() -> None:
    hooks = Hooked(HookVerdict(arguments={"color": "green"}, context="green is cheaper"), after="it dries")
    async with open_studio(calls("paint", arguments=RED), says("ok"), guarded=guards(hooks)) as studio:
        ticket = await studio.start()
        shown = await studio.waiting()
        await studio.decide("allow")
        await outcome_of(ticket)

        assert (shown.title, shown.arguments) == ("paint it green", '{"color":"green"}')
        assert studio.brush.prepared == [{"color": "red"}, {"color": "green"}]
        assert studio.brush.painted == ["green"]
        assert results(studio.session) == [("ok", "it is green\n\ngreen is cheaper\n\nit dries")]
        assert [outcome.output for outcome in hooks.outcomes] == ["it is green"]


async def test_what_a_hook_rewrites_into_nonsense_is_not_made() -> None:
    hooks = Hooked(HookVerdict(arguments={}))
    async with open_studio(
        calls("paint", arguments=RED), says("ok"), rulebook=await rules("full"), guarded=guards(hooks)
    ) as studio:
        await studio.run()

        assert [status for status, _ in results(studio.session)] == ["error"]
        assert studio.brush.painted == []


async def test_a_model_with_tools_is_told_what_its_mode_keeps_it_from() -> None:
    async with open_studio(says("one"), says("two")) as studio:
        await studio.run()
        await studio.bench.runtime.configure(studio.session, mode="plan")
        await studio.run()

        asked = ["make a plan" in request.system for request in studio.bench.provider.requests]
        assert asked == [False, True]


async def test_all_of_a_call_speaks_of_the_directory_that_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    async with open_studio(calls("paint", arguments=RED), says("done")) as studio:
        await studio.bench.runtime.configure(studio.session, cwd=str(tmp_path / "link"))
        ticket = await studio.start()

        waiting = await studio.waiting()
        await studio.decide("allow")
        await outcome_of(ticket)

        assert waiting.cwd == str(tmp_path)


async def test_a_call_that_the_mode_denies_is_not_made_and_the_model_reads_why() -> None:
    rulebook = await rules("read-only")
    async with open_studio(calls("paint", arguments=RED), says("ok"), rulebook=rulebook) as studio:
        await studio.run()

        ((status, output),) = results(studio.session)
        assert (status, studio.brush.painted) == ("error", [])
        assert output.startswith("The call was not made: it is not permitted: mode read-only denies it")


async def test_a_tool_that_is_denied_outright_is_neither_offered_nor_there() -> None:
    rulebook = await rules("full", deny="paint")
    async with open_studio(
        calls("paint", arguments=RED), says("ok"), rulebook=rulebook, more=[Brush("spray")]
    ) as studio:
        await studio.run()

        offered = [[offer.name for offer in request.tools] for request in studio.bench.provider.requests]
        assert offered == [["spray"], ["spray"]]
        ((_, output),) = results(studio.session)
        assert "there is no tool 'paint'; the tools are: spray" in output


async def test_a_tool_that_no_model_could_be_told_of_is_left_out_and_the_log_says_so_once() -> None:
    odd, long = Brush("paint it all"), Brush("spray", about="x" * (MAX_DESCRIPTION + 1))
    async with open_studio(says("ok"), says("ok"), more=[odd, long]) as studio:
        with capture_logs() as logs:
            await studio.run()
            await studio.run()
        listed = await studio.bench.runtime.equipper.list_tools(studio.session)

        offered = [(offer.name, len(offer.description)) for offer in studio.bench.provider.requests[1].tools]
        assert offered == [("paint", 14), ("spray", MAX_DESCRIPTION)]
        assert [(spec.name, is_offered) for spec, is_offered in listed] == [
            ("paint", True),
            ("paint it all", False),
            ("spray", True),
        ]
        (told,) = [each for each in logs if each["event"] == "tool_left_out"]
        assert (told["tool"], "rename it" in told["problem"]) == ("paint it all", True)


async def test_a_person_is_shown_all_there_is_to_decide_by() -> None:
    async with open_studio(calls("paint", arguments=RED), says("ok")) as studio:
        await studio.start()

        shown = await studio.waiting()

        assert structs.asdict(shown) == {
            "id": "r1.1",
            "session": "crab_user_1",
            "run": "r1",
            "call": "c0",
            "tool": "paint",
            "since": shown.since,
            "title": "paint it red",
            "arguments": '{"color":"red"}',
            "command": None,
            "diff": "-white\n+red\n",
            "reads": (),
            "writes": ("/wall",),
            "url": None,
            "cwd": None,
            "rule": "ask",
            "reason": "/wall is outside any session directory",
            "sandbox": "nothing is confined",
            "suggestions": ("edit(/wall)",),
        }
        assert studio.session.state == "waiting"
        assert studio.session.snapshot(is_active=True).confirmations == (shown,)


async def test_what_is_asked_and_answered_is_in_the_log_before_the_call_is_made() -> None:
    async with open_studio(calls("paint", arguments=RED), says("ok")) as studio:
        ticket = await studio.start()
        await studio.waiting()
        asked = records(studio.session, Asked, Answered)
        await studio.decide("allow", "for once")
        await outcome_of(ticket)

        assert asked == [Asked("r1", "c0", "paint", "paint: paint it red")]
        assert records(studio.session, Asked, Answered) == [
            *asked,
            Answered("r1", "c0", "allow", "nvim", "for once"),
        ]
        assert studio.session.state == "idle"


async def test_a_denial_is_read_by_the_model_with_its_reason() -> None:
    async with open_studio(calls("paint", arguments=RED), says("ok")) as studio:
        ticket = await studio.start()
        await studio.decide("deny", "use blue")
        outcome = await outcome_of(ticket)

        ((status, output),) = results(studio.session)
        assert (status, studio.brush.painted, outcome.stop_reason) == ("error", [], "end_turn")
        assert "it was denied by nvim: use blue." in output
        assert results(studio.session)[0][1] in str(studio.bench.provider.requests[1].messages)


async def test_a_leave_for_the_session_is_the_sessions_and_outlasts_its_unloading() -> None:
    replies = [reply for _ in range(2) for reply in (calls("paint", arguments=RED), says("ok"))]
    async with open_studio(*replies) as studio:
        ticket = await studio.start()
        await studio.decide("allow_session")
        await outcome_of(ticket)
        await studio.bench.runtime.close("crab_user_1", cancel=False)
        studio.session = await studio.bench.runtime.sessions.load("crab_user_1")
        await studio.run()

        assert studio.brush.painted == ["red", "red"]
        assert studio.session.meta.permissions == RuleLists(allow=("edit(/wall)",))
        assert len(records(studio.session, Answered)) == 1


async def test_a_leave_for_good_is_kept_and_lets_others_through_that_wait(tmp_path: Path) -> None:
    rulebook = Rulebook(tmp_path, "/")
    async with open_studio(calls("paint", "paint", arguments=RED), says("ok"), rulebook=rulebook) as studio:
        ticket = await studio.start()
        await studio.waiting(2)
        await studio.decide("allow_always")
        await outcome_of(ticket)

        assert "edit(" in (tmp_path / "permissions.toml").read_text()
        assert studio.brush.painted == ["red", "red"]
        decided = [
            (event["decision"], event["by"])
            for event in studio.bench.events
            if event["type"] == "confirmation_resolved"
        ]
        assert decided == [("allow_always", "nvim"), ("allow", "a rule")]


async def test_a_leave_that_cannot_be_kept_is_one_for_this_time(tmp_path: Path) -> None:
    (tmp_path / "config").touch()
    rulebook = Rulebook(tmp_path / "config", "/")
    replies = [calls("paint", arguments=RED), says("ok"), calls("paint", arguments=RED)]
    async with open_studio(*replies, rulebook=rulebook) as studio:
        ticket = await studio.start()
        with pytest.raises(StoreError, match=r"permissions\.toml"):
            await studio.decide("allow_always")
        await outcome_of(ticket)
        await studio.start()

        await studio.waiting()

        assert studio.brush.painted == ["red"]


async def test_another_mode_lets_through_what_waits() -> None:
    async with open_studio(calls("paint", arguments=RED), says("ok")) as studio:
        ticket = await studio.start()
        await studio.waiting()
        await studio.bench.runtime.configure(studio.session, mode="full")
        await outcome_of(ticket)

        assert studio.brush.painted == ["red"]


async def test_rules_of_a_message_hold_for_its_own_run() -> None:
    replies = [calls("paint", arguments=RED), says("ok"), calls("paint", arguments=BLUE), says("ok")]
    async with open_studio(*replies) as studio:
        await studio.run("edit(/wall)")
        await studio.start()
        await studio.waiting()

        assert studio.brush.painted == ["red"]
        with pytest.raises(BadRequest, match=r"\$\.allow"):
            await studio.start("no rule at all!")


async def test_a_cancel_while_a_person_is_asked_leaves_a_valid_history_and_no_question() -> None:
    async with open_studio(calls("paint", arguments=RED), says("fine")) as studio:
        ticket = await studio.start()
        await studio.waiting()
        await studio.bench.runtime.cancel(studio.session, None)
        outcome = await outcome_of(ticket)

        assert (outcome.stop_reason, studio.brush.painted) == ("cancelled", [])
        assert results(studio.session) == [
            (
                "cancelled",
                "[cancelled while it waited for a person, so it was not made. This was asked: "
                "paint: paint it red]",
            )
        ]
        assert studio.session.desk.is_empty
        assert studio.bench.types()[-2:] == ["confirmation_resolved", "run_ended"]


async def test_steering_waits_while_a_person_is_asked() -> None:
    async with open_studio(calls("paint", arguments=RED), says("ok")) as studio:
        ticket = await studio.start()
        await studio.waiting()
        position = await studio.bench.steer(studio.session, "or blue")
        await studio.decide("allow")
        await outcome_of(ticket)

        assert position == 1
        assert [type(message).__name__ for message in history(studio.session)][:4] == [
            "UserMessage",
            "AssistantMessage",
            "ToolMessage",
            "UserMessage",
        ]


async def test_questions_come_back_with_a_persons_answers() -> None:
    async with open_studio(calls("ask"), says("ok"), rulebook=await rules("full"), more=[Asker()]) as studio:
        ticket = await studio.start()
        await until(lambda: bool(studio.session.desk.questions))
        (question,) = studio.session.desk.questions
        state = studio.session.state
        studio.session.desk.answer(question.id, ("red", "it is warm"), by="nvim")
        await outcome_of(ticket)

        assert state == "waiting"
        assert results(studio.session) == [("ok", "('red', 'it is warm')")]
        assert records(studio.session, Asked, Answered) == [
            Asked("r1", "c0", "ask", "Which?\nWhy?"),
            Answered("r1", "c0", None, "nvim"),
        ]


async def test_the_clock_of_a_budget_stands_still_while_a_person_is_asked(mock_clock: MockClock) -> None:
    # By hand: a clock that jumps by itself does so too while a thread is waited for, as for a ruling.
    mock_clock.rate = 1
    async with open_studio(calls("paint", arguments=RED), says("ok")) as studio:
        await studio.bench.runtime.configure(studio.session, budget=Budget(seconds=600))
        admission = studio.bench.runtime.admit(studio.session, (TextBlock("go"),), on_ticket=lambda _: None)
        await confirm(studio.session, admission)
        await studio.waiting()
        mock_clock.jump(3600)
        await trio.testing.wait_all_tasks_blocked()
        await studio.decide("allow")
        outcome = await outcome_of(admission.ticket)

        assert outcome.stop_reason == "end_turn"
        assert studio.session.meta.active_seconds < 600


async def test_an_output_that_is_too_long_is_kept_and_both_its_ends_are_read() -> None:
    shelf = Shelf()
    output = "a" * MAX_OUTPUT + "z"
    async with open_studio(
        calls("paint", arguments=RED),
        says("ok"),
        rulebook=await rules("full"),
        guarded=guards(artifacts=shelf),
        brush=Brush(output=output),
    ) as studio:
        await studio.run()

        ((path, kept),) = shelf.texts.items()
        ((status, read),) = results(studio.session)
        assert (status, kept) == ("ok", output)
        assert path in read
        assert (read[0], read[-1]) == ("a", "z")
        assert len(read) < MAX_OUTPUT


async def test_a_command_that_nobody_could_read_is_not_put_to_a_person() -> None:
    arguments = '{"color": "red", "command": "' + "x" * (MAX_SHOWN + 1) + '"}'
    async with open_studio(calls("paint", arguments=arguments), says("ok")) as studio:
        await studio.run()

        assert "write a script file" in results(studio.session)[0][1]
        assert studio.brush.painted == []


async def test_what_cannot_be_written_down_is_not_asked_and_not_made() -> None:
    class FullLog(InMemoryLog):
        """A log that has no room for questions."""

        async def append(self, records: Sequence[Record]) -> tuple[Step, ...]:
            if any(isinstance(record, Asked) for record in records):
                raise StoreError("full", "no space left on the disk")
            return await super().append(records)

    brush = Brush()
    async with open_bench(
        calls("paint", arguments=RED),
        says("ok"),
        tools=[brush],
        rulebook=await rules(),
        store=OddStore(FullLog),
    ) as bench:
        session = await bench.session()
        await bench.ask(session, "go")

        assert (brush.painted, "confirmation_requested" in bench.types()) == ([], False)
        assert "no space left on the disk" in results(session)[0][1]


async def test_a_tool_that_breaks_is_a_failed_call_and_not_a_failed_run() -> None:
    class Broken(Brush):
        async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
            raise RuntimeError("no wall")

    async with open_studio(calls("paint", arguments=RED), says("sorry"), brush=Broken()) as studio:
        outcome = await studio.run()

        assert outcome.text == "sorry"
        assert results(studio.session) == [("error", "the tool paint failed; this is a fault in the tool")]


async def test_a_session_has_one_toolbox_for_as_long_as_it_is_live() -> None:
    toolmaker = FixedTools(Brush())
    async with open_bench(says("ok"), says("ok"), says("ok"), toolmaker=toolmaker) as bench:
        session = await bench.session()
        opened_at_once = dict(toolmaker.boxes)
        await bench.ask(session, "one")
        box = toolmaker.boxes[session.id]
        await bench.ask(session, "two")
        same = toolmaker.boxes[session.id] is box
        await bench.runtime.close(session.id, cancel=False)

        assert (opened_at_once, same, box.is_closed) == ({}, True, True)


async def test_a_session_whose_tools_have_work_left_is_not_unloaded_for_being_idle() -> None:
    toolmaker = FixedTools(Brush())
    async with open_bench(says("ok"), toolmaker=toolmaker) as bench:
        session = await bench.session()
        await bench.ask(session, "one")
        await until(lambda: session.is_at_rest)
        box = toolmaker.boxes[session.id]
        box.has_work = True
        busy = await bench.runtime.sessions.unload_idle(max_age=0, max_bytes=0)
        box.has_work = False
        idle = await bench.runtime.sessions.unload_idle(max_age=0, max_bytes=0)

        assert (busy, idle, box.is_closed) == (0, 1, True)
