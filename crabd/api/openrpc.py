"""The OpenRPC document, made from the types, so that it cannot differ from what is served."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
from msgspec import Struct

from crabd.api.table import EVENT_NOTIFICATION, METHODS
from crabd.events import AnyEvent, Envelope
from crabd.rpc.methods import Method

OPENRPC_VERSION = "1.3.2"
REF = "#/components/schemas/{name}"


def describe_api(version: str) -> dict[str, Any]:
    """Describe every method and the event notification, with JSON Schemas of all types."""
    # A union of plain objects has no tag to decode by, and results are only ever encoded: each member is
    # described on its own.
    results = [member for method in METHODS for member in _members(method.result)]
    params = [method.params for method in METHODS]
    types = [*params, *results, Envelope, *get_args(AnyEvent)]
    schemas, components = msgspec.json.schema_components(types, ref_template=REF)
    by_type = dict(zip(map(_key, types), schemas, strict=True))
    document = {
        "openrpc": OPENRPC_VERSION,
        "info": {"title": "crabd", "version": version, "license": {"name": "MIT"}},
        "methods": [_describe(method, by_type) for method in METHODS],
        # A default may be a tuple, which JSON has not.
        "components": {"schemas": msgspec.json.decode(msgspec.json.encode(components))},
        "x-notifications": [
            {
                "name": EVENT_NOTIFICATION,
                "summary": "Something happened in a session that this client listens to.",
                "params": {
                    "allOf": [
                        by_type[_key(Envelope)],
                        {"oneOf": [by_type[_key(event)] for event in get_args(AnyEvent)]},
                    ]
                },
            }
        ],
    }
    # Defaults are told as Python has them, so a tuple becomes a list here.
    return msgspec.json.decode(msgspec.json.encode(document), type=dict[str, Any])


def _describe(method: Method[Any, Any], by_type: dict[str, Any]) -> dict[str, Any]:
    results = [by_type[_key(member)] for member in _members(method.result)]
    return {
        "name": method.name,
        "summary": method.summary,
        "paramStructure": "by-name",
        "params": _describe_params(method.params),
        "result": {"name": "result", "schema": results[0] if len(results) == 1 else {"oneOf": results}},
    }


def _describe_params(params: type[Struct]) -> list[dict[str, Any]]:
    (schema,), components = msgspec.json.schema_components([params], ref_template=REF)
    definition = components[schema["$ref"].rpartition("/")[2]]
    required = definition.get("required", [])
    return [
        {"name": name, "required": name in required, "schema": field}
        for name, field in definition["properties"].items()
    ]


def _members(result: Any) -> tuple[Any, ...]:
    is_union = not isinstance(result, type) and get_args(result) and result != dict[str, Any]
    return get_args(result) if is_union else (result,)


def _key(type_: Any) -> str:
    return repr(type_)
