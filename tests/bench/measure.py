"""Taking turns, and what comes of it: medians of ratios that were taken inside one round.

An absolute figure says more about the machine than about us. Where one is promised it is printed as a target
beside what came of it, and the bound that a test holds leaves room for a machine that does other things too.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TypeAlias

from msgspec import Struct

Report: TypeAlias = Callable[[str, Sequence[str], Sequence[Sequence[object]]], None]


class Spread(Struct, frozen=True):
    """What a ratio, or a difference, was over all rounds."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(min(values), median(values), max(values))

    def times(self, factor: float) -> Spread:
        """Tell the same in another unit."""
        return Spread(self.low * factor, self.middle * factor, self.high * factor)

    def __str__(self) -> str:
        return f"{self.middle:.3g} ({self.low:.3g}–{self.high:.3g})"


class Samples:
    """One value of each variant in every round."""

    def __init__(self) -> None:
        self._values: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, variant: str, value: float) -> None:
        self._values[variant].append(value)

    def median(self, variant: str) -> float:
        return median(self._values[variant])

    def ratio(self, variant: str, base: str) -> Spread:
        """Divide round by round."""
        return Spread.of([ours / theirs for ours, theirs in self._pairs(variant, base)])

    def difference(self, variant: str, base: str) -> Spread:
        """Subtract round by round."""
        return Spread.of([ours - theirs for ours, theirs in self._pairs(variant, base)])

    def _pairs(self, variant: str, base: str) -> Iterator[tuple[float, float]]:
        return zip(self._values[variant], self._values[base], strict=True)


def turns(variants: Sequence[str], rounds: int) -> Iterator[str]:
    """Name the variants as they come on: each once in every round, in a shuffled order."""
    # The same order in every run; what the machine does meanwhile is chance enough.
    chance = random.Random(0)
    for _ in range(rounds):
        yield from chance.sample(variants, len(variants))


@contextmanager
def on_one_core() -> Generator[None]:
    """Keep this process, and those it starts meanwhile, on one core.

    Waking the other core's idle processor takes longer than the work that is measured, and varies more.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int) -> float:
    """Read how long the main thread of a process has been running."""
    return int(Path(f"/proc/{pid}/schedstat").read_bytes().split()[0]) / 1e9


def waiting_seconds(pid: int) -> float:
    """Read how long the main thread of a process could have run, had others not."""
    return int(Path(f"/proc/{pid}/schedstat").read_bytes().split()[1]) / 1e9
