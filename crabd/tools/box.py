"""The toolboxes: which tools a session has, and what ends with it."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from crabd.tools.artifacts import Artifacts
from crabd.tools.ask import AskUser
from crabd.tools.base import Tool, Toolbox, Toolmaker
from crabd.tools.files.box import file_tools
from crabd.tools.files.searching import Searcher
from crabd.tools.shell.bash import Bash
from crabd.tools.shell.jobs import JobList, JobOutput, Jobs, JobStop
from crabd.tools.todo import Todo
from crabd.tools.turns import Turns
from crabd.tools.web.web_fetch import WebFetch


class Toolboxes(Toolmaker):
    """Makes the toolbox of each session that comes to life; what they leave running lives in ``nursery``.

    They fetch from this machine and its networks only if ``allow_private``.
    """

    def __init__(
        self, nursery: trio.Nursery, searcher: Searcher, artifacts: Artifacts, *, allow_private: bool
    ) -> None:
        self._nursery = nursery
        self._searcher = searcher
        self._artifacts = artifacts
        self._allow_private = allow_private
        self._turns = Turns()

    def open(self, session: str) -> Toolbox:
        jobs = Jobs(self._nursery, self._turns)
        shell = (Bash(jobs, self._artifacts.open), JobList(jobs), JobOutput(jobs), JobStop(jobs))
        files = file_tools(self._searcher, self._artifacts.directory(session), self._turns)
        web = WebFetch(allow_private=self._allow_private)
        return Box((*files, *shell, web, AskUser(), Todo()), jobs)


class Box(Toolbox):
    """The tools of one session."""

    def __init__(self, tools: Sequence[Tool], jobs: Jobs) -> None:
        self._tools = tuple(tools)
        self._jobs = jobs

    def __repr__(self) -> str:
        return f"<Box {len(self._tools)} tools, {self._jobs!r}>"

    @property
    def tools(self) -> Sequence[Tool]:
        return self._tools

    @property
    def is_busy(self) -> bool:
        return self._jobs.is_busy

    async def aclose(self) -> None:
        await self._jobs.aclose()
