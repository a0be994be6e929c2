"""The interface of a tool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from msgspec import Struct


class ToolSpec(Struct, frozen=True):
    """What a model is told about a tool. ``parameters`` is a JSON Schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]


class ToolContext(Struct, frozen=True):
    """What a call may know of its surroundings: where it works and where its live output goes."""

    session: str
    cwd: str | None
    report: Callable[[str], None]


class ToolOutcome(Struct, frozen=True):
    """What the model reads. An error is an outcome too, so that the model can mend its call."""

    output: str
    is_error: bool = False


class Tool(Protocol):
    """Something a model may ask for."""

    @property
    def spec(self) -> ToolSpec: ...

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolOutcome:
        """Do it. Cancellation undoes nothing but leaves nothing running.

        An exception is a bug of the tool: it is logged, and the model reads that the tool failed.
        """
        ...
