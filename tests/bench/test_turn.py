"""What the daemon adds to a model's answer, against asking the same server directly with the same bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import msgspec
import pytest
import trio

from tests.bench.links import (
    DIRECT,
    MAX_CONNECTIONS,
    THROUGH,
    bench_at,
    count_missed,
    results,
    seconds,
    sends,
    tell,
)
from tests.bench.measure import Report, Samples, Spread, cpu_seconds, turns, waiting_seconds
from tests.e2e.daemon import Home
from tests.model_server import At, Raw, says

BURST = 2000
SESSIONS = MAX_CONNECTIONS
CHUNKS = 50
# Seconds from one chunk to the next: fifty tokens a second, as a good model speaks.
PACE = 0.02
# What is aimed at, and what is held on a machine that does other things too.
TARGET_MORE_MS, MOST_MORE_MS = 4, 30
TARGET_CHUNKS, LEAST_CHUNKS = 30_000, 10_000
TARGET_PACED, MOST_PACED = 1.1, 3.0
TARGET_IDEAL = 1.15
# Of the processor, where others hardly matter: measured 1.9, and 3 when httpx had all connections to look at.
MOST_PACED_CPU = 4.0


@pytest.mark.bench
async def test_a_warm_turn(tmp_path: Path, report: Report) -> None:
    words = "one two three four five six seven eight"
    async with bench_at(Home(tmp_path)) as bench:
        [session] = bench.open_sessions(1)
        bench.link.exchange(sends([session], words))
        body = await bench.last_body()
        samples = Samples()
        for name in turns([DIRECT, THROUGH], 40):
            if name == DIRECT:
                samples.add(name, await seconds(lambda: bench.ask_directly(body)))
                continue
            # The history goes, so that the daemon always asks with the same bytes.
            bench.link.call("session/clear", session=session)
            start = perf_counter()
            lines = bench.link.exchange(sends([session], words))
            samples.add(name, perf_counter() - start)
            [result] = results(lines)
            assert (result["text"], result["persisted"]) == (words, True)

    more = samples.difference(THROUGH, DIRECT).times(1e3)
    tell(
        report, "a warm, durable turn of 8 chunks", samples, f"target ≤ {TARGET_MORE_MS} ms more, got {more}"
    )
    assert more.middle <= MOST_MORE_MS


@pytest.mark.bench
async def test_many_sessions_at_once(tmp_path: Path, report: Report) -> None:
    words = [f"word{n} " for n in range(CHUNKS)]
    paced = says(*(part for n, word in enumerate(words, 1) for part in (At(n * PACE), word)))
    rounds = 5
    async with bench_at(Home(tmp_path)) as bench:
        sessions = bench.open_sessions(SESSIONS)
        bench.link.exchange(sends(sessions, "go"))
        body = await bench.last_body()

        async def ask_all() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(SESSIONS):
                    nursery.start_soon(bench.ask_directly, body)

        samples, cpu = Samples(), Samples()
        waits: list[float] = []
        lateness: list[float] = []
        for name in turns([DIRECT, THROUGH], rounds):
            await bench.models.script(*[paced] * SESSIONS)
            if name == DIRECT:
                await bench.hang_up()
                busy = process_time()
                samples.add(name, await seconds(ask_all))
                cpu.add(name, process_time() - busy)
                continue
            for session in sessions:
                bench.link.call("session/clear", session=session)
            busy, waited, start = cpu_seconds(bench.pid), waiting_seconds(bench.pid), perf_counter()
            lines = bench.link.exchange(sends(sessions, "go", events=True))
            samples.add(name, perf_counter() - start)
            cpu.add(name, cpu_seconds(bench.pid) - busy)
            waits.append(waiting_seconds(bench.pid) - waited)
            answers = [(one["text"], one["persisted"]) for one in results(lines)]
            assert answers == [("".join(words), True)] * SESSIONS
            heard = deltas(lines)
            told = ["".join(delta["text"] for delta in heard[session]) for session in sessions]
            assert told == ["".join(words)] * SESSIONS
            lateness += [lag(heard[session]) for session in sessions]

    ratio, share = samples.ratio(THROUGH, DIRECT), cpu.ratio(THROUGH, DIRECT)
    computed, late = samples.median(THROUGH) / (CHUNKS * PACE), Spread.of(lateness).times(1e3)
    title = (
        f"{SESSIONS} sessions at once, {CHUNKS} chunks each, one every {PACE * 1e3:.0f} ms, read by one link"
    )
    goals = (
        f"target ≤ {TARGET_PACED} × direct, got {ratio}",
        f"it has to take {CHUNKS * PACE:.0f} s, and took {computed:.3g} of that, target ≤ {TARGET_IDEAL}",
        f"of the processor: {cpu.median(THROUGH):.2f} s, {share} × direct; waited for: {median(waits):.2f} s",
        f"from a session's first chunk to its last it takes {late} ms more than the server does",
    )
    tell(report, title, samples, *goals)
    assert ratio.middle <= MOST_PACED
    assert share.middle <= MOST_PACED_CPU


def deltas(lines: Sequence[bytes]) -> dict[str, list[dict[str, Any]]]:
    """List the pieces of text among the lines, by session."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        if b'"type":"text_delta"' in line:
            event = msgspec.json.decode(line)["params"]
            found[event["session"]].append(event)
    return found


def lag(pieces: Sequence[dict[str, Any]]) -> float:
    """Tell by how many seconds the last chunk came later after the first than it was sent."""
    first, last = (datetime.fromisoformat(piece["at"]) for piece in (pieces[0], pieces[-1]))
    return (last - first).total_seconds() - (CHUNKS - 1) * PACE


@pytest.mark.bench
async def test_a_burst_of_chunks(tmp_path: Path, report: Report) -> None:
    chunk = msgspec.json.encode({"choices": [{"index": 0, "delta": {"content": "word "}}]})
    # In one piece, so that the server's own pace is no limit.
    answer = says(Raw(b"data: %b\n\n" % chunk * BURST))
    rounds = 9
    async with bench_at(Home(tmp_path)) as bench:
        await bench.models.script(*[answer] * (2 * rounds + 1))
        [session] = bench.open_sessions(1)
        bench.link.call("session/subscribe", session=session)
        bench.link.exchange(sends([session], "go"))
        body = await bench.last_body()
        samples = Samples()
        missed: list[int] = []
        for name in turns([DIRECT, THROUGH], rounds):
            if name == DIRECT:
                samples.add(name, await seconds(lambda: bench.ask_directly(body)))
                continue
            bench.link.call("session/clear", session=session)
            start = perf_counter()
            lines = bench.link.exchange(sends([session], "go"))
            samples.add(name, perf_counter() - start)
            [result] = results(lines)
            assert result["text"] == "word " * BURST
            missed.append(count_missed(lines))

    rate = BURST / samples.median(THROUGH)
    title = f"a burst of {BURST} chunks, of which a subscriber is told that it missed {median(missed):.0f}"
    tell(report, title, samples, f"target ≥ {TARGET_CHUNKS:,} chunks/s, got {rate:,.0f}")
    assert rate >= LEAST_CHUNKS
