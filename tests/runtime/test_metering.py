"""A model call's record: what was told, and what is estimated when it was not."""

from __future__ import annotations

from msgspec import structs

from crabd.messages import Usage, user_text
from crabd.providers.base import (
    Finished,
    ModelChoice,
    ModelRequest,
    TextChunk,
    ThinkingChunk,
    ToolCallChunk,
    ToolOffer,
)
from crabd.runtime.metering import Meter
from crabd.store.record import ModelCalled
from tests.fakes import ScriptedProvider

REQUEST = ModelRequest(model="m", system="", messages=(user_text("x" * 384),))


def begin(request: ModelRequest = REQUEST) -> Meter:
    choice = ModelChoice("p/m", "m", ScriptedProvider(), "a test wrote it", 1000)
    return Meter(choice, request, run="r1", purpose="reply", began=10.0)


def test_a_call_is_timed_to_its_first_piece_and_to_its_end() -> None:
    meter = begin()

    meter.hear(TextChunk("h"), 10.25)
    meter.hear(TextChunk("i"), 11.0)
    meter.hear(Finished("end", Usage(7, 2, cost=0.5)), 11.5)
    record = meter.record(12.0)

    usage = Usage(7, 2, cost=0.5)
    assert record == ModelCalled("r1", "p/m", "reply", usage, 9, 1000, duration_ms=2000, first_token_ms=250)


def test_what_a_server_does_not_tell_is_estimated_and_marked_and_has_no_cost() -> None:
    meter = begin()

    for chunk in (ThinkingChunk("hmm…"), TextChunk("y" * 8), ToolCallChunk(0, "c", "x", '{"a": 1}')):
        meter.hear(chunk, 11.0)
    record = meter.record(11.0)

    assert record.usage == Usage(100, 6)
    assert (record.estimated, record.context_tokens) == (True, 106)


def test_an_estimate_has_the_prompt_and_the_tools_in_it() -> None:
    tools = (ToolOffer("look", "y" * 400, {"type": "object"}),)

    record = begin(structs.replace(REQUEST, system="x" * 400, tools=tools)).record(11.0)

    assert 300 < record.usage.input_tokens < 320


def test_a_call_that_is_no_reply_tells_what_the_history_weighs() -> None:
    meter = begin()

    meter.hear(Finished("end", Usage(7, 2)), 11.0)
    record = meter.record(11.0, weight=900)

    assert (record.context_tokens, record.usage) == (900, Usage(7, 2))


def test_a_call_has_begun_with_its_first_piece() -> None:
    meter = begin()
    before = meter.has_begun

    meter.hear(TextChunk("a"), 10.5)

    assert (before, meter.has_begun) == (False, True)
