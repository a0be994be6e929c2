"""From a session's messages, and from what its run has not saved yet, to updates. Pure.

What was taken back is left out; what a summary stands for, or was cleared away, a person has still read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crabd.events import RunPicture
from crabd.messages import (
    AssistantMessage,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from crabd.runtime.history import StoredMessage
from crabd.server.acp import schema as acp
from crabd.server.acp.updates import Teller


def replay(teller: Teller, messages: Iterable[StoredMessage]) -> Iterator[acp.Update]:
    """Tell what a log, or a part of it from the start of a run on, has of a conversation."""
    for stored in messages:
        teller.begin(stored.run, stored.step)
        if not stored.rewound:
            yield from _tell(teller, stored.message)


def catch_up(teller: Teller, picture: RunPicture, step: int) -> Iterator[acp.Update]:
    """Tell what the log does not have of the run that is going; ``step`` is the log's last."""
    teller.begin(picture.run, step)
    if not picture.reply_kept:
        yield from _tell(teller, picture.reply)
    # Those that are done are told first: another call of the same id could only come after them.
    for result in picture.results:
        yield from _tell(teller, result)
    for call in picture.open_calls:
        yield from teller.call(call.id, call.name, call.arguments)


def _tell(teller: Teller, message: Message) -> Iterator[acp.Update]:
    match message:
        case UserMessage(content=content, steer=steer):
            yield from teller.say(steer or teller.run, content)
        case AssistantMessage(content=blocks):
            for block in blocks:
                match block:
                    case TextBlock(text=text):
                        yield from teller.add(acp.AgentChunk, text)
                    case ThinkingBlock(text=text):
                        yield from teller.add(acp.ThoughtChunk, text)
                    case ToolCall(id=call, name=name, arguments=arguments):
                        yield from teller.call(call, name, arguments)
        case ToolMessage(call=call, output=output, status=status):
            yield from teller.end_call(call, output, status)
