"""Forks: another log with the same history, which has used nothing and knows no request."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from crabd.errors import BadRequest, NotFound
from crabd.messages import Message, ToolMessage, Usage, UserMessage, tool_calls_of, user_text, utc_now
from crabd.runtime.fork import fork_log, last_boundary
from crabd.runtime.listing import Filter
from crabd.runtime.prompt import Context
from crabd.runtime.router import Identity
from crabd.store.doctor.flaws import find_flaws
from crabd.store.meta import add_up
from crabd.store.record import (
    Claimed,
    Cleared,
    Compacted,
    Configured,
    Created,
    Forked,
    MessageAdded,
    MessageQueued,
    ModelCalled,
    Record,
    Rewound,
    RunClosed,
    RunOpened,
    Shortened,
    Step,
    Task,
    check_log,
)
from tests.fakes import HeldTool, calls, says
from tests.runtime.test_compaction import reply, result
from tests.runtime.test_runtime import open_bench, texts

NOW = utc_now()
HELLO = user_text("hello").content


def log_of(*records: Record | Message) -> list[Step]:
    """Make a log of records, messages being those of the run ``r1``."""
    created = Created(session="a_b_1", agent="a", sender="b", topic="t", request_key="k0")
    wrapped = [r if not isinstance(r, Message) else MessageAdded("r1", r) for r in (created, *records)]
    return [Step(n, NOW, record) for n, record in enumerate(wrapped, 1)]


def a_run(number: int, *messages: Message) -> list[Record]:
    run = f"r{number}"
    said: list[Record] = [MessageAdded(run, message) for message in messages]
    called = ModelCalled(run, "m", "reply", Usage(10, 5, cost=0.5), 100 * number, 1000)
    return [
        MessageQueued(run, HELLO, request_key=f"k{number}"),
        RunOpened(run, f"k{number}"),
        *said,
        called,
        RunClosed(run, "end_turn", 2.0, Usage(10, 5, cost=0.5)),
    ]


def forked(steps: Sequence[Step]) -> tuple[Step, ...]:
    made = fork_log(steps, NOW)
    check_log(made)
    return made


def test_a_copy_shows_the_model_the_same_and_has_paid_for_nothing() -> None:
    steps = log_of(
        Claimed("k9", None),
        *a_run(1, user_text("goal"), reply("", "a"), result("a", "x" * 500), reply("b")),
        Shortened(7, 100, 80),
        *a_run(2, user_text("two"), reply("two")),
        Compacted("a_b_1/1", "they talked", 8, 5, 50, "k5", tasks=(Task(5, "goal"),)),
        Configured(title="T", paused=True),
        *a_run(3, user_text("three"), reply("three")),
        Rewound(22, 50),
    )

    made = forked(steps)

    meta, before = add_up(made), add_up(steps)
    assert Context(made).messages() == Context(steps).messages()
    assert Context(made).weight == Context(steps).weight
    assert (meta.forked_from, meta.title, meta.topic, meta.paused) == ("a_b_1", "T", None, False)
    assert (meta.usage.total, meta.active_seconds, meta.claims, meta.queued) == (Usage(), 0.0, (), ())
    assert (meta.last_run, meta.archives) == (before.last_run, before.archives)
    assert made[-1].record == Forked("a_b_1", len(steps))
    assert "request_key=None" in repr(made)
    assert "'k" not in repr(made)
    assert list(find_flaws("a_b_1", made, is_live=False)) == []


def test_a_run_that_is_open_at_the_step_is_closed_and_no_call_is_parted_from_its_result() -> None:
    steps = log_of(
        RunOpened("r1"), user_text("go"), reply("", "a"), result("a"), reply("", "b", "c"), result("b")
    )

    made = forked(steps)

    messages = [step.record.message for step in made if isinstance(step.record, MessageAdded)]
    assert messages == [user_text("go"), reply("", "a"), result("a")]
    assert add_up(made).open_run is None
    assert made[-1].record == Forked("a_b_1", 5)
    assert list(find_flaws("a_b_1", made, is_live=False)) == []


happenings = st.lists(
    st.sampled_from(["run", "tools", "compact", "clear", "shorten", "set", "claim"]), max_size=8
)


@given(happenings, st.integers(1, 60))
def test_of_any_log_the_fork_at_any_step_is_a_log_without_a_flaw(lived: list[str], at: int) -> None:
    records: list[Record] = []
    for number, happening in enumerate(lived, 1):
        match happening:
            case "run":
                records += a_run(number, user_text("q"), reply("a"))
            case "tools":
                calls_ = reply("", f"{number}.a", f"{number}.b")
                records += a_run(
                    number, user_text("q"), calls_, result(f"{number}.a"), result(f"{number}.b"), reply("z")
                )
            case "compact":
                records.append(Compacted("x/1", "sum", len(records) + 1, None, 5))
            case "clear":
                records.append(Cleared())
            case "shorten":
                records.append(Shortened(len(records) + 1, 10, 5))
            case "set":
                records.append(Configured(title="T"))
            case _:
                records.append(Claimed(f"c{number}", None))
    steps = log_of(*records)[:at]

    made = forked(steps)

    assert list(find_flaws("a_b_1", made, is_live=False)) == []
    assert list(Context(made).messages()) == list(Context(steps[: last_boundary(steps)]).messages())
    asked = [call.id for m in Context(made).messages() for call in tool_calls_of(m)]
    assert asked == [m.call for m in Context(made).messages() if isinstance(m, ToolMessage)]


async def test_a_fork_goes_on_by_itself_and_the_original_as_if_nothing_had_been() -> None:
    async with open_bench(says("one"), says("two"), says("here"), says("there")) as bench:
        session = await bench.session()
        await bench.ask(session, "first")
        upto = session.meta.steps
        await bench.ask(session, "second")

        info, at = await bench.runtime.edits.fork(session.id, upto)
        fork = await bench.runtime.sessions.load(info.id)
        await bench.ask(fork, "other")
        await bench.ask(session, "third")

        assert (info.id, info.forked_from, at) == ("crab_user_2", "crab_user_1", upto)
        assert texts(bench.provider.requests[2].messages) == ["first", "one", "other"]
        assert texts(bench.provider.requests[3].messages) == ["first", "one", "second", "two", "third"]
        assert fork.meta.usage.calls == 2
        assert fork.meta.usage.total.input_tokens == 10
        listed, _ = bench.runtime.sessions.newest(Filter(), before=None, limit=10)
        assert [one.id for one in listed] == ["crab_user_1", "crab_user_2"]


async def test_a_session_that_is_busy_is_forked_as_far_as_its_rounds_are_complete() -> None:
    tool = HeldTool(is_free=False)
    async with open_bench(says("one"), calls("held"), tools=[tool]) as bench:
        session = await bench.session()
        await bench.ask(session, "first")
        await bench.accept(session, "second")
        with trio.fail_after(10):
            await tool.began.wait()

        info, _ = await bench.runtime.edits.fork(session.id, None)
        fork = await bench.runtime.sessions.load(info.id)

        assert texts(fork.context.messages()) == ["first", "one", "second"]
        assert isinstance(fork.context.messages()[-1], UserMessage)
        assert fork.state == "idle"


async def test_an_ephemeral_session_has_ephemeral_forks() -> None:
    async with open_bench() as bench:
        session, _ = await bench.runtime.get_or_create(
            Identity("crab", "user", is_ephemeral=True), topic=None, description=None, cwd=None
        )
        await bench.ask(session, "first")

        info, _ = await bench.runtime.edits.fork(session.id, None)

        assert bench.store.metas() == ()
        assert (await bench.runtime.sessions.load(info.id)).is_ephemeral


async def test_what_is_not_there_is_not_forked() -> None:
    async with open_bench() as bench:
        session = await bench.session()

        with pytest.raises(BadRequest, match="step 9 is behind the last one, 1"):
            await bench.runtime.edits.fork(session.id, 9)
        with pytest.raises(NotFound):
            await bench.runtime.edits.fork("crab_user_9", None)
