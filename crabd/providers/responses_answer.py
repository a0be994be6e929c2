"""How OpenAI's Responses API spells its answers. Pure: no network.

An answer is a list of items: reasoning, messages, calls. They come in pieces, each item whole at its end, and
all of them once more at the end of all; what a server did not send as pieces is taken from there.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import msgspec
from msgspec import Struct

from crabd.messages import Usage
from crabd.providers.answer import Decoder, Fault, decode, error_in_stream
from crabd.providers.base import (
    Chunk,
    Finished,
    FinishReason,
    TextChunk,
    ThinkingChunk,
    ThinkingSigned,
    ToolCallChunk,
)
from crabd.providers.responses_wire import Signature


class _Part(Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None


class _Item(Struct):
    type: str = ""
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    content: list[_Part] | None = None
    summary: list[_Part] | None = None
    encrypted_content: str | None = None


class _InputDetails(Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(Struct):
    reasoning_tokens: int | None = None


class _Usage(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None
    cost: float | None = None


class _Incomplete(Struct):
    reason: str | None = None


class _Response(Struct):
    status: str | None = None
    output: list[_Item] | None = None
    usage: _Usage | None = None
    incomplete_details: _Incomplete | None = None
    error: Fault | str | None = None


class _Event(Struct):
    type: str = ""
    # Where the item belongs. llama.cpp's server leaves the place out, and names the item.
    output_index: int | None = None
    item_id: str | None = None
    # Of the part of a summary.
    summary_index: int = 0
    delta: str | None = None
    item: _Item | None = None
    response: _Response | None = None
    error: Fault | str | None = None
    # An error event's own.
    message: str | None = None
    code: str | int | None = None


_event_decoder = msgspec.json.Decoder(_Event, strict=False)
_answer_decoder = msgspec.json.Decoder(_Response, strict=False)
_HOW_IT_ENDED = ("completed", "incomplete", "failed")
_PARAGRAPH = "\n\n"


class _Open(Struct):
    """An item that is coming in. ``call`` counts the calls; ``has_text`` says that pieces of it have come."""

    call: int = 0
    has_text: bool = False
    # The summary comes in parts, of which this is the last.
    part: int = 0


class AnswerDecoder(Decoder):
    """Decode responses. ``model`` is the provider's own name of the one that was asked."""

    def __init__(self, provider: str, model: str, hide: Callable[[bytes], bytes]) -> None:
        super().__init__(provider, hide)
        self._signed_by = f"{provider}/{model}"
        self._items: dict[int | str, _Open] = {}
        self._calls = 0
        self._reason: FinishReason | None = None
        self._is_refused = False
        self._usage: Usage | None = None

    @property
    def is_complete(self) -> bool:
        return self._reason is not None

    def take(self, payload: bytes) -> list[Chunk]:
        event = decode(_event_decoder, payload, self.provider)
        match event.type:
            case "response.output_text.delta" | "response.refusal.delta":
                self._is_refused |= event.type == "response.refusal.delta"
                return self._say(event, TextChunk)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return self._say(event, ThinkingChunk)
            case "response.function_call_arguments.delta":
                return self._argue(event)
            case "response.output_item.added" if event.item:
                return self._begin(_place(event), event.item)
            case "response.output_item.done" if event.item:
                return self._complete(_place(event), event.item)
            case "response.completed" | "response.incomplete" | "response.failed":
                return [*self._take_end(event.type, event.response or _Response()), self.end()]
            case "error":
                raise error_in_stream(self.provider, event.error or Fault(event.message, event.code))
            case _ if event.error:
                raise error_in_stream(self.provider, event.error)
            case _:
                return []

    def take_whole(self, payload: bytes) -> list[Chunk]:
        answer = decode(_answer_decoder, payload, self.provider)
        if answer.status not in _HOW_IT_ENDED and not answer.error:
            return []
        return self._take_end(f"response.{answer.status}", answer)

    def finish(self) -> Finished:
        assert self._reason is not None, "an answer that is not complete is not finished"
        return Finished("refused" if self._is_refused else self._reason, self._usage)

    def _say(self, event: _Event, kind: type[TextChunk] | type[ThinkingChunk]) -> list[Chunk]:
        if not event.delta:
            return []
        item = self._item(_place(event))
        starts_part = item.has_text and event.summary_index != item.part
        item.has_text, item.part = True, event.summary_index
        return [kind(_PARAGRAPH + event.delta if starts_part else event.delta)]

    def _argue(self, event: _Event) -> list[Chunk]:
        if not event.delta:
            return []
        item = self._item(_place(event))
        item.has_text = True
        return [ToolCallChunk(item.call, arguments=event.delta)]

    def _begin(self, place: int | str, item: _Item) -> list[Chunk]:
        if item.type != "function_call" or place in self._items:
            return []
        self._items[place] = _Open(self._calls)
        self._calls += 1
        # A call needs an id, for its result must be able to name it.
        id_ = item.call_id or item.id or f"call_{uuid4().hex[:24]}"
        return [ToolCallChunk(self._items[place].call, id_, item.name or "")]

    def _complete(self, place: int | str, item: _Item) -> list[Chunk]:
        """Give what has not come in pieces, and what only the whole item has."""
        chunks = self._begin(place, item)
        known = self._item(place)
        match item.type:
            case "function_call" if item.arguments and not known.has_text:
                chunks.append(ToolCallChunk(known.call, arguments=item.arguments))
            case "message" if not known.has_text:
                chunks += self._whole_text(item.content or [])
            case "reasoning":
                text = _PARAGRAPH.join(part.text for part in item.summary or item.content or [] if part.text)
                if text and not known.has_text:
                    chunks.append(ThinkingChunk(text))
                if item.encrypted_content:
                    chunks.append(self._sign(item.id or "", item.encrypted_content))
            case _:
                pass
        return chunks

    def _whole_text(self, parts: list[_Part]) -> list[Chunk]:
        self._is_refused |= any(part.refusal for part in parts)
        return [TextChunk(text) for part in parts if (text := part.text or part.refusal)]

    def _sign(self, id_: str, encrypted: str) -> ThinkingSigned:
        signature = msgspec.json.encode(Signature(id_, encrypted)).decode()
        return ThinkingSigned(signature, self._signed_by)

    def _take_end(self, how: str, response: _Response) -> list[Chunk]:
        if how == "response.failed" or response.error:
            raise error_in_stream(self.provider, response.error or "the server gave up")
        # The places in this list need not be those of the events, so it counts only where there were none.
        whole = () if self._items else response.output or ()
        chunks = [chunk for place, item in enumerate(whole) for chunk in self._complete(place, item)]
        self._usage = _usage(response.usage)
        self._reason = _reason(how, response, has_calls=self._calls > 0)
        return chunks

    def _item(self, place: int | str) -> _Open:
        return self._items.setdefault(place, _Open())


def _place(event: _Event) -> int | str:
    """Tell the item of an event from the others."""
    if event.output_index is not None:
        return event.output_index
    return event.item_id or (event.item and event.item.id) or 0


def _reason(how: str, response: _Response, *, has_calls: bool) -> FinishReason:
    if how == "response.incomplete":
        details = response.incomplete_details or _Incomplete()
        return "refused" if details.reason == "content_filter" else "max_tokens"
    return "tool_calls" if has_calls else "end"


def _usage(told: _Usage | None) -> Usage | None:
    """Read usage; the cached tokens are among the input tokens here."""
    if told is None:
        return None
    read = told.input_tokens_details or _InputDetails()
    wrote = told.output_tokens_details or _OutputDetails()
    return Usage(
        input_tokens=told.input_tokens or 0,
        output_tokens=told.output_tokens or 0,
        cache_read_tokens=read.cached_tokens or 0,
        cache_write_tokens=read.cache_write_tokens or 0,
        reasoning_tokens=wrote.reasoning_tokens or 0,
        cost=told.cost,
    )
