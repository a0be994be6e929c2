"""Servers of tools as a client names them for a session. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from crabd.errors import BadRequest
from crabd.server.acp import schema as acp
from crabd.tools.servers import MAX_SERVERS, ToolServer

NO_SSE = "servers are not spoken to by sse: give its url as http, or its command as stdio"


class Pair(acp.Wire, frozen=True):
    name: str
    value: str


class Server(acp.Wire, frozen=True):
    """One with a command says no type."""

    name: str
    type: Literal["stdio", "http", "sse"] = "stdio"
    command: str | None = None
    args: tuple[str, ...] = ()
    env: tuple[Pair, ...] = ()
    url: str | None = None
    headers: tuple[Pair, ...] = ()


def read_servers(servers: Sequence[object]) -> dict[str, ToolServer]:
    """Read the servers that a session is to have, by their names.

    Raises:
      BadRequest: one of them means nothing here.
    """
    if len(servers) > MAX_SERVERS:
        raise BadRequest("$.mcpServers", f"a session has at most {MAX_SERVERS} servers")
    return dict(_read(server, f"$.mcpServers[{place}]") for place, server in enumerate(servers))


def _read(given: object, path: str) -> tuple[str, ToolServer]:
    try:
        server = msgspec.convert(given, Server)
        if server.type == "sse":
            raise BadRequest(path, NO_SSE)
        plain = {
            "command": server.command,
            "args": server.args,
            "env": {pair.name: pair.value for pair in server.env},
            "url": server.url,
            "headers": {pair.name: pair.value for pair in server.headers},
        }
        return server.name, msgspec.convert(plain, ToolServer)
    except msgspec.ValidationError as exc:
        raise BadRequest(path, str(exc)) from exc
