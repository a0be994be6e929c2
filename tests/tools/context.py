"""Surroundings for calls of tools that are tried by themselves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from crabd.events import PlanItem, Question
from crabd.tools.base import Confinement, Editor, Planner, Tool, ToolContext, ToolOutcome


class Bare:
    """No confinement at all."""

    def wrap(self, command: Sequence[str], cwd: str) -> tuple[str, ...]:
        return tuple(command)

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8"}

    def describe(self) -> str:
        return "nothing is confined"


class Kept:
    """Notes what should be kept."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.contents: list[bytes | None] = []

    async def keep(self, path: str, content: bytes | None = None) -> None:
        self.paths.append(path)
        self.contents.append(content)


class Plan(Planner):
    """A plan that nobody keeps."""

    def __init__(self) -> None:
        self._items: tuple[PlanItem, ...] = ()

    @property
    def items(self) -> tuple[PlanItem, ...]:
        return self._items

    async def change(self, items: tuple[PlanItem, ...]) -> None:
        self._items = items


class Surroundings:
    """One session's surroundings: what tools said, asked and had kept is here to be looked at.

    Without ``answers`` there is nobody to give any.
    """

    def __init__(
        self, cwd: str | None, answers: Sequence[str] = (), confinement: Confinement | None = None
    ) -> None:
        self.cwd = cwd
        self.confinement = confinement or Bare()
        self.said: list[str] = []
        self.asked: list[Question] = []
        self.kept = Kept()
        self.plan = Plan()
        self.editor: Editor | None = None
        self._answers = list(answers)
        self._calls = 0

    async def call(self, tool: Tool, **arguments: Any) -> ToolOutcome:
        """Prepare a call and run it."""
        return await (await tool.prepare(arguments, self.context())).run()

    def context(self) -> ToolContext:
        self._calls += 1
        return ToolContext(
            session="crab_user_1",
            run="r1",
            call=f"call_{self._calls}",
            cwd=self.cwd,
            report=self.said.append,
            ask=self._ask,
            preserver=self.kept,
            planner=self.plan,
            confinement=self.confinement,
            editor=lambda: self.editor,
        )

    async def _ask(self, questions: Sequence[Question]) -> tuple[str, ...] | None:
        self.asked += questions
        return tuple(self._answers.pop(0) for _ in questions) if self._answers else None
