"""Arguments as types: one struct tells a model what a tool takes, and reads what the model wrote.

A tool is a class with a ``spec`` and a ``prepare``, which may look like this::

    class ReadArguments(Arguments, frozen=True, kw_only=True):
        path: Annotated[str, Meta(description="The file.")]
        limit: Annotated[int, Meta(ge=1)] | None = None

    READ = ToolSpec("read", "Read a file.", schema_of(ReadArguments), is_read_only=True)


    class Read(Tool):
        @property
        def spec(self) -> ToolSpec:
            return READ

        async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
            wanted = read_arguments(ReadArguments, arguments)
            return Call(Intent(title=f"read {wanted.path}"), partial(self._read, wanted))
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from crabd.tools.base import BadArguments, Intent, PreparedCall, ToolOutcome


class Arguments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tool takes. A field tells its use by ``Meta(description=…)``; None stands for one left out."""


Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | bool | None"
A = TypeVar("A", bound=Arguments)


async def _show_nothing() -> str:
    return ""


class Call(PreparedCall):
    """A prepared call made of functions; without ``preview`` its intent says it all."""

    def __init__(
        self,
        intent: Intent,
        run: Callable[[], Awaitable[ToolOutcome]],
        preview: Callable[[], Awaitable[str]] = _show_nothing,
    ) -> None:
        self._intent = intent
        self._run = run
        self._preview = preview

    def __repr__(self) -> str:
        return f"<Call {self._intent.title}>"

    @property
    def intent(self) -> Intent:
        return self._intent

    async def preview(self) -> str:
        return await self._preview()

    async def run(self) -> ToolOutcome:
        return await self._run()


def schema_of(wanted: type[Arguments]) -> dict[str, Any]:
    """Make the JSON Schema that a model is shown: one object with nothing to look up elsewhere.

    Not every provider resolves references or takes unions, so there are none for an argument that may be left
    out. A type that holds itself has no such schema.
    """
    _, components = msgspec.json.schema_components((wanted,))
    parts: dict[str, Json] = msgspec.json.decode(msgspec.json.encode(components))
    schema = _inline(parts[wanted.__name__], parts)
    assert isinstance(schema, dict), "a struct is an object"
    schema.pop("description", None)
    return schema


def read_arguments(wanted: type[A], arguments: dict[str, Any]) -> A:
    """Read what a model wrote; null is an argument left out, and a number may come as text.

    Raises:
      BadArguments: with the argument that is wrong, and those that there are.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        return msgspec.convert(given, wanted, strict=False)
    except msgspec.ValidationError as exc:
        raise BadArguments(f"{_say(str(exc))}; the arguments are: {_usage(wanted)}") from exc


def _inline(part: Json, parts: dict[str, Json]) -> Json:
    match part:
        case {"$ref": str(place)}:
            return _inline(parts[place.rpartition("/")[2]], parts)
        case {"anyOf": [only, {"type": "null"}]}:
            return _inline(only, parts)
        case dict():
            # A title that is text is the name of a type of ours; an argument of that name is an object.
            fields = {key: each for key, each in part.items() if key != "title" or isinstance(each, dict)}
            return {key: _inline(each, parts) for key, each in fields.items()}
        case list():
            return [_inline(each, parts) for each in part]
        case _:
            return part


def _say(problem: str) -> str:
    """Put msgspec's sentence in the words of a model, which wrote an object with arguments."""
    text, _, path = problem.partition(" - at `$")
    text = text.replace("Object missing required field", "missing argument")
    text = text.replace("Object contains unknown field", "unknown argument")
    place = path.rstrip("`").lstrip(".")
    return f"`{place}`: {text}" if place else text


def _usage(wanted: type[Arguments]) -> str:
    fields = msgspec.structs.fields(wanted)
    return ", ".join(f"{each.encode_name}" if each.required else f"{each.encode_name}?" for each in fields)
