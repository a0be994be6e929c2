"""What a conversation is made of, in memory, in the store and on the wire.

A history is a sequence of messages; a message is a sequence of blocks. Nothing here knows how a provider
spells them or where they are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

# The grammar of a session id. The look-ahead refuses a final newline, which ``$`` alone lets through, in
# Python's dialect of regular expressions and in JSON Schema's alike.
SESSION_ID_PATTERN = r"^[a-z0-9-]+_[a-z0-9-]+_[1-9][0-9]*$(?!\n)"

StopReason: TypeAlias = Literal[
    "end_turn", "max_rounds", "max_tokens", "budget", "cancelled", "refused", "error", "interrupted"
]
ToolStatus: TypeAlias = Literal["ok", "error", "cancelled", "interrupted"]
ImageType: TypeAlias = Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
# Bytes of a picture: in base64 the 5 MB that Anthropic's API takes, the least of those spoken to.
MAX_IMAGE = 3_750_000
# RFC 3339, in UTC: what ``utc_now`` reads.
Time: TypeAlias = Annotated[datetime, Meta(tz=True)]


class TextBlock(Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag="text"):
    """Text, as a person or a model wrote it."""

    text: str


class ImageBlock(Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag="image"):
    """A picture that a person shows. ``data`` is the file as it is, in base64 where this is JSON."""

    media_type: ImageType
    data: Annotated[bytes, Meta(min_length=1, max_length=MAX_IMAGE)]


class ThinkingBlock(
    Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True, tag="thinking"
):
    """``signature`` is what the model ``signed_by``, a ``provider/model``, wants back with its thinking."""

    text: str
    signature: str = ""
    signed_by: str = ""


class ToolCall(Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag="tool_call"):
    """``arguments`` is the JSON text as the model wrote it, valid or not."""

    id: str
    name: str
    arguments: str


UserBlock: TypeAlias = TextBlock | ImageBlock
AssistantBlock: TypeAlias = TextBlock | ThinkingBlock | ToolCall


class UserMessage(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="role", tag="user"):
    """``steer`` is the id of the steering that brought it into a running run, else empty."""

    content: tuple[UserBlock, ...]
    steer: str = ""


class AssistantMessage(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="role", tag="assistant"):
    """``partial`` marks a reply that was cut short: cancelled, failed or interrupted.

    ``agent`` names the guest that gave it; empty for the session's own agent.
    """

    content: tuple[AssistantBlock, ...]
    model: str = ""
    partial: bool = False
    agent: str = ""


class ToolMessage(Struct, frozen=True, gc=False, tag_field="role", tag="tool"):
    """The result of the tool call whose id is ``call``."""

    call: str
    name: str
    output: str
    status: ToolStatus


Message: TypeAlias = UserMessage | AssistantMessage | ToolMessage


class Usage(Struct, frozen=True, gc=False):
    """Tokens of one model call, or the sum of several; ``cost`` is in US dollars, null when unknown.

    Input tokens count those read from and written to a cache, output tokens those of reasoning. A sum's cost
    is that of the calls whose cost is known.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost: float | None = None

    def __add__(self, other: Usage) -> Usage:
        known = self.cost is not None or other.cost is not None
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cost=(self.cost or 0.0) + (other.cost or 0.0) if known else None,
        )


def user_text(text: str, *, steer: str = "") -> UserMessage:
    """Build a user message of one text block."""
    return UserMessage((TextBlock(text),), steer)


def text_of(message: Message) -> str:
    """Join the visible text of a message; a tool result's is its output."""
    if isinstance(message, ToolMessage):
        return message.output
    return "".join(block.text for block in message.content if isinstance(block, TextBlock))


def words_for(image: ImageBlock) -> str:
    """Say in a line that there is a picture, for whoever cannot see it."""
    return f"[picture: {image.media_type}, {max(len(image.data) // 1000, 1)} kB]"


def without_pictures(content: Iterable[UserBlock]) -> tuple[TextBlock, ...]:
    """Put words in the place of pictures."""
    return tuple(TextBlock(words_for(block)) if isinstance(block, ImageBlock) else block for block in content)


def has_pictures(content: Iterable[UserBlock]) -> bool:
    """Tell whether something is shown there, and not only said."""
    return any(isinstance(block, ImageBlock) for block in content)


def words_of(message: Message) -> str:
    """Join the visible text of a message, with words in a line of their own in place of each picture."""
    if not isinstance(message, UserMessage) or not has_pictures(message.content):
        return text_of(message)
    return "\n".join(block.text for block in without_pictures(message.content))


def pictures_in(message: Message) -> tuple[ImageBlock, ...]:
    """List the pictures that a message shows."""
    if not isinstance(message, UserMessage):
        return ()
    return tuple(block for block in message.content if isinstance(block, ImageBlock))


def tool_calls_of(message: Message) -> tuple[ToolCall, ...]:
    """List the calls an assistant message asks for, in call order."""
    if not isinstance(message, AssistantMessage):
        return ()
    return tuple(block for block in message.content if isinstance(block, ToolCall))


def clean_text(text: str) -> str:
    """Make text that came from a model, a tool or the system safe to encode.

    A lone surrogate (half of a pair that a server split, or a file name that is not UTF-8) becomes U+FFFD;
    two halves that meet become the character they mean.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def utc_now() -> datetime:
    """Read the wall clock, aware and in UTC, as every time on the wire and in the store is."""
    return datetime.now(UTC)
