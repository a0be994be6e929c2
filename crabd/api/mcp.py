"""Parameters and results of ``mcp/*``: the servers of tools of sessions."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from crabd.api.sessions import OfSession


class McpServer(Struct, frozen=True):
    """A server as it is for a session; without a session, as it is configured for every one.

    It is ``stopped`` until the session has a run. ``place`` is its command line or its URL, ``tools`` are
    the names that the model calls them by, and ``problem`` says why it failed.
    """

    session: str | None
    name: str
    source: Literal["configuration", "project", "client"]
    state: Literal["stopped", "starting", "ready", "failed"]
    place: str
    tools: tuple[str, ...] = ()
    problem: str | None = None


class McpServers(Struct, frozen=True):
    """The servers of one session, or those of the configuration and then those of all live sessions."""

    servers: tuple[McpServer, ...]


class McpReconnect(OfSession, frozen=True):
    """Start the session's ``server`` anew, however often it has failed; the result tells how it is then."""

    server: Annotated[str, Meta(min_length=1)]
