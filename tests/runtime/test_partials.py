"""When replies that are coming in are written down: those of all runs at once, of each one part at a time."""

from __future__ import annotations

from collections.abc import Sequence

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from crabd.messages import TextBlock
from crabd.providers.base import TextChunk
from crabd.runtime.partials import PARTIAL_SECONDS
from crabd.runtime.session import Session
from crabd.store.base import Partial
from crabd.store.inmemory import InMemoryLog
from crabd.store.record import Step
from tests.fakes import Part, says
from tests.runtime.test_races import OddStore
from tests.runtime.test_runtime import Bench, open_bench, until


class SlowLog(InMemoryLog):
    """A log that notes the parts of replies it is given, and is done with one once it may be."""

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__(steps)
        self.parts: list[tuple[str, bool]] = []
        self.may_end = trio.Event()
        self.may_end.set()

    async def keep_partial(self, piece: Partial, *, is_first: bool) -> None:
        text = "".join(block.text for block in piece.content if isinstance(block, TextBlock))
        self.parts.append((text, is_first))
        await self.may_end.wait()


def log_of(session: Session) -> SlowLog:
    assert isinstance(session.log, SlowLog)
    return session.log


def half() -> list[Part]:
    """Make a reply that begins and goes no further."""
    return [TextChunk("half"), trio.Event()]


async def hear(bench: Bench, deltas: int) -> None:
    await until(lambda: bench.types().count("text_delta") == deltas)


async def test_the_replies_of_all_runs_are_written_down_at_the_same_time(mock_clock: MockClock) -> None:
    async with open_bench(half(), half(), store=OddStore(SlowLog)) as bench:
        sessions = [await bench.session("one"), await bench.session("two")]
        logs = [log_of(session) for session in sessions]

        await bench.accept(sessions[0], "go")
        await hear(bench, 1)
        mock_clock.jump(PARTIAL_SECONDS / 2)
        await bench.accept(sessions[1], "go")
        await hear(bench, 2)
        before = [list(log.parts) for log in logs]
        mock_clock.jump(PARTIAL_SECONDS / 2)
        await until(lambda: any(log.parts for log in logs))
        await wait_all_tasks_blocked()

        assert before == [[], []]
        assert [log.parts for log in logs] == [[("half", True)]] * 2


async def test_what_comes_while_a_part_is_written_goes_with_the_next(mock_clock: MockClock) -> None:
    more = trio.Event()
    reply: list[Part] = [TextChunk("a"), more, TextChunk("b"), TextChunk("c"), trio.Event()]
    async with open_bench(reply, store=OddStore(SlowLog)) as bench:
        session = await bench.session()
        log = log_of(session)
        log.may_end = trio.Event()

        await bench.accept(session, "go")
        await hear(bench, 1)
        mock_clock.jump(PARTIAL_SECONDS)
        await until(lambda: bool(log.parts))
        more.set()
        await hear(bench, 3)
        for _ in range(3):
            mock_clock.jump(PARTIAL_SECONDS)
            await wait_all_tasks_blocked()
        before = list(log.parts)
        log.may_end.set()
        await wait_all_tasks_blocked()
        mock_clock.jump(PARTIAL_SECONDS)
        await wait_all_tasks_blocked()

        assert before == [("a", True)]
        assert log.parts == [("a", True), ("bc", False)]


async def test_replies_are_written_down_again_after_a_time_without_runs(mock_clock: MockClock) -> None:
    async with open_bench(says("done"), half(), store=OddStore(SlowLog)) as bench:
        session = await bench.session()
        log = log_of(session)

        await bench.ask(session, "go")
        mock_clock.jump(2 * PARTIAL_SECONDS)
        await wait_all_tasks_blocked()
        before = list(log.parts)
        await bench.accept(session, "again")
        await hear(bench, 2)
        mock_clock.jump(PARTIAL_SECONDS)
        await until(lambda: bool(log.parts))

        assert before == []
        assert log.parts == [("half", True)]
