"""Which tools are offered to a model, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest

from crabd.tools.base import BadArguments, PreparedCall, Tool, ToolContext, ToolSpec
from crabd.tools.offers import MAX_DESCRIPTION, MAX_OFFERS, MAX_SCHEMA_DEPTH, LeftOut, choose, fit


class Said(Tool):
    """A tool of which there is no more than what is said of it."""

    def __init__(self, spec: ToolSpec) -> None:
        self._spec = spec

    @property
    def spec(self) -> ToolSpec:
        return self._spec

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        raise BadArguments("it makes no calls")


def choose_of(*specs: ToolSpec) -> tuple[tuple[ToolSpec, ...], tuple[LeftOut, ...]]:
    """Choose among tools, and tell what is said of those that are offered."""
    offered, left_out = choose(map(Said, specs))
    return tuple(each.spec for each in offered.values()), left_out


def tool(name: str = "t", description: str = "Does.", **parameters: Any) -> ToolSpec:
    return ToolSpec(name, description, {"type": "object"} | parameters)


def nested(levels: int) -> dict[str, Any]:
    """Make a schema of so many levels, itself and its innermost word counted."""
    inner: Any = "string"
    for _ in range(levels - 2):
        inner = [inner]
    return {"properties": inner}


def test_tools_are_offered_in_the_order_they_come() -> None:
    specs = (tool("b"), tool("a", properties={"path": {"type": "string"}}))

    assert choose_of(*specs) == (specs, ())


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (tool(properties={f"p{n}": {"type": "string"} for n in range(10_000)}), "bytes and 10000 arguments"),
        (tool(**nested(MAX_SCHEMA_DEPTH + 1)), "nested deeper than 32 levels"),
        (tool(**nested(100_000)), "nested deeper than 32 levels"),
        (tool(properties={"a": {"enum": ["x" * 40_000]}}), "bytes and 1 arguments"),
        (ToolSpec("t", "Does.", {"type": "string"}), "not one of an object"),
        (tool("rm -rf"), "rename it"),
        (tool("x" * 65), "rename it"),
        (tool(""), "rename it"),
    ],
)
def test_a_tool_that_is_not_fit_is_left_out_and_told(spec: ToolSpec, reason: str) -> None:
    other = tool("other")

    offered, (left_out,) = choose_of(spec, other)

    assert offered == (other,)
    assert left_out.tool == spec.name[:64]
    assert reason in left_out.reason


def test_a_schema_may_be_as_deep_as_the_limit() -> None:
    spec = tool(**nested(MAX_SCHEMA_DEPTH))

    assert choose_of(spec) == ((spec,), ())


def test_a_long_description_is_cut() -> None:
    spec = tool(description="x" * 100_000)

    cut = fit(spec)

    assert choose_of(spec) == ((spec,), ())
    assert len(cut.description) == MAX_DESCRIPTION
    assert cut.description.endswith("x […]")


def test_of_two_with_one_name_the_first_is_offered() -> None:
    first, second = tool(description="First."), tool(description="Second.")

    assert choose_of(first, second) == (
        (first,),
        (LeftOut("t", "another tool has that name: rename one of them"),),
    )


@pytest.mark.parametrize(
    ("count", "each", "room"), [(200, 1, MAX_OFFERS), (20, 25_000, 10)], ids=["many", "large"]
)
def test_all_offers_together_have_a_limit(count: int, each: int, room: int) -> None:
    specs = [tool(f"t{n}", properties={"a": {"const": "x" * each}}) for n in range(count)]

    offered, left_out = choose_of(*specs)

    assert (len(offered), len(left_out)) == (room, count - room)
    assert left_out[0].tool == f"t{room}"
    assert "in the agent's file" in left_out[0].reason
