"""Going back: what the model sees no more, and what stays in the log."""

from __future__ import annotations

import pytest

from crabd.errors import BadRequest, SessionBusy
from crabd.messages import text_of
from crabd.runtime.history import Wanted
from crabd.runtime.rewind import plan_rewind
from crabd.store.record import Compacted, MessageAdded, Step
from tests.fakes import HeldTool, calls, says
from tests.runtime.test_compaction import NOW, context_of, reply, result, rounds
from tests.runtime.test_runtime import open_bench, texts


async def test_the_last_message_is_taken_back_with_all_that_followed_and_stays_in_the_log() -> None:
    replies = [says("one"), calls("held"), says("two"), says("three")]
    async with open_bench(*replies, tools=[HeldTool()]) as bench:
        session = await bench.session()
        await bench.ask(session, "first")
        await bench.ask(session, "second")

        done, _ = await bench.runtime.edits.rewind(session, None)
        await bench.ask(session, "third")

        assert (done.messages, done.text) == (4, "second")
        assert texts(bench.provider.requests[-1].messages) == ["first", "one", "third"]
        page = await bench.runtime.sessions.read_page(session, Wanted(1, 100, ("user",)))
        assert [text_of(stored.message) for stored in page.messages] == ["first", "second", "third"]
        assert [stored.rewound for stored in page.messages] == [False, True, False]


async def test_the_figure_falls_with_a_rewind_and_a_reload_sees_the_same() -> None:
    async with open_bench(says("one" * 100, tokens=100), says("two" * 100, tokens=200)) as bench:
        session = await bench.session()
        await bench.ask(session, "first")
        await bench.ask(session, "second")

        await bench.runtime.edits.rewind(session, None)
        seen, weight = session.context.messages(), session.context.weight
        await bench.runtime.close(session.id, cancel=False)
        session = await bench.runtime.sessions.load(session.id)

        assert 0 < weight < 400
        assert session.context.weight == session.meta.usage.context_tokens == weight
        assert session.context.messages() == seen


async def test_back_to_the_beginning_nothing_is_left() -> None:
    async with open_bench() as bench:
        session = await bench.session()
        await bench.ask(session, "first")

        await bench.runtime.edits.rewind(session, 1)

        assert session.context.messages() == ()
        assert session.meta.usage.context_tokens == 0
        with pytest.raises(BadRequest, match="no message to take back"):
            await bench.runtime.edits.rewind(session, None)


async def test_a_session_that_is_busy_is_not_rewound() -> None:
    tool = HeldTool(is_free=False)
    async with open_bench(calls("held"), tools=[tool]) as bench:
        session = await bench.session()
        await bench.accept(session, "first")
        await tool.began.wait()

        with pytest.raises(SessionBusy):
            await bench.runtime.edits.rewind(session, None)


def test_a_step_within_a_round_means_the_end_of_the_round_before() -> None:
    context = context_of(*rounds(1), reply("", "a", "b"), result("a"), result("b"), reply("done"))

    at = {step: plan_rewind("a_b_1", context, step).step for step in range(1, 8)}

    assert at == {1: 1, 2: 2, 3: 2, 4: 2, 5: 5, 6: 6, 7: 7}


def test_what_a_summary_has_replaced_is_not_taken_back_and_the_summary_stays() -> None:
    context = context_of(*rounds(3))
    context.add(Step(7, NOW, Compacted("a_b_1/1", "they talked", 4, 1, 10)))
    context.add(Step(8, NOW, MessageAdded("r1", reply("more"))))

    with pytest.raises(BadRequest, match="crabctl fork a_b_1 --at 3"):
        plan_rewind("a_b_1", context, 3)

    assert (plan_rewind("a_b_1", context, None).step, plan_rewind("a_b_1", context, 4).messages) == (4, 3)
