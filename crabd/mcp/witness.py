"""Who sees a server live and end: what it writes on stderr, and why it is gone."""

from __future__ import annotations

import structlog
import trio
from structlog.typing import FilteringBoundLogger

# Of what it writes on stderr, the end that is told when it fails; and so many lines of it go into the log.
TAIL_BYTES = 500
MAX_LOGGED = 50
MAX_LINE = 500

log: FilteringBoundLogger = structlog.get_logger()


class Witness:
    """Sees one life of a server of that name. ``ended`` is set when it talks no more."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.ended = trio.Event()
        # The exit code of its process, if it had one that has ended by itself.
        self.exit_code: int | None = None
        # What kept it from what, in a person's words, if something did.
        self.confinement: str | None = None
        self._problem: str | None = None
        self._tail = bytearray()
        self._logged = 0

    def __repr__(self) -> str:
        return f"<Witness of {self.server}, {'ended' if self.ended.is_set() else 'alive'}>"

    def end(self, problem: str | None = None) -> None:
        """Note that it talks no more, and why. The first word counts."""
        if not self.ended.is_set():
            self._problem = problem
            self.ended.set()

    def hear(self, data: bytes) -> None:
        """Take what it wrote on stderr."""
        self._tail += data
        del self._tail[:-TAIL_BYTES]
        for line in data.splitlines():
            self._logged += 1
            if self._logged <= MAX_LOGGED:
                text = line[:MAX_LINE].decode(errors="replace")
                log.info("tool_server_wrote", server=self.server, line=text)
            elif self._logged == MAX_LOGGED + 1:
                log.info("tool_server_wrote_more", server=self.server)

    def tell(self, problem: str | None, *, was_ready: bool) -> str:
        """Say why it is gone: what was seen here, or a problem that somebody met, and what it wrote last."""
        how = "it ended" if self.exit_code is None else f"it ended with exit code {self.exit_code}"
        told = self._problem or (problem if self.exit_code is None else how) or how
        words = self._tail.decode(errors="replace").split()
        # Where the beginning is cut off, the first word may be half a secret, which nobody would know as one.
        wrote = " ".join(words[len(self._tail) == TAIL_BYTES :])
        told += f"; it wrote: {wrote}" if wrote else ""
        if self.confinement is not None and not was_ready:
            told += f" (it ran confined: {self.confinement}; [mcp] unconfined in config.toml frees it)"
        return told
