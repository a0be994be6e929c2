"""Commands and a person's editor take turns in a directory.

An editor opens a file by its name and follows links. A command that runs there could put a link in its way
after we have looked, and have what was allowed for one file done to another. So no editor is asked while a
command runs, and a command waits for as long as an editor is asked, which has its bound.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from crabd.tools.files.paths import is_within


class Turns:
    """Who is at work in which directory, over all sessions."""

    def __init__(self) -> None:
        self._commands: list[str] = []
        self._visits: dict[trio.Event, str] = {}

    def __repr__(self) -> str:
        return f"<Turns, {len(self._commands)} commands, {len(self._visits)} visits>"

    @asynccontextmanager
    async def command(self, cwd: str) -> AsyncGenerator[None]:
        """Have a command run in a directory, once no editor is asked about it."""
        real = await trio.to_thread.run_sync(os.path.realpath, cwd)
        await self._until_unvisited(real)
        self._commands.append(real)
        try:
            yield
        finally:
            self._commands.remove(real)

    @asynccontextmanager
    async def visit(self, directory: str) -> AsyncGenerator[bool]:
        """Have an editor asked about files below a real path, one visit at a time; false if it may not be."""
        await self._until_unvisited(directory)
        if any(_overlap(directory, each) for each in self._commands):
            yield False
            return
        over = trio.Event()
        self._visits[over] = directory
        try:
            yield True
        finally:
            del self._visits[over]
            over.set()

    async def _until_unvisited(self, directory: str) -> None:
        while found := [over for over, place in self._visits.items() if _overlap(directory, place)]:
            await found[0].wait()


def _overlap(one: str, other: str) -> bool:
    return is_within(one, other) or is_within(other, one)
