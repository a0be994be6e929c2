"""Which tools are fit to be offered to a model. Others write tools too, and servers of tools most of all.

Pure. An offer is sent with every request of every session, so what is too large to send is left out and told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec
from msgspec import Struct

from crabd.tools.base import Tool, ToolSpec

# The largest tool of a well-known server has some 15 KiB, and a model's window holds some hundred of that.
MAX_SCHEMA_BYTES = 32 * 1024
# Deeper than any provider takes one: the strictest allows ten levels of properties, of two levels here each.
MAX_SCHEMA_DEPTH = 32
# A description that is longer is cut: its first sentences say what the tool is for.
MAX_DESCRIPTION = 4096
# All offers of a session together; a model with more chooses badly, and has less room to think.
MAX_OFFERS_BYTES = 256 * 1024
MAX_OFFERS = 128
# What the providers' APIs take as the name of a function.
MAX_NAME = 64
_NAME = re.compile(rf"[a-zA-Z0-9_-]{{1,{MAX_NAME}}}")
_CUT = " […]"


class LeftOut(Struct, frozen=True):
    """A tool that is not offered, and why, for a person."""

    tool: str
    reason: str


def choose(tools: Iterable[Tool]) -> tuple[dict[str, Tool], tuple[LeftOut, ...]]:
    """Choose what is offered, in the order given, so that the first come is not left out for the last.

    What is said of those is to be made to ``fit``.
    """
    offered: dict[str, Tool] = {}
    left_out: list[LeftOut] = []
    size = 0
    for tool in tools:
        spec = fit(tool.spec)
        reason = objection(spec) or _crowded(spec, offered, size)
        if reason:
            left_out.append(LeftOut(spec.name[:MAX_NAME], reason))
        else:
            offered[spec.name] = tool
            size += weigh(spec)
    return offered, tuple(left_out)


def _crowded(spec: ToolSpec, offered: Mapping[str, Tool], size: int) -> str | None:
    """Say why there is no room for a tool among others of that size; null if there is."""
    if spec.name in offered:
        return "another tool has that name: rename one of them"
    if len(offered) == MAX_OFFERS or size + weigh(spec) > MAX_OFFERS_BYTES:
        limit = f"{MAX_OFFERS} tools or {MAX_OFFERS_BYTES} bytes"
        return f"the others come to {limit} already: name those that are needed in the agent's file"
    return None


def objection(spec: ToolSpec) -> str | None:
    """Say why a tool cannot be offered; null if it can."""
    if not _NAME.fullmatch(spec.name):
        return "its name is not one of up to 64 letters, digits, _ and -: rename it"
    if spec.parameters.get("type") != "object":
        return 'its schema is not one of an object: it needs "type": "object"'
    # First, for what is too deep cannot be encoded either.
    if is_deeper(spec.parameters, MAX_SCHEMA_DEPTH):
        return f"its schema is nested deeper than {MAX_SCHEMA_DEPTH} levels: have its server make it flatter"
    size = len(msgspec.json.encode(spec.parameters))
    if size > MAX_SCHEMA_BYTES:
        count = len(spec.parameters.get("properties", ()))
        return (
            f"its schema has {size} bytes and {count} arguments, and {MAX_SCHEMA_BYTES} bytes are the most: "
            "have its server offer less"
        )
    return None


def fit(spec: ToolSpec) -> ToolSpec:
    """Cut a description that is too long."""
    if len(spec.description) <= MAX_DESCRIPTION:
        return spec
    return msgspec.structs.replace(spec, description=spec.description[: MAX_DESCRIPTION - len(_CUT)] + _CUT)


def weigh(spec: ToolSpec) -> int:
    """Count the bytes of an offer."""
    return len(spec.name) + len(spec.description.encode()) + len(msgspec.json.encode(spec.parameters))


def is_deeper(schema: dict[str, Any], depth: int) -> bool:
    """Tell whether a schema, which is a tree, has more levels than so many."""
    level: list[object] = [schema]
    for _ in range(depth):
        level = [child for part in level for child in _children(part)]
        if not level:
            return False
    return True


def _children(part: object) -> list[object]:
    """List what lies one level below."""
    match part:
        case dict():
            return list(cast("dict[str, object]", part).values())
        case list():
            return cast("list[object]", part)
        case _:
            return []
