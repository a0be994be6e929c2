"""``todo``: the agent writes down what it means to do, and people see how far it is."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from msgspec import Meta, Struct

from crabd.errors import StoreError
from crabd.events import PlanItem, PlanStatus, write_plan
from crabd.tools.base import BadArguments, Intent, PreparedCall, Tool, ToolContext, ToolOutcome, ToolSpec
from crabd.tools.typed import Arguments, Call, read_arguments, schema_of

MAX_ITEMS = 50


class Item(Struct, frozen=True, forbid_unknown_fields=True):
    text: Annotated[str, Meta(min_length=1, max_length=500, description="What to do, in a few words.")]
    status: PlanStatus = "pending"


class TodoArguments(Arguments, frozen=True, kw_only=True):
    items: (
        Annotated[
            tuple[Item, ...],
            Meta(max_length=MAX_ITEMS, description="The whole plan anew; left out, the plan is read."),
        ]
        | None
    ) = None


TODO = ToolSpec(
    "todo",
    "Write down the plan for work that takes several steps, and keep it up to date as you go: every call "
    "gives the whole plan, with what is done, and at most one item in progress. The person sees it. Without "
    "items you are told the plan as it is.",
    schema_of(TodoArguments),
    is_read_only=True,
    is_idempotent=True,
)


class Todo(Tool):
    """Keeps the session's plan."""

    @property
    def spec(self) -> ToolSpec:
        return TODO

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        items = read_arguments(TodoArguments, arguments).items
        if items is None:
            return Call(Intent(title="read the plan"), partial(_tell, context))
        if sum(item.status == "in_progress" for item in items) > 1:
            raise BadArguments("several items are in progress: do one after the other")
        plan = tuple(PlanItem(item.text, item.status) for item in items)
        return Call(Intent(title="change the plan"), partial(_change, plan, context))


async def _tell(context: ToolContext) -> ToolOutcome:
    return ToolOutcome(_written(context.planner.items))


async def _change(plan: tuple[PlanItem, ...], context: ToolContext) -> ToolOutcome:
    try:
        await context.planner.change(plan)
    except StoreError as exc:
        return ToolOutcome(f"the plan stays as it was: {exc}", is_error=True)
    return ToolOutcome(_written(plan))


def _written(plan: tuple[PlanItem, ...]) -> str:
    return write_plan(plan) or "there is no plan"
