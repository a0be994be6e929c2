"""Has the replies that are coming in written down, so that a kill loses next to nothing.

All at the same time: one timer then does for all runs, and the store writes for many in one go. What is
written, and where, is known to the runs.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import trio

from crabd.runtime.loop import Driver

# Text that has come is written down at least every 250 ms; this leaves room for the writing.
PARTIAL_SECONDS = 0.2


class Partials:
    """The runs that are going. What they write is written in ``runs``, a nursery that outlasts them."""

    def __init__(self, runs: trio.Nursery) -> None:
        self._runs = runs
        self._drivers: set[Driver] = set()
        self._are_over = trio.Event()

    def __repr__(self) -> str:
        return f"<Partials of {len(self._drivers)} runs>"

    @contextmanager
    def kept(self, driver: Driver) -> Generator[None]:
        """Have the replies of a run written down as they come, as long as the block lasts."""
        if not self._drivers:
            self._are_over = trio.Event()
            self._runs.start_soon(self._keep, self._are_over)
        self._drivers.add(driver)
        try:
            yield
        finally:
            self._drivers.remove(driver)
            if not self._drivers:
                self._are_over.set()

    async def _keep(self, are_over: trio.Event) -> None:
        """Write again and again, until the last run is over."""
        async with trio.open_nursery() as writing:
            while True:
                with trio.move_on_after(PARTIAL_SECONDS):
                    await are_over.wait()
                    return
                for driver in self._drivers:
                    if driver.has_partial:
                        writing.start_soon(driver.keep_partial)
