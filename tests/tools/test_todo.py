"""The plan that a model keeps: whole each time, and shown to people."""

from __future__ import annotations

from typing import Any

import pytest

from crabd.events import PlanItem
from crabd.tools.base import BadArguments
from crabd.tools.todo import Todo
from tests.tools.context import Surroundings

ITEMS = [{"text": "think", "status": "done"}, {"text": "act", "status": "in_progress"}, {"text": "rest"}]


async def test_a_plan_takes_the_place_of_the_one_before() -> None:
    around = Surroundings(None)
    await around.call(Todo(), items=[{"text": "sleep"}])

    outcome = await around.call(Todo(), items=ITEMS)

    assert outcome.output == "[x] think\n[>] act\n[ ] rest"
    assert around.plan.items == (
        PlanItem("think", "done"),
        PlanItem("act", "in_progress"),
        PlanItem("rest", "pending"),
    )


async def test_a_plan_is_read_and_can_be_given_up() -> None:
    around = Surroundings(None)
    await around.call(Todo(), items=ITEMS)

    read = await around.call(Todo())
    emptied = await around.call(Todo(), items=[])

    assert read.output == "[x] think\n[>] act\n[ ] rest"
    assert (emptied.output, around.plan.items) == ("there is no plan", ())


@pytest.mark.parametrize(
    "items",
    [
        [{"text": "a", "status": "in_progress"}, {"text": "b", "status": "in_progress"}],
        [{"text": "a", "status": "begun"}],
        [{"text": ""}],
        [{"text": "a"}] * 51,
    ],
)
async def test_what_is_no_plan_is_refused(items: list[dict[str, Any]]) -> None:
    with pytest.raises(BadArguments):
        await Todo().prepare({"items": items}, Surroundings(None).context())
