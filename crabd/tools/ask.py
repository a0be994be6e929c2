"""``ask_user``: the model asks, a person answers, whenever and from wherever he likes."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from msgspec import Meta, Struct

from crabd.events import Question
from crabd.tools.base import Intent, PreparedCall, Tool, ToolContext, ToolOutcome, ToolSpec
from crabd.tools.typed import Arguments, Call, read_arguments, schema_of

# More is no question any more but a form.
MAX_QUESTIONS = 4
MAX_OPTIONS = 8
Line = Annotated[str, Meta(min_length=1, max_length=2000)]
NO_ANSWER = (
    "Nobody answered. Go on as you think best and say what you have assumed, or, if you cannot, stop and say "
    "what you need to know."
)


class Asked(Struct, frozen=True, forbid_unknown_fields=True):
    """One question. With ``options`` the person chooses, and may always write something else instead."""

    text: Annotated[Line, Meta(description="The question, with all that is needed to answer it.")]
    options: Annotated[
        tuple[Line, ...], Meta(max_length=MAX_OPTIONS, description="Answers to choose from, the best first.")
    ] = ()
    multiple: Annotated[bool, Meta(description="Several options may be chosen.")] = False


class AskArguments(Arguments, frozen=True, kw_only=True):
    questions: Annotated[tuple[Asked, ...], Meta(min_length=1, max_length=MAX_QUESTIONS)]


ASK = ToolSpec(
    "ask_user",
    "Ask the person you work for, and wait for the answers. Ask only what you cannot find out yourself and "
    "what changes what you do next. Never use it to get leave for another call: that is asked for by itself.",
    schema_of(AskArguments),
    is_read_only=True,
    is_idempotent=True,
)


class AskUser(Tool):
    """Asks a person."""

    @property
    def spec(self) -> ToolSpec:
        return ASK

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        asked = read_arguments(AskArguments, arguments).questions
        questions = tuple(Question(each.text, each.options, each.multiple) for each in asked)
        intent = Intent(title=f"ask: {questions[0].text}")
        return Call(intent, partial(_ask, questions, context))


async def _ask(questions: tuple[Question, ...], context: ToolContext) -> ToolOutcome:
    answers = await context.ask(questions)
    if answers is None:
        return ToolOutcome(NO_ANSWER)
    if len(questions) == 1:
        return ToolOutcome(answers[0])
    told = [f"{question.text}\n{answer}" for question, answer in zip(questions, answers, strict=True)]
    return ToolOutcome("\n\n".join(told))
