"""crabtalk as it reads a session's directory: which documents it takes for what, and where it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import msgspec
from msgspec import Struct

Text: TypeAlias = str


class Current(Struct):
    archive_name: Text
    archived_at: Text


class Legacy(Struct):
    compact: Text
    title: Text
    archived_at: Text


class Call(Struct):
    id: Text
    name: Text
    arguments: Text = ""


class ToolStart(Struct, tag_field="event", tag="tool_start"):
    calls: list[Call]
    ts: Text


class ToolResult(Struct, tag_field="event", tag="tool_result"):
    call_id: Text
    duration_ms: int
    ts: Text


class Tokens(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_cache_hit_tokens: int | None = None


class Done(Struct, tag_field="event", tag="done"):
    model: Text
    iterations: int
    stop_reason: Text
    usage: Tokens
    ts: Text


class UserSteered(Struct, tag_field="event", tag="user_steered"):
    content: Text
    ts: Text


class Function(Struct):
    name: Text
    arguments: Text


class ToolCall(Struct):
    index: int
    id: Text
    type: Literal["function"]
    function: Function


class Message(Struct):
    role: Literal["system", "user", "assistant", "tool"]
    content: Text | None
    reasoning_content: Text | None = None
    tool_calls: list[ToolCall] = []
    tool_call_id: Text | None = None
    name: Text | None = None


class Entry(Struct):
    message: Message
    agent: Text = ""


class Meta(Struct):
    """What both versions want, and either has besides."""

    agent: Text
    created_by: Text
    created_at: Text
    title: Text = ""
    uptime_secs: int = 0
    topic: Text | None = None
    updated_at: Text = ""
    message_count: int = 0
    summary: Text | None = None


# In this order; the first that fits wins.
SHAPES = (Current, Legacy, ToolStart | ToolResult | Done | UserSteered, Entry)
Document: TypeAlias = Current | Legacy | ToolStart | ToolResult | Done | UserSteered | Entry


class Session(Struct):
    """A session as crabtalk goes on with it; ``skipped`` are the files that it could make nothing of."""

    meta: Meta
    archive: str | None
    history: list[Message]
    skipped: list[str]


def read_document(data: bytes) -> Document | None:
    """Take a document for what it is first mistaken for; null for a warning."""
    for shape in SHAPES:
        try:
            return cast("Document", msgspec.json.decode(data, type=cast("Any", shape)))
        except msgspec.DecodeError:
            pass
    return None


def read_session(home: Path) -> Session:
    """Load a session as crabtalk does: what follows its last boundary, and the archive which that names."""
    meta = msgspec.json.decode((home / "meta").read_bytes(), type=Meta)
    session = Session(meta, None, [], [])
    for path in sorted(home.glob("step-*")):
        match read_document(path.read_bytes()):
            case Current(archive_name=name):
                session.archive, session.history = name, []
            case Legacy():
                session.archive, session.history = None, []
            case Entry(message=message):
                session.history.append(message)
            case None:
                session.skipped.append(path.name)
            case _:
                pass
    return session


def next_step(home: Path) -> Path:
    """Name the file that crabtalk writes next."""
    numbers = [int(path.name.removeprefix("step-")) for path in home.glob("step-*")]
    return home / f"step-{max(numbers, default=0) + 1:06}"
