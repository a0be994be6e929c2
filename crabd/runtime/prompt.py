"""What a model is shown: the part of a log that is still in its view, and the request made of it.

Pure. What is composed here for one request (working directory, the frame round a summary, results for calls
that have none) never enters the history.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, takewhile

from msgspec import Struct, structs

from crabd.events import Mode
from crabd.messages import (
    AssistantMessage,
    Message,
    TextBlock,
    ToolCall,
    ToolMessage,
    UserMessage,
    pictures_in,
    text_of,
    tool_calls_of,
    words_of,
)
from crabd.providers.base import ModelChoice, ModelRequest, ToolOffer
from crabd.runtime.agents import Agent
from crabd.store.meta import SessionMeta
from crabd.store.record import (
    Cleared,
    Compacted,
    MessageAdded,
    ModelCalled,
    Rewound,
    Shortened,
    Step,
    Task,
)

# A token is about four bytes of English text. It is wrong for other text, so it only ever bridges the gap
# between two figures that a provider told.
BYTES_PER_TOKEN = 4
# Anthropic counts width × height / 750 of a picture, and makes one smaller that would come to more than this.
TOKENS_PER_PICTURE = 1600
# Room for the line that says how much of a text is left out.
MARK_LENGTH = 64
# What a model must know of the mode, lest it try what it may not.
MODES: dict[Mode, str] = {
    "read-only": "You may only read here: calls that would change something are refused.",
    "plan": (
        "You are to make a plan, and to change nothing yet: calls that would are refused. Look at what there "
        "is, ask what you have to know, then write the plan down with the tool todo, say it in a few words, "
        "and stop: the person decides whether it is carried out."
    ),
}
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
        self.tasks: tuple[Task, ...] = ()
        self._plan = ""
        self.entries: list[Entry] = []
        # Another agent has said something.
        self.has_guests = False
        # All up to this step is summarised or cleared.
        self.floor = 0
        self._goal_length: int | None = None
        # What a provider told that all up to a step weighs, or what was reckoned from that.
        self._figure, self._weighed_upto = 0, 0
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
                self.has_guests |= isinstance(message, AssistantMessage) and message.agent != ""
            case ModelCalled(purpose="reply", context_tokens=tokens):
                self._figure, self._weighed_upto = tokens, step.n
            case Compacted(summary=summary, upto=upto, goal=goal) as cut:
                self.goal, self._goal_length = self._find(goal), cut.goal_length
                self.summary, self.tasks, self.floor = summary, cut.tasks, upto
                self._plan = cut.plan
                self._change([entry for entry in self.entries if entry.step > upto], cut.context_tokens, step)
            case Shortened(upto=upto, length=length, context_tokens=tokens):
                shorter = [
                    shorten_result(entry, length) if entry.step <= upto else entry for entry in self.entries
                ]
                self._change(shorter, tokens, step)
            case Rewound(step=last, context_tokens=tokens):
                self._change([entry for entry in self.entries if entry.step <= last], tokens, step)
            case Cleared():
                self.goal, self.summary, self.tasks, self.floor = None, None, (), step.n
                self._change([], 0, step)
            case _:
                pass

    @property
    def weight(self) -> int:
        """What it weighs in tokens: as a provider told, and an estimate of what came since."""
        fresh = takewhile(lambda entry: entry.step > self._weighed_upto, reversed(self.entries))
        return self._figure + estimate_tokens(entry.message for entry in fresh)

    def head(self) -> tuple[Message, ...]:
        """Compose what stands for the part that is no longer seen; empty if there is none."""
        if self.summary is None:
            return ()
        goal = words_of(self.goal.message) if self.goal else ""
        return (
            make_head(
                goal if self._goal_length is None else shorten(goal, self._goal_length),
                self.summary,
                self.tasks,
                self._plan,
            ),
        )

    def messages(self) -> tuple[Message, ...]:
        """Compose the history for one request; every call in it has its result, right behind it."""
        # What an earlier request was made of stays as it is, so that a long session's turn costs no more.
        for entry in islice(self.entries, self._history.taken, None):
            self._history.add(entry.message)
        return (*self.head(), *self._history.messages())

    def _find(self, step: int | None) -> Entry | None:
        known = self.entries if self.goal is None else [self.goal, *self.entries]
        return next((entry for entry in known if entry.step == step), None)

    def _change(self, entries: list[Entry], weight: int, step: Step) -> None:
        self.entries = entries
        self._figure, self._weighed_upto = weight, step.n
        self._history = History()


def make_head(goal: str, summary: str, tasks: Iterable[Task], plan: str) -> UserMessage:
    """Frame a summary: the goal before it, and behind it what was asked for and is not done, and the plan."""
    frame = f"<summary>\nThe conversation before this point, summarised:\n\n{summary}\n</summary>"
    asked = "\n\n".join(task.text for task in tasks)
    open_tasks = f"<asked_for_and_not_done_yet>\n{asked}\n</asked_for_and_not_done_yet>" if asked else ""
    planned = f"<your_plan_by_then>\n{plan}\n</your_plan_by_then>" if plan else ""
    return UserMessage((TextBlock("\n\n".join(filter(None, (goal, frame, open_tasks, planned)))),))


def shorten(text: str, length: int) -> str:
    """Keep ``length`` characters of a text, half of them from its end, and say how many are left out.

    A text that is hardly longer stays, and so does one that was shortened before.
    """
    if len(text) <= length + MARK_LENGTH:
        return text
    half = length // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[len(text) - half :]}"


def shorten_result(entry: Entry, length: int) -> Entry:
    """Shorten a tool's result; everything else stays as it is."""
    message = entry.message
    if not isinstance(message, ToolMessage):
        return entry
    return Entry(entry.step, structs.replace(message, output=shorten(message.output, length)))


class History:
    """A history that every provider takes: each call is answered once, where it was asked.

    A call without a result gets one that says so; a result without a call, and a second call of one id, is
    left out. ``taken`` counts the messages it was given.
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
        calls = tool_calls_of(message)
        self._waiting = {call.id: _no_result(call) for call in calls}
        self._paired.append(message if len(self._waiting) == len(calls) else _with_distinct_calls(message))

    def messages(self) -> list[Message]:
        """Give the messages so far, with every call answered."""
        return [*self._paired, *self._waiting.values()]


def _with_distinct_calls(message: Message) -> Message:
    """Leave out calls whose id another one has: nobody could tell whose result is whose."""
    assert isinstance(message, AssistantMessage), "only such a message has calls"
    first = {block.id: block for block in reversed(message.content) if isinstance(block, ToolCall)}
    content = [
        block for block in message.content if not isinstance(block, ToolCall) or block is first[block.id]
    ]
    return structs.replace(message, content=tuple(content))


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
    instructions: str = "",
    mode: Mode = "ask",
) -> ModelRequest:
    """Make one model call's request; the session's settings come before the agent's."""
    options = agent.options
    prompt = agent.prompt if meta.system_prompt is None else meta.system_prompt
    place = f"\n\nThe working directory is {meta.cwd}" if meta.cwd else ""
    return ModelRequest(
        model=choice.model,
        system=prompt + instructions + place + (f"\n\n{MODES[mode]}" if mode in MODES else ""),
        messages=messages,
        tools=tools,
        tool_choice=tool_choice,
        thinking=options.thinking if meta.thinking is None else meta.thinking,
        max_tokens=options.max_tokens,
    )


def estimate_tokens(messages: Iterable[Message]) -> int:
    """Guess what messages weigh, in tokens."""
    return sum(_size(message) for message in messages) // BYTES_PER_TOKEN


def estimate_overhead(request: ModelRequest) -> int:
    """Guess what a request weighs besides its messages, in tokens: the prompt, and what tools there are."""
    tools = sum(len(f"{tool.name}{tool.description}{tool.parameters}") for tool in request.tools)
    return (len(request.system) + tools) // BYTES_PER_TOKEN


def _size(message: Message) -> int:
    calls = sum(len(call.name) + len(call.arguments) for call in tool_calls_of(message))
    text = text_of(message)
    # Sixteen bytes stand for what a role and its delimiters cost.
    written = (len(text) if text.isascii() else len(text.encode(errors="replace"))) + calls + 16
    return written + len(pictures_in(message)) * TOKENS_PER_PICTURE * BYTES_PER_TOKEN
