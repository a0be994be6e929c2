"""The daemon's OpenRPC document, read for writing types of it in another language. Pure.

It knows the JSON Schema that the document has and no more; it must not know any language, which is a
``Spelling``. A schema that says something else, as a newer daemon's may, stands for anything.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Schema = dict[str, Any]

_SCHEMAS = "#/components/schemas/"


class Spelling:
    """How a language writes types, ``{}`` standing for what is inside.

    ``words`` has its names for JSON's types and, as ``any``, for all of them; ``either`` stands between the
    members of a union.
    """

    def __init__(self, words: dict[str, str], *, either: str, name: str, array: str, mapping: str) -> None:
        self.words = words
        self.either = either
        self.name = name
        self.array = array
        self.mapping = mapping


class Field:
    """A field of a type. What ``is_optional`` may be left out."""

    def __init__(self, name: str, schema: Schema, *, is_optional: bool) -> None:
        self.name = name
        self.schema = schema
        self.is_optional = is_optional
        self.about: str = schema.get("description", "")


class Type:
    """A type of the document, with what it is for."""

    def __init__(self, name: str, schema: Schema) -> None:
        required = schema.get("required", ())
        self.name = name
        self.about: str = schema.get("description", "")
        self.fields = [
            Field(each, of, is_optional=each not in required) for each, of in schema["properties"].items()
        ]


class Method:
    """A method, with the schemas of what it takes and gives."""

    def __init__(self, described: dict[str, Any]) -> None:
        self.name: str = described["name"]
        self.about: str = described["summary"]
        self.params: Schema = described["x-params"]
        self.result: Schema = described["result"]["schema"]


class Notification:
    """What the daemon sends unasked: one of ``kinds``, in one with the ``envelope`` if there is one."""

    def __init__(self, described: dict[str, Any]) -> None:
        params = described["params"]
        envelope, kinds = params.get("allOf", (None, params))
        self.name: str = described["name"]
        self.about: str = described["summary"]
        self.envelope = _named(envelope) if envelope else ""
        self.kinds = [_named(kind) for kind in kinds.get("oneOf", [kinds])]

    @property
    def type_name(self) -> str:
        """Name the type of its parameters: ``SessionEvent`` for ``session/event``."""
        return "".join(word.capitalize() for word in self.name.replace("/", "_").split("_"))


class Contract:
    """All of the document that types are made of, in its order."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.title = f"{document['info']['title']} {document['info']['version']}"
        self.types = [Type(name, schema) for name, schema in document["components"]["schemas"].items()]
        self.methods = [Method(method) for method in document["methods"]]
        self.notifications = [Notification(each) for each in document["x-notifications"]]


def spell(schema: Schema, spelling: Spelling) -> str:
    """Write the type that a schema describes."""
    members = schema.get("anyOf") or schema.get("oneOf")
    if "$ref" in schema:
        return spelling.name.format(_named(schema))
    if "enum" in schema:
        return spelling.either.join(json.dumps(value) for value in schema["enum"])
    if members:
        return spelling.either.join(dict.fromkeys(spell(member, spelling) for member in members))
    if schema.get("type") == "array":
        member = spell(schema.get("items", {}), spelling)
        return spelling.array.format(f"({member})" if "|" in member else member)
    if schema.get("type") == "object":
        value: Any = schema.get("additionalProperties")
        return spelling.mapping.format(spell(value, spelling) if value else spelling.words["any"])
    return spelling.words.get(schema.get("type", "any"), spelling.words["any"])


def _named(schema: Schema) -> str:
    name: str = schema["$ref"]
    return name.removeprefix(_SCHEMAS)
