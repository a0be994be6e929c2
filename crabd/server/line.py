"""A line to stand in: what a client sends in one go keeps its order, also where it has to wait first."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio


class Line:
    """One line per name. A place is taken at once; whoever took it then waits for its turn."""

    def __init__(self) -> None:
        self._last: dict[str, trio.Event] = {}

    def is_empty(self, name: str) -> bool:
        """Tell whether nobody stands there."""
        return name not in self._last

    def take_place(self, name: str) -> Place:
        """Take the last place. It has to be entered, or those behind wait for ever."""
        before, done = self._last.get(name), trio.Event()
        self._last[name] = done
        return Place(self, name, before, done)

    def leave(self, name: str, done: trio.Event) -> None:
        """Let the next one go."""
        done.set()
        if self._last.get(name) is done:
            del self._last[name]


class Place:
    """A place in a line, from ``take_place`` to the end of its turn."""

    def __init__(self, line: Line, name: str, before: trio.Event | None, done: trio.Event) -> None:
        self._line = line
        self._name = name
        self._before = before
        self._done = done

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Wait for those in front; the turn ends with the block, or with a cancellation while waiting."""
        try:
            if self._before is not None:
                await self._before.wait()
            yield
        finally:
            self._line.leave(self._name, self._done)
