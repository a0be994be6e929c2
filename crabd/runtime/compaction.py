"""Compaction: when a history has to become smaller, which part a summary replaces, how that is asked for.

Pure. A cut lies only between complete rounds, so a tool call is never parted from its result; the first user
message, what is not done yet and the newest rounds stay. Long results of tools are shortened first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from crabd.events import PlanItem, write_plan
from crabd.messages import (
    AssistantMessage,
    Message,
    ToolMessage,
    UserMessage,
    tool_calls_of,
    user_text,
    words_of,
)
from crabd.providers.base import ModelRequest
from crabd.runtime.prompt import (
    BYTES_PER_TOKEN,
    MARK_LENGTH,
    Context,
    Entry,
    estimate_tokens,
    make_head,
    shorten,
    shorten_result,
)
from crabd.store.record import Compacted, Shortened, Task

# Rounds that stay as they are, when there are twice as many.
KEEP_ROUNDS = 4
# Of a full context, what the newest rounds may take, and what each of goal, summary and tasks may.
KEPT_PART, HEAD_PART = 0.3, 0.12
# What a compaction aims below, of the weight that calls for one: else the next call would call for another.
AIM = 0.75
# Where a window is not known, texts are bounded as for one of this many tokens.
USUAL_WINDOW = 128_000
# Head and tail of an older tool result, in characters; the newest may have to be cut down to the second.
RESULT_LENGTH, LEAST_LENGTH = 2000, 200
# The summary needs what a tool was asked and roughly what it said, not all of it. In characters.
MAX_RESULT_LENGTH = 1024
# Compactions without effect, one after the other, after which they stop.
MAX_FAILURES = 2
# By how much a context has to grow until it is tried again after that.
GROWTH = 1.25
MAX_TASKS = 8
# Of an extract, the characters of a message.
EXTRACT_LENGTH = 160
EXTRACT = "(An extract: no model has summarised this.)"
SUMMARY_PROMPT = """\
You summarise conversations between a person and an agent, so that the agent can go on from your summary.
Keep: what the person wants, in their words where they matter; decisions and their reasons; constraints and
preferences; files, commands and results that still matter; errors and whether they are solved; what is done
and what is open. Fold an earlier summary into yours. Leave out greetings, detours and whatever is superseded.
Write plain, dense prose or short lists, no more than 600 words, and nothing before or after it."""

# How badly a history has to become smaller: it is near the window's end, or over it.
Need: TypeAlias = Literal["none", "wanted", "forced"]


class Gauge:
    """How full the context of one session may get, and whether compacting has helped so far."""

    def __init__(self) -> None:
        # Less than this was too much for a server once, whatever its window is said to be. In tokens.
        self._ceiling: int | None = None
        self._failures = 0
        self._is_unproven = False
        self._resume_at = 0.0

    def __repr__(self) -> str:
        return f"<Gauge ceiling {self._ceiling}, {self._failures} failures>"

    @property
    def has_given_up(self) -> bool:
        return self._failures >= MAX_FAILURES

    def limit(self, window: int | None) -> int | None:
        """Tell how many tokens fit, as far as is known."""
        return min((limit for limit in (window, self._ceiling) if limit is not None), default=None)

    def read(self, weight: int, window: int | None, part: float) -> Need:
        """Tell whether a context of that weight must become smaller; above ``part`` of what fits it must."""
        limit = self.limit(window)
        if limit is None or weight < part * limit:
            if self._is_unproven:
                self._failures = 0
            self._is_unproven = False
            return "none"
        if self._is_unproven:
            self.failed(weight)
        if weight >= limit:
            return "forced"
        return "none" if self.has_given_up and weight < self._resume_at else "wanted"

    def too_long(self, weight: int) -> None:
        """Take note that a server has refused a context of that weight."""
        self._ceiling = min(weight * 9 // 10, self._ceiling or weight)

    def compacted(self) -> None:
        """Take note of a compaction; whether it has helped is seen at the next reading."""
        self._is_unproven = True

    def failed(self, weight: int) -> None:
        """Take note of a compaction that came to nothing."""
        self._is_unproven = False
        self._failures += 1
        self._resume_at = weight * GROWTH

    def reset(self) -> None:
        """Begin anew, for a person has asked for it."""
        self._failures, self._is_unproven = 0, False


class Cut(Struct, frozen=True):
    """History up to step ``upto`` becomes a summary, save for the message at step ``goal`` and the tasks.

    ``head_length`` is what of each of these may stay, in characters.
    """

    upto: int
    goal: Entry | None
    replaced: tuple[Entry, ...]
    kept: tuple[Entry, ...]
    tasks: tuple[Task, ...] = ()
    head_length: int = int(USUAL_WINDOW * BYTES_PER_TOKEN * HEAD_PART)


def plan_cut(context: Context, *, limit: int | None = None, since: int | None = None) -> Cut | None:
    """Choose where to cut; null when there is no complete round to summarise.

    ``limit`` is how many tokens fit. ``since`` is the first step of the run that is open: what a person has
    said in it is not done yet.
    """
    starts = [i for i, entry in enumerate(context.entries) if isinstance(entry.message, AssistantMessage)]
    ends = [_end_of_round(context.entries, start) for start in starts]
    if not ends:
        return None
    # Results that the model has not seen yet stay.
    is_awaited = since is not None and isinstance(context.entries[-1].message, ToolMessage)
    end = _choose_end(context.entries, ends, limit, least=1 if is_awaited else 0)
    if end == 0:
        return None
    replaced, kept = context.entries[:end], context.entries[end:]
    goal = context.goal or next((entry for entry in replaced if isinstance(entry.message, UserMessage)), None)
    head_length = int((limit or USUAL_WINDOW) * BYTES_PER_TOKEN * HEAD_PART)
    tasks = _tasks(context, replaced, goal, since, head_length)
    return Cut(replaced[-1].step, goal, tuple(replaced), tuple(kept), tasks, head_length)


def _choose_end(entries: list[Entry], ends: list[int], limit: int | None, *, least: int) -> int:
    """Choose the end of the last round that is replaced, so that as many as may stay do; 0 for none."""
    keep = max(least, min(KEEP_ROUNDS, len(ends) // 2))
    room = None if limit is None else limit * KEPT_PART
    while keep > least and room is not None and _weight(entries[ends[-1 - keep] :]) > room:
        keep -= 1
    return ends[-1 - keep] if keep < len(ends) else 0


def _end_of_round(entries: list[Entry], start: int) -> int:
    end = start + 1
    while end < len(entries) and isinstance(entries[end].message, ToolMessage):
        end += 1
    return end


def _tasks(
    context: Context, replaced: list[Entry], goal: Entry | None, since: int | None, length: int
) -> tuple[Task, ...]:
    """Gather what the open run was asked for, the newest of it if it is a lot."""
    if since is None:
        return ()
    goal_step = goal.step if goal else None
    asked = [entry for entry in replaced if isinstance(entry.message, UserMessage)]
    fresh = [Task(e.step, words_of(e.message)) for e in asked if e.step >= since and e.step != goal_step]
    known = [task for task in context.tasks if task.step >= since]
    tasks = (known + fresh)[-MAX_TASKS:]
    return tuple(Task(task.step, shorten(task.text, length // len(tasks))) for task in tasks)


def summary_request(
    model: str, context: Context, cut: Cut, instructions: str | None, size: int | None = None
) -> ModelRequest:
    """Ask for the summary: one user message that holds the transcript to be replaced, in ``size`` bytes."""
    lines = [_line(entry.message) for entry in cut.replaced]
    if size is not None:
        lines = _squeeze(lines, size)
    tasks = "".join(f"\nThen the person asked: {task.text}" for task in context.tasks)
    known = f"<earlier_summary>\n{context.summary}{tasks}\n</earlier_summary>\n" if context.summary else ""
    transcript = "\n".join(lines)
    wishes = f"\nPay attention to this: {instructions}" if instructions else ""
    text = f"Summarise this conversation.{wishes}\n\n{known}<transcript>\n{transcript}\n</transcript>"
    return ModelRequest(model=model, system=SUMMARY_PROMPT, messages=(user_text(text),))


def extract(context: Context, cut: Cut) -> str:
    """Sum up what is replaced without a model: how each message begins, as much of it as has room."""
    half = cut.head_length // 2
    lines = [shorten(_line(entry.message, result_length=0), EXTRACT_LENGTH).strip() for entry in cut.replaced]
    known = context.summary.removeprefix(EXTRACT).strip() if context.summary else ""
    earlier = [shorten(known, half)] if known else []
    return "\n".join([EXTRACT, *earlier, *_squeeze(lines, half)])


def make_boundary(
    context: Context,
    cut: Cut,
    archive: str,
    summary: str,
    *,
    before: int,
    overhead: int = 0,
    plan: Sequence[PlanItem] = (),
) -> Compacted | None:
    """Make the record of a cut; null if the history would not become smaller by it.

    ``before`` is what the context weighs, in tokens; of these ``overhead`` is what stays whatever is cut. The
    ``plan`` goes with it unless all of it is done: the calls that made it may be gone.
    """
    goal_text = words_of(cut.goal.message) if cut.goal else ""
    goal_length = cut.head_length if len(goal_text) > cut.head_length + MARK_LENGTH else None
    goal_text = goal_text if goal_length is None else shorten(goal_text, goal_length)
    summary = shorten(summary, cut.head_length)
    is_open = any(item.status != "done" for item in plan)
    planned = shorten(write_plan(plan), cut.head_length) if is_open else ""
    head = make_head(goal_text, summary, cut.tasks, planned)
    smaller = estimate_tokens((head, *(entry.message for entry in cut.kept)))
    larger = _weight_of(context)
    if smaller >= larger:
        return None
    goal = cut.goal.step if cut.goal else None
    tokens = scale_down(before, larger, smaller, overhead)
    return Compacted(
        archive,
        summary,
        cut.upto,
        goal,
        tokens,
        goal_length=goal_length,
        tasks=cut.tasks,
        plan=planned,
    )


def plan_shortening(
    context: Context, *, limit: int | None, before: int, overhead: int = 0, is_forced: bool = False
) -> Shortened | None:
    """Shorten long tool results: the older ones, or when forced all; null if there are none."""
    starts = [i for i, entry in enumerate(context.entries) if isinstance(entry.message, AssistantMessage)]
    end = len(context.entries) if is_forced else (starts[-KEEP_ROUNDS:] or [0])[0]
    chosen = [entry for entry in context.entries[:end] if isinstance(entry.message, ToolMessage)]
    length = RESULT_LENGTH
    if is_forced and limit is not None and chosen:
        length = min(length, max(LEAST_LENGTH, int(limit * KEPT_PART * BYTES_PER_TOKEN) // len(chosen)))
    saved = _weight(chosen) - _weight(shorten_result(entry, length) for entry in chosen)
    if saved <= 0:
        return None
    larger = _weight_of(context)
    return Shortened(chosen[-1].step, length, scale_down(before, larger, larger - saved, overhead))


def is_enough(tokens: int, limit: int | None, part: float) -> bool:
    """Tell whether a context that weighs so much leaves room to go on."""
    return limit is not None and tokens <= limit * part * AIM


def scale_down(before: int, larger: int, smaller: int, overhead: int = 0) -> int:
    """Reckon what is left of a weight that a provider told, by our own estimates; it is never more."""
    return min(before, before * (smaller + overhead) // max(1, larger + overhead))


def _weight_of(context: Context) -> int:
    return estimate_tokens((*context.head(), *(entry.message for entry in context.entries)))


def _weight(entries: Iterable[Entry]) -> int:
    return estimate_tokens(entry.message for entry in entries)


def _squeeze(lines: list[str], size: int) -> list[str]:
    """Leave out lines from the middle until the rest takes ``size`` bytes; no line may take most of it."""
    lines = [shorten(line, max(size // 8, EXTRACT_LENGTH)) for line in lines]
    if sum(_bytes(line) for line in lines) <= size:
        return lines
    first = _fitting(lines, size // 4)
    last = _fitting(lines[:first:-1], size - size // 4)
    missing = len(lines) - first - last
    return [*lines[:first], f"[… {missing} messages left out …]", *lines[len(lines) - last :]]


def _fitting(lines: list[str], size: int) -> int:
    """Count the lines, from the first on, that fit."""
    for count, line in enumerate(lines):
        size -= _bytes(line)
        if size < 0:
            return count
    return len(lines)


def _bytes(line: str) -> int:
    return len(line.encode(errors="replace")) + 1


def _line(message: Message, *, result_length: int = MAX_RESULT_LENGTH) -> str:
    if isinstance(message, ToolMessage):
        cut = message.output[:result_length]
        more = " … [cut]" if len(message.output) > result_length else ""
        return f"result of {message.name} ({message.status}): {cut}{more}"
    who = (message.agent or "agent") if isinstance(message, AssistantMessage) else "person"
    calls = "".join(f"\ncall {call.name} {call.arguments}" for call in tool_calls_of(message))
    return f"{who}: {words_of(message)}{calls}"
