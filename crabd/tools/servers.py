"""Servers of tools: what a person, a project or a client says of one, and what a session has of them. Pure.

It knows no protocol: whoever talks to servers is handed to the runtime behind the two protocols at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Protocol, TypeAlias

from msgspec import Meta, Struct

from crabd.tools.base import Tool

# A search over a network takes seconds, and what takes minutes should tell that in its server's settings.
CALL_SECONDS = 60.0
MAX_CALL_SECONDS = 3600.0
# More than anybody needs in one session; each is a process of some 70 MB.
MAX_SERVERS = 32

# Who says that a session has the server; the later of these come before the earlier.
Source: TypeAlias = Literal["configuration", "project", "client"]
State: TypeAlias = Literal["stopped", "starting", "ready", "failed"]


class ToolServer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A server: a ``command`` to run, or the ``url`` of one that runs. ``timeout`` is for a call, in seconds.

    ``env`` comes on top of what commands of tools get, ``headers`` go with every request. ``read_only`` names
    its tools, with ``*`` if need be, that change nothing; what the server says of that is not believed.

    Raises:
      ValueError: it has both a command and a URL, or neither.
    """

    command: Annotated[str, Meta(min_length=1)] | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    url: Annotated[str, Meta(pattern="^https?://")] | None = None
    headers: dict[str, str] = {}
    timeout: Annotated[float, Meta(gt=0, le=MAX_CALL_SECONDS)] = CALL_SECONDS
    read_only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.command is None) == (self.url is None):
            raise ValueError("a server has either a command, with args and env, or a url, with headers")

    @property
    def place(self) -> str:
        """Its command line, or its URL, for a person."""
        return self.url or " ".join((self.command or "", *self.args))


ServerName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
ServerMap: TypeAlias = Annotated[dict[ServerName, ToolServer], Meta(max_length=MAX_SERVERS)]


class ServerFile(Struct, frozen=True, forbid_unknown_fields=True):
    """What ``.crab/mcp.toml`` may say."""

    servers: ServerMap = {}


class ServerSettings(ServerFile, frozen=True, forbid_unknown_fields=True):
    """What ``config.toml`` may say of servers, which are then those of every session.

    Servers whose names are among ``unconfined``, with ``*`` if need be, run outside of the sandbox: the
    person's own, and those that clients give; never a project's.
    """

    unconfined: tuple[str, ...] = ()


class ServerState(Struct, frozen=True, kw_only=True):
    """How a session's server is. ``tools`` are their names for the model; ``problem`` is what to mend."""

    name: str
    source: Source
    state: State
    place: str
    tools: tuple[str, ...] = ()
    problem: str | None = None


class Servers(Protocol):
    """The servers of one live session. They are started when the session has its first run, or at once when
    a client gives them.
    """

    @property
    def tools(self) -> Sequence[Tool]:
        """The tools of those that are ready."""
        ...

    @property
    def states(self) -> tuple[ServerState, ...]: ...

    def want(self, project: Mapping[str, ToolServer], cwd: str | None) -> None:
        """Begin to start what the session is to have, and to stop what it is not. Returns at once."""
        ...

    async def settle(self) -> None:
        """Wait until none is being started. Bounded in time."""
        ...

    def reconnect(self, name: str) -> bool:
        """Begin to start a server anew, whatever has become of it; false if there is none of that name."""
        ...

    def stop(self) -> None:
        """Begin to stop all of them, for good. Returns at once."""
        ...

    async def aclose(self) -> None:
        """Stop all of them; nothing of them is left. Bounded in time."""
        ...


class ServerKeeper(Protocol):
    """Has the servers of all sessions."""

    def open(self, session: str) -> Servers:
        """Make those of a session that comes to life; whoever opens closes."""
        ...

    def look(self, session: str, project: Mapping[str, ToolServer]) -> tuple[ServerState, ...]:
        """Tell which servers a session is to have, as if none were started."""
        ...

    def give(self, session: str, servers: Mapping[str, ToolServer]) -> None:
        """Note what a client gives to a session, in place of what clients gave before.

        It is nowhere written down, but lasts when the session is unloaded meanwhile.
        """
        ...

    def forget(self, session: str) -> None:
        """Forget what clients gave to a session."""
        ...
