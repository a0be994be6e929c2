"""How a request to OpenAI's Responses API is spelled. Pure: no network, no answer.

Nothing is left with the server: a request brings the whole history, and the reasoning comes back encrypted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from crabd.messages import (
    AssistantMessage,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolMessage,
    UserBlock,
    UserMessage,
    has_pictures,
    text_of,
)
from crabd.providers.base import ModelRequest, ToolOffer
from crabd.providers.openai_wire import data_url, object_text, tool_output

Item: TypeAlias = dict[str, Any]

# Models that do not reason refuse to be asked for their reasoning.
_REASONS = re.compile(r"(.*/)?(gpt-[5-9]|gpt-oss|o[1-9]|codex)")
# The API takes no smaller bound.
_LEAST_TOKENS = 16
# Longer ids of calls are refused. The end of an id is what tells it from others.
_MAX_ID = 64

_encode = msgspec.json.Encoder().encode


class Variant(Struct, frozen=True, kw_only=True):
    """What a server or a model takes, and others refuse."""

    signatures: bool = True
    encrypted: bool = True
    summary: bool = True
    effort: bool = True


class Signature(Struct, frozen=True):
    """A reasoning item, less its summary, which is the thinking's text."""

    id: str
    encrypted_content: str


def to_wire(
    request: ModelRequest, *, provider: str = "", is_streamed: bool = True, variant: Variant | None = None
) -> bytes:
    """Encode a request for an answer that ``is_streamed``, or not."""
    variant = variant or Variant()
    signed_by = f"{provider}/{request.model}" if variant.signatures else None
    wire: dict[str, Any] = {
        "model": request.model,
        "input": [item for message in request.messages for item in _items(message, signed_by)],
        "stream": is_streamed,
        "store": False,
    }
    if request.system:
        wire["instructions"] = request.system
    if request.tools:
        wire["tools"] = [_tool(offer) for offer in request.tools]
        wire["tool_choice"] = _tool_choice(request.tool_choice)
    if request.max_tokens is not None:
        wire["max_output_tokens"] = max(_LEAST_TOKENS, request.max_tokens)
    if variant.encrypted and (request.thinking or _REASONS.match(request.model)):
        wire["include"] = ["reasoning.encrypted_content"]
    if request.thinking and variant.effort:
        wire["reasoning"] = {"effort": "high", **({"summary": "auto"} if variant.summary else {})}
    return _encode(wire)


def _items(message: Message, signed_by: str | None) -> Iterator[Item]:
    match message:
        case ToolMessage():
            yield {
                "type": "function_call_output",
                "call_id": message.call[-_MAX_ID:],
                "output": tool_output(message),
            }
        case AssistantMessage():
            yield from _answer(message, signed_by)
        case UserMessage(content=content) if has_pictures(content):
            yield {"type": "message", "role": "user", "content": [_part(block) for block in content]}
        case _:
            yield {"type": "message", "role": "user", "content": text_of(message)}


def _part(block: UserBlock) -> Item:
    if isinstance(block, ImageBlock):
        return {"type": "input_image", "detail": "auto", "image_url": data_url(block)}
    return {"type": "input_text", "text": block.text}


def _answer(message: AssistantMessage, signed_by: str | None) -> Iterator[Item]:
    # A reasoning item goes with what follows it, and is refused when nothing does.
    reasoning: list[Item] = []
    for block in message.content:
        match block:
            case ThinkingBlock():
                if block.signature and block.signed_by == signed_by:
                    reasoning.append(_reasoning(block))
                continue
            case TextBlock(text=""):
                continue
            case TextBlock(text=text):
                item = {"type": "message", "role": "assistant", "content": text}
            case ToolCall():
                item = _call(block)
        yield from reasoning
        reasoning.clear()
        yield item


def _reasoning(block: ThinkingBlock) -> Item:
    signature = msgspec.json.decode(block.signature, type=Signature)
    summary = [{"type": "summary_text", "text": block.text}] if block.text else []
    return {
        "type": "reasoning",
        "id": signature.id,
        "summary": summary,
        "encrypted_content": signature.encrypted_content,
    }


def _call(call: ToolCall) -> Item:
    return {
        "type": "function_call",
        "call_id": call.id[-_MAX_ID:],
        "name": call.name,
        "arguments": object_text(call.arguments),
    }


def _tool(offer: ToolOffer) -> dict[str, Any]:
    return {
        "type": "function",
        "name": offer.name,
        "description": offer.description,
        "parameters": offer.parameters,
        # Strict would refuse every schema with an optional property.
        "strict": False,
    }


def _tool_choice(choice: str) -> str | dict[str, Any]:
    return choice if choice in ("auto", "none", "required") else {"type": "function", "name": choice}
