"""The clock of a run, which stands still while a person is waited for."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from crabd.runtime.clock import RunClock

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def test_time_in_which_a_person_is_waited_for_does_not_count(autojump_clock: MockClock) -> None:
    clock = RunClock()

    await trio.sleep(3)
    with clock.paused():
        await trio.sleep(1000)
        paused = clock.seconds
    await trio.sleep(4)

    assert (paused, clock.seconds) == (3, 7)


async def test_several_who_wait_at_once_stop_it_once(autojump_clock: MockClock) -> None:
    clock = RunClock()

    async def wait(seconds: float) -> None:
        with clock.paused():
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, 10)
        nursery.start_soon(wait, 20)
    await trio.sleep(1)

    assert clock.seconds == 1


async def test_a_limit_ends_what_has_worked_for_so_long(autojump_clock: MockClock) -> None:
    clock = RunClock()
    await trio.sleep(5)

    with clock.limit(10):
        await trio.sleep(9)
        with clock.paused():
            await trio.sleep(1000)
        await trio.sleep(1000)

    assert clock.scope.cancelled_caught
    assert clock.seconds == 15


async def test_a_limit_does_not_strike_while_a_person_is_waited_for(autojump_clock: MockClock) -> None:
    clock = RunClock()

    with clock.paused(), clock.limit(1):
        await trio.sleep(1000)

    assert not clock.scope.cancelled_caught
