"""Rules: how they are read, what they match, and which are suggested."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd.errors import ConfigError
from crabd.events import RuleLists
from crabd.runtime.permissions.globs import anchor, find_sensitive, is_guarded, is_within, matches, may_match
from crabd.runtime.permissions.rules import Rule, fit_command, fit_url, parse_rule, read_rules
from crabd.runtime.permissions.shell import Command, Word, read_script
from crabd.runtime.permissions.suggestions import suggest_command, suggest_path


@pytest.mark.parametrize(
    ("text", "tool", "pattern"),
    [
        ("bash", "bash", None),
        (" bash(git status) ", "bash", "git status"),
        ("bash(*)", "bash", None),
        ("bash(git commit -m 'a (b)' *)", "bash", "git commit -m 'a (b)' *"),
        ("edit(src/**)", "edit", "src/**"),
        ("mcp__git__*", "mcp__git__*", None),
        ("mcp__GitHub__push", "mcp__GitHub__push", None),
        ("web_fetch(domain:example.org)", "web_fetch", "domain:example.org"),
        ("todo", "todo", None),
        ("*", "*", None),
    ],
)
def test_a_rule_is_a_tool_and_perhaps_a_pattern(text: str, tool: str, pattern: str | None) -> None:
    assert parse_rule(text, "allow", "here") == Rule(text.strip(), "allow", "here", tool, pattern)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is no rule"),
        ("Bash(git status)", "is no rule"),
        ("bash(git status", "is no rule"),
        ("bash git status", "is no rule"),
        ("bash(a)\nbash(b)", "is no rule"),
        ("bash(" + "a" * 1000 + ")", "is no rule"),
        ("bahs(git status)", "did you mean bash"),
        ("edits", "did you mean edit"),
        ("bash()", "is empty"),
        ("bash(git 'status)", "No closing quotation"),
        ("bash(git status && git diff)", "more than one command"),
        ("bash(make test 2>&1)", "leave out 2>&1"),
        ("bash(make test 2>/dev/null)", "leave out 2>/dev/null"),
        ("todo(x)", "takes no pattern"),
        ("mcp__git__push(main)", "takes no pattern"),
        ("web_fetch(example.org)", "web_fetch(domain:example.org)"),
        ("web_fetch(domain:https://example.org/x)", "names no domain"),
        ("edit(src/**.py)", "stands by itself"),
        ("read(../x)", "where it leads"),
        ("read(~root/x)", "only ~/"),
    ],
)
def test_a_rule_that_could_never_match_is_refused_with_what_to_write(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        parse_rule(text, "allow", "here")


def test_a_wrong_rule_of_a_file_is_told_with_its_place() -> None:
    lists = RuleLists(allow=("bash(make)", "bsh"))

    with pytest.raises(ConfigError) as caught:
        read_rules(lists, "/x/config.toml")

    assert str(caught.value).startswith("/x/config.toml: rule 2 of allow: there is no tool 'bsh'")


@pytest.mark.parametrize(
    ("pattern", "path", "is_match"),
    [
        ("/proj/**", "/proj/a/b", True),
        ("/proj/**", "/proj", True),
        ("/proj/**", "/proj-evil/a", False),
        ("/proj/*", "/proj/a", True),
        ("/proj/*", "/proj/a/b", False),
        ("/proj/**/x.py", "/proj/x.py", True),
        ("/proj/**/x.py", "/proj/a/b/x.py", True),
        ("/proj/**/a/**/b", "/proj/a/a/c/b", True),
        ("/proj/*.py", "/proj/x.py", True),
        ("/proj/*.py", "/proj/x.pyc", False),
        ("/proj/x?[ab]", "/proj/x1a", True),
        ("/proj/[[]x]", "/proj/[x]", True),
        ("/proj/a*", "/proj/a\nb", True),
        ("/proj", "/proj/x", False),
        ("/**", "/", True),
        ("/proj/X", "/proj/x", False),
    ],
)
def test_paths_are_matched_by_components(pattern: str, path: str, is_match: bool) -> None:
    assert matches(pattern, path) is is_match


def test_what_denies_also_sees_other_spellings_of_a_path() -> None:
    assert may_match("/proj/secret/**", "/proj/SECRET/x")
    assert may_match("/proj/caf\u00e9", "/proj/cafe\u0301")
    assert not may_match("/proj/secret/**", "/proj/secrets/x")


def test_patterns_begin_at_the_root_the_home_or_the_directory() -> None:
    assert anchor("/x", "/cwd", "/home/u") == "/x"
    assert anchor("~/x", "/cwd", "/home/u") == "/home/u/x"
    assert anchor("x/**", "/cwd", "/home/u") == "/cwd/x/**"
    assert anchor("x/**", None, "/home/u") is None


@given(
    st.lists(st.sampled_from(["a", "b", "*", "**"]), max_size=8), st.lists(st.sampled_from("ab"), max_size=8)
)
def test_two_stars_match_as_many_components_as_there_are_ways_to(pattern: list[str], path: list[str]) -> None:
    def slowly(left: list[str], right: list[str]) -> bool:
        if not left:
            return not right
        if left[0] == "**":
            return slowly(left[1:], right) or (bool(right) and slowly(left, right[1:]))
        return bool(right) and left[0] in ("*", right[0]) and slowly(left[1:], right[1:])

    assert matches("/" + "/".join(pattern), "/" + "/".join(path)) is slowly(pattern, path)


def test_a_directory_is_not_one_whose_name_begins_alike() -> None:
    assert is_within("/proj/x", "/proj")
    assert is_within("/proj", "/proj")
    assert not is_within("/proj-evil/x", "/proj")
    assert is_within("/x", "/")


@pytest.mark.parametrize(
    ("path", "mark"),
    [
        ("/h/.ssh/id_rsa", ".ssh"),
        ("/h/.SSH/config", ".ssh"),
        ("/h/.aws/credentials", ".aws"),
        ("/h/.bash_history", "_history"),
        ("/proj/.env", ".env"),
        ("/proj/.env.local", ".env"),
        ("/proj/.env.example", None),
        ("/proj/x/server.pem", ".pem"),
        ("/other/id_ed25519", "id_"),
        ("/h/.config/crabd/config.toml", "crabd"),
        ("/h/.config/crabd", "crabd"),
        ("/h/.config/crabdx", None),
        ("/etc/shadow", "shadow"),
        ("/proc/12/environ", "proc"),
        ("/proj/environment.py", None),
        ("/proj/keys.py", None),
    ],
)
def test_places_that_hold_secrets_are_known(path: str, mark: str | None) -> None:
    assert find_sensitive(path, "/h", ["/h/.config/crabd"]) == mark


@pytest.mark.parametrize(
    "path",
    [
        "/p/.git/config",
        "/p/.git",
        "/p/x/.git/hooks/a",
        "/p/.GIT/config",
        "/p/.crab/hooks.toml",
        "/p/AGENTS.md",
        "/p/x/agents.md",
        "/p/.envrc",
        "/p/.bashrc",
        "/p/.vscode/tasks.json",
    ],
)
def test_files_that_decide_what_runs_are_known(path: str) -> None:
    assert is_guarded(path)
    assert not is_guarded("/p/.github/x")
    assert not is_guarded("/p/git/config")


def words(*texts: str | None) -> tuple[Word, ...]:
    return tuple(Word("…", "unknown") if text is None else Word(text) for text in texts)


def test_a_command_is_matched_word_by_word() -> None:
    assert fit_command("git commit *", words("git", "commit"), by_any_path=False) == "yes"
    assert fit_command("git commit *", words("git", "commit", "-m", None), by_any_path=False) == "yes"
    assert fit_command("git commit", words("git", "commit", "-m"), by_any_path=False) == "no"
    assert fit_command("git * --help", words("git", "log", "--help"), by_any_path=False) == "yes"
    assert fit_command("git *", words("/bin/git", "log"), by_any_path=False) == "no"
    assert fit_command("git *", words("/bin/git", "log"), by_any_path=True) == "yes"
    assert fit_command("./run *", words("./run", "x"), by_any_path=True) == "yes"
    assert fit_command("git push *", words("git", None), by_any_path=True) == "maybe"
    assert fit_command("git push *", words("git", None, "push"), by_any_path=True) == "maybe"
    assert fit_command("git push *", words("ls", None), by_any_path=True) == "no"
    assert fit_command("rm *", words(None), by_any_path=True) == "maybe"
    assert fit_command("git push", words("git", "push", None), by_any_path=True) == "maybe"


@pytest.mark.parametrize(
    ("pattern", "url", "is_match"),
    [
        ("domain:example.org", "https://example.org/x", True),
        ("domain:example.org", "https://EXAMPLE.org.:8443/x", True),
        ("domain:example.org", "https://www.example.org/", False),
        ("domain:*.example.org", "https://www.example.org/", True),
        ("domain:*.example.org", "https://example.org/", False),
        ("domain:example.org", "https://evil.com/example.org", False),
        ("domain:example.org", "https://example.org@evil.com/", False),
        ("domain:example.org", "https://example.org\\@evil.com/", False),
        ("domain:example.org", "https://example.org.evil.com/", False),
        ("domain:example.org", "https://[bad/", False),
    ],
)
def test_a_page_is_matched_by_its_host(pattern: str, url: str, is_match: bool) -> None:
    assert fit_url(pattern, url) is is_match


@pytest.mark.parametrize(
    ("command", "suggested"),
    [
        ("git commit -m 'a b'", ("bash(git commit *)",)),
        ("npm run test -- --watch", ("bash(npm run test *)",)),
        ("pytest -q tests", ("bash(pytest *)",)),
        ("cargo build", ("bash(cargo build *)",)),
        ("git push origin main", ("bash(git push origin main)",)),
        ("git -C x status", ("bash(git -C x status)",)),
        ("rm -rf 'a b'", ("bash(rm -rf 'a b')",)),
        ("./run.sh x", ("bash(./run.sh x)",)),
        ("make", ("bash(make)",)),
        ("rm '*'", ("bash(rm '[*]')",)),
        ("rm *", ()),
        ("rm $x", ()),
        ("sh", ()),
        ("python3 x.py", ()),
        ("$x", ()),
    ],
)
def test_what_is_suggested_is_no_wider_than_what_is_seen(command: str, suggested: tuple[str, ...]) -> None:
    found = read_script(command, "/h").commands[0]

    assert suggest_command(found) == suggested
    for rule in suggested:
        pattern = parse_rule(rule, "allow", "").pattern
        assert fit_command(pattern or "", found.words, by_any_path=False) == "yes"


def test_a_suggested_path_is_that_file_alone() -> None:
    rule = parse_rule(suggest_path("edit", "/p/[id].tsx"), "allow", "")

    assert matches(rule.pattern or "", "/p/[id].tsx")
    assert not matches(rule.pattern or "", "/p/i.tsx")


def test_a_command_without_a_name_has_no_rule() -> None:
    assert suggest_command(Command(())) == ()
    assert fit_command("git *", (), by_any_path=True) == "no"
