"""An editor as a session's tools meet it: buffers of its own, and a disk that it saves to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from crabd.tools.base import Editor, EditorFailed


class OpenEditor(Editor):
    """Shows what is typed into its ``buffers``, else the disk; saves what it is told to write.

    A path in ``refused`` it says no to; ``on_save`` is what it does to a text first, such as formatting.
    """

    def __init__(self, on_save: Callable[[str], str] = str) -> None:
        self.buffers: dict[str, str] = {}
        self.refused: set[str] = set()
        self.on_save = on_save
        self.is_saving = True
        self.was_read: list[str] = []
        self.was_written: list[str] = []

    async def read(self, path: str) -> str | None:
        await trio.lowlevel.checkpoint()
        self.was_read.append(path)
        if path in self.refused:
            return None
        place = Path(path)
        return self.buffers.get(path, place.read_bytes().decode() if place.exists() else None)

    async def write(self, path: str, text: str) -> None:
        await trio.lowlevel.checkpoint()
        if path in self.refused:
            raise EditorFailed("it is locked")
        self.was_written.append(path)
        self.buffers[path] = self.on_save(text)
        if self.is_saving:
            Path(path).write_bytes(self.buffers[path].encode())
