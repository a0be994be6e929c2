"""The command line is read by the table."""

from __future__ import annotations

import pytest

from crabctl.arguments import UsageError, resolve, split
from crabctl.explain import manual, overview
from crabctl.table import COMMANDS, OPTIONS


def test_options_may_stand_before_or_after_the_command() -> None:
    before = split(["--json", "-a", "crab", "send", "hello"])
    after = split(["send", "hello", "-a", "crab", "--json"])

    assert before == ({"json": "", "agent": "crab"}, ["send", "hello"])
    assert after == ({"agent": "crab", "json": ""}, ["send", "hello"])


def test_what_follows_two_dashes_is_text() -> None:
    options, words = split(["send", "--", "--json", "-5"])

    assert (options, words) == ({}, ["send", "--json", "-5"])


def test_a_dash_alone_is_a_word() -> None:
    options, words = split(["send", "-"])

    assert (options, words) == ({}, ["send", "-"])


def test_an_unknown_command_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="there is no command 'atach': did you mean attach"):
        resolve({}, ["atach"])


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["ls", "--busy", "queue"], "crabctl ls takes no --busy"),
        (["call"], "usage: crabctl call METHOD"),
        (["show", "a_b_1", "a_b_2"], r"usage: crabctl show \[ID\]"),
        (["ls", "--nonsense"], "--nonsense not recognized"),
        (["send", "-S"], "-S requires argument"),
    ],
)
def test_what_a_command_does_not_take_is_refused(argv: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        resolve(*split(argv))


@pytest.mark.parametrize("value", ["0", "-1", "many", "²", "1.5"])
def test_a_number_is_whole_and_at_least_one(value: str) -> None:
    _, args = resolve({"limit": value}, ["ls"])

    with pytest.raises(UsageError, match="--limit"):
        args.number("limit")


def test_every_command_is_there_and_takes_known_options() -> None:
    for name, command in COMMANDS.items():
        module, _, function = command.target.partition(":")
        found = getattr(__import__(f"crabctl.commands.{module}", fromlist=[function]), function)

        assert callable(found), name
        assert set(command.options) <= set(OPTIONS), name


def test_an_option_letter_means_one_thing() -> None:
    letters = [option.short for option in OPTIONS.values() if option.short]

    assert len(letters) == len(set(letters))


def test_help_names_every_command_and_every_option_it_takes() -> None:
    for name, command in COMMANDS.items():
        assert f"\n  {name} " in overview()
        for option in command.options:
            assert f"--{option}" in manual(name)


def test_help_fits_a_terminal() -> None:
    texts = [overview(), *map(manual, COMMANDS)]

    assert [line for text in texts for line in text.splitlines() if len(line) > 110] == []
