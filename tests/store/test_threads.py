"""Blocking calls in threads: each is made once, and whoever asked for it is told how it ended."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import trio
import trio.testing

from crabd.store.threads import MOST_TOGETHER, THREADS, Threads

MANY = 3 * THREADS * MOST_TOGETHER


async def test_calls_of_many_are_made_once_each_and_answered_to_whoever_asked() -> None:
    threads, done = Threads(), list[int]()
    answers: dict[int, int] = {}

    async def ask(number: int) -> None:
        def work() -> int:
            done.append(number)
            return -number

        answers[number] = await threads.run_together(work)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for number in range(MANY):
                nursery.start_soon(ask, number)

    assert sorted(done) == list(range(MANY))
    assert answers == {number: -number for number in range(MANY)}


async def test_an_error_is_told_to_its_own_caller_alone() -> None:
    threads = Threads()
    told: list[str] = []

    async def ask(number: int) -> None:
        def work() -> None:
            if number % 3 == 0:
                raise OSError(number)

        try:
            await threads.run_together(work)
        except OSError as exc:
            told.append(f"{number} {exc}")

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for number in range(MANY):
                nursery.start_soon(ask, number)

    assert sorted(told) == sorted(f"{number} {number}" for number in range(0, MANY, 3))


async def test_calls_that_have_to_wait_are_made_by_the_first_thread_that_is_free() -> None:
    threads, homes = Threads(), list[int]()
    are_done = trio.Event()

    async def ask() -> None:
        await threads.run_together(lambda: homes.append(threading.get_ident()))
        if len(homes) == MANY:
            are_done.set()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            gates = [threading.Event() for _ in range(THREADS)]
            for gate in gates:
                nursery.start_soon(threads.run_together, partial(gate.wait, 30))
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(MANY):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            before = list(homes)
            gates[0].set()
            await are_done.wait()
            for gate in gates:
                gate.set()

    assert before == []
    assert len(homes) == MANY


async def test_a_call_in_line_is_made_even_if_its_caller_is_cancelled() -> None:
    threads, go = Threads(), threading.Event()
    made: list[str] = []

    async def ask() -> None:
        await threads.run_together(lambda: made.append("it"))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(THREADS):
                nursery.start_soon(threads.run_together, partial(go.wait, 30))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            go.set()

    assert made == ["it"]


async def test_a_call_whose_caller_is_cancelled_before_is_not_made() -> None:
    made: list[str] = []

    with trio.CancelScope() as scope:
        scope.cancel()
        await Threads().run_together(lambda: made.append("it"))

    assert scope.cancelled_caught
    assert made == []


async def test_a_single_call_raises_what_it_raises() -> None:
    def work(path: str) -> None:
        raise FileNotFoundError(path)

    with pytest.raises(FileNotFoundError, match="there"):
        await Threads().run(work, "there")


async def test_a_call_that_syncs_nothing_does_not_wait_behind_those_that_do() -> None:
    threads, go = Threads(), threading.Event()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(MANY):
                nursery.start_soon(threads.run_together, partial(go.wait, 30))
            await trio.testing.wait_all_tasks_blocked()
            answer = await threads.run_unsynced(lambda: "written")
            go.set()

    assert answer == "written"
