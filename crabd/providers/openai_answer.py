"""How OpenAI-compatible servers spell their chat completions and lists of models. Pure: no network.

Many dialects are understood. What a server adds is skipped; what it leaves out is made up for here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import msgspec
from msgspec import Struct

from crabd.errors import ProviderError
from crabd.messages import Usage
from crabd.providers.answer import Decoder, Fault, decode, error_in_stream
from crabd.providers.base import (
    Chunk,
    Finished,
    FinishReason,
    ModelInfo,
    TextChunk,
    ThinkingChunk,
    ToolCallChunk,
)
from crabd.providers.facts import Prices

_FINISH_REASONS: dict[str, FinishReason] = {
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "content_filter": "refused",
    "refusal": "refused",
}


class _Function(Struct, gc=False):
    name: str | None = None
    # A JSON text; some servers send the object itself.
    arguments: str | dict[str, Any] | None = None


class _CallPiece(Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Part(Struct):
    text: str | None = None
    thinking: str | list[_Part] | None = None


class _Delta(Struct):
    # A list of typed parts at some servers.
    content: str | list[_Part] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_CallPiece] | None = None


class _Choice(Struct):
    delta: _Delta | None = None
    # In place of the delta where a server sends the answer as one event.
    message: _Delta | None = None
    finish_reason: str | None = None


class _PromptDetails(Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _CompletionDetails(Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    # DeepSeek's own word for the cached ones.
    prompt_cache_hit_tokens: int | None = None
    completion_tokens_details: _CompletionDetails | None = None
    cost: float | None = None


class _Event(Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Fault | str | None = None


class _ModelMeta(Struct):
    n_ctx: int | None = None
    n_ctx_train: int | None = None


class _Pricing(Struct):
    prompt: float | None = None
    completion: float | None = None
    input_cache_read: float | None = None
    input_cache_write: float | None = None


class _TopProvider(Struct):
    max_completion_tokens: int | None = None


class _Model(Struct):
    id: str
    context_length: int | None = None
    context_window: int | None = None
    max_model_len: int | None = None
    max_context_length: int | None = None
    meta: _ModelMeta | None = None
    top_provider: _TopProvider | None = None
    pricing: _Pricing | None = None


class _ModelList(Struct):
    # Null at an Ollama that has none.
    data: list[_Model] | None = None


# Not strict: a figure in quotes is a figure.
_event_decoder = msgspec.json.Decoder(_Event, strict=False)
_models_decoder = msgspec.json.Decoder(_ModelList, strict=False)


class AnswerDecoder(Decoder):
    """Decode chat completions, in whatever dialect."""

    def __init__(self, provider: str, hide: Callable[[bytes], bytes]) -> None:
        super().__init__(provider, hide)
        self._calls: list[_OpenCall] = []
        self._finish_reason = ""
        self._is_refused = False
        self._usage: Usage | None = None

    @property
    def is_complete(self) -> bool:
        return bool(self._finish_reason)

    def take(self, payload: bytes) -> list[Chunk]:
        event = decode(_event_decoder, payload, self.provider)
        if event.error:
            raise error_in_stream(self.provider, event.error)
        if event.usage:
            self._usage = _usage(event.usage)
        if not event.choices:
            return []
        choice = event.choices[0]
        if choice.finish_reason == "error":
            raise ProviderError("unavailable", "the server gave up in mid answer", provider=self.provider)
        self._finish_reason = choice.finish_reason or self._finish_reason
        delta = choice.delta or choice.message
        return self._take_delta(delta) if delta else []

    def take_whole(self, payload: bytes) -> list[Chunk]:
        return self.take(payload)

    def finish(self) -> Finished:
        return Finished(self._reason(), self._usage)

    def _take_delta(self, delta: _Delta) -> list[Chunk]:
        chunks: list[Chunk] = []
        thinking = delta.reasoning_content or delta.reasoning or _thinking(delta.content)
        if thinking:
            chunks.append(ThinkingChunk(thinking))
        text = _text(delta.content)
        if text:
            chunks.append(TextChunk(text))
        if delta.refusal:
            self._is_refused = True
            chunks.append(TextChunk(delta.refusal))
        if delta.tool_calls:
            chunks += [self._take_call(piece, position) for position, piece in enumerate(delta.tool_calls)]
        return chunks

    def _take_call(self, piece: _CallPiece, position: int) -> ToolCallChunk:
        function = piece.function or _Function()
        call, is_new = self._find_call(piece, function, position)
        # A call that begins without an id gets one, for its result must be able to name it.
        made_up = f"call_{uuid4().hex[:24]}" if is_new else ""
        return ToolCallChunk(
            call.index, piece.id or made_up, function.name or "", _arguments(function.arguments)
        )

    def _find_call(self, piece: _CallPiece, function: _Function, position: int) -> tuple[_OpenCall, bool]:
        """Find the call a piece belongs to, or begin one.

        The server's index decides; but some give every call the index 0, and then only a new id tells.
        Without an index it is the id that counts, and without both a name begins a call.
        """
        if piece.index is not None:
            fits = [call for call in self._calls if call.place == piece.index and _may_be(call, piece.id)]
        elif piece.id:
            fits = [call for call in self._calls if call.id == piece.id]
        else:
            fits = [] if function.name else self._calls
        call = fits[-1] if fits else None
        if call is not None:
            call.id = piece.id or call.id
            return call, False
        place = position if piece.index is None else piece.index
        self._calls.append(_OpenCall(len(self._calls), place, piece.id or ""))
        return self._calls[-1], True

    def _reason(self) -> FinishReason:
        if self._is_refused:
            return "refused"
        # Servers disagree on whether a reply with calls "stops"; what came is what counts.
        return _FINISH_REASONS.get(self._finish_reason) or ("tool_calls" if self._calls else "end")


class _OpenCall(Struct):
    """A call that is coming in. ``place`` is the server's index, ``id`` is empty until there is one."""

    index: int
    place: int
    id: str


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
            context_window=_window(model),
            max_output=model.top_provider.max_completion_tokens if model.top_provider else None,
            prices=_prices(model.pricing),
        )
        for model in models
    ]


def _prices(told: _Pricing | None) -> Prices | None:
    """Read what OpenRouter tells, in dollars a token; below zero it is what a router cannot know before."""
    if (
        told is None
        or told.prompt is None
        or told.completion is None
        or min(told.prompt, told.completion) < 0
    ):
        return None
    return Prices(
        input=_per_million(told.prompt),
        output=_per_million(told.completion),
        cache_read=None if told.input_cache_read is None else _per_million(told.input_cache_read),
        cache_write=None if told.input_cache_write is None else _per_million(told.input_cache_write),
    )


def _per_million(price: float) -> float:
    # Nine digits after the point are more than any price has, and fewer than a float's noise.
    return round(max(0.0, price) * 1_000_000, 9)


def _window(model: _Model) -> int | None:
    meta = model.meta or _ModelMeta()
    return (
        model.context_length
        or model.context_window
        or model.max_model_len
        or model.max_context_length
        or meta.n_ctx
        or meta.n_ctx_train
    )


def _may_be(call: _OpenCall, id_: str | None) -> bool:
    return not id_ or not call.id or id_ == call.id


def _text(content: str | list[_Part] | None) -> str:
    if isinstance(content, list):
        return "".join(part.text or "" for part in content)
    return content or ""


def _thinking(content: str | list[_Part] | None) -> str:
    if not isinstance(content, list):
        return ""
    return "".join(_text(part.thinking) for part in content)


def _arguments(arguments: str | dict[str, Any] | None) -> str:
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return arguments or ""


def _usage(usage: _Usage) -> Usage:
    """Read usage; the cached tokens are among the input tokens, as these servers count."""
    prompt = usage.prompt_tokens_details or _PromptDetails()
    completion = usage.completion_tokens_details or _CompletionDetails()
    return Usage(
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cache_read_tokens=prompt.cached_tokens or usage.prompt_cache_hit_tokens or 0,
        cache_write_tokens=prompt.cache_write_tokens or 0,
        reasoning_tokens=completion.reasoning_tokens or 0,
        cost=usage.cost,
    )
