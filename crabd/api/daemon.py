"""Parameters and results of ``initialize``, ``daemon/*``, ``agent/*`` and ``model/*``."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from crabd.api.sessions import Params

PROTOCOL = 1


class NoParams(Params, frozen=True):
    pass


class ClientInfo(Params, frozen=True):
    name: str
    version: str = ""


class Initialize(Params, frozen=True):
    """A protocol number newer than ours is answered with ours."""

    client: ClientInfo
    protocol: Annotated[int, Meta(ge=1)] = PROTOCOL


class Capabilities(Struct, frozen=True):
    methods: tuple[str, ...]
    max_message_bytes: int


class ServerInfo(Struct, frozen=True):
    name: str
    version: str
    protocol: int
    capabilities: Capabilities


class Pong(Struct, frozen=True):
    pong: bool


class StoreHealth(Struct, frozen=True):
    """``problems`` are sentences: sessions that cannot be loaded, tails that were cut."""

    path: str
    problems: tuple[str, ...]


class DefaultModel(Struct, frozen=True):
    """``why`` tells who chose it: the configuration, a key that was found, or nobody."""

    id: str
    why: str


class DaemonStatus(Struct, frozen=True, kw_only=True):
    """``memory`` is the resident set in bytes; ``problems`` are configuration files that were left out."""

    version: str
    protocol: int
    pid: int
    uptime: float
    epoch: str
    socket: str
    config: str
    sessions: int
    live: int
    runs: int
    clients: int
    memory: int
    model: DefaultModel
    store: StoreHealth
    problems: tuple[str, ...]


class Reloaded(Struct, frozen=True):
    """``problems`` name what was wrong; what they name stays as it was before."""

    agents: tuple[str, ...]
    problems: tuple[str, ...]


class Shutdown(Params, frozen=True):
    """``grace`` is how many seconds runs may go on; left out, it is the configured one."""

    grace: Annotated[float, Meta(ge=0, le=3600)] | None = None


class ShutdownStarted(Struct, frozen=True):
    pid: int
    runs: int


class AgentInfo(Struct, frozen=True, kw_only=True):
    """``model`` null is the default one, ``tools`` null is all; ``source`` is a file or ``built-in``."""

    name: str
    description: str
    model: str | None
    tools: tuple[str, ...] | None
    max_rounds: int
    source: str


class AgentList(Struct, frozen=True):
    agents: tuple[AgentInfo, ...]
    problems: tuple[str, ...]


class ModelEntry(Struct, frozen=True, kw_only=True):
    """``context_window`` is in tokens, null when unknown."""

    id: str
    provider: str
    context_window: int | None
    default: bool


class ModelList(Struct, frozen=True):
    """``problems`` name the providers that could not be asked."""

    models: tuple[ModelEntry, ...]
    default: DefaultModel
    problems: tuple[str, ...]
