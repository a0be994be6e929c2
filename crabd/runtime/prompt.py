"""What a model is shown: the part of a log that is still in its view, and the request made of it.

Pure. What is composed here for one request (working directory, the frame round a summary, results for calls
that have none) never enters the history.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from msgspec import Struct

from crabd.messages import Message, TextBlock, ToolCall, ToolMessage, UserMessage, text_of, tool_calls_of
from crabd.providers.base import ModelChoice, ModelRequest, ToolOffer
from crabd.runtime.agents import Agent
from crabd.store.meta import SessionMeta
from crabd.store.record import Cleared, Compacted, MessageAdded, Step

# A token is about four bytes of English text. It is wrong for other text, so it only ever bridges the gap
# between two figures that a provider told.
BYTES_PER_TOKEN = 4
NO_RESULT = "[no result: the run was interrupted before this call had finished]"


class Entry(Struct, frozen=True):
    """A message and the step that holds it."""

    step: int
    message: Message


class Context:
    """The part of a log that the model still sees: goal, summary and the messages since.

    ``steps`` are a log's last ones; ``goal`` is the step that their compaction has kept from before them.
    """

    def __init__(self, steps: Iterable[Step] = (), goal: Step | None = None) -> None:
        kept = goal.record if goal is not None else None
        self.goal = Entry(goal.n, kept.message) if goal and isinstance(kept, MessageAdded) else None
        self.summary: str | None = None
        self.entries: list[Entry] = []
        self._history = History()
        for step in steps:
            self.add(step)

    def __repr__(self) -> str:
        summarised = ", summarised" if self.summary is not None else ""
        return f"<Context {len(self.entries)} messages{summarised}>"

    def add(self, step: Step) -> None:
        """Take in the next step of the log."""
        match step.record:
            case MessageAdded(message=message):
                self.entries.append(Entry(step.n, message))
            case Compacted(summary=summary, upto=upto, goal=goal):
                self.goal = self._find(goal)
                self.summary = summary
                self.entries = [entry for entry in self.entries if entry.step > upto]
                self._history = History()
            case Cleared():
                self.goal, self.summary, self.entries = None, None, []
                self._history = History()
            case _:
                pass

    def messages(self) -> tuple[Message, ...]:
        """Compose the history for one request; every call in it has its result, right behind it."""
        head = (self._head(),) if self.summary is not None else ()
        # What an earlier request was made of stays as it is, so that a long session's turn costs no more.
        for entry in islice(self.entries, self._history.taken, None):
            self._history.add(entry.message)
        return (*head, *self._history.messages())

    def _find(self, step: int | None) -> Entry | None:
        known = self.entries if self.goal is None else [self.goal, *self.entries]
        return next((entry for entry in known if entry.step == step), None)

    def _head(self) -> UserMessage:
        frame = f"<summary>\nThe conversation before this point, summarised:\n\n{self.summary}\n</summary>"
        if self.goal is None:
            return UserMessage((TextBlock(frame),))
        return UserMessage((TextBlock(f"{text_of(self.goal.message)}\n\n{frame}"),))


class History:
    """A history that every provider takes: each call is answered once, where it was asked.

    A call without a result gets one that says so; a result without a call is left out. ``taken`` counts the
    messages it was given.
    """

    def __init__(self, messages: Iterable[Message] = ()) -> None:
        self.taken = 0
        self._paired: list[Message] = []
        self._waiting: dict[str, ToolMessage] = {}
        for message in messages:
            self.add(message)

    def add(self, message: Message) -> None:
        """Take in the next message."""
        self.taken += 1
        if isinstance(message, ToolMessage):
            if self._waiting.pop(message.call, None) is not None:
                self._paired.append(message)
            return
        self._paired += self._waiting.values()
        self._paired.append(message)
        self._waiting = {call.id: _no_result(call) for call in tool_calls_of(message)}

    def messages(self) -> list[Message]:
        """Give the messages so far, with every call answered."""
        return [*self._paired, *self._waiting.values()]


def _no_result(call: ToolCall) -> ToolMessage:
    return ToolMessage(call.id, call.name, NO_RESULT, "interrupted")


def compose_request(
    agent: Agent,
    meta: SessionMeta,
    choice: ModelChoice,
    messages: tuple[Message, ...],
    *,
    tools: tuple[ToolOffer, ...] = (),
    tool_choice: str = "auto",
) -> ModelRequest:
    """Make one model call's request; the session's settings come before the agent's."""
    options = agent.options
    prompt = agent.prompt if meta.system_prompt is None else meta.system_prompt
    place = f"\n\nThe working directory is {meta.cwd}" if meta.cwd else ""
    return ModelRequest(
        model=choice.model,
        system=prompt + place,
        messages=messages,
        tools=tools,
        tool_choice=tool_choice,
        thinking=options.thinking if meta.thinking is None else meta.thinking,
        max_tokens=options.max_tokens,
    )


def estimate_tokens(messages: Iterable[Message]) -> int:
    """Guess what messages weigh, in tokens."""
    return sum(_size(message) for message in messages) // BYTES_PER_TOKEN


def _size(message: Message) -> int:
    calls = sum(len(call.name) + len(call.arguments) for call in tool_calls_of(message))
    # Sixteen bytes stand for what a role and its delimiters cost.
    return len(text_of(message).encode()) + calls + 16
