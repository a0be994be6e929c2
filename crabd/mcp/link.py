"""A server as the SDK sees it: which tools it has, and calls of them. The one module that speaks MCP.

The SDK wants a link to be opened and closed by one and the same task; calls may come from any.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
import trio
from mcp.client.client import Client
from mcp.client.session import ClientRequestContext, IncomingMessage
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    Implementation,
    ListRootsResult,
    Root,
    Tool,
    ToolListChangedNotification,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from crabd import __version__
from crabd.mcp.base import Offer, ServerLost
from crabd.mcp.pipe import MAX_MESSAGE, open_pipe
from crabd.mcp.telling import tell_result
from crabd.mcp.witness import Witness
from crabd.messages import clean_text
from crabd.tools.base import ToolOutcome

# More than a model can be offered; a list that goes on for ever ends here.
MAX_PAGES = 20
# A server that is slow to answer may still keep its connection open for long.
HTTP_SECONDS = 30.0
HTTP_READ_SECONDS = 300.0
# In the SDK's own words, for servers may have their own reasons for the same codes.
LOST = ((CONNECTION_CLOSED, "Connection closed"), (INVALID_REQUEST, "Session terminated"))
# What the SDK would log is told elsewhere, or is what a server says, with which it could fill the log.
for _name in ("mcp", "client"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class Link:
    """One connection to a server. ``changed`` is set when it has said that it has other tools now."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness
        self.changed = trio.Event()
        self._client: Client | None = None

    def __repr__(self) -> str:
        return f"<Link to {self.witness.server}>"

    async def list_tools(self) -> tuple[Offer, ...]:
        """Ask which tools it has. The caller has a deadline.

        Raises:
          ServerLost, MCPError.
        """
        assert self._client is not None, "a link is used after it was opened"
        self.changed = trio.Event()
        if self._client.server_capabilities.tools is None:
            return ()
        found: list[Offer] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            found += map(_offer, page.tools)
            cursor = page.next_cursor
            if cursor is None:
                break
        return tuple(found)

    async def call(self, tool: str, arguments: dict[str, Any], seconds: float) -> ToolOutcome:
        """Call a tool. When time is over, or the caller is cancelled, the server is told that.

        Raises:
          ServerLost: it is gone, perhaps with the work half done.
        """
        assert self._client is not None, "a link is used after it was opened"
        try:
            with trio.move_on_after(seconds):
                return tell_result(await self._client.call_tool(tool, arguments))
        except MCPError as exc:
            if self.witness.ended.is_set() or (exc.code, exc.message) in LOST:
                self.witness.end(None if exc.code == CONNECTION_CLOSED else exc.message)
                raise ServerLost from exc
            return ToolOutcome(f"the server refused it: {exc.message}", is_error=True)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as exc:
            self.witness.end()
            raise ServerLost from exc
        except (ValueError, RuntimeError) as exc:
            # So the SDK tells an answer that is none, does not fit the tool's own schema, or asks for more.
            return ToolOutcome(f"the server's answer cannot be taken: {exc}", is_error=True)
        return ToolOutcome(
            f"no answer within {seconds:g} s, so the server was told to stop: do less in one call, or have "
            "the person set a longer timeout for this server",
            is_error=True,
        )

    @asynccontextmanager
    async def open(self, transport: Any, cwd: str) -> AsyncGenerator[None]:
        """Begin to speak over a transport of the SDK, and be of use within the block.

        Raises:
          MCPError, OSError, ExceptionGroup: it is no server, or none that we can talk with.
        """

        async def tell_roots(context: ClientRequestContext) -> ListRootsResult:
            return ListRootsResult(roots=[Root.model_validate({"uri": Path(cwd).as_uri()})])

        client = Client(
            transport,
            client_info=Implementation(name="crabd", version=__version__),
            list_roots_callback=tell_roots,
            message_handler=self._hear,
            cache=None,
        )
        async with client, trio.open_nursery() as nursery:
            self._client = client
            nursery.start_soon(self._listen, client)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()

    async def _hear(self, message: IncomingMessage) -> None:
        if isinstance(message, ToolListChangedNotification):
            self.changed.set()

    async def _listen(self, client: Client) -> None:
        """Ask to be told of other tools, as newer servers want to be asked; older ones tell anyhow."""
        tools = client.server_capabilities.tools
        if client.protocol_version not in MODERN_PROTOCOL_VERSIONS or tools is None or not tools.list_changed:
            return
        with suppress(MCPError, SubscriptionLost):
            async with client.listen(tools_list_changed=True) as news:
                async for _ in news:
                    self.changed.set()


@asynccontextmanager
async def open_process_link(process: trio.Process, witness: Witness, cwd: str) -> AsyncGenerator[Link]:
    """Talk with a server that runs as a process, which has the block to end in."""
    link = Link(witness)
    async with link.open(open_pipe(process, witness), cwd):
        yield link


@asynccontextmanager
async def open_http_link(
    url: str, headers: Mapping[str, str], witness: Witness, cwd: str
) -> AsyncGenerator[Link]:
    """Talk with a server at a URL, over what the protocol calls streamable HTTP."""
    link = Link(witness)
    timeout = httpx2.Timeout(HTTP_SECONDS, read=HTTP_READ_SECONDS)
    async with httpx2.AsyncClient(headers=dict(headers), timeout=timeout) as http:
        transport = streamable_http_client(url, http_client=http, max_sse_event_size=MAX_MESSAGE)
        async with link.open(transport, cwd):
            yield link


def _offer(tool: Tool) -> Offer:
    title = tool.title or (tool.annotations.title if tool.annotations else None) or ""
    # Some servers leave out what every provider wants to see.
    needed: dict[str, Any] = {"type": "object", "properties": {}}
    return Offer(tool.name, clean_text(tool.description or title), needed | tool.input_schema)
