"""What a message may look like: the schema that the protocol's own TypeScript SDK brings along."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, cast

from jsonschema import Draft202012Validator

from tests.e2e.editors.acp.transcript import Json, Message
from tests.e2e.editors.visiting import MODULES

PACKAGE = "@agentclientprotocol/sdk"
# What the first does not allow the second may, for clients that were told that we have it.
FILES = ("schema.json", "schema.unstable.json")
# Methods of nobody's schema, which the protocol lets each agent have.
OWN = "_"
# Fields in which any text will do, and which differ from message to message.
WORDY = {"text", "messageId", "sessionId", "toolCallId", "title", "data", "uri", "path", "cwd", "updatedAt"}
# What makes a schema one that names the fields of an object; one with none of these takes anything.
NAMING = {"$ref", "allOf", "anyOf", "oneOf", "properties"}


def is_installed() -> bool:
    """Tell whether the schema is at hand."""
    return (MODULES / PACKAGE).is_dir()


class Schema:
    """One of the SDK's files. What we send must not have fields that are not in it; ``_meta`` takes any."""

    def __init__(self, name: str) -> None:
        text = (MODULES / PACKAGE / "schema" / "v1" / name).read_text()
        self._lenient: Json = json.loads(text)
        self._strict: Json = json.loads(text)
        _tighten(self._strict)
        # By method and by what it is of that method.
        self._names = {
            (definition["x-method"], kind): key
            for key, definition in self._lenient["$defs"].items()
            if "x-method" in definition
            for kind in ("Request", "Response", "Notification")
            if key.endswith(kind)
        }

    def flaws(self, method: str, kind: str, value: Any, *, is_ours: bool) -> list[str] | None:
        """Find what is wrong with parameters or a result; null if the method is not known here."""
        name = self._names.get((method, kind))
        if name is None:
            return None
        checked: Json = {"$ref": f"#/$defs/{name}"}
        if is_ours:
            checked["unevaluatedProperties"] = False
        return [f"{method} {kind}: {flaw}" for flaw in self.check(checked, value, is_strict=is_ours)]

    def check(self, schema: Json, value: Any, *, is_strict: bool = False) -> list[str]:
        """Find what is wrong with a value by a schema that refers to definitions here."""
        definitions = (self._strict if is_strict else self._lenient)["$defs"]
        errors = list(Draft202012Validator({**schema, "$defs": definitions}).iter_errors(value))
        # Fields count as unknown, too, where something else is wrong with the whole.
        telling = [error for error in errors if error.validator != "unevaluatedProperties"]
        return [f"{error.json_path}: {error.message[:300]}" for error in telling or errors]


@cache
def schemas() -> tuple[Schema, ...]:
    """Read the schemas, once."""
    return tuple(map(Schema, FILES))


class Examiner:
    """Looks at the messages of one link as they come."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, object], str] = {}

    def judge(self, message: Message) -> list[str]:
        """Take the next message, and say what is wrong with it by itself."""
        body, is_ours = message.body, message.sender == "agent"
        if body.get("jsonrpc") != "2.0":
            return [f"not JSON-RPC 2.0: {body}"]
        if message.method is not None:
            if message.is_request:
                self._asked[message.sender, body["id"]] = message.method
            kind = "Request" if message.is_request else "Notification"
            return _flaws(message.method, kind, body.get("params"), is_ours=is_ours)
        if "error" in body:
            return schemas()[0].check({"$ref": "#/$defs/Error"}, body["error"])
        method = self._asked.pop(("client" if is_ours else "agent", body.get("id")), "nothing")
        return _flaws(method, "Response", body.get("result"), is_ours=is_ours)


def flaws_of(messages: list[Message]) -> list[str]:
    """Find all that is wrong with the messages of a link, each by itself."""
    examiner = Examiner()
    return [flaw for message in messages for flaw in examiner.judge(message)]


# What was found right; thousands of chunks differ in their words alone.
_known: set[object] = set()


def _flaws(method: str, kind: str, value: Any, *, is_ours: bool) -> list[str]:
    if method.startswith(OWN):
        return []
    shape = (method, kind, is_ours, _shape(value))
    if shape in _known:
        return []
    blamed: list[list[str]] = []
    for schema in schemas():
        found = schema.flaws(method, kind, value, is_ours=is_ours)
        if found == []:
            _known.add(shape)
            return []
        if found is not None:
            blamed.append(found)
    return blamed[0] if blamed else [f"{method} {kind}: no schema has such a thing"]


def _shape(value: Any, key: str = "") -> object:
    """Leave out what the schema does not look at: the words of texts, and how often things of a kind come."""
    if isinstance(value, dict):
        fields = cast("Json", value)
        return frozenset((name, _shape(each, name)) for name, each in fields.items())
    if isinstance(value, list):
        return frozenset(_shape(each) for each in cast("list[object]", value))
    if isinstance(value, str):
        return "" if key in WORDY else value
    # Of a number only kind and sign matter.
    return (type(value), value < 0) if isinstance(value, int | float) else value


def _tighten(schema: Json) -> None:
    """Let no object that is a property or an item have fields that its schema does not name."""
    for place in _objects([*schema.get("properties", {}).values(), schema.get("items")]):
        if NAMING & place.keys():
            place["unevaluatedProperties"] = False
    for each in schema.values():
        for below in _objects(each):
            _tighten(below)


def _objects(value: Any) -> list[Json]:
    """List the objects that a value is, or has as its items."""
    values = cast("list[object]", value) if isinstance(value, list) else [value]
    return [cast("Json", each) for each in values if isinstance(each, dict)]
