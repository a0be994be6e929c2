"""What the rest of the room knows of a connection to a server, without the SDK."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias

import trio
from msgspec import Struct

from crabd.mcp.witness import Witness
from crabd.tools.base import ToolOutcome
from crabd.tools.servers import Source, ToolServer


class Offer(Struct, frozen=True):
    """A tool as its server tells of it; ``schema`` is that of the arguments."""

    name: str
    description: str
    schema: dict[str, Any]


class Wanted(Struct, frozen=True, kw_only=True):
    """A server that a session is to have, where its process runs, and whether it is confined."""

    name: str
    source: Source
    server: ToolServer
    cwd: str | None
    is_confined: bool = True


class ServerLost(Exception):
    """The server is gone; its witness knows why."""


class Connection(Protocol):
    """A server that is there. ``changed`` is set when it has other tools."""

    changed: trio.Event

    async def list_tools(self) -> tuple[Offer, ...]:
        """Ask which tools it has; the caller has a deadline."""
        ...

    async def call(self, tool: str, arguments: dict[str, Any], seconds: float) -> ToolOutcome:
        """Call a tool; cancelled, the server is told.

        Raises:
          ServerLost.
        """
        ...


# Starts a server, or connects to it; with the block it ends. What goes wrong is any exception.
Connect: TypeAlias = Callable[[Wanted, Witness], AbstractAsyncContextManager[Connection]]
