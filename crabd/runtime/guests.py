"""Guest turns: how agents hear each other in one session. Pure.

A reply of another agent is shown as something that was said to the one who is asked, in tags that name who
said it. Nothing of this enters the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.sax.saxutils import quoteattr

from msgspec import structs

from crabd.messages import AssistantMessage, Message, ToolMessage, text_of, tool_calls_of, user_text
from crabd.runtime.agents import Agent
from crabd.runtime.prompt import shorten
from crabd.store.meta import SessionMeta

# Of a tool's result, what a guest is shown. In characters.
RESULT_LENGTH = 2000


def heard_by(listener: str, host: str, messages: Iterable[Message]) -> Iterator[Message]:
    """Compose the history as one agent hears it; ``host`` is the agent whose session it is."""
    is_foreign = False
    for message in messages:
        match message:
            case AssistantMessage():
                speaker = message.agent or host
                is_foreign = speaker != listener
                yield user_text(_quote(speaker, message)) if is_foreign else message
            case ToolMessage() if is_foreign:
                told = shorten(message.output, RESULT_LENGTH)
                yield user_text(f"<result tool={quoteattr(message.name)}>\n{told}\n</result>")
            case _:
                yield message


def introduce(agent: Agent, host: str) -> Agent:
    """Tell an agent where it is: a guest of another one, or the host of guests that have been there."""
    if agent.name == host:
        frame = (
            'Text in <from agent="…"> tags was said by other agents, who were guests in this conversation. '
            "Go on as yourself, without such tags."
        )
    else:
        frame = (
            f"You are {agent.name}, a guest in a conversation between a person and the agent {host}. "
            'Text in <from agent="…"> tags was said by other agents. Answer the person\'s last message '
            "once, as yourself and without such tags; you have no tools here."
        )
    return structs.replace(agent, prompt=f"{agent.prompt}\n\n{frame}")


def as_guest(meta: SessionMeta) -> SessionMeta:
    """Leave out the settings of a session that are for its own agent."""
    return structs.replace(meta, system_prompt=None, thinking=None)


def _quote(speaker: str, message: AssistantMessage) -> str:
    calls = "".join(f"\n[calls {call.name} {call.arguments}]" for call in tool_calls_of(message))
    # What it said must not end the tag that says whose it is.
    said = f"{text_of(message)}{calls}".strip().replace("</from>", "<\\/from>")
    return f"<from agent={quoteattr(speaker)}>\n{said}\n</from>"
