"""Handlers of the servers of tools."""

from __future__ import annotations

from collections.abc import Iterator

from crabd.api import mcp as api
from crabd.api.deciding import OfOneOrAll
from crabd.runtime.session import Session
from crabd.server.caller import Caller


async def list_servers(caller: Caller, params: OfOneOrAll) -> api.McpServers:
    sessions = caller.runtime.sessions
    if params.session is not None:
        return _tell(caller, await sessions.load(params.session))
    return _tell(caller, None, *sessions.live())


async def reconnect(caller: Caller, params: api.McpReconnect) -> api.McpServers:
    session = await caller.runtime.sessions.load(params.session)
    await caller.runtime.attachments.reconnect(session, params.server)
    return _tell(caller, session)


def _tell(caller: Caller, *sessions: Session | None) -> api.McpServers:
    return api.McpServers(tuple(each for session in sessions for each in _servers_of(caller, session)))


def _servers_of(caller: Caller, session: Session | None) -> Iterator[api.McpServer]:
    for state in caller.runtime.attachments.list(session):
        yield api.McpServer(
            session=session.id if session is not None else None,
            name=state.name,
            source=state.source,
            state=state.state,
            place=state.place,
            tools=state.tools,
            problem=state.problem,
        )
