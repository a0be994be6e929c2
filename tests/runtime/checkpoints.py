"""Checkpoints in a directory, as simple as they can be: a file for each content."""

from __future__ import annotations

import shutil
from difflib import unified_diff
from hashlib import sha256
from pathlib import Path

from crabd.runtime.files import Checkpoints
from crabd.tools.base import FileState


class FolderCheckpoints(Checkpoints):
    def __init__(self, root: Path) -> None:
        self.root = root

    async def keep(self, session: str, path: str, content: bytes | None = None) -> FileState:
        place = Path(path)
        if content is None and not place.exists():
            return FileState(None)
        content = place.read_bytes() if content is None else content
        digest = sha256(content).hexdigest()
        kept = self.root / session / digest
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(content)
        return FileState(digest, place.stat().st_mode & 0o777 if place.exists() else None)

    async def look(self, path: str) -> str | None:
        try:
            return sha256(Path(path).read_bytes()).hexdigest()
        except FileNotFoundError:
            return None

    async def restore(self, session: str, path: str, state: FileState) -> None:
        if state.digest is None:
            Path(path).unlink()
            return
        data = (self.root / session / state.digest).read_bytes()
        Path(path).write_bytes(data)
        Path(path).chmod(state.mode or 0o600)

    async def compare(self, session: str, path: str, state: FileState) -> str:
        old = (self.root / session / state.digest).read_text() if state.digest else ""
        new = Path(path).read_text() if Path(path).exists() else ""
        return "".join(unified_diff(old.splitlines(True), new.splitlines(True), path, path))

    async def drop(self, session: str) -> None:
        shutil.rmtree(self.root / session, ignore_errors=True)
