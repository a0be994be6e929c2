"""The OpenRPC document: it holds together, and it says what is really read and written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import UnionType
from typing import Any, cast, get_args, get_origin

import msgspec
import pytest

from crabd import errors
from crabd.api import daemon, deciding, sessions
from crabd.api.examples import EXAMPLES
from crabd.api.openrpc import describe_api
from crabd.api.table import METHODS
from crabd.api.words import WORDS
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


def test_every_reference_leads_somewhere() -> None:
    refs = {each["$ref"] for each in walk(DOCUMENT) if "$ref" in each}
    places = {f"#/components/{kind}/{name}" for kind, all_ in DOCUMENT["components"].items() for name in all_}

    assert refs
    assert refs - places == set()


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
        method["name"]: param["description"]
        for method in DOCUMENT["methods"]
        for param in method["params"]
        if param["name"] == "request_key"
    }

    assert list(keys) == [
        f"session/{verb}" for verb in ("get_or_create", "send", "steer", "compact", "delete", "fork")
    ]
    assert all("answered again and not done again" in about for about in keys.values())


def test_every_type_and_every_field_is_told_about_and_nobody_else() -> None:
    untold = [name for name, schema in SCHEMAS.items() if not schema.get("description")]
    untold += [
        f"{type_}.{name}"
        for type_, schema in SCHEMAS.items()
        for name, field in schema["properties"].items()
        if not field.get("description")
    ]
    told = {f"{type_}.{name}" for type_, schema in SCHEMAS.items() for name in schema["properties"]}
    told |= {name.partition(".")[2] for name in told}

    assert untold == []
    assert WORDS.keys() - told == set()


def test_a_field_is_told_by_the_sentences_of_its_docstring_that_name_it() -> None:
    schema = SCHEMAS["Send"]

    assert schema["properties"]["allow"]["description"] == (
        "`allow` are permission rules for the run that this message starts, and for that alone."
    )
    assert schema["properties"]["session"]["description"] == WORDS["session"]
    assert SCHEMAS["List"]["properties"]["state"]["description"] == WORDS["List.state"]
    assert "\n\nWith a `guest` that agent answers in place of the session's own" in schema["description"]


def test_what_is_always_there_is_required_of_an_answer_and_not_of_a_question() -> None:
    assert "plan" in SCHEMAS["Snapshot"]["required"]
    assert "run" not in SCHEMAS["Envelope"]["required"]
    assert "error" not in SCHEMAS["RunResult"]["required"]
    assert SCHEMAS["Send"]["required"] == ["session", "content"]


def test_a_time_is_told_from_a_text() -> None:
    assert SCHEMAS["SessionInfo"]["properties"]["created_at"]["format"] == "date-time"


def test_every_error_of_ours_is_described_and_given_by_some_method() -> None:
    concrete = {type_ for type_ in vars(errors).values() if isinstance(type_, type)}
    concrete -= {errors.CrabdError, errors.Refused, errors.Conflict, errors.ConfigError}
    described = DOCUMENT["components"]["errors"]
    given = {error["$ref"].rpartition("/")[2] for method in DOCUMENT["methods"] for error in method["errors"]}

    assert {type_.__name__ for type_ in concrete} - described.keys() == {"BadRequest"}
    assert given == described.keys()
    assert all(
        set(error) == {"code", "message", "data"} and error["data"]["kind"] for error in described.values()
    )


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("daemon/ping", {"invalid_params", "internal", "overloaded", "cancelled", "called_from_a_tool"}),
        (
            "session/steer",
            {"no_run", "queue_full", "not_found", "request_key_reused", "shutting_down", "full"},
        ),
        ("trust/add", {"trust_stale", "full"}),
    ],
)
def test_a_method_tells_its_own_errors(method: str, kinds: set[str]) -> None:
    told = {error["$ref"].rpartition("/")[2] for error in by_name[method]["errors"]}
    general = {error["$ref"].rpartition("/")[2] for error in by_name["daemon/ping"]["errors"]}
    found = {DOCUMENT["components"]["errors"][name]["data"]["kind"] for name in told}

    assert kinds <= found
    assert general <= told
    assert method == "daemon/ping" or "nothing_to_compact" not in found


def test_every_method_has_an_example_of_its_own_types() -> None:
    missing = {method.name for method in METHODS} - {example.method for example in EXAMPLES}
    wrong = [
        example.name
        for example in EXAMPLES
        if (method := METHODS.get(example.method)) is None
        or type(example.params) is not method.params
        or not isinstance(example.result, kinds_of(method.result))
    ]

    assert missing == set()
    assert wrong == []


def kinds_of(result: Any) -> tuple[type, ...]:
    members = get_args(result) if isinstance(result, UnionType) else (result,)
    return tuple(get_origin(each) or each for each in members)


def test_an_example_shows_what_was_chosen_and_no_default() -> None:
    (example,) = by_name["session/subscribe"]["examples"]

    assert example["params"] == [{"name": "session", "value": "crab_user_1"}]


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
    notification, _ = DOCUMENT["x-notifications"]
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
