"""What a log adds up to: the parts that no backend has anything to do with."""

from __future__ import annotations

from datetime import timedelta

from crabd.messages import Usage
from crabd.store.meta import MAX_SPENT, Spent, add_up
from crabd.store.record import ModelCalled, Step
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


def test_after_a_year_the_oldest_days_go_together_and_nothing_is_lost() -> None:
    steps = a_call_a_day("rare", *["m"] * (MAX_SPENT + 10))

    meta = add_up(steps)

    assert len(meta.spent) == MAX_SPENT
    assert sum(spent.calls for spent in meta.spent) == meta.usage.calls == MAX_SPENT + 11
    assert {spent.model for spent in meta.spent} == {"rare", "m"}
    assert meta.spent[-1].day == steps[-1].at.date()
    assert meta.spent[-1].calls == 1
