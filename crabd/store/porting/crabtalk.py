"""The documents that crabtalk writes, one by one: a session's meta, and the lines or files of its log. Pure.

Every form that any version wrote is read here: contents that are text or blocks, messages bare or wrapped in
an entry, boundaries that name an archive or hold the summary. What they add up to is not known here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Raw, Struct

from crabd.messages import (
    AssistantBlock,
    AssistantMessage,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolMessage,
    UserMessage,
)

T = TypeVar("T")


class BadDocument(Exception):
    """Bytes that are no document of the kind that is looked for. It says why."""


class Meta(Struct, frozen=True, kw_only=True):
    """Who talks to whom. ``updated_at`` is null where ``created_at`` is the time of the last write."""

    agent: str
    created_by: str
    created_at: str
    title: str = ""
    updated_at: str | None = None
    uptime_secs: float = 0.0
    topic: str | None = None
    summary: str | None = None


class Boundary(Struct, frozen=True):
    """What comes before is archived: under that name, or in this very ``summary``."""

    archive: str = ""
    summary: str | None = None
    at: datetime | None = None


class Said(Struct, frozen=True):
    """The messages of one document, and what of it has no place here. A guest's text says whose it is."""

    messages: tuple[Message, ...]
    remarks: tuple[str, ...] = ()
    guest: str = ""


class Usage(Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_cache_hit_tokens: int | None = None


class EventCall(Struct, frozen=True):
    id: str = ""


class Event(Struct, frozen=True):
    """A line of a run's trace, which is written behind the messages of that run."""

    event: Literal["tool_start", "tool_result", "done", "user_steered"]
    ts: str = ""
    calls: tuple[EventCall, ...] = ()
    call_id: str = ""
    content: str = ""
    model: str = ""
    stop_reason: str = ""
    usage: Usage | None = None


Line: TypeAlias = Boundary | Event | Said


class _Current(Struct, frozen=True):
    archive_name: str
    archived_at: str


class _Legacy(Struct, frozen=True):
    compact: str
    archived_at: str = ""


class _Function(Struct, frozen=True):
    name: str = ""
    arguments: str = ""


class _Call(Struct, frozen=True):
    id: str = ""
    function: _Function = _Function()


class _Block(Struct, frozen=True):
    type: str
    text: str = ""
    thinking: str = ""
    signature: str | None = None
    id: str = ""
    name: str | None = None
    input: Raw = Raw(b"{}")
    tool_use_id: str = ""
    content: str | list[_Block] | None = None
    is_error: bool | None = None


class _Message(Struct, frozen=True):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[_Block] | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _Entry(Struct, frozen=True):
    message: Raw
    agent: str = ""
    auto_injected: bool = False


_MESSAGE_KEYS = frozenset(_Message.__struct_fields__)
_ENTRY_KEYS = frozenset({*_Entry.__struct_fields__, "sender"})

_BLOCKS = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "tool_use"),
    "tool": ("text", "tool_result"),
}


def read_meta(data: bytes) -> tuple[Meta, tuple[str, ...]]:
    """Read a session's meta; also tell the keys in it that no version we know of has.

    Raises:
      BadDocument.
    """
    strange = _keys(data) - set(Meta.__struct_fields__) - {"message_count"}
    return _decode(data, Meta), tuple(sorted(strange))


def read_line(data: bytes) -> Line:
    """Read one step or line. What fits several forms is what its own keys say, never what another lacks.

    Raises:
      BadDocument: it is none that we know.
    """
    keys = _keys(data)
    if "message" in keys:
        return _read_entry(data, keys)
    if "role" in keys:
        return _read_message(data, _Entry(Raw(b"")))
    if "event" in keys:
        return _decode(data, Event)
    if "archive_name" in keys:
        found = _decode(data, _Current)
        return Boundary(found.archive_name, None, read_time(found.archived_at))
    if "compact" in keys:
        old = _decode(data, _Legacy)
        return Boundary("", old.compact, read_time(old.archived_at))
    raise BadDocument("it is of no kind that crabd knows")


def read_time(text: str | None) -> datetime | None:
    """Read a time, which is in UTC if it does not say; null if it is none."""
    try:
        found = msgspec.convert(text, datetime)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        return None


def _keys(data: bytes) -> set[str]:
    return set(_decode(data, dict[str, Raw]))


def _decode(data: bytes, kind: type[T]) -> T:
    if not data.strip():
        raise BadDocument("it is empty")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise BadDocument(f"it cannot be read: {exc}") from exc
    except RecursionError as exc:
        raise BadDocument("it is nested too deeply") from exc


def _read_entry(data: bytes, keys: set[str]) -> Said:
    entry = _decode(data, _Entry)
    if entry.auto_injected:
        return Said((), ("it was put in for one request, and is composed anew here",))
    said = _read_message(bytes(entry.message), entry)
    return _remark(said, keys - _ENTRY_KEYS)


def _read_message(data: bytes, entry: _Entry) -> Said:
    message = _decode(data, _Message)
    said = _translate(message, entry.agent)
    return _remark(said, _keys(data) - _MESSAGE_KEYS)


def _remark(said: Said, strange: set[str]) -> Said:
    more = tuple(f"its key {key!r} has no place here" for key in sorted(strange))
    return Said(said.messages, said.remarks + more, said.guest)


def _translate(message: _Message, agent: str) -> Said:
    content = message.content or []
    blocks = [_Block("text", text=content)] if isinstance(content, str) else content
    remarks = [remark for block in blocks if (remark := _misplaced(block, message.role))]
    found: list[Message] = []
    match message.role:
        case "system":
            return Said((), ("it is a system message, and is composed anew here for each request",))
        case "assistant":
            found += _assistant(message, blocks, agent)
        case "tool" if message.tool_call_id:
            found.append(ToolMessage(message.tool_call_id, message.name or "", _text(blocks), "ok"))
        case "tool":
            found += _results(blocks)
        case "user":
            # Results may share a message with what the person said; they answer what came before.
            text = _text(blocks)
            found += (*_results(blocks), *([UserMessage((TextBlock(text),))] if text else []))
    if not found:
        remarks.append("it says nothing")
    return Said(tuple(found), tuple(remarks), agent if message.role == "assistant" else "")


def _assistant(message: _Message, blocks: list[_Block], agent: str) -> list[Message]:
    content: list[AssistantBlock] = []
    if message.reasoning_content:
        content.append(ThinkingBlock(message.reasoning_content))
    for block in blocks:
        if block.type == "thinking" and (block.thinking or block.text):
            content.append(ThinkingBlock(block.thinking or block.text))
        elif block.type == "text" and block.text:
            # As crabtalk itself shows it to models: there the reply has no other mark of who spoke.
            text = f'<from agent="{agent}">\n{block.text}\n</from>' if agent else block.text
            content.append(TextBlock(text))
        elif block.type == "tool_use":
            content.append(ToolCall(block.id, block.name or "", bytes(block.input).decode()))
    calls = message.tool_calls or ()
    content += [ToolCall(call.id, call.function.name, call.function.arguments) for call in calls]
    return [AssistantMessage(tuple(content))] if content else []


def _results(blocks: list[_Block]) -> list[Message]:
    return [
        ToolMessage(
            block.tool_use_id, block.name or "", _inner_text(block), "error" if block.is_error else "ok"
        )
        for block in blocks
        if block.type == "tool_result"
    ]


def _inner_text(block: _Block) -> str:
    return block.content if isinstance(block.content, str) else _text(block.content or [])


def _text(blocks: list[_Block]) -> str:
    return "".join(block.text for block in blocks if block.type == "text")


def _misplaced(block: _Block, role: str) -> str:
    if block.type not in _BLOCKS.get(role, ()):
        return f"its {block.type!r} block has no place here"
    return "the signature of its thinking has no place here" if block.signature else ""
