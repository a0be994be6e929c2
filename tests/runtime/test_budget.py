"""Budgets: which limit counts, and when it is reached."""

from __future__ import annotations

from datetime import date, timedelta
from math import inf

import pytest
from msgspec import structs

from crabd.errors import BudgetSpent
from crabd.events import Budget, BudgetState, DailyBudget
from crabd.messages import Usage
from crabd.runtime.agents import Agent, FrontMatter
from crabd.runtime.budget import Allowance, find_spent, find_spent_today, limits_of, state_of
from crabd.store.meta import SessionMeta, add_up
from crabd.store.record import Configured, ModelCalled, RunClosed
from tests.store.samples import AT, numbered

TODAY = AT.date()
USED = ModelCalled("r1", "p/m", "reply", Usage(700, 300, cost=0.5), 1000, None)


def agent(**limits: float) -> Agent:
    return Agent("a", "", FrontMatter(budget=Budget(**limits)), "built-in")  # type: ignore[arg-type]  # ints are given as ints


def used(budget: Budget = Budget(), *, session: str = "a_b_1") -> SessionMeta:  # noqa: B008  # it is frozen
    """Make a session that made one call in a run of sixty seconds."""
    closed = RunClosed("r1", "end_turn", 60.0, USED.usage)
    return add_up(numbered(Configured(budget=budget), USED, closed, session=session))


def test_each_limit_is_the_sessions_own_or_else_its_agents() -> None:
    limits = limits_of(used(Budget(tokens=5, cost=2.0)), agent(tokens=9, rounds=3))

    assert limits == Budget(tokens=5, cost=2.0, rounds=3)


def test_a_session_whose_agent_is_gone_keeps_its_own_limits() -> None:
    assert limits_of(used(Budget(rounds=5)), None) == Budget(rounds=5)


@pytest.mark.parametrize(
    ("limits", "limit", "spent"),
    [
        (Budget(tokens=1000), "tokens", 1000),
        (Budget(cost=0.5), "cost", 0.5),
        (Budget(rounds=1), "rounds", 1),
        (Budget(seconds=60), "seconds", 60),
    ],
)
def test_a_limit_is_reached_by_what_was_used(limits: Budget, limit: str, spent: float) -> None:
    found = find_spent(used(), limits)

    assert found is not None
    assert (found.kind, found.session, found.limit, found.spent) == ("budget", "a_b_1", limit, spent)


def test_more_than_was_used_is_not_reached() -> None:
    limits = Budget(tokens=1001, cost=0.51, rounds=2, seconds=60.5)

    assert find_spent(used(), limits) is None
    assert find_spent(used(), Budget()) is None


def test_a_day_counts_all_sessions_of_the_agent_and_no_other_day() -> None:
    others = structs.replace(used(session="z_b_3"), agent="z")
    metas = [used(), used(session="a_b_2"), others]
    daily = DailyBudget(cost=0.9)

    found = find_spent_today(metas[0], daily, metas, TODAY)

    assert isinstance(found, BudgetSpent)
    assert (found.kind, found.limit, found.allowed, found.spent) == ("daily_budget", "cost", 0.9, 1.0)
    assert find_spent_today(metas[0], daily, metas, TODAY + timedelta(days=1)) is None
    assert find_spent_today(others, daily, metas, TODAY) is None


def test_what_is_allowed_and_used_is_told_side_by_side() -> None:
    limits = Budget(cost=2.0)

    assert state_of(used(), limits) == BudgetState(
        limits, tokens=1000, cost=0.5, rounds=1, seconds=60.0, unpriced=0
    )
    assert state_of(used(), Budget()) is None


@pytest.mark.parametrize(("limit", "left"), [(None, inf), (90.0, 30.0), (10.0, 0.0)])
def test_a_run_has_the_time_that_earlier_runs_have_left(limit: float | None, left: float) -> None:
    allowance = Allowance(Budget(seconds=limit), DailyBudget(), used, tuple)

    assert allowance.seconds_left == left


def test_an_allowance_looks_at_what_is_used_by_now() -> None:
    metas = [add_up(numbered())]
    allowance = Allowance(Budget(rounds=1), DailyBudget(tokens=1), lambda: metas[-1], lambda: metas)

    before = allowance.find_spent(TODAY)
    metas[0] = used()
    after = allowance.find_spent(TODAY)
    tomorrow = Allowance(Budget(), DailyBudget(tokens=1), used, lambda: metas).find_spent(date(2026, 2, 1))

    assert before is tomorrow is None
    assert after is not None
    assert after.limit == "rounds"
