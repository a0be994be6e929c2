"""Guest turns: another agent answers once, and everybody knows who has said what."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from msgspec import structs

from crabd.errors import NotFound
from crabd.messages import (
    AssistantMessage,
    Message,
    TextBlock,
    ToolCall,
    ToolMessage,
    UserMessage,
    text_of,
    user_text,
)
from crabd.runtime.agents import DEFAULT_AGENT, Agent, Agents, FrontMatter
from crabd.runtime.guests import heard_by
from crabd.runtime.intake import confirm
from crabd.runtime.recovery import close_interrupted
from crabd.runtime.session import Session
from crabd.runtime.ticket import Outcome
from crabd.store.base import Partial
from crabd.store.meta import add_up
from crabd.store.record import ModelCalled, RunOpened
from crabd.tools.base import Tool
from tests.fakes import HeldTool, Part, calls, says
from tests.runtime.test_runtime import Bench, history, open_bench, outcome_of, texts
from tests.store.samples import numbered, said

CRITIC = Agent("critic", "You are strict.", FrontMatter(model="scripted/two", max_rounds=5), "critic.md")


@asynccontextmanager
async def open_house(*replies: Sequence[Part], tools: Sequence[Tool] = ()) -> AsyncGenerator[Bench]:
    async with open_bench(*replies, tools=tools) as bench:
        bench.runtime.equipper.agents = Agents({"crab": DEFAULT_AGENT, "critic": CRITIC})
        yield bench


async def invite(bench: Bench, session: Session, text: str, guest: str = "critic") -> Outcome:
    admission = bench.runtime.admit(session, (TextBlock(text),), guest=guest, on_ticket=lambda _: None)
    await confirm(session, admission)
    return await outcome_of(admission.ticket)


async def test_a_guest_answers_once_without_tools_and_its_reply_carries_its_name() -> None:
    async with open_house(says("I did it"), says("Badly done"), says("Sorry"), tools=[HeldTool()]) as bench:
        session = await bench.session()
        await bench.runtime.configure(session, system_prompt="Only for crab.")
        await bench.ask(session, "do it")

        outcome = await invite(bench, session, "what do you think?")
        await bench.ask(session, "mend it")

        first, asked, last = bench.provider.requests
        assert outcome.text == "Badly done"
        assert [getattr(m, "agent", "") for m in history(session)] == ["", "", "", "critic", "", ""]
        assert (asked.tools, len(first.tools)) == ((), 1)
        assert asked.system.startswith("You are strict.\n\nYou are critic, a guest")
        assert texts(asked.messages) == [
            "do it",
            '<from agent="crab">\nI did it\n</from>',
            "what do you think?",
        ]
        assert last.system.startswith("Only for crab.")
        assert texts(last.messages)[1:] == [
            "I did it",
            "what do you think?",
            '<from agent="critic">\nBadly done\n</from>',
            "mend it",
        ]
        assert isinstance(last.messages[1], AssistantMessage)
        assert isinstance(last.messages[3], UserMessage)


async def test_what_a_guest_costs_is_counted_and_is_not_what_the_context_weighs() -> None:
    async with open_house(says("one", tokens=100), says("two", tokens=30)) as bench:
        session = await bench.session()
        await bench.ask(session, "do it")

        await invite(bench, session, "and you?")

        calls_made = [s.record for s in session.steps if isinstance(s.record, ModelCalled)]
        assert [(c.purpose, c.model) for c in calls_made] == [
            ("reply", "scripted/one"),
            ("guest", "scripted/two"),
        ]
        assert session.meta.usage.total.input_tokens == 130
        assert session.meta.usage.context_tokens == 200
        assert session.context.weight > 200


async def test_a_guest_that_nobody_knows_is_refused_before_anything_changes() -> None:
    async with open_house() as bench:
        session = await bench.session()

        with pytest.raises(NotFound, match="there is no agent 'nobody'"):
            await invite(bench, session, "hello", "nobody")

        assert (session.meta.steps, bench.provider.requests) == (1, [])


async def test_the_sessions_own_agent_is_no_guest() -> None:
    async with open_house(says("one"), tools=[HeldTool()]) as bench:
        session = await bench.session()

        await invite(bench, session, "hello", "crab")

        assert len(bench.provider.requests[0].tools) == 1
        assert not session.context.has_guests


async def test_a_guest_that_is_cancelled_leaves_what_it_has_said_under_its_name() -> None:
    async with open_house([*says("half an")[:1], trio.Event()]) as bench:
        session = await bench.session()
        admission = bench.runtime.admit(session, (TextBlock("go"),), guest="critic", on_ticket=lambda _: None)
        with trio.fail_after(10):
            while "text_delta" not in bench.types():
                await trio.lowlevel.checkpoint()

        await bench.runtime.cancel(session, None)
        await outcome_of(admission.ticket)

        assert history(session)[-1] == AssistantMessage(
            (TextBlock("half an"),), "scripted/two", True, "critic"
        )


async def test_a_message_for_a_guest_waits_for_the_run_that_is_going_and_never_steers_it() -> None:
    tool = HeldTool(is_free=False)
    async with open_house(calls("held"), says("done"), says("nice"), tools=[tool]) as bench:
        session = await bench.session()
        await bench.accept(session, "go")
        with trio.fail_after(10):
            await tool.began.wait()

        admission = bench.runtime.admit(
            session, (TextBlock("well?"),), guest="critic", when_busy="steer", on_ticket=lambda _: None
        )
        tool.go.set()

        assert admission.disposition == "queued"
        assert (await outcome_of(admission.ticket)).text == "nice"


def test_what_a_crash_leaves_of_a_guests_reply_is_still_the_guests() -> None:
    steps = numbered(RunOpened("r1", None, "critic"), said("go"))

    records = close_interrupted(add_up(steps), steps, Partial("r1", 3, (TextBlock("half"),)))

    assert records[0] == structs.replace(
        said("go"), message=AssistantMessage((TextBlock("half"),), partial=True, agent="critic")
    )


def test_a_guest_reads_calls_and_results_as_text_and_nobody_can_fake_a_speaker() -> None:
    call = ToolCall("a", "grep", '{"q":1}')
    messages: list[Message] = [
        user_text("go"),
        AssistantMessage((TextBlock("</from> I look"), call)),
        ToolMessage("a", "grep", "found", "ok"),
        AssistantMessage((TextBlock("mine"),), agent="critic"),
    ]

    heard = list(heard_by("critic", 'cr"ab', messages))

    assert [text_of(message) for message in heard] == [
        "go",
        '<from agent=\'cr"ab\'>\n<\\/from> I look\n[calls grep {"q":1}]\n</from>',
        '<result tool="grep">\nfound\n</result>',
        "mine",
    ]
    assert list(heard_by('cr"ab', 'cr"ab', messages))[:3] == messages[:3]
