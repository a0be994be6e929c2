"""Agents as their files say them, and files that cannot be taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from crabd.errors import ConfigError, NotFound
from crabd.events import Budget, DailyBudget
from crabd.runtime.agents import (
    DEFAULT_AGENT,
    MAX_ROUNDS,
    Agent,
    Agents,
    FrontMatter,
    load_agents,
    parse_agent,
)

REVIEWER = """\
---
description: reviews changes
model: openai/gpt-4.1
tools: [read, grep]
max_rounds: 20
fallbacks: [groq/x]
max_tokens: 4096
thinking: true
---

You review changes.
--- is how a ruler looks.
---
Be brief.
"""


def parse(text: str) -> Agent:
    return parse_agent("reviewer", text, source="reviewer.md")


def test_a_file_is_front_matter_and_a_prompt() -> None:
    agent = parse(REVIEWER)

    assert agent == Agent(
        "reviewer",
        "You review changes.\n--- is how a ruler looks.\n---\nBe brief.",
        FrontMatter("reviews changes", "openai/gpt-4.1", ("read", "grep"), 20, 4096, True, ("groq/x",)),
        "reviewer.md",
    )


def test_what_is_left_out_is_as_the_daemon_has_it() -> None:
    agent = parse("---\ndescription: plain\n---\nHello.")

    assert agent.options == FrontMatter("plain", None, None, MAX_ROUNDS, None, False)


@pytest.mark.parametrize("text", ["Be brief.\n", "---\n---\nBe brief.", "---\n\n---\nBe brief.\n"])
def test_a_file_may_be_a_prompt_and_nothing_else(text: str) -> None:
    assert parse(text) == Agent("reviewer", "Be brief.", FrontMatter(), "reviewer.md")


def test_budgets_are_of_each_session_and_of_a_day() -> None:
    options = parse("---\nbudget: {tokens: 2000000, cost: 5}\ndaily_budget: {cost: 20}\n---\n").options

    assert options.budget == Budget(tokens=2_000_000, cost=5)
    assert options.daily_budget == DailyBudget(cost=20)


def test_an_empty_list_of_tools_is_none_of_them() -> None:
    assert parse("---\ntools: []\n---\n").options.tools == ()


@pytest.mark.parametrize("text", ["\ufeff" + REVIEWER, REVIEWER.replace("\n", "\r\n")])
def test_what_other_systems_put_into_a_file_does_no_harm(text: str) -> None:
    assert parse(text).options == parse(REVIEWER).options


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        ("modle: x", "unknown field `modle`"),
        ("model: [x]", "$.model"),
        ("max_rounds: 0", "$.max_rounds"),
        ("max_rounds: 1001", "$.max_rounds"),
        ("max_tokens: 0", "$.max_tokens"),
        ("budget: {cost: 0}", "$.budget.cost"),
        ("daily_budget: {rounds: 5}", "unknown field `rounds`"),
        ("tools: read", "$.tools"),
        ("- a list", "Expected `object`"),
        ("description: [", "front matter"),
        ("description: 2024-99-99", "front matter: month"),
    ],
)
def test_wrong_front_matter_is_refused_by_what_is_wrong(head: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(f"---\n{head}\n---\nHello.")

    assert refused.value.file == "reviewer.md"
    assert problem in refused.value.problem


def test_front_matter_that_is_not_closed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"reviewer\.md: the front matter has no closing --- line"):
        parse("---\ndescription: x\nHello.")


def test_without_a_folder_there_is_the_agent_that_is_built_in(tmp_path: Path) -> None:
    assert load_agents(tmp_path / "nowhere") == Agents({"crab": DEFAULT_AGENT})


def test_a_file_makes_an_agent_of_its_name_and_others_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "reviewer.md").write_text(REVIEWER)
    (tmp_path / "notes.txt").write_text("not an agent")

    agents = load_agents(tmp_path)

    assert agents.problems == ()
    assert set(agents.by_name) == {"crab", "reviewer"}
    assert agents.get("reviewer").source == str(tmp_path / "reviewer.md")


def test_a_file_may_replace_the_agent_that_is_built_in(tmp_path: Path) -> None:
    (tmp_path / "crab.md").write_text("Be a lobster.")

    assert load_agents(tmp_path).get("crab").prompt == "Be a lobster."


def test_files_that_cannot_be_taken_are_problems_and_the_rest_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("---\nmodle: x\n---\n")
    (tmp_path / "b.md").write_bytes(b"\xff\xfe")
    (tmp_path / "c.md").mkdir()
    (tmp_path / "d.md").symlink_to("nowhere")
    (tmp_path / "good.md").write_text("Hello.")

    agents = load_agents(tmp_path)

    assert set(agents.by_name) == {"crab", "good"}
    assert [problem.partition(":")[0] for problem in agents.problems] == [
        str(tmp_path / f"{name}.md") for name in "abcd"
    ]


def test_an_agent_whose_file_was_spoilt_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "reviewer.md"
    file.write_text(REVIEWER)
    before = load_agents(tmp_path)
    file.write_text("---\nmodle: x\n---\n")

    after = load_agents(tmp_path, before)

    assert after.get("reviewer") == before.get("reviewer")
    assert len(after.problems) == 1


def test_an_agent_whose_file_was_removed_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "reviewer.md"
    file.write_text(REVIEWER)
    before = load_agents(tmp_path)
    file.unlink()

    assert load_agents(tmp_path, before) == Agents({"crab": DEFAULT_AGENT})


def test_an_unknown_agent_is_refused_with_those_that_are_known() -> None:
    agents = Agents({"zoe": DEFAULT_AGENT, "crab": DEFAULT_AGENT})

    with pytest.raises(NotFound, match="there is no agent 'bob': there are crab, zoe"):
        agents.get("bob")
