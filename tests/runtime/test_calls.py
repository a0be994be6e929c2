"""Which calls are made; how a run goes on with those that are not is tried in ``test_run``."""

from __future__ import annotations

import pytest

from crabd.messages import ToolCall
from crabd.runtime.calls import CallWatch, Verdict, read_arguments


def asked(arguments: str, name: str = "x") -> ToolCall:
    return ToolCall("c", name, arguments)


@pytest.mark.parametrize(("text", "read"), [("", {}), (" \n", {}), ('{"a": [1]}', {"a": [1]})])
def test_arguments_are_an_object_or_nothing(text: str, read: dict[str, object]) -> None:
    assert read_arguments(asked(text)) == read


@pytest.mark.parametrize("text", ['{"a"', "[]", "null", '"{}"', '{"a": ' * 100_000, "{}{}", "{'a': 1}"])
def test_what_is_no_object_is_told_to_the_model(text: str) -> None:
    verdict = CallWatch().judge([asked(text)])

    assert "not a JSON object" in verdict.objections["c"]
    assert "Write them again" in verdict.objections["c"]


def test_calls_that_differ_in_name_or_arguments_are_not_the_same() -> None:
    watch = CallWatch()

    verdicts = [watch.judge([asked(f'{{"n": {n % 2}}}')]) for n in range(12)]
    verdicts += [watch.judge([asked("{}", name=str(n % 2))]) for n in range(12)]

    assert verdicts == [Verdict({})] * 24


def test_the_same_call_twice_in_a_round_is_one_more_round_alone() -> None:
    watch = CallWatch()

    verdicts = [watch.judge([asked("{}"), ToolCall("d", "x", "{ }")]) for _ in range(3)]

    assert verdicts == [Verdict({})] * 3
