"""What the official SDKs read from the bytes of a stream, and what we do, put in the same words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import anthropic
import httpx2
import openai
from anthropic.types import ParsedMessage, RedactedThinkingBlock, TextBlock, ThinkingBlock, ToolUseBlock
from msgspec import Struct
from openai.types.chat import ParsedChatCompletion
from openai.types.responses import (
    ParsedResponse,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseReasoningItem,
)

from crabd.messages import ThinkingBlock as OurThinking
from crabd.messages import Usage, text_of, tool_calls_of
from crabd.providers.answer import Decoder
from crabd.runtime.reply import Reply


class Said(Struct, frozen=True, kw_only=True):
    """An answer: ``thinking`` is text and signature, a call is id, name and arguments."""

    text: str = ""
    thinking: tuple[tuple[str, str], ...] = ()
    calls: tuple[tuple[str, str, Any], ...] = ()
    reason: str = "end"
    usage: Usage | None = None


def heard_by_us(decoder: Decoder, pieces: Iterable[bytes]) -> Said:
    """Decode the pieces, and put the chunks together as a run does."""
    reply = Reply()
    for piece in pieces:
        for chunk in decoder.feed(piece):
            reply.receive(chunk)
    if not decoder.is_finished:
        reply.receive(decoder.end())
    return _said(reply)


def heard_whole_by_us(decoder: Decoder, payload: bytes) -> Said:
    """Decode an answer that is not streamed."""
    reply = Reply()
    for chunk in decoder.whole(payload):
        reply.receive(chunk)
    return _said(reply)


def _said(reply: Reply) -> Said:
    assert reply.finish is not None
    message = reply.message("m", with_calls=True)
    return Said(
        text=text_of(message),
        thinking=tuple((b.text, b.signature) for b in message.content if isinstance(b, OurThinking)),
        calls=tuple(
            (call.id, call.name, json.loads(call.arguments or "{}")) for call in tool_calls_of(message)
        ),
        reason=reply.finish.reason,
        usage=reply.finish.usage,
    )


class _Wire(httpx2.BaseTransport):
    """A network on which every request is answered with the same stream."""

    def __init__(self) -> None:
        self.data = b""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=self.data)


_wire = _Wire()
_http = httpx2.Client(transport=_wire)
_openai = openai.OpenAI(api_key="k", base_url="http://test.invalid/v1", http_client=_http, max_retries=0)
_anthropic = anthropic.Anthropic(
    api_key="k", base_url="http://test.invalid", http_client=_http, max_retries=0
)

_CHAT_REASONS = {
    "stop": "end",
    "tool_calls": "tool_calls",
    "length": "max_tokens",
    "content_filter": "refused",
}
_MESSAGE_REASONS = {"max_tokens": "max_tokens", "refusal": "refused", "tool_use": "tool_calls"}


def chat_completion(data: bytes) -> ParsedChatCompletion[object]:
    """Have the openai SDK accumulate chat completions."""
    _wire.data = data
    with _openai.chat.completions.stream(model="m", messages=[]) as stream:
        stream.until_done()
        return stream.current_completion_snapshot


def heard_by_openai(data: bytes) -> Said:
    """Put into our words what the openai SDK reads from chat completions."""
    snapshot = chat_completion(data)
    (choice,) = snapshot.choices
    message, usage = choice.message, snapshot.usage
    thinking: str = (message.model_extra or {}).get("reasoning_content") or ""
    details = usage.prompt_tokens_details if usage else None
    return Said(
        text=message.content or "",
        thinking=((thinking, ""),) if thinking else (),
        calls=tuple(
            (call.id, call.function.name, json.loads(call.function.arguments or "{}"))
            for call in message.tool_calls or ()
        ),
        reason=_CHAT_REASONS[choice.finish_reason or ""],
        usage=Usage(
            usage.prompt_tokens,
            usage.completion_tokens,
            cache_read_tokens=(details and details.cached_tokens) or 0,
        )
        if usage
        else None,
    )


def completed_response(data: bytes) -> ParsedResponse[None]:
    """Have the openai SDK accumulate a response that completes."""
    _wire.data = data
    with _openai.responses.stream(model="m", input="") as stream:
        return stream.get_final_response()


def heard_by_openai_responses(data: bytes) -> Said:
    """Put into our words what the openai SDK reads from a response."""
    response = completed_response(data)
    thinking: list[tuple[str, str]] = []
    text: list[str] = []
    calls: list[tuple[str, str, Any]] = []
    for item in response.output:
        if isinstance(item, ResponseReasoningItem):
            signature = {"id": item.id, "encrypted_content": item.encrypted_content}
            signed = json.dumps(signature, separators=(",", ":"), ensure_ascii=False)
            thinking.append(("\n\n".join(part.text for part in item.summary), signed))
        elif isinstance(item, ResponseOutputMessage):
            text += [part.text for part in item.content if part.type == "output_text"]
        elif isinstance(item, ResponseFunctionToolCall):
            calls.append((item.call_id, item.name, json.loads(item.arguments or "{}")))
    usage = response.usage
    return Said(
        text="".join(text),
        thinking=tuple(thinking),
        calls=tuple(calls),
        reason="tool_calls" if calls else "end",
        usage=Usage(
            usage.input_tokens,
            usage.output_tokens,
            cache_read_tokens=usage.input_tokens_details.cached_tokens,
            cache_write_tokens=usage.input_tokens_details.cache_write_tokens,
            reasoning_tokens=usage.output_tokens_details.reasoning_tokens,
        )
        if usage
        else None,
    )


def final_message(data: bytes) -> ParsedMessage[None]:
    """Have the anthropic SDK accumulate a message."""
    _wire.data = data
    with _anthropic.messages.stream(model="m", max_tokens=1, messages=[]) as stream:
        return stream.get_final_message()


def heard_by_anthropic(data: bytes) -> Said:
    """Put into our words what the anthropic SDK reads from a message."""
    message = final_message(data)
    thinking: list[tuple[str, str]] = []
    text: list[str] = []
    calls: list[tuple[str, str, Any]] = []
    for block in message.content:
        match block:
            case ThinkingBlock():
                thinking.append((block.thinking, block.signature))
            case RedactedThinkingBlock():
                thinking.append(("", f"redacted:{block.data}"))
            case TextBlock():
                text.append(block.text)
            case ToolUseBlock():
                calls.append((block.id, block.name, block.input))
            case _:
                pass
    usage = message.usage
    read, write = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    return Said(
        text="".join(text),
        thinking=tuple(thinking),
        calls=tuple(calls),
        reason=_MESSAGE_REASONS.get(message.stop_reason or "", "end"),
        usage=Usage(usage.input_tokens + read + write, usage.output_tokens, read, write),
    )
