"""Arguments as types: what a model is shown, and what it is told when it wrote something else."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from crabd.tools.base import BadArguments
from crabd.tools.typed import Arguments, read_arguments, schema_of


class Item(Arguments, frozen=True, kw_only=True):
    title: str
    state: Literal["open", "done"] = "open"


class Wanted(Arguments, frozen=True, kw_only=True):
    """Words for the reader of the code."""

    path: Annotated[str, Meta(description="The file.")]
    limit: Annotated[int, Meta(ge=1, description="At most so many.")] | None = None
    items: tuple[Item, ...] = ()
    is_deep: bool = False


def test_the_schema_is_one_object_without_references() -> None:
    schema = schema_of(Wanted)

    assert schema == {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "The file."},
            "limit": {"type": "integer", "minimum": 1, "description": "At most so many."},
            "items": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "title": {"type": "string"},
                        "state": {"enum": ["done", "open"], "default": "open"},
                    },
                    "required": ["title"],
                    "additionalProperties": False,
                },
                "default": [],
            },
            "is_deep": {"type": "boolean", "default": False},
        },
        "required": ["path"],
        "additionalProperties": False,
    }


def test_what_is_null_counts_as_left_out_and_numbers_may_be_text() -> None:
    found = read_arguments(Wanted, {"path": "12", "limit": "7", "is_deep": None})

    assert found == Wanted(path="12", limit=7)


@pytest.mark.parametrize("text", ["null", "true", "3", ""])
def test_text_stays_text(text: str) -> None:
    assert read_arguments(Wanted, {"path": text}) == Wanted(path=text)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "missing argument `path`"),
        ({"path": None}, "missing argument `path`"),
        ({"path": "a", "depth": 1}, "unknown argument `depth`"),
        ({"path": 1}, "`path`: Expected `str`, got `int`"),
        ({"path": "a", "limit": 0}, "`limit`: Expected `int` >= 1"),
        ({"path": "a", "items": [{"titel": "b"}]}, "`items[0]`: unknown argument `titel`"),
    ],
)
def test_what_does_not_fit_is_told_with_what_there_is(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadArguments) as told:
        read_arguments(Wanted, arguments)

    assert str(told.value) == f"{problem}; the arguments are: path, limit?, items?, is_deep?"
