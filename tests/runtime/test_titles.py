"""Titles: what is asked, what is made of an answer, and when a session gets one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from crabd.errors import ProviderError
from crabd.messages import text_of
from crabd.runtime.router import Identity
from crabd.runtime.titles import MAX_LENGTH, MAX_TRIES, PROMPT, clean_title, title_request
from crabd.store.record import ModelCalled
from tests.fakes import Part, says
from tests.runtime.test_runtime import Bench, open_bench, until


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("Fix the failing tests", "Fix the failing tests"),
        ('"Fix the failing tests."\n\nI hope this helps', "Fix the failing tests"),
        ("\n\n**Title: Fix the  tests**", "Fix the tests"),
        ("# Ünïcode 漢字", "Ünïcode 漢字"),
        ("red\x1b[31m\u202eflip", "red [31m flip"),
        ("What is C++?", "What is C++?"),
        ("word " * 30, "word " * 10 + "word…"),
        ("x" * 100, "x" * 59 + "…"),
        ("", ""),
        (' "" \n . ', ""),
    ],
)
def test_of_an_answer_the_first_words_are_the_title(answer: str, title: str) -> None:
    assert clean_title(answer) == title


@given(st.text())
def test_any_answer_makes_a_title_of_one_printable_line(answer: str) -> None:
    title = clean_title(answer)

    assert len(title) <= MAX_LENGTH
    assert title == title.strip()
    assert title.replace(" ", "").isprintable()


def test_a_title_is_asked_for_with_no_more_than_it_needs() -> None:
    request = title_request("one", "a" * 100_000, "b" * 100_000)

    assert (request.system, request.tools) == (PROMPT, ())
    assert len(text_of(request.messages[0])) < 1500


@asynccontextmanager
async def open_titled(*replies: Sequence[Part]) -> AsyncGenerator[Bench]:
    async with open_bench(*replies) as bench:
        bench.runtime.titles = True
        yield bench


async def test_after_its_first_good_answer_a_session_has_a_title_and_its_cost_is_counted() -> None:
    async with open_titled(
        says(""), says(""), says("It is a crab"), says('"About crabs"', tokens=3), says("ok")
    ) as bench:
        session = await bench.session()
        await bench.ask(session, "hm")
        before = session.meta.title
        await bench.ask(session, "What is this?")
        await until(lambda: "title_changed" in bench.types())
        context = session.meta.usage.context_tokens
        await bench.ask(session, "and now?")

        assert (before, session.meta.title) == ("", "About crabs")
        (call,) = [
            s.record
            for s in session.steps
            if isinstance(s.record, ModelCalled) and s.record.purpose == "title"
        ]
        assert call.usage.input_tokens == 3
        assert context == 20
        # An empty answer is asked for once more.
        assert session.meta.usage.calls == 5
        assert len(bench.provider.requests) == 5


async def test_one_title_is_asked_for_at_a_time_and_runs_go_on_meanwhile() -> None:
    gate = trio.Event()
    async with open_titled(says("one"), [gate, *says("The title")], says("two")) as bench:
        session = await bench.session()
        await bench.ask(session, "first")
        await until(lambda: len(bench.provider.requests) == 2)

        second = await bench.ask(session, "second")
        is_at_rest = session.is_at_rest
        gate.set()
        await until(lambda: session.meta.title != "")

        assert (second.text, is_at_rest) == ("two", False)
        assert (session.meta.title, len(bench.provider.requests)) == ("The title", 3)


async def test_the_title_that_a_person_sets_meanwhile_stays() -> None:
    gate = trio.Event()
    async with open_titled(says("one"), [gate, *says("The model's")]) as bench:
        session = await bench.session()
        await bench.ask(session, "first")
        await until(lambda: len(bench.provider.requests) == 2)

        await bench.runtime.configure(session, title="Mine")
        gate.set()
        await until(lambda: not session.is_being_named)

        assert session.meta.title == "Mine"
        assert session.meta.usage.calls == 2


async def test_a_model_that_cannot_name_is_asked_a_few_times_and_its_runs_are_as_good() -> None:
    broken: list[Part] = [ProviderError("unavailable", "down", provider="scripted")]
    replies = [reply for _ in range(MAX_TRIES + 1) for reply in (says("fine"), broken)]
    async with open_titled(*replies) as bench:
        session = await bench.session()
        for tried in range(MAX_TRIES):
            assert (await bench.ask(session, "go")).stop_reason == "end_turn"
            while session.naming_failures <= tried or not session.is_at_rest:
                await trio.lowlevel.checkpoint()
        asked = len(bench.provider.requests)
        await bench.ask(session, "go")
        await until(lambda: session.is_at_rest)

        assert asked == 2 * MAX_TRIES
        assert len(bench.provider.requests) == asked + 1


async def test_nothing_is_named_that_ended_badly_or_is_ephemeral_or_when_it_is_turned_off() -> None:
    refusal: list[Part] = [ProviderError("auth", "no", provider="scripted")]
    async with open_titled(refusal, says("a"), says("b")) as bench:
        session = await bench.session()
        await bench.ask(session, "go")
        passing, _ = await bench.runtime.get_or_create(
            Identity("crab", "user", is_ephemeral=True), topic=None, description=None, cwd=None
        )
        await bench.ask(passing, "go")
        bench.runtime.titles = False
        await bench.ask(session, "go")
        await until(lambda: session.is_at_rest and passing.is_at_rest)

        assert len(bench.provider.requests) == 3
        assert (session.meta.title, passing.meta.title) == ("", "")


async def test_a_session_that_is_deleted_while_it_is_named_stays_deleted() -> None:
    gate = trio.Event()
    async with open_titled(says("one"), [gate, *says("The title")]) as bench:
        session = await bench.session()
        await bench.ask(session, "first")
        await until(lambda: len(bench.provider.requests) == 2)

        await bench.runtime.delete(session.id)
        gate.set()
        await until(lambda: not session.is_being_named)

        assert bench.store.metas() == ()
