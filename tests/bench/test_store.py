"""What an append and the load of a long session cost, against the calls that nobody can do without."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter

import msgspec
import pytest
import trio

from crabd.store.base import SessionLog
from crabd.store.journal.line import Line, encode_append
from crabd.store.journal.store import JournalStore
from crabd.store.record import Compacted, Step
from tests.bench.measure import Report, Samples, turns
from tests.store.samples import AT, a_turn

WORDS = "the quick brown fox jumps over the lazy dog " * 6
RECORDS = a_turn(WORDS)
# Against a write and a sync in a thread, which anything in an event loop has to pay: measured 1.2 on a disk,
# and more where syncing costs nothing, as on a tmpfs.
TARGET_APPEND, MOST_APPEND = 1.5, 4.0
# Sessions that append at the same time, against one alone.
CROWD = 64
TARGET_CROWD, LEAST_CROWD = 2.0, 1.2
# Of two sessions that are alike behind their last boundary: the one with 10,000 records before it.
TARGET_TAIL, MOST_TAIL = 1.5, 4.0
# Its checksum and its files included: measured 1.2.
TARGET_LOAD, MOST_LOAD = 1.5, 3.0


class BareFile:
    """Writes the same bytes with no store around it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._data = encode_append([Step(n, AT, record) for n, record in enumerate(RECORDS, 1)])

    def append(self) -> None:
        os.write(self._fd, self._data)
        os.fdatasync(self._fd)

    async def append_inline(self) -> None:
        self.append()

    async def append_in_thread(self) -> None:
        await trio.to_thread.run_sync(self.append)

    def close(self) -> None:
        os.close(self._fd)


async def seconds_each(times: int, work: Callable[[], Awaitable[object]]) -> float:
    start = perf_counter()
    for _ in range(times):
        await work()
    return (perf_counter() - start) / times


@pytest.mark.bench
async def test_an_append_costs_little_more_than_its_sync(tmp_path: Path, report: Report) -> None:
    store = JournalStore(tmp_path / "store")
    await store.open()
    log = (await store.create("crab", "user")).log
    bare = BareFile(tmp_path / "bare")
    variants: dict[str, Callable[[], Awaitable[object]]] = {
        "write + fdatasync": bare.append_inline,
        "the same in a thread": bare.append_in_thread,
        "JournalLog.append": lambda: log.append(RECORDS),
    }
    samples = Samples()
    for name in turns(list(variants), 25):
        samples.add(name, await seconds_each(20, variants[name]))
    bare.close()
    await store.aclose()

    ratio = samples.ratio("JournalLog.append", "the same in a thread")
    report(
        f"durable append of a run's records\n  target ≤ {TARGET_APPEND} × the same in a thread, got {ratio}",
        ("way", "ms", "× bare", "× in a thread"),
        [
            (
                name,
                f"{samples.median(name) * 1e3:.3f}",
                samples.ratio(name, "write + fdatasync"),
                samples.ratio(name, "the same in a thread"),
            )
            for name in variants
        ],
    )
    assert ratio.middle <= MOST_APPEND


async def append_at_once(logs: Sequence[SessionLog], times: int) -> float:
    """Have each log appended to so many times, all at once; returns the appends per second."""
    start = perf_counter()
    async with trio.open_nursery() as nursery:
        for log in logs:
            nursery.start_soon(seconds_each, times, partial(log.append, RECORDS))
    return len(logs) * times / (perf_counter() - start)


@pytest.mark.bench
async def test_many_sessions_commit_more_than_one_does(tmp_path: Path, report: Report) -> None:
    store = JournalStore(tmp_path)
    await store.open()
    logs = [(await store.create("crab", f"user {number}")).log for number in range(CROWD)]
    samples = Samples()
    for name in turns(["one", "all"], 15):
        rate = await append_at_once(logs[:1], 100) if name == "one" else await append_at_once(logs, 10)
        samples.add(name, rate)
    await store.aclose()

    ratio = samples.ratio("all", "one")
    report(
        f"durable commits of {CROWD} sessions at once\n  target ≥ {TARGET_CROWD} × those of one, got {ratio}",
        ("sessions", "commits/s"),
        [("1", f"{samples.median('one'):.0f}"), (str(CROWD), f"{samples.median('all'):.0f}")],
    )
    assert ratio.middle >= LEAST_CROWD


async def fill(log: SessionLog, count: int) -> None:
    """Append records until there are so many."""
    records = cycle(RECORDS)
    while log.meta.steps < count:
        await log.append(tuple(islice(records, min(500, count - log.meta.steps))))


@pytest.mark.bench
async def test_a_long_session_loads_in_a_few_times_the_reading_of_its_lines(
    tmp_path: Path, report: Report
) -> None:
    store = JournalStore(tmp_path)
    await store.open()
    log = (await store.create("crab", "user")).log
    await fill(log, 10_000)
    session = log.meta.id
    await log.aclose()
    journal = store.home(session) / "journal.jsonl"
    decode_lines = msgspec.json.Decoder(Line).decode_lines
    samples = Samples()
    for name in turns(["read + decode_lines", "JournalStore.load"], 15):
        start = perf_counter()
        if name == "JournalStore.load":
            loaded = await store.load(session)
            samples.add(name, perf_counter() - start)
            assert len(loaded.steps) == 10_000
            await loaded.log.aclose()
        else:
            assert len(decode_lines(journal.read_bytes())) == 10_000
            samples.add(name, perf_counter() - start)
    await store.aclose()

    ratio = samples.ratio("JournalStore.load", "read + decode_lines")
    title = f"load of 10,000 records, {journal.stat().st_size / 1e6:.1f} MB"
    report(
        f"{title}\n  target ≤ {TARGET_LOAD} × read + decode_lines, got {ratio}",
        ("way", "ms", "×"),
        [
            ("read + decode_lines", f"{samples.median('read + decode_lines') * 1e3:.1f}", 1),
            ("JournalStore.load", f"{samples.median('JournalStore.load') * 1e3:.1f}", ratio),
        ],
    )
    assert ratio.middle <= MOST_LOAD


@pytest.mark.bench
async def test_what_lies_before_a_boundary_costs_nothing_to_load(tmp_path: Path, report: Report) -> None:
    store = JournalStore(tmp_path)
    await store.open()
    sessions: dict[str, str] = {}
    for which, count in (("10,000 records before it", 10_000), ("10 records before it", 10)):
        log = (await store.create("crab", "user")).log
        await fill(log, count)
        await log.append([Compacted("archive", WORDS, log.meta.steps, 3, 100), *RECORDS * 20])
        await log.aclose()
        sessions[which] = log.meta.id
    samples = Samples()
    for which in turns(list(sessions), 40):
        start = perf_counter()
        loaded = await store.load(sessions[which])
        samples.add(which, perf_counter() - start)
        assert len(loaded.steps) == 101
        await loaded.log.aclose()
    await store.aclose()

    ratio = samples.ratio(*sessions)
    report(
        f"load of 100 records behind a compaction\n  target ≤ {TARGET_TAIL} × one with few, got {ratio}",
        ("session", "ms"),
        [(which, f"{samples.median(which) * 1e3:.2f}") for which in sessions],
    )
    assert ratio.middle <= MOST_TAIL
