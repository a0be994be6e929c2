"""The handler of ``session/usage``."""

from __future__ import annotations

from msgspec import structs

from crabd.api import sessions as api
from crabd.runtime.listing import Filter
from crabd.runtime.spending import Share, split, total
from crabd.server.caller import Caller


def usage(caller: Caller, params: api.UsageOf) -> api.UsageResult:
    sessions = caller.runtime.sessions
    if params.session is not None:
        meta = sessions.meta(params.session)
        shares = _shares(split([meta], params.by))
        budget = caller.runtime.equipper.budget_of(meta)
        return api.UsageResult(meta.id, meta.usage, meta.runs, meta.active_seconds, 1, shares, budget)
    wanted = Filter(agent=params.agent, sender=params.sender, topic=params.topic)
    metas = [meta for meta in sessions.metas() if wanted.matches(meta)]
    return api.UsageResult(
        None,
        total(meta.usage for meta in metas),
        sum(meta.runs for meta in metas),
        sum(meta.active_seconds for meta in metas),
        len(metas),
        _shares(split(metas, params.by)),
    )


def _shares(shares: tuple[Share, ...]) -> tuple[api.UsageShare, ...]:
    return tuple(api.UsageShare(**structs.asdict(share)) for share in shares)
