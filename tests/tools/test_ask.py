"""Questions of a model, and what it reads of the answers."""

from __future__ import annotations

from typing import Any

import pytest

from crabd.events import Question
from crabd.tools.ask import NO_ANSWER, AskUser
from crabd.tools.base import BadArguments
from tests.tools.context import Surroundings

WHICH: dict[str, Any] = {"text": "Which?", "options": ["red", "blue"], "multiple": True}
WHY: dict[str, Any] = {"text": "Why?"}


async def test_one_question_is_answered_with_the_answer_alone() -> None:
    around = Surroundings(None, answers=["red"])

    outcome = await around.call(AskUser(), questions=[WHICH])

    assert around.asked == [Question("Which?", ("red", "blue"), is_multiple=True)]
    assert (outcome.output, outcome.is_error) == ("red", False)


async def test_of_several_questions_each_answer_stands_behind_its_own() -> None:
    around = Surroundings(None, answers=["red", "it is warm"])

    outcome = await around.call(AskUser(), questions=[WHICH, WHY])

    assert outcome.output == "Which?\nred\n\nWhy?\nit is warm"


async def test_a_model_that_gets_no_answer_is_told_how_to_go_on() -> None:
    outcome = await Surroundings(None).call(AskUser(), questions=[WHY])

    assert outcome.output == NO_ANSWER


@pytest.mark.parametrize(
    "questions", [[], [WHY] * 5, [{"text": ""}], [{"text": "x", "options": ["y"] * 9}], [{"txt": "x"}]]
)
async def test_what_is_no_question_is_refused(questions: list[dict[str, Any]]) -> None:
    with pytest.raises(BadArguments):
        await AskUser().prepare({"questions": questions}, Surroundings(None).context())
