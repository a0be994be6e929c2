"""Parameters and results of ``initialize``, ``daemon/*``, ``agent/*`` and ``model/*``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from crabd.api.sessions import AbsolutePath, Limit, Params
from crabd.events import Counts, SessionGlance
from crabd.messages import Time

PROTOCOL = 1


class NoParams(Params, frozen=True):
    """Takes no parameters."""


class ClientInfo(Params, frozen=True):
    """The program that calls."""

    name: str
    version: str = ""


class Initialize(Params, frozen=True):
    """A protocol number newer than ours is answered with ours."""

    client: ClientInfo
    protocol: Annotated[int, Meta(ge=1)] = PROTOCOL


class Capabilities(Struct, frozen=True):
    """What this daemon can do."""

    methods: tuple[str, ...]
    max_message_bytes: int


class ServerInfo(Struct, frozen=True):
    """Who answers, in which ``protocol``."""

    name: str
    version: str
    protocol: int
    capabilities: Capabilities


class Pong(Struct, frozen=True):
    """Somebody is there."""

    pong: bool


class StoreHealth(Struct, frozen=True):
    """``name`` is the setting ``store``; ``problems`` are sentences, as of damaged sessions."""

    name: str
    path: str
    problems: tuple[str, ...]


class IndexHealth(Struct, frozen=True):
    """Of search: so many sessions are not indexed yet; ``problem`` says why it was made anew, or is off."""

    state: Literal["ready", "indexing", "off"]
    waiting: int
    problem: str | None


class SandboxHealth(Struct, frozen=True):
    """What confines commands: ``told`` says it in words, ``problems`` why it is nothing better."""

    kind: Literal["bubblewrap", "landlock", "none", "refused"]
    told: str
    problems: tuple[str, ...]


class DefaultModel(Struct, frozen=True):
    """``why`` tells who chose it: the configuration, a key that was found, or nobody."""

    id: str
    why: str


class ServerTrouble(Struct, frozen=True, kw_only=True):
    """A model server that has failed since it answered last, with what ``problem``.

    After too many ``failures`` in a row it is ``open``: not asked before ``until``, then ``half_open``: asked
    by one request, which decides for the others. ``until`` is null while it is asked as always.
    """

    server: str
    state: Literal["closed", "open", "half_open"]
    failures: int
    problem: str
    until: Time | None


class DaemonStatus(Struct, frozen=True, kw_only=True):
    """``memory`` is the resident set in bytes; ``problems`` are configuration files that were left out.

    ``model_servers`` are those alone that something is wrong with.
    """

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
    model_servers: tuple[ServerTrouble, ...]
    store: StoreHealth
    index: IndexHealth
    sandbox: SandboxHealth
    problems: tuple[str, ...]


class Watch(Params, frozen=True):
    """``limit`` is how many of the last used sessions the picture has; all that are live are in it anyway."""

    limit: Limit = 50


class Watched(Struct, frozen=True):
    """The sessions as they are, those used last first. From then on ``daemon/event`` tells what changes."""

    epoch: str
    sessions: tuple[SessionGlance, ...]
    counts: Counts


class Reloaded(Struct, frozen=True):
    """``problems`` name what was wrong; what they name stays as it was before."""

    agents: tuple[str, ...]
    problems: tuple[str, ...]


class Doctor(Params, frozen=True):
    """With ``repair`` what can be mended is; sessions that are live are left alone."""

    repair: bool = False


class Finding(Struct, frozen=True, kw_only=True):
    """What the doctor has to tell of an ``area``; what is wrong and can wait is a ``notice``.

    ``where`` is a session's id or a path, ``kind`` the cause in one word, ``told`` a sentence. ``advice`` is
    what to do about it, and ``mended`` what a repair has done.
    """

    area: Literal["store", "index", "socket", "configuration", "agents", "keys", "disk"]
    grade: Literal["ok", "notice", "problem"]
    kind: str
    where: str
    told: str
    advice: str | None = None
    mended: str | None = None


class Diagnosis(Struct, frozen=True, kw_only=True):
    """``problems`` counts those that are left; ``records`` were read, of so many ``sessions``."""

    findings: tuple[Finding, ...]
    problems: int
    sessions: int
    records: int


class Prune(Params, frozen=True):
    """Removes the stored sessions that are over a limit of ``[retention]`` in config.toml.

    With ``dry_run`` it only tells which. Sessions that are live, paused, damaged or have something waiting
    stay.
    """

    dry_run: bool = False


class PrunedSession(Struct, frozen=True):
    """``limit`` is the one it was over, ``bytes`` what it took on the disk."""

    session: str
    title: str
    topic: str | None
    updated_at: Time
    bytes: int
    limit: Literal["keep_days", "max_bytes"]


class Pruned(Struct, frozen=True):
    """What has gone, or would go, the longest unused first; the limits are null where none is set."""

    sessions: tuple[PrunedSession, ...]
    bytes: int
    keep_days: float | None
    max_bytes: int | None


class Shutdown(Params, frozen=True):
    """``grace`` is how many seconds runs may go on; left out, it is the configured one."""

    grace: Annotated[float, Meta(ge=0, le=3600)] | None = None


class ShutdownStarted(Struct, frozen=True):
    """It stops from now on; ``runs`` are going and may end first."""

    pid: int
    runs: int


class AgentFilter(Params, frozen=True):
    """With ``cwd`` also the agents that this directory brings along, if it is trusted."""

    cwd: AbsolutePath | None = None


class AgentInfo(Struct, frozen=True, kw_only=True):
    """``model`` null is the default one, ``tools`` null is all; ``source`` is a file or ``built-in``.

    ``fallbacks`` are the models that are asked, in order, when ``model`` gives no answer.
    """

    name: str
    description: str
    model: str | None
    tools: tuple[str, ...] | None
    fallbacks: tuple[str, ...]
    max_rounds: int
    source: str


class AgentList(Struct, frozen=True):
    """The agents; ``problems`` name the files that could not be read."""

    agents: tuple[AgentInfo, ...]
    problems: tuple[str, ...]


class ModelPrices(Struct, frozen=True, kw_only=True):
    """In US dollars for a million tokens; null is the price of other input."""

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None


class ModelEntry(Struct, frozen=True, kw_only=True):
    """``context_window`` and ``max_output`` are in tokens. What is null is unknown."""

    id: str
    provider: str
    context_window: int | None
    default: bool
    max_output: int | None = None
    prices: ModelPrices | None = None


class ModelList(Struct, frozen=True):
    """``problems`` name the providers that could not be asked."""

    models: tuple[ModelEntry, ...]
    default: DefaultModel
    problems: tuple[str, ...]
