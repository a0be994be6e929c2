"""Parameters as they come from an editor, read into their types. Pure."""

from __future__ import annotations

from typing import TypeVar, cast

import msgspec
from msgspec import Raw

from crabd.rpc.methods import InvalidParamsError, locate
from crabd.server.acp import schema as acp

P = TypeVar("P", bound=acp.Wire)
# What is a list here; anywhere else an empty one is what an empty table of Lua looks like.
LISTS = ("prompt", "mcpServers", "args", "env", "headers", "additionalDirectories")


def read_params(raw: Raw, params: type[P]) -> P:
    """Read parameters.

    Raises:
      InvalidParamsError: they do not fit.
    """
    try:
        return msgspec.json.decode(raw, type=params)
    except msgspec.ValidationError:
        softened = _soften(msgspec.json.decode(raw))
    try:
        return msgspec.convert(softened, params)
    except msgspec.ValidationError as exc:
        raise InvalidParamsError(*locate(str(exc))) from exc


def _soften(value: object) -> object:
    """Make empty objects of empty lists, where there is no list."""
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        return {key: _soften_field(key, each) for key, each in fields.items()}
    if isinstance(value, list):
        return [_soften(each) for each in cast("list[object]", value)]
    return value


def _soften_field(key: str, value: object) -> object:
    return {} if value == [] and key not in LISTS else _soften(value)
