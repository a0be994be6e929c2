"""A reply being put together from its chunks."""

from __future__ import annotations

from crabd import events
from crabd.messages import AssistantMessage, TextBlock, ThinkingBlock, ToolCall
from crabd.providers.base import Chunk, TextChunk, ThinkingChunk, ThinkingSigned, ToolCallChunk
from crabd.runtime.reply import Reply


def reply_of(*chunks: Chunk) -> Reply:
    reply = Reply()
    for chunk in chunks:
        reply.receive(chunk)
    return reply


def signed(text: str) -> ThinkingSigned:
    return ThinkingSigned(text, "test/m")


def test_signed_thinking_is_a_block_of_its_own() -> None:
    reply = reply_of(
        ThinkingChunk("a"),
        ThinkingChunk("b"),
        signed("1"),
        ThinkingChunk("c"),
        signed("2"),
        TextChunk("So."),
        ToolCallChunk(0, "c", "read", "{}"),
    )

    assert reply.message("test/m", with_calls=True) == AssistantMessage(
        (
            ThinkingBlock("ab", "1", "test/m"),
            ThinkingBlock("c", "2", "test/m"),
            TextBlock("So."),
            ToolCall("c", "read", "{}"),
        ),
        "test/m",
    )


def test_thinking_that_nobody_saw_is_kept_for_its_signature() -> None:
    reply = reply_of(TextChunk("One."), signed("1"), TextChunk("Two."))

    assert reply.message("m", with_calls=True).content == (
        TextBlock("One."),
        ThinkingBlock("", "1", "test/m"),
        TextBlock("Two."),
    )


def test_a_signature_ends_the_thinking_for_those_who_watch() -> None:
    reply = reply_of(ThinkingChunk("a"))

    seen = [reply.receive(signed("1")), reply.receive(signed("2"))]

    assert seen == [[events.ThinkingEnd()], []]
