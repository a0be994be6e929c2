"""Events and their envelope, which are one flat object on the wire."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from crabd.events import AnyEvent, Envelope, Lagged, RunEnded, RunPicture, TextDelta, TextStart
from crabd.messages import AssistantMessage, TextBlock, Usage, utc_now

TYPES = """
    run_started text_start text_delta text_end thinking_start thinking_delta thinking_end
    tool_call tool_started tool_output tool_result steered queued compacted compaction_failed title_changed
    usage
    results_shortened project_untrusted retrying budget_spent persistence_failed run_ended session_changed
    session_closed lagged confirmation_requested confirmation_resolved question_asked question_answered
    plan_changed servers_failed
"""


@pytest.mark.parametrize("event", get_args(AnyEvent), ids=lambda event: event.__name__)
def test_no_event_has_a_field_of_the_envelope(event: type[msgspec.Struct]) -> None:
    taken = {field.encode_name for field in msgspec.structs.fields(Envelope)} | {"type"}

    own = {field.encode_name for field in msgspec.structs.fields(event)}

    assert taken == {"session", "epoch", "seq", "at", "run", "merged_from", "type"}
    assert own & taken == set()


def test_the_types_of_events_are_those_that_the_contract_names() -> None:
    tags = [event.__struct_config__.tag for event in get_args(AnyEvent)]

    assert sorted(tags) == sorted(TYPES.split())


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        (TextStart(), {"type": "text_start"}),
        (TextDelta("hi"), {"type": "text_delta", "text": "hi"}),
        (Lagged(3, 9), {"type": "lagged", "from": 3, "to": 9}),
    ],
)
def test_an_event_is_written_by_its_type_and_its_fields(event: AnyEvent, fields: dict[str, Any]) -> None:
    assert msgspec.json.decode(msgspec.json.encode(event)) == fields


def test_a_union_of_events_is_read_back_by_its_type() -> None:
    ended = RunEnded("end_turn", Usage(1, 2), True)

    again = msgspec.json.decode(msgspec.json.encode(ended), type=AnyEvent)

    assert again == ended


def test_an_envelope_says_nothing_of_a_run_that_is_not_there() -> None:
    of_session = msgspec.to_builtins(Envelope("crab_user_1", "e", 1, utc_now()))
    of_run = msgspec.to_builtins(Envelope("crab_user_1", "e", 1, utc_now(), "r1"))

    assert "run" not in of_session
    assert of_run["run"] == "r1"


def test_the_picture_of_a_run_holds_its_reply_as_a_message_is_written() -> None:
    reply = AssistantMessage((TextBlock("half"),), partial=True)
    picture = RunPicture("r1", utc_now(), 1, reply, (), 0)

    written = msgspec.json.decode(msgspec.json.encode(picture))["reply"]

    assert written == {"role": "assistant", "content": [{"type": "text", "text": "half"}], "partial": True}
