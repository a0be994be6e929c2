"""What a log adds up to: the parts that no backend has anything to do with."""

from __future__ import annotations

from datetime import timedelta

from crabd.events import PlanItem, RuleLists
from crabd.messages import Usage
from crabd.store.meta import MAX_SPENT, Spent, add_up
from crabd.store.record import Answered, Cleared, Configured, ModelCalled, Planned, Rewound, Step
from tests.store.samples import AT, numbered

DAY = timedelta(days=1)


def called(model: str) -> ModelCalled:
    return ModelCalled("r1", model, "reply", Usage(1, 1, cost=0.5), 2, None, duration_ms=10)


def a_call_a_day(*models: str) -> list[Step]:
    return [Step(step.n, AT + (step.n - 2) * DAY, step.record) for step in numbered(*map(called, models))]


def test_calls_of_one_day_and_model_are_one_sum() -> None:
    steps = numbered(called("m"), called("n"), called("m"))

    spent = add_up(steps).spent

    day = AT.date()
    assert spent == (
        Spent(day, "m", 2, Usage(2, 2, cost=1.0), duration_ms=20),
        Spent(day, "n", 1, Usage(1, 1, cost=0.5), duration_ms=10),
    )


def test_what_was_allowed_for_a_session_is_one_of_its_rules() -> None:
    rules = ("bash(make)", "edit(/src/**)")
    steps = numbered(
        Configured(permissions=RuleLists(allow=("bash(make)",), deny=("web_fetch",))),
        Answered("r1", "c1", "allow_session", "nvim", rules=rules),
        Answered("r1", "c2", "allow_always", "nvim", rules=("read",)),
        Answered("r1", "c3", "deny", "nvim"),
    )

    assert add_up(steps).permissions == RuleLists(allow=rules, deny=("web_fetch",))


def test_a_plan_lasts_until_there_is_another_or_what_it_was_made_for_is_taken_back() -> None:
    first, second = (PlanItem("think"),), (PlanItem("think", "done"), PlanItem("act"))

    planned = add_up(numbered(Planned("r1", first), Planned("r1", second))).plan
    cleared = add_up(numbered(Planned("r1", first), Cleared())).plan
    rewound = add_up(numbered(Planned("r1", first), Rewound(1, 0))).plan

    assert (planned, cleared, rewound) == (second, (), ())


def test_after_a_year_the_oldest_days_go_together_and_nothing_is_lost() -> None:
    steps = a_call_a_day("rare", *["m"] * (MAX_SPENT + 10))

    meta = add_up(steps)

    assert len(meta.spent) == MAX_SPENT
    assert sum(spent.calls for spent in meta.spent) == meta.usage.calls == MAX_SPENT + 11
    assert {spent.model for spent in meta.spent} == {"rare", "m"}
    assert meta.spent[-1].day == steps[-1].at.date()
    assert meta.spent[-1].calls == 1
