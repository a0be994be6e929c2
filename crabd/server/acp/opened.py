"""A session that a client has open: what it was told of it, how it is set there, and whether it is behind."""

from __future__ import annotations

import trio

from crabd.events import RunEnded
from crabd.server.acp import schema as acp
from crabd.server.acp.editor import ClientEditor
from crabd.server.acp.options import Models, Settings, list_modes, list_options
from crabd.server.acp.updates import Teller


class Opened:
    """A session that a client has open, and what it was told of it."""

    def __init__(self, session: str, cwd: str | None, models: Models, settings: Settings) -> None:
        self.session = session
        self.teller = Teller(cwd)
        self.models = models
        self.settings = settings
        # Set while something of what came before is still to be told; what comes meanwhile is told with it.
        self.gap: trio.Event | None = None
        # Calls that went on when it was opened without a replay, so that what is told of them makes sense.
        self.untold: tuple[acp.ToolCall, ...] = ()
        # Shows the session's files, if the client can.
        self.editor: ClientEditor | None = None
        # Runs that have ended meanwhile, which no log tells in an editor's words.
        self.ends: list[tuple[RunEnded, str | None]] = []

    def __repr__(self) -> str:
        return f"<Opened {self.session}{', behind' if self.gap else ''}>"

    @property
    def modes(self) -> acp.SessionModes:
        return list_modes(self.settings)

    @property
    def options(self) -> tuple[acp.ConfigOption, ...]:
        return list_options(self.settings, self.models)

    async def wait_level(self) -> None:
        """Wait until all was told that has happened; the link's end cancels it."""
        while self.gap is not None:
            await self.gap.wait()

    def close_gap(self) -> None:
        """Have events told again as they come."""
        if self.gap is not None:
            self.gap.set()
            self.gap = None
