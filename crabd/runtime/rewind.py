"""Rewinding: which messages are taken back. Pure.

The log stays as it is, and gets one more record. What a summary has replaced cannot be taken back, for its
parts are in it; such a step can be forked.
"""

from __future__ import annotations

from msgspec import Struct

from crabd.errors import BadRequest
from crabd.messages import ToolMessage, UserMessage, text_of
from crabd.runtime.compaction import scale_down
from crabd.runtime.prompt import Context, Entry, estimate_tokens


class Rewinding(Struct, frozen=True):
    """The last step that stays, and what goes: how many messages, and what a person said in the first.

    ``context_tokens`` is what the rest weighs.
    """

    step: int
    messages: int
    text: str
    context_tokens: int


def plan_rewind(session: str, context: Context, step: int | None) -> Rewinding:
    """Choose what is taken back: all after ``step``, or, without it, from the last message of a person on.

    Raises:
      BadRequest: that lies before a summary, or there is nothing to take back.
    """
    entries = context.entries
    if step is None:
        step = _before_last_question(entries) - 1
    if step < context.floor:
        problem = f"the model has only a summary of what came before step {context.floor}"
        raise BadRequest("$.step", f"{problem}: fork there instead (crabctl fork {session} --at {step})")
    count = sum(entry.step <= step for entry in entries)
    # The results of a call go with it.
    while 0 < count < len(entries) and isinstance(entries[count].message, ToolMessage):
        count -= 1
    kept, gone = entries[:count], entries[count:]
    if gone:
        step = min(step, gone[0].step - 1)
    head = context.head()
    weight = scale_down(
        context.weight,
        estimate_tokens((*head, *(entry.message for entry in entries))),
        estimate_tokens((*head, *(entry.message for entry in kept))),
    )
    return Rewinding(step, len(gone), _first_words(gone), weight if kept or head else 0)


def _before_last_question(entries: list[Entry]) -> int:
    asked = [e.step for e in entries if isinstance(e.message, UserMessage) and not e.message.steer]
    if not asked:
        raise BadRequest("$.step", "there is no message to take back: give a step, or fork an earlier one")
    return asked[-1]


def _first_words(entries: list[Entry]) -> str:
    return next((text_of(e.message) for e in entries if isinstance(e.message, UserMessage)), "")
