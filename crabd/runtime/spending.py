"""What sessions have used together, in all and by agent, day or model. Pure.

It is the sum of the metas, so what a deleted session has used is not in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from crabd.events import SessionUsage
from crabd.messages import Usage
from crabd.store.meta import SessionMeta

By = Literal["agent", "day", "model"]


class Share(Struct):
    """What was used of all under one ``key``: an agent, a day (UTC) or a model."""

    key: str
    sessions: int = 0
    calls: int = 0
    usage: Usage = Usage()
    unpriced: int = 0
    estimated: int = 0
    duration_ms: int = 0


def split(metas: Iterable[SessionMeta], by: By | None) -> tuple[Share, ...]:
    """Share out what sessions have used, if at all: days in their order, else the dearest first."""
    if by is None:
        return ()
    shares: defaultdict[str, Share] = defaultdict(lambda: Share(""))
    for meta in metas:
        seen: set[str] = set()
        for spent in meta.spent:
            key = {"agent": meta.agent, "day": spent.day.isoformat(), "model": spent.model}[by]
            share = shares[key]
            share.sessions += key not in seen
            share.calls += spent.calls
            share.usage += spent.usage
            share.unpriced += spent.unpriced
            share.estimated += spent.estimated
            share.duration_ms += spent.duration_ms
            seen.add(key)
    for key, share in shares.items():
        share.key = key
    return tuple(sorted(shares.values(), key=_day if by == "day" else _rank))


def total(usages: Iterable[SessionUsage]) -> SessionUsage:
    """Add up what sessions have used. A context is of one session, so there is none of all."""
    added = SessionUsage()
    for usage in usages:
        added = SessionUsage(
            calls=added.calls + usage.calls,
            total=added.total + usage.total,
            rounds=added.rounds + usage.rounds,
            unpriced=added.unpriced + usage.unpriced,
            estimated=added.estimated + usage.estimated,
        )
    return added


def _day(share: Share) -> tuple[float, float, str]:
    return 0.0, 0.0, share.key


def _rank(share: Share) -> tuple[float, float, str]:
    usage = share.usage
    return -(usage.cost or 0.0), -(usage.input_tokens + usage.output_tokens), share.key
