"""The book of a person's rules: real files, and what they come to in a session."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec import structs

from crabd.errors import BadRequest, ConfigError, StoreError
from crabd.events import RuleLists
from crabd.runtime.agents import Agent, parse_agent
from crabd.runtime.permissions.rulebook import MAX_RULES, Rulebook, checked
from crabd.store.meta import SessionMeta
from crabd.tools.base import Intent, ToolSpec

AT = datetime(2026, 1, 31, tzinfo=UTC)
META = SessionMeta(id="crab_user_1", agent="crab", sender="user", created_at=AT, updated_at=AT, steps=1)


def texts(book: Rulebook) -> list[str]:
    return [f"{rule.decision} {rule.text}" for rule in book.policy().rules]


def agent_with(head: str) -> Agent:
    return parse_agent("crab", f"---\n{head}\n---\nhi", source="crab.md")


async def test_rules_of_both_files_hold_and_each_says_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "permissions.toml").write_text('deny = ["bash(rm *)"]\n')
    book = Rulebook(tmp_path, "/h")

    await book.load(RuleLists(allow=("bash(ls)",)), "config.toml", "accept-edits", "deny")

    policy = book.policy()
    assert [(rule.text, rule.decision, rule.source) for rule in policy.rules] == [
        ("bash(ls)", "allow", "config.toml"),
        ("bash(rm *)", "deny", str(tmp_path / "permissions.toml")),
    ]
    assert (policy.mode, policy.default, policy.home) == ("accept-edits", "deny", "/h")


async def test_a_rule_that_is_set_is_there_for_the_next_daemon_too(tmp_path: Path) -> None:
    book = Rulebook(tmp_path / "new", "/h")
    odd = "bash(echo 'é \"quoted\" \\ [x]' *)"

    await book.set_rule("bash(make)", "ask")
    await book.set_rule(f" {odd} ", "allow")
    await book.set_rule("bash(make)", "deny")
    await book.remember(["bash(git commit *)", "bash(git commit *)"])

    again = Rulebook(tmp_path / "new", "/h")
    await again.load(RuleLists(), "config.toml", "ask", "ask")
    assert texts(book) == texts(again) == ["deny bash(make)", f"allow {odd}", "allow bash(git commit *)"]
    assert (tmp_path / "new" / "permissions.toml").stat().st_mode & 0o777 == 0o600
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["permissions.toml"]


async def test_a_rule_is_removed_by_its_text(tmp_path: Path) -> None:
    book = Rulebook(tmp_path, "/h")
    await book.set_rule("bash(make)", "allow")

    await book.set_rule("bash(make)", None)

    assert texts(book) == []
    with pytest.raises(BadRequest, match="no rule 'bash\\(make\\)'"):
        await book.set_rule("bash(make)", None)


async def test_what_a_person_writes_into_the_file_meanwhile_is_kept(tmp_path: Path) -> None:
    book = Rulebook(tmp_path, "/h")
    await book.set_rule("bash(make)", "allow")
    (tmp_path / "permissions.toml").write_text('ask = ["bash(ls)"]\n')

    await book.set_rule("read(/x)", "allow")

    assert texts(book) == ["allow read(/x)", "ask bash(ls)"]


async def test_a_wrong_file_is_told_and_changes_nothing(tmp_path: Path) -> None:
    book = Rulebook(tmp_path, "/h")
    await book.set_rule("bash(make)", "deny")
    (tmp_path / "permissions.toml").write_text('deny = ["bsh(make)"]\n')

    with pytest.raises(ConfigError, match=r"permissions\.toml: rule 1 of deny: .*did you mean bash"):
        await book.load(RuleLists(), "config.toml", "full", "ask")
    with pytest.raises(ConfigError):
        await book.set_rule("bash(ls)", "allow")

    assert texts(book) == ["deny bash(make)"]
    assert book.policy().mode == "ask"
    assert (tmp_path / "permissions.toml").read_text() == 'deny = ["bsh(make)"]\n'


async def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    book = Rulebook(tmp_path / "file", "/h")

    with pytest.raises(StoreError, match="mend that"):
        await book.set_rule("bash(make)", "allow")

    assert texts(book) == []


async def test_no_rule_is_kept_that_is_none_and_no_more_than_fit(tmp_path: Path) -> None:
    book = Rulebook(tmp_path, "/h")
    lines = ", ".join(f'"bash(x{n})"' for n in range(MAX_RULES))
    (tmp_path / "permissions.toml").write_text(f"allow = [{lines}]\n")

    with pytest.raises(ValueError, match="is no rule"):
        await book.set_rule("nonsense(", "allow")
    with pytest.raises(BadRequest, match="remove some first"):
        await book.set_rule("bash(one more)", "allow")


def test_a_session_has_its_own_mode_or_its_agents_or_the_configured(tmp_path: Path) -> None:
    book = Rulebook(tmp_path, "/h")
    agent = agent_with("mode: plan")
    own = structs.replace(META, mode="full")

    modes = [book.policy(each, which).mode for each, which in [(META, None), (META, agent), (own, agent)]]

    assert modes == ["ask", "plan", "full"]


def test_rules_of_the_agent_and_of_the_session_hold_in_the_session(tmp_path: Path) -> None:
    agent = agent_with('permissions: {allow: ["bash(make)"]}')
    meta = structs.replace(META, permissions=RuleLists(deny=("bash(make)",)))

    policy = Rulebook(tmp_path, "/h").policy(meta, agent)

    assert [(rule.decision, rule.source) for rule in policy.rules] == [
        ("allow", "crab.md"),
        ("deny", "session crab_user_1"),
    ]


def test_an_agent_with_a_wrong_rule_is_no_agent() -> None:
    with pytest.raises(ConfigError, match=r"crab\.md: rule 1 of deny: .*did you mean bash"):
        agent_with('permissions: {deny: ["bahs"]}')


def test_a_session_with_a_wrong_rule_may_do_nothing(tmp_path: Path) -> None:
    meta = structs.replace(META, permissions=RuleLists(allow=("bash",), deny=("bsh(rm)",)))
    spec = ToolSpec("bash", "", {})

    policy = Rulebook(tmp_path, "/h").policy(meta)

    ruling = policy.judge(spec, Intent(title="", command="ls"), "/")
    assert (ruling.decision, "session/configure" in ruling.reason) == ("deny", True)
    assert not policy.offers("bash")


def test_what_was_kept_for_a_session_is_read_by_it_alone(tmp_path: Path) -> None:
    home = tmp_path.resolve()
    book = Rulebook(home / "config", "/h", [str(home)], home / "artifacts")
    spec = ToolSpec("read", "", {}, is_read_only=True)
    policy = book.policy(META)

    def judge(name: str) -> str:
        path = str(home / "artifacts" / name / "c1.txt")
        return policy.judge(spec, Intent(title="", reads=(path,)), "/proj").decision

    assert (judge("crab_user_1"), judge("crab_user_2"), judge("crab_user_11")) == ("allow", "ask", "ask")


def test_a_clients_rules_are_checked_before_they_are_kept() -> None:
    sound = RuleLists(allow=("bash(make)",))

    assert checked(sound) is sound
    with pytest.raises(BadRequest) as caught:
        checked(RuleLists(ask=("bash", "bsh")))
    assert caught.value.path == "$.permissions.ask[1]"
