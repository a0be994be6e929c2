"""Compaction: which part of a history a summary replaces, and how the summary is asked for.

Pure. A cut lies only between complete rounds, so a tool call is never parted from its result; the first user
message and the newest rounds stay word for word.
"""

from __future__ import annotations

from msgspec import Struct

from crabd.messages import (
    AssistantMessage,
    Message,
    ToolMessage,
    UserMessage,
    text_of,
    tool_calls_of,
    user_text,
)
from crabd.providers.base import ModelRequest
from crabd.runtime.prompt import Context, Entry, estimate_tokens

# Rounds that stay as they are, when there are twice as many.
KEEP_ROUNDS = 4
# The summary needs what a tool was asked and roughly what it said, not all of it. In characters.
MAX_RESULT_LENGTH = 1024
SUMMARY_PROMPT = """\
You summarise conversations between a person and an agent, so that the agent can go on from your summary.
Keep: what the person wants, in their words where they matter; decisions and their reasons; constraints and
preferences; files, commands and results that still matter; errors and whether they are solved; what is done
and what is open. Fold an earlier summary into yours. Leave out greetings, detours and whatever is superseded.
Write plain, dense prose or short lists, no more than 600 words, and nothing before or after it."""


class Cut(Struct, frozen=True):
    """History up to step ``upto`` becomes a summary, save for the message at step ``goal``."""

    upto: int
    goal: Entry | None
    replaced: tuple[Entry, ...]
    kept: tuple[Entry, ...]


def plan_cut(context: Context) -> Cut | None:
    """Choose where to cut; null when there is no complete round to summarise."""
    starts = [i for i, entry in enumerate(context.entries) if isinstance(entry.message, AssistantMessage)]
    ends = [_end_of_round(context.entries, start) for start in starts]
    if not ends:
        return None
    keep = min(KEEP_ROUNDS, len(ends) // 2)
    end = ends[-1 - keep]
    replaced, kept = context.entries[:end], context.entries[end:]
    goal = context.goal or next((entry for entry in replaced if isinstance(entry.message, UserMessage)), None)
    return Cut(replaced[-1].step, goal, tuple(replaced), tuple(kept))


def _end_of_round(entries: list[Entry], start: int) -> int:
    end = start + 1
    while end < len(entries) and isinstance(entries[end].message, ToolMessage):
        end += 1
    return end


def summary_request(model: str, context: Context, cut: Cut, instructions: str | None) -> ModelRequest:
    """Ask for the summary: one user message that holds the transcript to be replaced."""
    earlier = f"<earlier_summary>\n{context.summary}\n</earlier_summary>\n" if context.summary else ""
    transcript = "\n".join(_line(entry.message) for entry in cut.replaced)
    wishes = f"\nPay attention to this: {instructions}" if instructions else ""
    text = f"Summarise this conversation.{wishes}\n\n{earlier}<transcript>\n{transcript}\n</transcript>"
    return ModelRequest(model=model, system=SUMMARY_PROMPT, messages=(user_text(text),))


def weigh_after(cut: Cut, summary: str) -> int:
    """Estimate the context once the cut is made, in tokens."""
    goal = (cut.goal.message,) if cut.goal else ()
    return estimate_tokens((*goal, user_text(summary), *(entry.message for entry in cut.kept)))


def _line(message: Message) -> str:
    if isinstance(message, ToolMessage):
        cut = message.output[:MAX_RESULT_LENGTH]
        more = " … [cut]" if len(message.output) > MAX_RESULT_LENGTH else ""
        return f"result of {message.name} ({message.status}): {cut}{more}"
    who = "agent" if isinstance(message, AssistantMessage) else "person"
    calls = "".join(f"\ncall {call.name} {call.arguments}" for call in tool_calls_of(message))
    return f"{who}: {text_of(message)}{calls}"
