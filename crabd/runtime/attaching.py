"""Servers of tools: that a session has those that it is to have, and that it is told which are not there.

Who talks to servers is handed in. Whether their tools may be used is decided with every call, as of any tool.
"""

from __future__ import annotations

from collections.abc import Mapping

from crabd import events
from crabd.errors import NotFound
from crabd.runtime.session import Session
from crabd.tools.servers import ServerKeeper, Servers, ServerState, ToolServer

# Of whom it is asked what every session has. No session's id is like that.
NO_SESSION = "none"


class Attachments:
    """The servers of sessions, as the ``keeper`` has them; without one there are none."""

    def __init__(self, keeper: ServerKeeper | None = None) -> None:
        self._keeper = keeper
        self._is_stopping = False

    def give(self, session: Session, servers: Mapping[str, ToolServer]) -> None:
        """Give a session servers of tools, in place of those that clients gave it before.

        They are started at once, and a run that begins meanwhile waits for them. They are a client's word,
        which is not written down: they go when the session is closed, or the daemon stops. A client without
        any, which may only look on, takes none away.
        """
        if self._keeper is not None and servers:
            self._keeper.give(session.id, servers)
            self._start(session)

    async def settle(self, session: Session, run: str) -> None:
        """Have a session's servers ready for a run, or tell which are not. Bounded in time."""
        servers = self._start(session)
        if servers is not None:
            await servers.settle()
            _tell_failed(session, servers, run)

    async def reconnect(self, session: Session, name: str) -> None:
        """Start a server anew, whatever has become of it; returns when it is ready, or is not going to be.

        Raises:
          NotFound: the session has no such server.
        """
        servers = self._start(session)
        if servers is None or not servers.reconnect(name):
            raise NotFound("server", name, hint="mcp/list tells which there are")
        await servers.settle()

    def list(self, session: Session | None) -> tuple[ServerState, ...]:
        """Tell how a session's servers are: those that it has, or is to have with its next run.

        Without a session: those of the configuration, which every session is to have.
        """
        if self._keeper is None:
            return ()
        if session is None:
            return self._keeper.look(NO_SESSION, {})
        wanted = self._keeper.look(session.id, session.project.servers)
        known = {state.name: state for state in session.servers.states} if session.servers else {}
        return tuple(known.get(state.name, state) for state in wanted)

    def forget(self, session: Session, reason: str) -> None:
        """Forget what clients gave to a session that has ended, unless it is to come back unnoticed."""
        if self._keeper is not None and reason != "unloaded":
            self._keeper.forget(session.id)

    def stop(self, sessions: tuple[Session, ...]) -> None:
        """Begin to stop all servers at once, for they take their time; no other is started from now on."""
        self._is_stopping = True
        for session in sessions:
            if session.servers is not None:
                session.servers.stop()

    def _start(self, session: Session) -> Servers | None:
        """Begin to start the servers that a session is to have; null for one that is to have no more."""
        if self._keeper is None or session.end is not None or self._is_stopping:
            return None
        if session.servers is None:
            session.servers = self._keeper.open(session.id)
        session.servers.want(session.project.servers, session.meta.cwd)
        return session.servers


def _tell_failed(session: Session, servers: Servers, run: str) -> None:
    """Tell which servers are not there, each time that these are others."""
    failed = tuple(
        events.FailedServer(state.name, state.problem or state.state)
        for state in servers.states
        if state.state != "ready"
    )
    if failed and failed != session.failed_servers:
        session.publish([events.ServersFailed(failed)], run)
    session.failed_servers = failed
