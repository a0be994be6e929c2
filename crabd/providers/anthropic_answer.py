"""How Anthropic's Messages API spells its answers and its list of models. Pure: no network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import msgspec
from msgspec import Struct

from crabd.messages import Usage
from crabd.providers.answer import Decoder, Fault, decode, error_in_stream
from crabd.providers.anthropic_wire import REDACTED
from crabd.providers.base import (
    Chunk,
    Finished,
    FinishReason,
    ModelInfo,
    TextChunk,
    ThinkingChunk,
    ThinkingSigned,
    ToolCallChunk,
)

_FINISH_REASONS: dict[str, FinishReason] = {
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "refusal": "refused",
}


class _OutputDetails(Struct):
    thinking_tokens: int | None = None


class _Usage(Struct):
    """Told at the start and again at the end, as totals; what is left out stays as it was."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None


class _Message(Struct):
    usage: _Usage | None = None


class _Block(Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None


class _Delta(Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Event(Struct):
    type: str = ""
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Fault | str | None = None


class _Answer(Struct):
    """An answer that is not streamed."""

    content: list[_Block] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None
    error: Fault | str | None = None


class _ModelMeta(Struct):
    n_ctx: int | None = None


class _Model(Struct):
    id: str
    max_input_tokens: int | None = None
    max_tokens: int | None = None
    # Where llama.cpp's server tells the window, whatever the dialect.
    meta: _ModelMeta | None = None


class _ModelList(Struct):
    data: list[_Model] | None = None


_event_decoder = msgspec.json.Decoder(_Event, strict=False)
_answer_decoder = msgspec.json.Decoder(_Answer, strict=False)
_models_decoder = msgspec.json.Decoder(_ModelList, strict=False)


class _Open(Struct):
    """A block that is coming in. ``call`` counts the calls; ``signature`` is that of its thinking so far."""

    type: str
    call: int = 0
    signature: str = ""
    # The arguments as the block began with them: they count where none follow.
    input: dict[str, Any] | None = None


class AnswerDecoder(Decoder):
    """Decode messages. ``model`` is the provider's own name of the one that was asked."""

    def __init__(self, provider: str, model: str, hide: Callable[[bytes], bytes]) -> None:
        super().__init__(provider, hide)
        self._signed_by = f"{provider}/{model}"
        self._open: dict[int, _Open] = {}
        self._calls = 0
        self._stop_reason = ""
        self._usage = _Usage()
        self._has_usage = False

    @property
    def is_complete(self) -> bool:
        return bool(self._stop_reason)

    def take(self, payload: bytes) -> list[Chunk]:
        event = decode(_event_decoder, payload, self.provider)
        match event.type:
            case "content_block_delta":
                return self._take_delta(event.index, event.delta or _Delta())
            case "content_block_start":
                return self._begin(event.index, event.content_block or _Block())
            case "content_block_stop":
                return self._stop(event.index)
            case "message_start":
                self._take_usage(event.message.usage if event.message else None)
            case "message_delta":
                self._take_usage(event.usage)
                self._stop_reason = (event.delta and event.delta.stop_reason) or self._stop_reason
            case "message_stop":
                return [*self._stop_all(), self.end()]
            case "error":
                raise error_in_stream(self.provider, event.error or "error")
            case _ if event.error:
                raise error_in_stream(self.provider, event.error)
            case _:
                pass
        return []

    def take_whole(self, payload: bytes) -> list[Chunk]:
        answer = decode(_answer_decoder, payload, self.provider)
        if answer.error:
            raise error_in_stream(self.provider, answer.error)
        self._take_usage(answer.usage)
        self._stop_reason = answer.stop_reason or ""
        chunks: list[Chunk] = []
        for index, block in enumerate(answer.content or []):
            chunks += (*self._begin(index, block), *self._stop(index))
        return chunks

    def finish(self) -> Finished:
        reason = _FINISH_REASONS.get(self._stop_reason) or ("tool_calls" if self._calls else "end")
        return Finished(reason, self._told_usage())

    def _begin(self, index: int, block: _Block) -> list[Chunk]:
        if block.type == "tool_use":
            self._open[index] = _Open(block.type, self._calls, input=block.input)
            self._calls += 1
            # A call needs an id, for its result must be able to name it.
            return [ToolCallChunk(self._open[index].call, block.id or _made_up(), block.name or "")]
        self._open[index] = _Open(block.type, signature=block.signature or "")
        match block.type:
            case "text":
                return [TextChunk(block.text)] if block.text else []
            case "thinking":
                return [ThinkingChunk(block.thinking)] if block.thinking else []
            case "redacted_thinking":
                return [ThinkingSigned(REDACTED + (block.data or ""), self._signed_by)]
            case _:
                return []

    def _take_delta(self, index: int, delta: _Delta) -> list[Chunk]:
        block = self._open.get(index) or _Open("")
        match delta.type:
            case "text_delta" if delta.text:
                return [TextChunk(delta.text)]
            case "thinking_delta" if delta.thinking:
                return [ThinkingChunk(delta.thinking)]
            case "signature_delta" if delta.signature:
                block.signature = delta.signature
            case "input_json_delta" if delta.partial_json and block.type == "tool_use":
                block.input = None
                return [ToolCallChunk(block.call, arguments=delta.partial_json)]
            case _:
                pass
        return []

    def _stop(self, index: int) -> list[Chunk]:
        block = self._open.pop(index, _Open(""))
        if block.type == "thinking" and block.signature:
            return [ThinkingSigned(block.signature, self._signed_by)]
        if block.type == "tool_use" and block.input:
            return [ToolCallChunk(block.call, arguments=msgspec.json.encode(block.input).decode())]
        return []

    def _stop_all(self) -> list[Chunk]:
        return [chunk for index in list(self._open) for chunk in self._stop(index)]

    def _take_usage(self, told: _Usage | None) -> None:
        if told is None:
            return
        self._has_usage = True
        for name in told.__struct_fields__:
            value = getattr(told, name)
            if value is not None:
                setattr(self._usage, name, value)

    def _told_usage(self) -> Usage | None:
        """Add up the input: this API counts what is cached beside it."""
        if not self._has_usage:
            return None
        told = self._usage
        read, write = told.cache_read_input_tokens or 0, told.cache_creation_input_tokens or 0
        details = told.output_tokens_details or _OutputDetails()
        return Usage(
            input_tokens=(told.input_tokens or 0) + read + write,
            output_tokens=told.output_tokens or 0,
            cache_read_tokens=read,
            cache_write_tokens=write,
            reasoning_tokens=details.thinking_tokens or 0,
        )


def read_models(provider: str, body: bytes) -> list[ModelInfo]:
    """Read the answer to ``GET /models``.

    Raises:
      ProviderError: ``bad_reply``.
    """
    models = decode(_models_decoder, body, provider).data or ()
    return [
        ModelInfo(
            id=f"{provider}/{model.id}",
            provider=provider,
            context_window=model.max_input_tokens or (model.meta or _ModelMeta()).n_ctx,
            max_output=model.max_tokens,
        )
        for model in models
    ]


def _made_up() -> str:
    return f"toolu_{uuid4().hex[:24]}"
