"""What of a session can be found: texts, and the words by which they are known to be of that session."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from hashlib import blake2b
from typing import Literal, TypeAlias

from msgspec import Struct

from crabd.messages import AssistantMessage, ToolMessage, UserMessage, text_of
from crabd.store.base import Query
from crabd.store.meta import SessionMeta
from crabd.store.record import Compacted, Configured, MessageAdded, Step

# What is kept of a text, in characters, half of it from its end. Few look for more of a tool's output.
MESSAGE_LENGTH, OUTPUT_LENGTH = 64 * 1024, 16 * 1024

Role: TypeAlias = Literal["user", "assistant", "tool", "summary", "title"]


class Document(Struct, frozen=True):
    """A text that is found by itself."""

    step: int
    role: Role
    at: datetime
    text: str


def documents_in(steps: tuple[Step, ...]) -> Iterator[Document]:
    """Take what a person may look for from the steps of a session."""
    for step in steps:
        found = _document(step)
        if found is not None and found.text.strip():
            yield found


def title_of(meta: SessionMeta, steps: tuple[Step, ...]) -> Document:
    """Put together what a session is called; ``steps`` are the last ones, never none."""
    text = "\n".join(filter(None, (meta.title, meta.topic, meta.description)))
    step = next((step for step in reversed(steps) if _names(step)), steps[0])
    return Document(step.n, "title", step.at, text)


def scope(meta: SessionMeta) -> str:
    """List the words by which a text is known to be of a session, an agent, a sender, a topic."""
    return " ".join(_tokens(session=meta.id, agent=meta.agent, sender=meta.sender, topic=meta.topic))


def scope_of(query: Query) -> list[str]:
    """List the words of the scope that a query asks for."""
    return _tokens(session=query.session, agent=query.agent, sender=query.sender, topic=query.topic)


def _tokens(**names: str | None) -> list[str]:
    """Make one word of each name, however it is spelled."""
    return [
        f"{kind}{blake2b(name.encode(), digest_size=8).hexdigest()}"
        for kind, name in names.items()
        if name is not None
    ]


def _document(step: Step) -> Document | None:
    match step.record:
        case MessageAdded(message=UserMessage() as message):
            return Document(step.n, "user", step.at, _shorten(text_of(message), MESSAGE_LENGTH))
        case MessageAdded(message=AssistantMessage() as message):
            return Document(step.n, "assistant", step.at, _shorten(text_of(message), MESSAGE_LENGTH))
        case MessageAdded(message=ToolMessage() as message):
            return Document(step.n, "tool", step.at, _shorten(message.output, OUTPUT_LENGTH))
        case Compacted(summary=summary):
            return Document(step.n, "summary", step.at, _shorten(summary, MESSAGE_LENGTH))
        case _:
            return None


def _names(step: Step) -> bool:
    return isinstance(step.record, Configured) and isinstance(step.record.title, str)


def _shorten(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}\n…\n{text[-length // 2 :]}"
