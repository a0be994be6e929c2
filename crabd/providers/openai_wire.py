"""How a request to an OpenAI-compatible server is spelled. Pure: no network, no answer.

The dialect is the one that OpenAI, OpenRouter, Ollama, llama.cpp, vLLM, LiteLLM and the like have in common.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from crabd.messages import AssistantMessage, Message, ToolCall, ToolMessage, text_of, tool_calls_of
from crabd.providers.base import ModelRequest, ToolOffer

# OpenAI's reasoning models refuse ``max_tokens``; most other servers know nothing else.
_WANTS_MAX_COMPLETION_TOKENS = re.compile(r"(.*/)?(gpt-[5-9]|o[1-9])")


def to_wire(request: ModelRequest, *, with_usage: bool = True) -> bytes:
    """Encode a request for a streamed answer. ``with_usage`` asks for usage, which a few servers refuse."""
    wire: dict[str, Any] = {
        "model": request.model,
        "messages": [*_system(request.system), *_messages(request.messages)],
        "stream": True,
    }
    if with_usage:
        wire["stream_options"] = {"include_usage": True}
    if request.tools:
        wire["tools"] = [_tool(offer) for offer in request.tools]
        wire["tool_choice"] = _tool_choice(request.tool_choice)
    if request.thinking:
        wire["reasoning_effort"] = "high"
    if request.max_tokens is not None:
        takes_new_name = _WANTS_MAX_COMPLETION_TOKENS.match(request.model)
        wire["max_completion_tokens" if takes_new_name else "max_tokens"] = request.max_tokens
    return msgspec.json.encode(wire)


def _system(text: str) -> Iterator[dict[str, Any]]:
    if text:
        yield {"role": "system", "content": text}


def _messages(messages: tuple[Message, ...]) -> Iterator[dict[str, Any]]:
    for message in messages:
        match message:
            case ToolMessage():
                yield {"role": "tool", "tool_call_id": message.call, "content": _tool_output(message)}
            case AssistantMessage():
                yield from _assistant(message)
            case _:
                yield {"role": "user", "content": text_of(message)}


def _assistant(message: AssistantMessage) -> Iterator[dict[str, Any]]:
    text = text_of(message)
    calls = [_call(call) for call in tool_calls_of(message)]
    if calls:
        yield {"role": "assistant", "content": text or None, "tool_calls": calls}
    elif text:
        # With thinking alone there is nothing to send: many servers refuse an empty message.
        yield {"role": "assistant", "content": text}


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": _arguments_to_wire(call.arguments)},
    }


def _arguments_to_wire(text: str) -> str:
    """Wrap what is no JSON object: some servers parse the arguments again and fail the whole request."""
    try:
        if isinstance(msgspec.json.decode(text or "{}"), dict):
            return text or "{}"
    except (ValueError, RecursionError):
        pass
    return msgspec.json.encode({"invalid_arguments": text}).decode()


def _tool_output(message: ToolMessage) -> str:
    """Say that a call failed, unless its output says so: the wire has no place for a status."""
    if message.status == "ok" or message.status in message.output.lower():
        return message.output
    return f"[{message.status}] {message.output}".rstrip()


def _tool(offer: ToolOffer) -> dict[str, Any]:
    function = {"name": offer.name, "description": offer.description, "parameters": offer.parameters}
    return {"type": "function", "function": function}


def _tool_choice(choice: str) -> str | dict[str, Any]:
    if choice in ("auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}
