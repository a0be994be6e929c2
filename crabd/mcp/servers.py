"""The servers of sessions: who has which, by the configuration, the project and the client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import trio

from crabd.mcp.base import Wanted
from crabd.mcp.connecting import Connector
from crabd.mcp.server import Server
from crabd.tools.base import Tool
from crabd.tools.servers import (
    ServerKeeper,
    Servers,
    ServerSettings,
    ServerState,
    Source,
    ToolServer,
)

# A little more than what keeps a process's end takes at its slowest.
END_SECONDS = 30.0


class ToolServers(ServerKeeper):
    """Has the servers of all sessions, which live in ``nursery``. ``settings`` may be replaced."""

    def __init__(self, nursery: trio.Nursery, connector: Connector, settings: ServerSettings) -> None:
        self.settings = settings
        self._nursery = nursery
        self._connector = connector
        self._given: dict[str, dict[str, ToolServer]] = {}

    def __repr__(self) -> str:
        return f"<ToolServers, {len(self.settings.servers)} of all, {len(self._given)} sessions with more>"

    def open(self, session: str) -> Servers:
        return SessionServers(session, self._nursery, self._connector, self)

    def look(self, session: str, project: Mapping[str, ToolServer]) -> tuple[ServerState, ...]:
        return tuple(
            ServerState(name=name, source=wanted.source, state="stopped", place=wanted.server.place)
            for name, wanted in self.choose(session, project, None).items()
        )

    def give(self, session: str, servers: Mapping[str, ToolServer]) -> None:
        self._given[session] = dict(servers)

    def forget(self, session: str) -> None:
        self._given.pop(session, None)

    def choose(self, session: str, project: Mapping[str, ToolServer], cwd: str | None) -> dict[str, Wanted]:
        """Choose which servers a session is to have: of one name the client's, or the project's."""
        chosen: dict[str, Wanted] = {}
        said: tuple[tuple[Source, Mapping[str, ToolServer]], ...] = (
            ("configuration", self.settings.servers),
            ("project", project),
            ("client", self._given.get(session, {})),
        )
        for source, servers in said:
            for name, server in servers.items():
                is_free = any(fnmatchcase(name, each) for each in self.settings.unconfined)
                chosen[name] = Wanted(
                    name=name,
                    source=source,
                    server=server,
                    cwd=cwd,
                    is_confined=source == "project" or not is_free,
                )
        return chosen


class SessionServers(Servers):
    """The servers of one session."""

    def __init__(
        self, session: str, nursery: trio.Nursery, connector: Connector, keeper: ToolServers
    ) -> None:
        self._session = session
        self._nursery = nursery
        self._connector = connector
        self._keeper = keeper
        self._servers: dict[str, Server] = {}
        # Those that are being stopped.
        self._leaving: set[Server] = set()
        self._is_stopped = False

    def __repr__(self) -> str:
        return f"<SessionServers of {self._session}: {', '.join(map(repr, self._servers.values()))}>"

    @property
    def tools(self) -> Sequence[Tool]:
        return tuple(tool for server in self._servers.values() for tool in server.tools)

    @property
    def states(self) -> tuple[ServerState, ...]:
        return tuple(_describe(server) for server in self._servers.values())

    def want(self, project: Mapping[str, ToolServer], cwd: str | None) -> None:
        if self._is_stopped:
            return
        chosen = self._keeper.choose(self._session, project, cwd)
        for name, server in list(self._servers.items()):
            if chosen.get(name) == server.wanted:
                server.need()
            else:
                self._let_go(name)
        # In the order in which they are named: where two tools clash, it is the first that is offered.
        self._servers = {
            name: self._servers.get(name) or self._start(wanted) for name, wanted in chosen.items()
        }

    def _start(self, wanted: Wanted) -> Server:
        server = Server(wanted, self._session, self._connector.connect, self._connector.mask)
        self._nursery.start_soon(server.run)
        return server

    async def settle(self) -> None:
        for server in list(self._servers.values()):
            await server.settle()

    def reconnect(self, name: str) -> bool:
        server = self._servers.get(name)
        if server is not None:
            server.reconnect()
        return server is not None

    def stop(self) -> None:
        self._is_stopped = True
        for name in list(self._servers):
            self._let_go(name)

    async def aclose(self) -> None:
        self.stop()
        with trio.move_on_after(END_SECONDS, shield=True):
            for server in self._leaving:
                await server.ended.wait()

    def _let_go(self, name: str) -> None:
        server = self._servers.pop(name)
        server.stop()
        self._leaving = {each for each in self._leaving if not each.ended.is_set()} | {server}


def _describe(server: Server) -> ServerState:
    wanted = server.wanted
    return ServerState(
        name=wanted.name,
        source=wanted.source,
        state=server.state,
        place=wanted.server.place,
        tools=tuple(tool.spec.name for tool in server.tools),
        problem=server.problem,
    )
