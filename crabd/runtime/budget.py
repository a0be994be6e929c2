"""Budgets: what a session may use, what it has used, and which limit it has come to. Pure.

A limit is the session's own, else its agent's for each of its sessions. An agent's ``daily_budget`` is for
all of its sessions together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date
from math import inf
from typing import Any

from msgspec import Struct, structs

from crabd.errors import BudgetSpent
from crabd.events import Budget, BudgetKind, BudgetLimit, BudgetState, DailyBudget
from crabd.runtime.agents import Agent
from crabd.store.meta import SessionMeta


class Allowance(Struct, frozen=True):
    """The limits of a run, fixed when it starts; what has been used is looked up anew each time.

    ``meta`` gives that of its session, ``metas`` those of all.
    """

    limits: Budget
    daily: DailyBudget
    meta: Callable[[], SessionMeta]
    metas: Callable[[], Iterable[SessionMeta]]

    @property
    def seconds_left(self) -> float:
        """How long a run that starts now may go on, in seconds; infinity without a limit."""
        limit = self.limits.seconds
        return inf if limit is None else max(0.0, limit - self.meta().active_seconds)

    def find_spent(self, today: date) -> BudgetSpent | None:
        """Find a limit that was reached, if there is one."""
        meta = self.meta()
        spent = find_spent(meta, self.limits)
        # Only such an agent is worth a look at all sessions there are.
        if spent is None and self.daily != DailyBudget():
            spent = find_spent_today(meta, self.daily, self.metas(), today)
        return spent

    def out_of_time(self) -> BudgetSpent:
        """Tell that a run has gone on for all the ``seconds_left`` when it started."""
        meta, seconds = self.meta(), self.limits.seconds or 0.0
        return BudgetSpent("budget", meta.id, meta.agent, limit="seconds", allowed=seconds, spent=seconds)


def limits_of(meta: SessionMeta, agent: Agent | None) -> Budget:
    """Put a session's own limits over those of its agent, which may be gone."""
    given = structs.asdict(agent.options.budget) if agent is not None else {}
    own = {name: limit for name, limit in structs.asdict(meta.budget).items() if limit is not None}
    return Budget(**(given | own))


def state_of(meta: SessionMeta, limits: Budget) -> BudgetState | None:
    """Tell what a session may use and has used; null if there is no limit."""
    if limits == Budget():
        return None
    return BudgetState(limits=limits, **_used(meta), unpriced=meta.usage.unpriced)


def find_spent(meta: SessionMeta, limits: Budget) -> BudgetSpent | None:
    """Find a limit that a session has come to by its finished runs and calls."""
    return _first_reached("budget", meta, structs.asdict(limits), _used(meta))


def find_spent_today(
    meta: SessionMeta, daily: DailyBudget, metas: Iterable[SessionMeta], today: date
) -> BudgetSpent | None:
    """Find a limit that all sessions of an agent have come to together; ``meta`` is that of one of them."""
    usages = [
        spent.usage
        for one in metas
        if one.agent == meta.agent and one.updated_at.date() >= today
        for spent in one.spent
        if spent.day == today
    ]
    tokens = sum(usage.input_tokens + usage.output_tokens for usage in usages)
    cost = sum(usage.cost or 0.0 for usage in usages)
    return _first_reached("daily_budget", meta, structs.asdict(daily), {"tokens": tokens, "cost": cost})


def _used(meta: SessionMeta) -> dict[BudgetLimit, Any]:
    total = meta.usage.total
    return {
        "tokens": total.input_tokens + total.output_tokens,
        "cost": total.cost,
        "rounds": meta.usage.rounds,
        "seconds": meta.active_seconds,
    }


def _first_reached(
    kind: BudgetKind, meta: SessionMeta, limits: dict[str, float | None], used: dict[BudgetLimit, Any]
) -> BudgetSpent | None:
    for limit, spent in used.items():
        allowed = limits[limit]
        if allowed is not None and spent is not None and spent >= allowed:
            return BudgetSpent(kind, meta.id, meta.agent, limit=limit, allowed=allowed, spent=spent)
    return None
