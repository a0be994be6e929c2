"""A server's tool as one of ours. What the server says of its harmlessness is not believed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from crabd.mcp.base import Offer, Wanted
from crabd.mcp.naming import name_tool
from crabd.tools.base import Intent, PreparedCall, Tool, ToolContext, ToolOutcome, ToolSpec

# Calls a tool of a server by the server's own name for it.
CallRemote: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[ToolOutcome]]


class RemoteTool(Tool):
    """A tool of a server."""

    def __init__(self, wanted: Wanted, offer: Offer, call: CallRemote) -> None:
        self._name = offer.name
        self._server = wanted.name
        self._call = call
        self._spec = ToolSpec(
            name_tool(wanted.name, offer.name),
            offer.description or f"{offer.name} of the server {wanted.name}.",
            offer.schema,
            is_read_only=any(fnmatchcase(offer.name, each) for each in wanted.server.read_only),
        )

    def __repr__(self) -> str:
        return f"<RemoteTool {self._spec.name}>"

    @property
    def spec(self) -> ToolSpec:
        return self._spec

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        title = f"call {self._name} of the MCP server {self._server}"
        return _RemoteCall(Intent(title=title), self._name, arguments, self._call)


class _RemoteCall(PreparedCall):
    def __init__(self, intent: Intent, tool: str, arguments: dict[str, Any], call: CallRemote) -> None:
        self._intent = intent
        self._tool = tool
        self._arguments = arguments
        self._call = call

    @property
    def intent(self) -> Intent:
        return self._intent

    async def preview(self) -> str:
        # The arguments are shown in any case, and what the server does with them nobody knows.
        return ""

    async def run(self) -> ToolOutcome:
        return await self._call(self._tool, self._arguments)
