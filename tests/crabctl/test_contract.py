"""The contract in other languages: small documents whose types are known, letter by letter."""

from __future__ import annotations

from typing import Any

import pytest

from crabctl.contract import Contract, spell
from crabctl.luacats import SPELLING as LUA
from crabctl.luacats import write_lua
from crabctl.typescript import SPELLING as TYPESCRIPT
from crabctl.typescript import write_typescript

REF = "#/components/schemas/"
DOCUMENT: dict[str, Any] = {
    "info": {"title": "small", "version": "1"},
    "methods": [
        {
            "name": "thing/get",
            "summary": "Get it.",
            "x-params": {"$ref": f"{REF}Get"},
            "result": {"schema": {"oneOf": [{"$ref": f"{REF}Got"}, {"$ref": f"{REF}Nothing"}]}},
        }
    ],
    "components": {
        "schemas": {
            "Get": {
                "description": "Ends a comment */ and goes on.\n\nMore.",
                "properties": {
                    "id": {"type": "string", "description": "Whose."},
                    "deep": {"type": "boolean"},
                },
                "required": ["id"],
            },
            "Got": {"properties": {"type": {"enum": ["got"]}}, "required": ["type"]},
            "Nothing": {"description": "No fields.", "properties": {}},
            "Envelope": {"properties": {"seq": {"type": "integer"}}, "required": ["seq"]},
        }
    },
    "x-notifications": [
        {
            "name": "thing/event",
            "summary": "It happened.",
            "params": {"allOf": [{"$ref": f"{REF}Envelope"}, {"oneOf": [{"$ref": f"{REF}Got"}]}]},
        },
        {"name": "all/event", "summary": "All is new.", "params": {"$ref": f"{REF}Nothing"}},
    ],
}


@pytest.mark.parametrize(
    ("schema", "typescript", "lua"),
    [
        ({"type": "string", "format": "date-time"}, "string", "string"),
        ({"type": "integer"}, "number", "integer"),
        ({"enum": ["a", 'b"']}, '"a" | "b\\""', '"a"|"b\\""'),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string | null", "string|nil"),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, "number", "integer|number"),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, '("a" | "b")[]', '("a"|"b")[]'),
        ({"type": "array", "items": {"$ref": f"{REF}Got"}}, "Got[]", "crabd.Got[]"),
        ({"type": "object"}, "Record<string, unknown>", "table<string, any>"),
        (
            {"type": "object", "additionalProperties": {"type": "string"}},
            "Record<string, string>",
            "table<string, string>",
        ),
        ({}, "unknown", "any"),
        ({"type": "something newer"}, "unknown", "any"),
    ],
)
def test_a_schema_is_spelled_as_the_language_does(schema: dict[str, Any], typescript: str, lua: str) -> None:
    assert (spell(schema, TYPESCRIPT), spell(schema, LUA)) == (typescript, lua)


def test_typescript_has_a_type_for_each_and_maps_by_the_names_of_the_wire() -> None:
    written = write_typescript(Contract(DOCUMENT))

    head, _, types = written.partition("\n\n")
    assert head.startswith("// small 1: made by")
    assert types == (
        "/**\n * Ends a comment * / and goes on.\n *\n * More.\n */\n"
        "export interface Get {\n  /** Whose. */\n  id: string;\n  deep?: boolean;\n}\n\n"
        'export interface Got {\n  type: "got";\n}\n\n'
        "/** No fields. */\nexport type Nothing = Record<string, never>;\n\n"
        "export interface Envelope {\n  seq: number;\n}\n\n"
        "/** It happened. */\nexport type ThingEvent = Envelope & (\n  | Got\n);\n\n"
        "/** All is new. */\nexport type AllEvent = Nothing;\n\n"
        "/** What each method takes and gives. */\nexport interface Methods {\n"
        '  /** Get it. */\n  "thing/get": { params: Get; result: Got | Nothing };\n}\n\n'
        "/** What the daemon sends unasked. */\nexport interface Notifications {\n"
        '  "thing/event": ThingEvent;\n  "all/event": AllEvent;\n}\n'
    )


def test_lua_has_a_class_for_each_and_events_have_the_fields_of_their_envelope() -> None:
    written = write_lua(Contract(DOCUMENT))

    head, _, types = written.partition("\n\n")
    assert head.startswith("---@meta crabd\n-- small 1: made by")
    assert types == (
        "--- Ends a comment */ and goes on.\n---\n--- More.\n"
        "---@class crabd.Get\n---@field id string # Whose.\n---@field deep? boolean\n\n"
        '---@class crabd.Got: crabd.Envelope\n---@field type "got"\n\n'
        "--- No fields.\n---@class crabd.Nothing\n\n"
        "---@class crabd.Envelope\n---@field seq integer\n\n"
        "--- It happened.\n---@alias crabd.ThingEvent\n---| crabd.Got\n\n"
        "--- All is new.\n---@alias crabd.AllEvent\n---| crabd.Nothing\n\n"
        "--- What each method takes and gives.\n---@class crabd.Methods\n"
        '---@field ["thing/get"] fun(params: crabd.Get): crabd.Got|crabd.Nothing # Get it.\n'
    )
