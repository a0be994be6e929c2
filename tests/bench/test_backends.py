"""What a journal saves over a file for each step, with the same promise."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from time import perf_counter

import pytest
import trio

from crabd.messages import AssistantMessage, TextBlock, ToolCall, ToolMessage, Usage
from crabd.store.base import SessionLog, Store
from crabd.store.disk import replace_file_durably
from crabd.store.record import MessageAdded, ModelCalled, Record, Step
from crabd.store.stepfiles.line import Trace, encode_append
from crabd.store.stepfiles.scan import step_path
from tests.bench.measure import Report, Samples, turns
from tests.bench.test_store import fill, seconds_each
from tests.faults.backends import BACKENDS
from tests.store.samples import AT

KIB = "x" * 900
# One round: a reply with a call, what it cost, the result, the next reply; of 1 KiB each as they are kept.
ROUND: tuple[Record, ...] = (
    MessageAdded("r1", AssistantMessage((TextBlock(KIB), ToolCall("c1", "read", '{"path":"a"}')), "m")),
    ModelCalled("r1", "m" * 800, "reply", Usage(30, 4), 34, 1000),
    MessageAdded("r1", ToolMessage("c1", "read", KIB, "ok")),
    MessageAdded("r1", AssistantMessage((TextBlock(KIB),), "m")),
)
# Against crabtalk's way of writing a step, a file that replaces a temporary one, once it is synced. Where
# syncing costs little, as on a tmpfs, there is less to be saved.
TARGET_COMMIT, LEAST_COMMIT = 8, 1.5
TARGET_LOAD, LEAST_LOAD = 10, 3.0


class OneByOne:
    """Writes the documents of a round as crabtalk does, each for itself, and syncs them."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self._home = home
        self._number = 0
        self._documents = encode_append([Step(n, AT, record) for n, record in enumerate(ROUND, 1)], Trace())

    def append(self) -> None:
        for document in self._documents:
            self._number += 1
            replace_file_durably(step_path(self._home, self._number), document)

    async def append_in_thread(self) -> None:
        await trio.to_thread.run_sync(self.append)


async def open_log(stack: AsyncExitStack, backend: str, root: Path) -> tuple[Store, SessionLog]:
    """Make a session; its store is closed with the stack."""
    store = BACKENDS[backend].make(root / backend)
    await store.open()
    stack.push_async_callback(store.aclose)
    return store, (await store.create("crab", "user")).log


@pytest.mark.bench
async def test_a_round_is_committed_many_times_faster_to_a_journal(tmp_path: Path, report: Report) -> None:
    samples = Samples()
    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "one by one": OneByOne(tmp_path / "steps").append_in_thread
    }
    async with AsyncExitStack() as stack:
        for backend in BACKENDS:
            log = (await open_log(stack, backend, tmp_path))[1]
            ways[backend] = partial(log.append, ROUND)
        for way in turns(list(ways), 25):
            samples.add(way, await seconds_each(10, ways[way]))

    ratio = samples.ratio("one by one", "journal")
    report(
        f"durable commit of a round, 4 records of 1 KiB\n  target journal ≥ {TARGET_COMMIT} ×, got {ratio}",
        ("way", "ms", "commits/s", "× journal"),
        [
            (
                way,
                f"{samples.median(way) * 1e3:.3f}",
                f"{1 / samples.median(way):.0f}",
                samples.ratio(way, "journal"),
            )
            for way in ways
        ],
    )
    assert ratio.middle >= LEAST_COMMIT


@pytest.mark.bench
async def test_a_long_session_is_loaded_many_times_faster_from_a_journal(
    tmp_path: Path, report: Report
) -> None:
    samples = Samples()
    async with AsyncExitStack() as stack:
        stores: dict[str, Store] = {}
        for backend in BACKENDS:
            stores[backend], log = await open_log(stack, backend, tmp_path)
            await fill(log, 10_000)
            await log.aclose()
        for backend in turns(list(stores), 7):
            start = perf_counter()
            loaded = await stores[backend].load("crab_user_1")
            samples.add(backend, perf_counter() - start)
            assert len(loaded.steps) == 10_000
            await loaded.log.aclose()

    ratio = samples.ratio("stepfiles", "journal")
    report(
        f"load of 10,000 records\n  target journal ≥ {TARGET_LOAD} ×, got {ratio}",
        ("store", "ms"),
        [(backend, f"{samples.median(backend) * 1e3:.1f}") for backend in BACKENDS],
    )
    assert ratio.middle >= LEAST_LOAD
