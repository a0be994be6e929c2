"""The tools for files of one session, to be called by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from crabd.tools.base import BadArguments, PreparedCall, ToolOutcome
from crabd.tools.files.box import file_tools
from crabd.tools.files.searching import Searcher
from crabd.tools.turns import Turns
from tests.tools.context import Surroundings

RIPGREP = shutil.which("rg")


class Desk:
    """A session in a directory, with its artifacts somewhere else."""

    def __init__(
        self, cwd: Path | None, *, searcher: Searcher | None = None, artifacts: Path | None = None
    ) -> None:
        self.around = Surroundings(None if cwd is None else str(cwd))
        self.turns = Turns()
        self.searcher = searcher or Searcher(RIPGREP)
        tools = file_tools(self.searcher, str(artifacts or "/nonexistent/artifacts"), self.turns)
        self._tools = {tool.spec.name: tool for tool in tools}

    async def prepare(self, tool: str, **arguments: Any) -> PreparedCall:
        return await self._tools[tool].prepare(arguments, self.around.context())

    async def call(self, tool: str, **arguments: Any) -> str:
        """Make a call that is fine; returns what the model reads."""
        outcome = await (await self.prepare(tool, **arguments)).run()
        assert not outcome.is_error, outcome.output
        return outcome.output

    async def refused(self, tool: str, **arguments: Any) -> str:
        """Make a call that is not, before or while it is run; returns what the model reads."""
        try:
            call = await self.prepare(tool, **arguments)
        except BadArguments as exc:
            return str(exc)
        return say_error(await call.run())


def say_error(outcome: ToolOutcome) -> str:
    assert outcome.is_error, outcome.output
    return outcome.output
