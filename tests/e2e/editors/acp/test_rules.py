"""What holds a transcript to the rules finds what breaks them."""

from __future__ import annotations

import pytest

from tests.e2e.editors.acp.order import faults_of, unanswered
from tests.e2e.editors.acp.transcript import Json, Message
from tests.e2e.editors.acp.validity import PACKAGE, flaws_of
from tests.e2e.editors.visiting import needs_module

QUESTION = 1 << 30
TEXT: Json = {"type": "text", "text": "hi"}


def asks(number: int, method: str, **params: object) -> Message:
    return Message("client", {"jsonrpc": "2.0", "id": number, "method": method, "params": params})


def answers(number: int, **result: object) -> Message:
    return Message("agent", {"jsonrpc": "2.0", "id": number, "result": result})


def fails(number: int) -> Message:
    error = {"code": -32603, "message": "no"}
    return Message("agent", {"jsonrpc": "2.0", "id": number, "error": error})


def tells(kind: str, **fields: object) -> Message:
    params = {"sessionId": "s", "update": {"sessionUpdate": kind, **fields}}
    return Message("agent", {"jsonrpc": "2.0", "method": "session/update", "params": params})


def asks_leave(call: str, number: object = QUESTION) -> Message:
    options = [{"optionId": "a", "name": "Allow", "kind": "allow_once"}]
    params = {"sessionId": "s", "toolCall": {"toolCallId": call}, "options": options}
    body = {"jsonrpc": "2.0", "id": number, "method": "session/request_permission", "params": params}
    return Message("agent", body)


CANCEL = Message("client", {"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": "s"}})
LEAVE = {"outcome": {"outcome": "selected", "optionId": "a"}}
ALLOWS = Message("client", {"jsonrpc": "2.0", "id": QUESTION, "result": LEAVE})
SAYS = tells("agent_message_chunk", content=TEXT)
CALLS = tells("tool_call", toolCallId="c", title="ls")
RUNS = tells("tool_call_update", toolCallId="c", status="in_progress")
DONE = tells("tool_call_update", toolCallId="c", status="completed")
INITIALIZES = asks(0, "initialize", protocolVersion=1)
HELLO = [INITIALIZES, answers(0, protocolVersion=1)]
MAKES = asks(1, "session/new", cwd="/", mcpServers=[])
OPENED = [*HELLO, MAKES, answers(1, sessionId="s")]
PROMPTS = asks(2, "session/prompt", sessionId="s", prompt=[TEXT])
ENDS = answers(2, stopReason="end_turn")
TURN = [PROMPTS, SAYS, CALLS, asks_leave("c"), ALLOWS, RUNS, DONE, SAYS, ENDS]
LOADS = asks(3, "session/load", sessionId="s", cwd="/", mcpServers=[])
RESUMES = asks(3, "session/resume", sessionId="s", cwd="/")
IDLE = tells("usage_update", used=1, size=2)

IN_ORDER = {
    "a turn": [*OPENED, tells("available_commands_update", availableCommands=[]), *TURN],
    "news between turns": [*OPENED, *TURN, IDLE],
    "a replay, and a run that goes on": [*HELLO, LOADS, SAYS, CALLS, DONE, answers(3), SAYS],
    "a resumed run that goes on": [*HELLO, RESUMES, answers(3), SAYS],
    "a cancelled turn": [*OPENED, PROMPTS, CANCEL, SAYS, answers(2, stopReason="cancelled")],
    "a prompt that is cut off": [*OPENED, PROMPTS, SAYS],
}
OUT_OF_ORDER = {
    "before initialize was answered": [INITIALIZES, SAYS],
    "that the client does not know yet": [*HELLO, MAKES, IDLE],
    "outside of a turn": [*OPENED, *TURN, SAYS],
    "before session/resume was answered": [*HELLO, RESUMES, SAYS],
    "an answer to nothing": [*OPENED, *TURN, ENDS],
    "is not an object": [Message("client", {"id": 0, "method": "initialize"}), Message("agent", {"id": 0})],
    "which never began": [*OPENED, PROMPTS, DONE],
    "begins twice": [*OPENED, PROMPTS, CALLS, CALLS],
    "which is over": [*OPENED, PROMPTS, CALLS, DONE, RUNS],
    "these tool calls are not: c": [*OPENED, PROMPTS, CALLS, ENDS],
    "a tool call that was never told": [*OPENED, PROMPTS, asks_leave("c")],
    "a tool call that is over": [*OPENED, PROMPTS, CALLS, DONE, asks_leave("c")],
    "a request's id is 'x'": [*OPENED, PROMPTS, CALLS, asks_leave("c", "x")],
    "a request's id is 7": [*OPENED, PROMPTS, CALLS, asks_leave("c", 7)],
    "id is taken": [*OPENED, PROMPTS, CALLS, asks_leave("c"), asks_leave("c")],
    "was cancelled ends with an error": [*OPENED, PROMPTS, CANCEL, fails(2)],
}
INVALID = {
    "'protocolVersion' is a required property": [INITIALIZES, answers(0)],
    "('currentMode' was unexpected)": [
        *OPENED,
        tells("current_mode_update", currentModeId="m", currentMode=""),
    ],
    "'done' is not": [*OPENED, PROMPTS, answers(2, stopReason="done")],
    "'txt': ''}} is not valid under any of the given schemas": [
        *OPENED,
        PROMPTS,
        tells("agent_message_chunk", content={**TEXT, "txt": ""}),
    ],
    "'no_such_update'} is not valid under any of the given schemas": [*OPENED, tells("no_such_update")],
    "no schema has such a thing": [Message("agent", {"jsonrpc": "2.0", "method": "session/told"})],
    "not JSON-RPC 2.0": [Message("agent", {"id": 1, "method": "_crabd/x"})],
    "$.code": [
        INITIALIZES,
        Message("agent", {"jsonrpc": "2.0", "id": 0, "error": {"code": "x", "message": ""}}),
    ],
}


@pytest.mark.parametrize("case", IN_ORDER)
def test_what_is_in_order_is_not_blamed(case: str) -> None:
    assert faults_of(IN_ORDER[case]) == []


@pytest.mark.parametrize("fault", OUT_OF_ORDER)
def test_what_is_out_of_order_is_found_where_it_is(fault: str) -> None:
    messages = OUT_OF_ORDER[fault]

    (found,) = faults_of(messages)

    assert found.startswith(f"{len(messages) - 1}: ")
    assert fault in found


def test_a_request_without_an_answer_is_found() -> None:
    assert unanswered([*OPENED, PROMPTS, SAYS]) == ["session/prompt"]


@needs_module(PACKAGE)
@pytest.mark.parametrize("case", IN_ORDER)
def test_messages_as_the_schema_has_them_are_not_blamed(case: str) -> None:
    assert flaws_of(IN_ORDER[case]) == []


@needs_module(PACKAGE)
@pytest.mark.parametrize("flaw", INVALID)
def test_a_message_that_the_schema_does_not_know_is_found(flaw: str) -> None:
    found = flaws_of(INVALID[flaw])

    assert len(found) == 1
    assert flaw in found[0]
