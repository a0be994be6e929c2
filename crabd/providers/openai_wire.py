"""How a request to an OpenAI-compatible server is spelled. Pure: no network, no answer.

The dialect is the one that OpenAI, OpenRouter, Ollama, llama.cpp, vLLM, LiteLLM and the like have in common.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import Raw

from crabd.messages import (
    AssistantMessage,
    ImageBlock,
    Message,
    ThinkingBlock,
    ToolCall,
    ToolMessage,
    UserBlock,
    UserMessage,
    has_pictures,
    text_of,
    tool_calls_of,
)
from crabd.providers.base import ModelRequest, ToolOffer

# OpenAI's reasoning models refuse ``max_tokens``; most other servers know nothing else.
_WANTS_MAX_COMPLETION_TOKENS = re.compile(r"(.*/)?(gpt-[5-9]|o[1-9])")
# Histories of fewer messages are spelled sooner than looked up. Of longer ones the newest are remembered; one
# takes as much as its request.
MIN_SPELLED = 64
MAX_SPELLED = 8

_encode = msgspec.json.Encoder().encode


def spell(messages: tuple[Message, ...]) -> bytes:
    """Encode messages as the elements of an array, without its brackets."""
    return _encode(list(_messages(messages, with_thinking=False)))[1:-1]


def spell_thinking(messages: tuple[Message, ...]) -> bytes:
    """Encode as ``spell``, with the thinking: a few servers refuse a history without, most one with it."""
    return _encode(list(_messages(messages, with_thinking=True)))[1:-1]


class Spelling:
    """Remembers how long histories were spelled, for the next request of a session repeats its last one."""

    def __init__(self, spell: Callable[[tuple[Message, ...]], bytes] = spell) -> None:
        self._spell = spell
        self._newest: deque[tuple[tuple[Message, ...], bytes]] = deque(maxlen=MAX_SPELLED)

    def spell(self, messages: tuple[Message, ...]) -> bytes:
        """Encode as ``spell`` does, only what is new in a history that begins with a known one."""
        known, spelled = self._take_beginning(messages)
        whole = _join(spelled, self._spell(messages[len(known) :]))
        if len(messages) >= MIN_SPELLED:
            self._newest.appendleft((messages, whole))
        return whole

    def _take_beginning(self, messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], bytes]:
        for one in self._newest:
            if messages[: len(one[0])] == one[0]:
                self._newest.remove(one)
                return one
        return (), b""


def to_wire(
    request: ModelRequest,
    *,
    is_streamed: bool = True,
    with_usage: bool = True,
    with_effort: bool = True,
    spell: Callable[[tuple[Message, ...]], bytes] = spell,
) -> bytes:
    """Encode a request for an answer that ``is_streamed``, or not.

    ``with_usage`` asks for usage, and ``with_effort`` says how much to think, which a few servers refuse.
    """
    messages = _join(_encode(list(_system(request.system)))[1:-1], spell(request.messages))
    wire: dict[str, Any] = {
        "model": request.model,
        "messages": Raw(b"[%b]" % messages),
        "stream": is_streamed,
    }
    if with_usage and is_streamed:
        wire["stream_options"] = {"include_usage": True}
    if request.tools:
        wire["tools"] = [_tool(offer) for offer in request.tools]
        wire["tool_choice"] = _tool_choice(request.tool_choice)
    if request.thinking and with_effort:
        wire["reasoning_effort"] = "high"
    if request.max_tokens is not None:
        takes_new_name = _WANTS_MAX_COMPLETION_TOKENS.match(request.model)
        wire["max_completion_tokens" if takes_new_name else "max_tokens"] = request.max_tokens
    return _encode(wire)


def _join(*elements: bytes) -> bytes:
    return b",".join(filter(None, elements))


def _system(text: str) -> Iterator[dict[str, Any]]:
    if text:
        yield {"role": "system", "content": text}


def _messages(messages: tuple[Message, ...], *, with_thinking: bool) -> Iterator[dict[str, Any]]:
    for message in messages:
        match message:
            case ToolMessage():
                yield {"role": "tool", "tool_call_id": message.call, "content": tool_output(message)}
            case AssistantMessage():
                thinking = _thinking(message) if with_thinking else {}
                yield from ({**spelled, **thinking} for spelled in _assistant(message))
            case UserMessage(content=content) if has_pictures(content):
                yield {"role": "user", "content": [_part(block) for block in content]}
            case _:
                yield {"role": "user", "content": text_of(message)}


def _part(block: UserBlock) -> dict[str, Any]:
    if isinstance(block, ImageBlock):
        return {"type": "image_url", "image_url": {"url": data_url(block)}}
    return {"type": "text", "text": block.text}


def data_url(image: ImageBlock) -> str:
    """Put a whole picture into a URL."""
    return f"data:{image.media_type};base64,{b64encode(image.data).decode()}"


def _assistant(message: AssistantMessage) -> Iterator[dict[str, Any]]:
    text = text_of(message)
    calls = [_call(call) for call in tool_calls_of(message)]
    if calls:
        yield {"role": "assistant", "content": text or None, "tool_calls": calls}
    elif text:
        # With thinking alone there is nothing to send: many servers refuse an empty message.
        yield {"role": "assistant", "content": text}


def _thinking(message: AssistantMessage) -> dict[str, str]:
    text = "".join(block.text for block in message.content if isinstance(block, ThinkingBlock))
    return {"reasoning_content": text} if text else {}


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": object_text(call.arguments)},
    }


def object_text(text: str) -> str:
    """Wrap what is no JSON object: some servers parse the arguments again and fail the whole request."""
    try:
        if isinstance(msgspec.json.decode(text or "{}"), dict):
            return text or "{}"
    except (ValueError, RecursionError):
        pass
    return msgspec.json.encode({"invalid_arguments": text}).decode()


def tool_output(message: ToolMessage) -> str:
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
