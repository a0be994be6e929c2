"""How OpenAI-compatible servers spell their answers: streams, refusals, lists of models. Pure: no network.

Many dialects are understood. What a server adds is skipped; what it leaves out is made up for here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypeVar
from uuid import uuid4

import msgspec
from msgspec import Struct

from crabd.errors import ProviderError
from crabd.messages import Usage, clean_text
from crabd.providers.base import (
    Chunk,
    Finished,
    ModelInfo,
    TextChunk,
    ThinkingChunk,
    ToolCallChunk,
)
from crabd.providers.retry import ConnectionLost, kind_of, retry_after
from crabd.providers.sse import EventParser, EventTooLong

T = TypeVar("T")

# What a server says about itself is shown to a person: a sentence or two, not its whole page.
_MAX_PROBLEM_LENGTH = 400

_FinishReason: TypeAlias = Literal["end", "tool_calls", "max_tokens", "refused"]
_FINISH_REASONS: dict[str, _FinishReason] = {
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "content_filter": "refused",
    "refusal": "refused",
}
_WORDS_FOR_THE_SILENT = {404: "there is no such page: does base_url end where the API begins (often /v1)?"}
# The statuses that errors inside a stream would have had; other servers send the number itself.
_STATUS_OF_CODE = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "server_error": 500,
    "internal_server_error": 500,
    "service_unavailable": 503,
    "overloaded_error": 529,
}


class _Function(Struct, gc=False):
    name: str | None = None
    # A JSON text; some servers send the object itself.
    arguments: str | dict[str, Any] | None = None


class _CallPiece(Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Part(Struct, gc=False):
    text: str | None = None


class _Delta(Struct):
    # A list of typed parts at some servers.
    content: str | list[_Part] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_CallPiece] | None = None


class _Choice(Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _PromptDetails(Struct, gc=False):
    cached_tokens: int | None = None


class _CompletionDetails(Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    cost: float | None = None


class _Fault(Struct):
    message: str | None = None
    code: int | str | None = None
    type: str | None = None


class _Event(Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: _Fault | str | None = None


class _Refusal(Struct):
    error: _Fault | str | None = None
    message: str | None = None


class _ModelMeta(Struct):
    n_ctx: int | None = None
    n_ctx_train: int | None = None


class _Model(Struct):
    id: str
    context_length: int | None = None
    context_window: int | None = None
    max_model_len: int | None = None
    max_context_length: int | None = None
    meta: _ModelMeta | None = None


class _ModelList(Struct):
    # Null at an Ollama that has none.
    data: list[_Model] | None = None


_event_decoder = msgspec.json.Decoder(_Event)
_models_decoder = msgspec.json.Decoder(_ModelList)


class AnswerDecoder:
    """Turn the bytes of a streamed answer into chunks.

    Call ``feed`` until ``is_finished``, and ``end`` if the stream ends before. ``hide`` takes out of an event
    what nobody may read.
    """

    def __init__(self, provider: str, hide: Callable[[bytes], bytes]) -> None:
        self._provider = provider
        self._hide = hide
        self._parser = EventParser()
        self._calls: list[_OpenCall] = []
        self._finish_reason = ""
        self._is_refused = False
        self._usage: Usage | None = None
        self.is_finished = False

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole, though the server may yet tell the usage."""
        return bool(self._finish_reason)

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Take bytes and give the chunks they complete, ``Finished`` last. To be iterated to its end.

        Raises:
          ProviderError: the server reports an error, or what it sends makes no sense. The chunks before that
            have been given.
        """
        try:
            payloads = self._parser.feed(data)
        except EventTooLong as exc:
            raise ProviderError("bad_reply", str(exc), provider=self._provider) from exc
        for payload in payloads:
            if self.is_finished:
                return
            if payload.strip() == b"[DONE]":
                yield self.end()
            else:
                yield from self._take(_decode(_event_decoder, self._hide(payload), self._provider))

    def end(self) -> Finished:
        """Finish with what there is, when the stream ends without saying so.

        Raises:
          ConnectionLost: ``bad_reply``, the answer is not whole.
        """
        if not self.is_complete:
            problem = "the answer was cut off: the stream ended without a finish_reason"
            raise ConnectionLost("bad_reply", problem, provider=self._provider)
        self.is_finished = True
        return Finished(self._reason(), self._usage)

    def _take(self, event: _Event) -> list[Chunk]:
        if event.error:
            raise _error_in_stream(self._provider, event.error)
        if event.usage:
            self._usage = _usage(event.usage)
        if not event.choices:
            return []
        choice = event.choices[0]
        if choice.finish_reason == "error":
            raise ProviderError("unavailable", "the server gave up in mid answer", provider=self._provider)
        self._finish_reason = choice.finish_reason or self._finish_reason
        return self._take_delta(choice.delta) if choice.delta else []

    def _take_delta(self, delta: _Delta) -> list[Chunk]:
        chunks: list[Chunk] = []
        thinking = delta.reasoning_content or delta.reasoning
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
        call, is_new = self._find_call(piece, position)
        # A call that begins without an id gets one, for its result must be able to name it.
        made_up = f"call_{uuid4().hex[:24]}" if is_new else ""
        return ToolCallChunk(
            call.index, piece.id or made_up, function.name or "", _arguments(function.arguments)
        )

    def _find_call(self, piece: _CallPiece, position: int) -> tuple[_OpenCall, bool]:
        """Find the call a piece belongs to, or begin one.

        The server's index decides; but some give every call the index 0, and then only a new id tells.
        """
        place = position if piece.index is None else piece.index
        for call in reversed(self._calls):
            if call.place == place and (not piece.id or not call.id or piece.id == call.id):
                call.id = piece.id or call.id
                return call, False
        self._calls.append(_OpenCall(len(self._calls), place, piece.id or ""))
        return self._calls[-1], True

    def _reason(self) -> _FinishReason:
        if self._is_refused:
            return "refused"
        # Servers disagree on whether a reply with calls "stops"; what came is what counts.
        return _FINISH_REASONS.get(self._finish_reason) or ("tool_calls" if self._calls else "end")


class _OpenCall(Struct):
    """A call that is coming in. ``place`` is the server's index, ``id`` is empty until there is one."""

    index: int
    place: int
    id: str


def read_refusal(
    provider: str, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime, key_origin: str
) -> ProviderError:
    """Say what a status other than 200 means, in the server's own words. ``headers`` are in lower case."""
    words = _words(body) or _WORDS_FOR_THE_SILENT.get(status, "the server does not say why")
    if status in (401, 403):
        words += f" (the API key is from {key_origin})"
    return ProviderError(
        kind_of(status, body.decode(errors="replace")),
        f"{status}: {words}",
        provider=provider,
        status=status,
        retry_after=retry_after(headers, now),
    )


def read_models(provider: str, body: bytes) -> list[ModelInfo]:
    """Read the answer to ``GET /models``.

    Raises:
      ProviderError: ``bad_reply``.
    """
    models = _decode(_models_decoder, body, provider).data or ()
    return [ModelInfo(id=f"{provider}/{m.id}", provider=provider, context_window=_window(m)) for m in models]


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


def _decode(decoder: msgspec.json.Decoder[T], payload: bytes, provider: str) -> T:
    try:
        return decoder.decode(payload)
    except (ValueError, RecursionError) as exc:
        problem = str(exc)
    # Half a surrogate pair, or half a character, is no reason to lose an answer; the standard library reads
    # both, and what is left to mend is mended in the text.
    try:
        lenient = json.dumps(json.loads(payload.decode(errors="replace")), ensure_ascii=False)
        return decoder.decode(clean_text(lenient).encode())
    except (ValueError, RecursionError) as exc:
        raise ProviderError("bad_reply", f"the answer makes no sense: {problem}", provider=provider) from exc


def _text(content: str | list[_Part] | None) -> str:
    if isinstance(content, list):
        return "".join(part.text or "" for part in content)
    return content or ""


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
        cache_read_tokens=prompt.cached_tokens or 0,
        reasoning_tokens=completion.reasoning_tokens or 0,
        cost=usage.cost,
    )


def _error_in_stream(provider: str, error: _Fault | str) -> ProviderError:
    """An error that came after the 200 counts as the status it would have had."""
    fault = _Fault(message=error) if isinstance(error, str) else error
    code = fault.code or fault.type
    status = _STATUS_OF_CODE.get(str(code)) or _http_status(code)
    words = _cut(fault.message or f"error {code}")
    # Without a status the words decide, as they do with a plain 400.
    return ProviderError(kind_of(status or 400, f"{code} {words}"), words, provider=provider, status=status)


def _http_status(code: int | str | None) -> int | None:
    text = str(code)
    return int(text) if len(text) == 3 and text.isdecimal() else None


def _words(body: bytes) -> str:
    """Find the sentence in the body of a refusal; a page of HTML has none."""
    text = body.decode(errors="replace").strip()
    try:
        found = msgspec.json.decode(body, type=_Refusal)
    except (ValueError, RecursionError):
        return "" if text.startswith("<") else _cut(text)
    fault = found.error
    words = fault.message if isinstance(fault, _Fault) else fault
    return _cut(words or found.message or text)


def _cut(text: str) -> str:
    text = clean_text(" ".join(text.split()))
    return text if len(text) <= _MAX_PROBLEM_LENGTH else f"{text[:_MAX_PROBLEM_LENGTH]}…"
