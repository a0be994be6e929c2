"""A reply being streamed: chunks in, events out, a message at the end. Pure.

Text and thinking are told as they come, as segments of which only the last is open. Pieces of tool calls wait
until they are whole. Nothing here knows of rounds or records.
"""

from __future__ import annotations

from crabd import events
from crabd.events import AnyEvent
from crabd.messages import (
    AssistantBlock,
    AssistantMessage,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    clean_text,
)
from crabd.providers.base import Chunk, Finished, TextChunk, ThinkingChunk, ThinkingSigned, ToolCallChunk


class Reply:
    """A reply being streamed: its blocks in order, of which only the last may be open."""

    def __init__(self, guest: str = "") -> None:
        self.guest = guest
        self.finish: Finished | None = None
        self._blocks: list[_Segment] = []
        self._calls: dict[int, _CallParts] = {}
        self._open: _Segment | None = None
        self._fresh: list[_Segment] = []

    @property
    def is_empty(self) -> bool:
        """Neither text nor thinking has come."""
        return not any(segment.parts for segment in self._blocks)

    @property
    def has_fresh(self) -> bool:
        """Something has come since ``take_fresh``."""
        return bool(self._fresh)

    def receive(self, chunk: Chunk) -> list[AnyEvent]:
        """Take a chunk; text and thinking become events, and pieces of calls wait until they are whole."""
        match chunk:
            case TextChunk(text=text):
                return self._extend(False, text)
            case ThinkingChunk(text=text):
                return self._extend(True, text)
            case ThinkingSigned():
                return self._sign(chunk)
            case ToolCallChunk(index=index):
                self._calls.setdefault(index, _CallParts()).merge(chunk)
                return []
            case Finished():
                self.finish = chunk
                return []

    def take_fresh(self) -> tuple[AssistantBlock, ...]:
        """Give what has come since this was asked last."""
        fresh, self._fresh = self._fresh, []
        return tuple(segment.block() for segment in fresh)

    def close(self) -> list[AnyEvent]:
        """Close the open segment, if there is one."""
        if self._open is None:
            return []
        is_thinking, self._open = self._open.is_thinking, None
        return [events.ThinkingEnd() if is_thinking else events.TextEnd()]

    def message(self, model: str, *, with_calls: bool, partial: bool = False) -> AssistantMessage:
        """Put the reply together. A call without a name is dropped: nobody could answer it."""
        blocks: list[AssistantBlock] = [s.block() for s in self._blocks if s.parts or s.signed]
        if with_calls:
            blocks += self._whole_calls()
        return AssistantMessage(tuple(blocks), model, partial, self.guest)

    def _sign(self, signed: ThinkingSigned) -> list[AnyEvent]:
        """Close the open thinking with its signature; without any, it stands for thinking nobody saw."""
        if self._open is None or not self._open.is_thinking:
            self._blocks.append(_Segment(True, signed))
            return self.close()
        self._open.signed = signed
        return self.close()

    def _whole_calls(self) -> list[ToolCall]:
        # A result is addressed by its call's id, so of two calls with one id only the first can be meant.
        calls: dict[str, ToolCall] = {}
        for _, parts in sorted(self._calls.items()):
            if parts.id and parts.name:
                calls.setdefault(parts.id, parts.call())
        return list(calls.values())

    def _extend(self, is_thinking: bool, text: str) -> list[AnyEvent]:
        if not text:
            return []
        text = clean_text(text)
        seen: list[AnyEvent] = []
        if self._open is None or self._open.is_thinking is not is_thinking:
            seen = self.close()
            self._open = _Segment(is_thinking)
            self._blocks.append(self._open)
            seen.append(events.ThinkingStart() if is_thinking else events.TextStart())
        self._open.parts.append(text)
        if not self._fresh or self._fresh[-1].is_thinking is not is_thinking:
            self._fresh.append(_Segment(is_thinking))
        self._fresh[-1].parts.append(text)
        seen.append(events.ThinkingDelta(text) if is_thinking else events.TextDelta(text))
        return seen


class _Segment:
    def __init__(self, is_thinking: bool, signed: ThinkingSigned | None = None) -> None:
        self.is_thinking = is_thinking
        self.signed = signed
        self.parts: list[str] = []

    def block(self) -> AssistantBlock:
        text = "".join(self.parts)
        if not self.is_thinking:
            return TextBlock(text)
        return (
            ThinkingBlock(text, self.signed.signature, self.signed.signed_by)
            if self.signed
            else ThinkingBlock(text)
        )


class _CallParts:
    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def merge(self, chunk: ToolCallChunk) -> None:
        self.id = chunk.id or self.id
        self.name = chunk.name or self.name
        self.arguments.append(chunk.arguments)

    def call(self) -> ToolCall:
        return ToolCall(clean_text(self.id), clean_text(self.name), clean_text("".join(self.arguments)))
