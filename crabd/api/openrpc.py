"""The OpenRPC document, made from the types, so that it cannot differ from what is served."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast, get_args

import msgspec
from msgspec import UNSET, Struct, structs
from msgspec.inspect import StructType, Type, multi_type_info

from crabd.api.examples import EXAMPLES
from crabd.api.failures import FAILURES, failures_of
from crabd.api.scenery import Example
from crabd.api.table import CHANGES_NOTIFICATION, EVENT_NOTIFICATION, METHODS
from crabd.api.words import markdown, tell_field
from crabd.events import AnyEvent, Changes, Envelope
from crabd.rpc.methods import Method

OPENRPC_VERSION = "1.3.2"
REF = "#/components/schemas/"
ABOUT = """\
crabd hosts LLM agents: one daemon for each user, whose sessions outlive the editors and terminals that look \
at them. It speaks JSON-RPC 2.0 on a Unix socket, in lines of JSON or with Content-Length headers: the \
client's first byte chooses. Parameters go by name. A request is abandoned by the notification \
`$/cancelRequest {id}`, or `$/cancel_request {requestId}`; that stops no run. What a link speaks whose first \
`initialize` has an integer `protocolVersion` is not described here: it is the Agent Client Protocol.

The examples, in the order of their numbers, are a play on a new daemon without a model: each takes up what \
those before it have left."""


def describe_api(version: str) -> dict[str, Any]:
    """Describe every method, its errors and examples, and the events, with JSON Schemas of all types."""
    # A union of plain objects has no tag to decode by, and results are only ever encoded: each member is
    # described on its own.
    results = [member for method in METHODS for member in _members(method.result)]
    types = [*(method.params for method in METHODS), *results, Envelope, Changes, *get_args(AnyEvent)]
    refs, components = msgspec.json.schema_components(types, ref_template=f"{REF}{{name}}")
    by_type = dict(zip(map(repr, types), refs, strict=True))
    _explain(components, types)
    document = {
        "openrpc": OPENRPC_VERSION,
        "info": {
            "title": "crabd",
            "description": ABOUT,
            "version": version,
            "license": {"name": "MIT", "url": "https://opensource.org/license/mit"},
        },
        "methods": [_describe(method, by_type, components) for method in METHODS],
        "components": {
            "schemas": components,
            "errors": {name: failure.told() for name, failure in FAILURES.items()},
        },
        "x-notifications": [
            {
                "name": EVENT_NOTIFICATION,
                "summary": "Something happened in a session that this client listens to.",
                "params": {
                    "allOf": [
                        by_type[repr(Envelope)],
                        {"oneOf": [by_type[repr(event)] for event in get_args(AnyEvent)]},
                    ]
                },
            },
            {
                "name": CHANGES_NOTIFICATION,
                "summary": "The sessions, or how many there are of a kind, are not what they were.",
                "params": by_type[repr(Changes)],
            },
        ],
    }
    # Defaults and examples are told as Python has them, so a tuple becomes a list here.
    return msgspec.json.decode(msgspec.json.encode(document), type=dict[str, Any])


def _describe(method: Method[Any, Any], by_type: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    params = by_type[repr(method.params)]
    results = [by_type[repr(member)] for member in _members(method.result)]
    is_its_own = sum(other.params is method.params for other in METHODS) == 1
    about = markdown(method.params.__doc__ or "") if is_its_own else ""
    return {
        "name": method.name,
        "summary": method.summary,
        **({"description": about} if about else {}),
        "paramStructure": "by-name",
        "params": list(_list_params(schemas[params["$ref"].removeprefix(REF)])),
        "result": {"name": "result", "schema": results[0] if len(results) == 1 else {"oneOf": results}},
        "errors": [{"$ref": f"#/components/errors/{name}"} for name in failures_of(method)],
        "examples": [_show(n, each) for n, each in enumerate(EXAMPLES, 1) if each.method == method.name],
        # All parameters as one object, for whoever checks them or makes code of them.
        "x-params": params,
    }


def _list_params(definition: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, schema in definition["properties"].items():
        rest = {key: value for key, value in schema.items() if key != "description"}
        about = {"description": schema["description"]} if "description" in schema else {}
        yield {"name": name, **about, "required": name in definition["required"], "schema": rest}


def _show(number: int, example: Example) -> dict[str, Any]:
    """Write an example; of the parameters those that are not left at their defaults."""
    params = _spelled(example.params)
    about = {"description": "Cut: there is more in the lists and objects of the answer."}
    return {
        "name": f"{number:02} {example.name}",
        **(about if example.is_cut else {}),
        "params": [{"name": name, "value": value} for name, value in params.items()],
        "result": {"name": "result", "value": example.result},
    }


def _spelled(params: Struct) -> dict[str, Any]:
    defaults = {field.encode_name: field.default for field in structs.fields(params)}
    written = msgspec.to_builtins(params)
    return {name: value for name, value in written.items() if value != defaults[name]}


def _explain(schemas: dict[str, Any], types: list[Any]) -> None:
    """Write into each schema what its type and fields mean and, of answers, which fields are always there.

    ``types`` begin with those of the parameters.
    """
    infos = multi_type_info(types)
    asked = _structs_in(infos[: len(list(METHODS))])
    for type_, struct in _structs_in(infos).items():
        schema = schemas[type_.__name__]
        fields = schema["properties"]
        if "description" in schema:
            schema["description"] = markdown(schema["description"])
        for name, field in fields.items():
            about = tell_field(type_, name)
            field |= {"description": about} if about else {}
        if type_ not in asked:
            schema["required"] = [name for name in fields if name not in _left_out(struct)]


def _left_out(struct: StructType) -> set[str]:
    """Name the fields that are not written while they have nothing to say."""
    is_brief = struct.cls.__struct_config__.omit_defaults
    return {
        each.encode_name
        for each in struct.fields
        if not each.required and (is_brief or each.default is UNSET)
    }


def _structs_in(types: Iterable[Type]) -> dict[type[Struct], StructType]:
    """Find all structs that types are made of."""
    found: dict[type[Struct], StructType] = {}
    waiting = list(types)
    while waiting:
        each = waiting.pop()
        if isinstance(each, StructType):
            if each.cls not in found:
                found[each.cls] = each
                waiting += [field.type for field in each.fields]
            continue
        parts: tuple[object, ...] = structs.astuple(each)
        inner = [one for part in parts for one in _as_tuple(part)]
        waiting += [one for one in inner if isinstance(one, Type)]
    return found


def _as_tuple(part: object) -> tuple[object, ...]:
    return cast("tuple[object, ...]", part) if isinstance(part, tuple) else (part,)


def _members(result: Any) -> tuple[Any, ...]:
    is_union = not isinstance(result, type) and get_args(result) and result != dict[str, Any]
    return get_args(result) if is_union else (result,)
