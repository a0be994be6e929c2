"""A model call's record: what was told, and what is estimated when it was not."""

from __future__ import annotations

from crabd.messages import AssistantMessage, TextBlock, ThinkingBlock, ToolCall, Usage, user_text
from crabd.providers.base import Finished, ModelChoice, ModelRequest
from crabd.runtime.metering import Meter
from crabd.store.record import ModelCalled
from tests.fakes import ScriptedProvider

REQUEST = ModelRequest(model="m", system="", messages=(user_text("x" * 384),))


def begin() -> Meter:
    choice = ModelChoice("p/m", "m", ScriptedProvider(), "a test wrote it", 1000)
    return Meter(choice, REQUEST, run="r1", purpose="reply", began=10.0)


def test_a_call_is_timed_to_its_first_piece_and_to_its_end() -> None:
    meter = begin()

    meter.hear(10.25)
    meter.hear(11.0)
    record = meter.record(12.0, AssistantMessage((TextBlock("hi"),)), Finished("end", Usage(7, 2, cost=0.5)))

    usage = Usage(7, 2, cost=0.5)
    assert record == ModelCalled("r1", "p/m", "reply", usage, 9, 1000, duration_ms=2000, first_token_ms=250)


def test_what_a_server_does_not_tell_is_estimated_and_marked_and_has_no_cost() -> None:
    reply = AssistantMessage((ThinkingBlock("hmm…"), TextBlock("y" * 8), ToolCall("c", "x", '{"a": 1}')))

    record = begin().record(11.0, reply, None)

    assert record.usage == Usage(100, 6)
    assert (record.estimated, record.context_tokens, record.first_token_ms) == (True, 106, None)


def test_a_call_that_is_no_reply_tells_what_the_history_weighs() -> None:
    record = begin().record(11.0, AssistantMessage(()), Finished("end", Usage(7, 2)), weight=900)

    assert (record.context_tokens, record.usage) == (900, Usage(7, 2))


def test_a_call_has_begun_with_its_first_piece() -> None:
    meter = begin()
    before = meter.has_begun

    meter.hear(10.5)

    assert (before, meter.has_begun) == (False, True)
