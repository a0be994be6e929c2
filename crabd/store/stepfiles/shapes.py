"""The shapes of crabtalk's documents, each with what is ours under a key of its own. Types only."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

from msgspec import Struct

from crabd.messages import AssistantBlock, ImageBlock, ToolStatus
from crabd.store.record import Record, Step

# What a message of ours holds, in the order in which it was said.
Blocks: TypeAlias = tuple[AssistantBlock | ImageBlock, ...]


class Function(Struct, frozen=True):
    name: str
    arguments: str


class Call(Struct, frozen=True):
    index: int
    id: str
    type: Literal["function"]
    function: Function


class Spoken(Struct, frozen=True, omit_defaults=True):
    """A message in crabtalk's words."""

    role: Literal["user", "assistant", "tool"]
    content: str | None
    reasoning_content: str | None = None
    tool_calls: tuple[Call, ...] = ()
    tool_call_id: str = ""
    name: str = ""


class Said(Struct, frozen=True, omit_defaults=True):
    """What crabtalk's message does not tell of ours; ``content`` only where its own would tell it wrongly."""

    run: str
    request_key: str | None = None
    position: int = 0
    steer: str = ""
    model: str = ""
    partial: bool = False
    agent: str = ""
    status: ToolStatus | None = None
    content: Blocks | None = None


class Ours(Struct, frozen=True, omit_defaults=True):
    """Exactly one of the last three is there; ``said`` goes with a message."""

    v: int
    n: int
    at: datetime
    append: tuple[int, int] | None = None
    said: Said | None = None
    record: Record | None = None
    steps: tuple[Step, ...] = ()


class Entry(Struct, frozen=True, omit_defaults=True):
    """``agent`` names a guest."""

    message: Spoken
    crabd: Ours
    agent: str = ""


class Boundary(Struct, frozen=True):
    archive_name: str
    archived_at: str
    crabd: Ours


class OldBoundary(Struct, frozen=True):
    """The boundary without an archive."""

    compact: str
    title: str
    archived_at: str
    crabd: Ours


class Tokens(Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_cache_hit_tokens: int


class Done(Struct, frozen=True):
    event: Literal["done"]
    model: str
    iterations: int
    stop_reason: str
    usage: Tokens
    ts: str
    crabd: Ours


class Event(Struct, frozen=True):
    event: str
    ts: str
    crabd: Ours
