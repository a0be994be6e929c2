"""How a request to Anthropic's Messages API is spelled. Pure: no network, no answer.

Three rules of that API are kept here for every history: turns alternate and the user's is first, results come
first in the turn behind their calls, and no text is blank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from crabd.messages import (
    AssistantMessage,
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
from crabd.providers.openai_wire import tool_output

Block: TypeAlias = dict[str, Any]

# The API wants a bound. The first is one that every model takes; the second leaves room in a known window.
DEFAULT_MAX_TOKENS = 8192
MOST_MAX_TOKENS = 32_000
# What was redacted has no text and no signature but its data; this tells it from a signature.
REDACTED = "redacted:"
# The models that think to a budget, before it was left to them.
_THINKS_TO_A_BUDGET = re.compile(
    r"(.*[/.])?claude-(3-7|opus-4-[015]|sonnet-4-[05]|haiku-4|(opus|sonnet)-4-2)"
)
_SMALLEST_BUDGET = 1024
_NO_ID = re.compile(r"[^a-zA-Z0-9_-]")
_CACHED = {"cache_control": {"type": "ephemeral"}}
_OPENING = "[the conversation goes on]"

_encode = msgspec.json.Encoder().encode


class Variant(Struct, frozen=True, kw_only=True):
    """What a server or a model takes, and others refuse; ``adaptive`` and ``budget`` are ways to think."""

    caching: bool = True
    signatures: bool = True
    adaptive: bool = True
    budget: bool = True


def to_wire(
    request: ModelRequest,
    *,
    provider: str = "",
    is_streamed: bool = True,
    max_output: int | None = None,
    variant: Variant | None = None,
) -> bytes:
    """Encode a request for an answer that ``is_streamed``, or not.

    ``max_output`` is how many tokens the model gives at most.
    """
    variant = variant or Variant()
    signed_by = f"{provider}/{request.model}" if variant.signatures else None
    wire: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens or min(max_output or DEFAULT_MAX_TOKENS, MOST_MAX_TOKENS),
        "messages": _messages(request.messages, signed_by),
        "stream": is_streamed,
    }
    if request.system.strip():
        wire["system"] = [{"type": "text", "text": request.system}]
    if request.tools:
        wire["tools"] = [_tool(offer) for offer in request.tools]
        wire["tool_choice"] = _tool_choice(request.tool_choice)
    if request.thinking and (not request.tools or request.tool_choice in ("auto", "none")):
        _ask_for_thinking(wire, variant)
    if variant.caching:
        _mark_what_is_stable(wire)
    return _encode(wire)


def _ask_for_thinking(wire: dict[str, Any], variant: Variant) -> None:
    budget = wire["max_tokens"] // 2
    if variant.adaptive and not _THINKS_TO_A_BUDGET.match(wire["model"]):
        wire["thinking"] = {"type": "adaptive", "display": "summarized"}
    elif variant.budget and budget >= _SMALLEST_BUDGET:
        wire["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _mark_what_is_stable(wire: dict[str, Any]) -> None:
    """Have the tools and the prompt cached, and the history up to the last turn and to the one before.

    The one before is what the previous request has written; the API looks no further back than twenty blocks.
    """
    head: list[Block] = wire.get("system") or wire.get("tools") or []
    turns: list[dict[str, Any]] = [turn for turn in wire["messages"] if turn["role"] == "user"]
    for block in [*head[-1:], *(turn["content"][-1] for turn in turns[-2:])]:
        block |= _CACHED


def _messages(messages: tuple[Message, ...], signed_by: str | None) -> list[dict[str, Any]]:
    """Put a history into turns."""
    turns: list[dict[str, Any]] = []
    ids = _Ids()
    for message in messages:
        if isinstance(message, AssistantMessage):
            role, blocks = "assistant", list(_assistant(message, signed_by, ids))
        else:
            role, blocks = "user", list(_user(message, ids))
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if not turns or turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": [_text(_OPENING)]})
    return _trimmed(turns)


def _trimmed(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take the space off the end of an answer that is to be continued: the API refuses it."""
    last = turns[-1]
    if last["role"] == "assistant" and last["content"][-1]["type"] == "text":
        last["content"][-1]["text"] = last["content"][-1]["text"].rstrip()
    return turns


def _user(message: UserMessage | ToolMessage, ids: _Ids) -> Iterator[Block]:
    if isinstance(message, ToolMessage):
        result: Block = {"type": "tool_result", "tool_use_id": ids.of(message.call)}
        output = tool_output(message)
        if output.strip():
            result["content"] = output
        yield result if message.status == "ok" else {**result, "is_error": True}
    elif has_pictures(message.content):
        yield from (_shown(block) for block in message.content if not _is_blank(block))
    elif (text := text_of(message)).strip():
        yield _text(text)


def _is_blank(block: UserBlock) -> bool:
    return isinstance(block, TextBlock) and not block.text.strip()


def _shown(block: UserBlock) -> Block:
    if isinstance(block, TextBlock):
        return _text(block.text)
    # In JSON, bytes are base64.
    return {"type": "image", "source": {"type": "base64", "media_type": block.media_type, "data": block.data}}


def _assistant(message: AssistantMessage, signed_by: str | None, ids: _Ids) -> Iterator[Block]:
    ids.begin_turn()
    for block in message.content:
        match block:
            case TextBlock(text=text):
                if text.strip():
                    yield _text(text)
            case ToolCall():
                yield {
                    "type": "tool_use",
                    "id": ids.new(block.id),
                    "name": block.name,
                    "input": _input(block.arguments),
                }
            case ThinkingBlock(signature=signature):
                # Nobody but the model that signed it takes it back.
                if signature and block.signed_by == signed_by:
                    yield _thinking(block.text, signature)


def _thinking(text: str, signature: str) -> Block:
    if signature.startswith(REDACTED):
        return {"type": "redacted_thinking", "data": signature.removeprefix(REDACTED)}
    return {"type": "thinking", "thinking": text, "signature": signature}


class _Ids:
    """The ids of calls, made such that the API takes them: of certain characters, and each only once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._of_turn: dict[str, str] = {}

    def begin_turn(self) -> None:
        self._of_turn = {}

    def new(self, id_: str) -> str:
        clean = _NO_ID.sub("_", id_) or "call"
        spelled, number = clean, 2
        while spelled in self._taken:
            spelled, number = f"{clean}_{number}", number + 1
        self._taken.add(spelled)
        self._of_turn[id_] = spelled
        return spelled

    def of(self, id_: str) -> str:
        """Spell the id of a result, as that of the call it answers."""
        return self._of_turn.get(id_) or _NO_ID.sub("_", id_) or "call"


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _input(arguments: str) -> dict[str, Any]:
    """Read the arguments; what is no object is wrapped, so that the model sees what it wrote."""
    try:
        return msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (ValueError, RecursionError):
        return {"invalid_arguments": arguments}


def _tool(offer: ToolOffer) -> dict[str, Any]:
    schema = {"type": "object", **offer.parameters}
    return {"name": offer.name, "description": offer.description, "input_schema": schema}


def _tool_choice(choice: str) -> dict[str, Any]:
    match choice:
        case "auto" | "none":
            return {"type": choice}
        case "required":
            return {"type": "any"}
        case _:
            return {"type": "tool", "name": choice}
