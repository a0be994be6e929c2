"""The OpenRPC document: it holds together, and it says what is really read and written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest

from crabd.api import daemon, deciding, sessions
from crabd.api.openrpc import describe_api
from crabd.api.table import METHODS
from crabd.events import (
    AnyEvent,
    ConfirmationRequested,
    PlanChanged,
    PlanItem,
    QuestionAsked,
    RunEnded,
    SessionClosed,
    TextDelta,
)
from crabd.messages import Usage
from crabd.runtime.broker import Broker
from tests.runtime.test_confirmations import CONFIRMATION, QUESTION

DOCUMENT = describe_api("1.2.3")
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
REF = "#/components/schemas/"
by_name: dict[str, Any] = {method["name"]: method for method in DOCUMENT["methods"]}


def walk(value: object) -> Iterator[dict[str, Any]]:
    """Visit every object of a document."""
    if isinstance(value, dict):
        yield cast("dict[str, Any]", value)
        for member in cast("dict[str, object]", value).values():
            yield from walk(member)
    elif isinstance(value, list):
        for member in cast("list[object]", value):
            yield from walk(member)


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, if a schema is one."""
    ref = schema.get("$ref")
    return schema if ref is None else resolve(SCHEMAS[ref.removeprefix(REF)])


def fits(value: dict[str, Any], schema: dict[str, Any]) -> bool:
    """Tell whether an object has what a schema of an object requires, and nothing it does not name."""
    definition = resolve(schema)
    return set(definition.get("required", [])) <= value.keys() <= set(definition["properties"])


def test_the_document_is_json_and_says_what_it_is() -> None:
    again = json.loads(json.dumps(DOCUMENT))

    assert again == DOCUMENT
    assert again["openrpc"].startswith("1.")
    assert (again["info"]["title"], again["info"]["version"]) == ("crabd", "1.2.3")


def test_every_reference_leads_to_a_schema() -> None:
    refs = {each["$ref"] for each in walk(DOCUMENT) if "$ref" in each}

    assert refs
    assert {ref.removeprefix(REF) for ref in refs} - SCHEMAS.keys() == set()


def test_no_schema_stands_there_for_nothing() -> None:
    used = {each["$ref"].removeprefix(REF) for each in walk(DOCUMENT) if "$ref" in each}
    # Parameters are listed one by one, as OpenRPC wants them; their types stay for whoever makes code of it.
    params = {method.params.__name__ for method in METHODS}

    assert SCHEMAS.keys() - used - params == set()


def test_methods_are_described_in_the_order_of_the_table() -> None:
    assert list(by_name) == [method.name for method in METHODS]


@pytest.mark.parametrize("method", list(METHODS), ids=lambda method: method.name)
def test_a_method_has_its_parameters_by_name_and_its_result(method: Any) -> None:
    described = by_name[method.name]

    fields = msgspec.structs.fields(method.params)
    assert described["summary"] == method.summary
    assert described["paramStructure"] == "by-name"
    assert {param["name"]: param["required"] for param in described["params"]} == {
        field.encode_name: field.required for field in fields
    }
    assert all(param["schema"] for param in described["params"])
    assert described["result"]["schema"]


def test_the_methods_that_may_be_repeated_say_so_and_what_a_key_is() -> None:
    keys = {
        method["name"]: json.dumps(param["schema"])
        for method in DOCUMENT["methods"]
        for param in method["params"]
        if param["name"] == "request_key"
    }

    assert list(keys) == [
        f"session/{verb}" for verb in ("get_or_create", "send", "steer", "compact", "delete")
    ]
    assert all("answered again and not done again" in schema for schema in keys.values())


def test_a_result_of_two_kinds_is_one_of_two_schemas() -> None:
    choices = by_name["session/send"]["result"]["schema"]["oneOf"]

    assert [resolve(choice)["title"] for choice in choices] == ["RunResult", "Accepted"]


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("daemon/ping", daemon.Pong(True)),
        ("daemon/shutdown", daemon.ShutdownStarted(1, 0)),
        ("session/close", sessions.Closed(True)),
        ("session/steer", sessions.SteerQueued("r1.s1", "r1", "queued", 1)),
        ("session/compact", sessions.CompactResult("a_b_1/1", "sum", 10, 5)),
        ("session/send", sessions.Accepted("r1", 1, "started")),
        ("confirmation/list", deciding.Confirmations((CONFIRMATION,))),
        ("confirmation/reply", deciding.Replied("r1.1", "c1", "allow_always", ("bash(make)",))),
        ("question/list", deciding.Questions((QUESTION,))),
        ("question/reply", deciding.Answered("r1.2", "c2", None)),
        (
            "session/send",
            sessions.RunResult(
                run="r1",
                stop_reason="end_turn",
                text="",
                usage=Usage(),
                persisted=True,
                first_seq=1,
                last_seq=2,
            ),
        ),
    ],
)
def test_a_result_is_written_as_exactly_one_of_its_schemas_says(method: str, result: object) -> None:
    schema = by_name[method]["result"]["schema"]
    written = json.loads(msgspec.json.encode(result))

    assert [fits(written, choice) for choice in schema.get("oneOf", [schema])].count(True) == 1


@pytest.mark.parametrize(
    "event",
    [
        TextDelta("hi"),
        RunEnded("end_turn", Usage(), True),
        SessionClosed("closed"),
        ConfirmationRequested(CONFIRMATION),
        QuestionAsked(QUESTION),
        PlanChanged((PlanItem("think"),)),
    ],
)
def test_an_event_on_the_wire_is_its_envelope_and_exactly_one_kind_of_event(event: AnyEvent) -> None:
    (notification,) = DOCUMENT["x-notifications"]
    envelope, kinds = notification["params"]["allOf"]
    topic = Broker("epoch", lambda payload: payload).topic("crab_user_1")
    topic.publish(event, "r1")
    (written,) = map(json.loads, topic.missed(0) or ())

    of_envelope = {name: written.pop(name) for name in resolve(envelope)["properties"] if name in written}

    assert notification["name"] == "session/event"
    assert fits(of_envelope, envelope)
    tagged = [
        kind for kind in map(resolve, kinds["oneOf"]) if written["type"] in kind["properties"]["type"]["enum"]
    ]
    assert len(tagged) == 1
    assert fits(written, tagged[0])
