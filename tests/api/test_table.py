"""The table of methods, held against the names that the contract fixes."""

from __future__ import annotations

import re
from types import UnionType
from typing import Any, get_args

import msgspec
import pytest
from msgspec import Raw, Struct

from crabd import errors
from crabd.api.openrpc import describe_api
from crabd.api.sessions import RunResult
from crabd.api.table import METHODS
from crabd.events import AnyEvent, Envelope, SessionState
from crabd.rpc.methods import InvalidParamsError, Method
from crabd.server.dispatch import HANDLERS

# Each method with its parameters and, behind the arrow, what its result has. All of them may get more.
FIXED = """
initialize client protocol → name version protocol capabilities
rpc.discover
session/get_or_create agent sender topic description ephemeral cwd request_key → INFO created
session/load session → INFO
session/send session content request_key when_busy guest tool_choice wait events → run first_seq
session/steer session content request_key → steer status position
session/cancel session run → run stop_reason
session/compact session instructions request_key → archive summary usage_before usage_after
session/close session cancel → closed
session/delete session request_key → deleted
session/list agent sender topic state text cursor limit → sessions cursor
session/get session
session/history session from limit roles → messages
session/search query cursor limit → hits
session/fork session at
session/rewind session step
session/clear session
session/pause session
session/resume session
session/configure session title model thinking budget system_prompt auto_compact permissions mode cwd
session/usage session
session/export session
session/import path
session/subscribe session all after epoch → snapshot epoch seq replay
session/unsubscribe session all
confirmation/list session
confirmation/reply session call decision reason
question/reply session call answers
permission/get
permission/set
agent/list
model/list
tool/list
daemon/ping
daemon/status → version uptime pid sessions runs clients memory store
daemon/reload
daemon/shutdown
"""
INFO = """
    id agent sender topic title state active ephemeral cwd model parent created_at updated_at last_run_at
    message_count steps active_seconds queue usage seq
"""
RUN_RESULT = "run stop_reason text usage persisted first_seq last_seq"
EVENTS = """
    run_started text_start text_delta text_end thinking_start thinking_delta thinking_end tool_call
    tool_output tool_result confirmation_requested confirmation_resolved question_asked question_answered
    steered queued compacted title_changed usage persistence_failed run_ended session_changed session_closed
    lagged
"""
ENVELOPE = "session epoch seq run at"
STATES = "idle running waiting paused stored damaged"
CODES = {
    "NOT_FOUND": -32002,
    "REFUSED": -32003,
    "NO_RUN": -32004,
    "CONFLICT": -32005,
    "PROVIDER": -32010,
    "STORE": -32020,
    "SHUTTING_DOWN": -32030,
    "OVERLOADED": -32001,
    "CANCELLED": -32800,
}
each_method = pytest.mark.parametrize("method", list(METHODS), ids=lambda method: method.name)


def fields_of(type_: type[Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(type_)}


@pytest.mark.parametrize("line", FIXED.strip().splitlines(), ids=lambda line: line.split()[0])
def test_every_name_that_the_contract_fixes_is_there(line: str) -> None:
    asked, _, answered = line.replace("INFO", INFO).partition("→")
    name, *params = asked.split()

    method = METHODS.get(name)

    assert method is not None
    assert set(params) - fields_of(method.params) == set()
    members = get_args(method.result) if isinstance(method.result, UnionType) else (method.result,)
    assert all(set(answered.split()) <= fields_of(each) for each in members if answered)


def test_what_a_run_and_an_event_tell_is_called_as_the_contract_says() -> None:
    notification = describe_api("1")["x-notifications"][0]

    assert notification["name"] == "session/event"
    assert set(RUN_RESULT.split()) - fields_of(RunResult) == set()
    assert set(ENVELOPE.split()) - fields_of(Envelope) == set()
    assert set(EVENTS.split()) - {event.__struct_config__.tag for event in get_args(AnyEvent)} == set()
    assert set(STATES.split()) == set(get_args(SessionState))
    assert {name: getattr(errors, name) for name in CODES} == CODES


def test_what_is_described_is_what_is_answered() -> None:
    assert {method.name for method in METHODS} == set(HANDLERS)


@each_method
def test_a_name_is_a_noun_and_a_verb_in_snake_case(method: Method[Any, Any]) -> None:
    is_general = method.name in ("initialize", "rpc.discover")

    assert is_general or re.fullmatch(r"[a-z]+(_[a-z]+)*/[a-z]+(_[a-z]+)*", method.name)


@each_method
def test_a_field_that_nobody_knows_is_refused_by_name(method: Method[Any, Any]) -> None:
    with pytest.raises(InvalidParamsError) as refused:
        method.decode_params(Raw(b'{"bogus": 1}'))

    assert refused.value.path == "$.bogus"


@each_method
def test_the_fields_of_its_parameters_are_in_snake_case(method: Method[Any, Any]) -> None:
    names = [field.encode_name for field in msgspec.structs.fields(method.params)]

    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)


@each_method
def test_a_summary_is_one_sentence(method: Method[Any, Any]) -> None:
    assert re.fullmatch(r"[A-Z][^.]*\.", method.summary)


def test_a_method_that_is_not_in_the_table_is_not_found() -> None:
    assert METHODS.get("session/explode") is None
