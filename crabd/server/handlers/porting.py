"""Handlers of ``session/import`` and ``session/export``."""

from __future__ import annotations

from collections import Counter

from msgspec import structs

from crabd.api import porting as api
from crabd.runtime.porting import Brought, Wish
from crabd.server.caller import Caller

# What is told of an import, lest it be more than one message may take; the counts are of all.
MAX_TOLD = 10_000
MAX_TOLD_EACH = 50


async def import_(caller: Caller, params: api.Import) -> api.Imported:
    brought = await caller.control.porting.bring(Wish(**structs.asdict(params)))
    counts = Counter(one.status for one in brought)
    return api.Imported(
        sessions=tuple(_tell(caller, one) for one in brought[:MAX_TOLD]),
        imported=counts["imported"],
        found=counts["found"],
        there=counts["there"],
        refused=counts["refused"],
    )


async def export(caller: Caller, params: api.Export) -> api.ExportPage:
    return api.ExportPage(*await caller.control.porting.give(params.session, params.from_, params.limit))


def _tell(caller: Caller, brought: Brought) -> api.ImportedSession:
    meta = brought.meta
    notes = brought.notes
    if meta is not None and meta.agent not in caller.runtime.agents.by_name:
        notes += (f"there is no agent {meta.agent!r} yet: make one before you send to it, or name another",)
    return api.ImportedSession(
        place=brought.place,
        status=brought.status,
        session=meta.id if meta is not None and brought.status != "found" else None,
        agent=meta.agent if meta is not None else None,
        sender=meta.sender if meta is not None else None,
        title=meta.title if meta is not None else "",
        messages=meta.message_count if meta is not None else 0,
        problem=brought.problem,
        notes=notes,
        skipped=_left_out(brought),
    )


def _left_out(brought: Brought) -> tuple[api.LeftOut, ...]:
    told = tuple(api.LeftOut(one.where, one.problem) for one in brought.skipped[:MAX_TOLD_EACH])
    more = len(brought.skipped) - len(told)
    return (*told, api.LeftOut("", f"and {more} more")) if more else told
