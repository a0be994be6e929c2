"""Handlers of ``initialize``, ``rpc.discover``, ``daemon/*``, ``agent/list`` and ``model/list``."""

from __future__ import annotations

from functools import cache

import msgspec
from msgspec import Raw, structs

from crabd import __version__
from crabd.api import daemon as api
from crabd.api.table import METHODS
from crabd.rpc.connection import Limits
from crabd.runtime.agents import Agent
from crabd.server.caller import Caller


def initialize(caller: Caller, params: api.Initialize) -> api.ServerInfo:
    caller.name = params.client.name or caller.name
    capabilities = api.Capabilities(
        methods=tuple(method.name for method in METHODS), max_message_bytes=Limits().message_bytes
    )
    return api.ServerInfo("crabd", __version__, api.PROTOCOL, capabilities)


def discover(caller: Caller, params: api.NoParams) -> Raw:
    return _describe_api()


@cache
def _describe_api() -> Raw:
    # Imported here, and kept as it is written: it takes long, and few ask.
    from crabd.api.openrpc import describe_api

    return Raw(msgspec.json.encode(describe_api(__version__)))


def ping(caller: Caller, params: api.NoParams) -> api.Pong:
    return api.Pong(True)


def status(caller: Caller, params: api.NoParams) -> api.DaemonStatus:
    return caller.control.status()


async def reload(caller: Caller, params: api.NoParams) -> api.Reloaded:
    return await caller.control.reload()


async def doctor(caller: Caller, params: api.Doctor) -> api.Diagnosis:
    return await caller.control.doctor(repair=params.repair)


async def prune(caller: Caller, params: api.Prune) -> api.Pruned:
    limits = caller.control.limits()
    stale = await caller.runtime.sessions.prune(limits, is_dry=params.dry_run)
    pruned = tuple(
        api.PrunedSession(
            session=each.meta.id,
            title=each.meta.title,
            topic=each.meta.topic,
            updated_at=each.meta.updated_at,
            bytes=each.size,
            limit=each.limit,
        )
        for each in stale
    )
    return api.Pruned(pruned, sum(each.size for each in stale), limits.keep_days, limits.max_bytes)


def shutdown(caller: Caller, params: api.Shutdown) -> api.ShutdownStarted:
    return caller.control.shut_down(params.grace)


async def list_agents(caller: Caller, params: api.AgentFilter) -> api.AgentList:
    own, project = caller.runtime.agents, await caller.runtime.trust.read(params.cwd)
    # A person's own come first, here as in a session.
    agents = project.agents | own.by_name
    return api.AgentList(tuple(map(_describe, agents.values())), own.problems + project.problems)


def _describe(agent: Agent) -> api.AgentInfo:
    return api.AgentInfo(
        name=agent.name,
        description=agent.options.description,
        model=agent.options.model,
        tools=agent.options.tools,
        max_rounds=agent.options.max_rounds,
        fallbacks=agent.options.fallbacks,
        source=agent.source,
    )


async def list_models(caller: Caller, params: api.NoParams) -> api.ModelList:
    default = caller.runtime.models.resolve(None)
    models, problems = await caller.runtime.models.list_models()
    entries = tuple(
        api.ModelEntry(
            id=model.id,
            provider=model.provider,
            context_window=model.context_window,
            max_output=model.max_output,
            prices=api.ModelPrices(**structs.asdict(model.prices)) if model.prices else None,
            default=model.id == default.id,
        )
        for model in models
    )
    return api.ModelList(entries, api.DefaultModel(default.id, default.why), problems)
