"""Understanding bash commands: what they run, as a real bash has it, and never slowly."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import DEVNULL, run

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from crabd.events import Mode, RuleLists
from crabd.runtime.permissions.policy import Policy
from crabd.runtime.permissions.rules import read_rules
from crabd.runtime.permissions.shell import Command, Redirect, Word, is_harmless_variable, read_script
from crabd.runtime.permissions.wrappers import unwrap
from crabd.tools.base import Intent, ToolSpec

HOME = "/home/u"
BASH = ToolSpec("bash", "", {})
# What a real bash does within it is over long before.
PATIENCE = 60


def words_of(text: str) -> list[list[str]]:
    """List the commands of a script that is understood, as their words."""
    script = read_script(text, HOME)
    assert script.doubts == ()
    return [[word.text for word in command.words] for command in script.commands]


def test_every_simple_command_is_found_in_the_order_of_the_text() -> None:
    text = "a 1 | b && (c; d $(e)) & f <(g)\nif h; then i; else j; fi; for x in $(k); do l; done"

    names = [command.name for command in read_script(text, HOME).commands]

    assert names == list("abcdefghijkl")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a 'b c' \"d e\" f\\ g", ["a", "b c", "d e", "f g"]),
        ("a b'c'\"d\"e", ["a", "bcde"]),
        ('a "b\\"c\\$d\\n"', ["a", 'b"c$d\\n']),
        ("a ~ ~/b '~' x~", ["a", HOME, f"{HOME}/b", "~", "x~"]),
        ("a '' \"\"", ["a", "", ""]),
        ("a \\\n  b", ["a", "b"]),
        ("a -I{} {}", ["a", "-I{}", "{}"]),
        ("a b#c # d", ["a", "b#c"]),
        ("a ')' '$(b)' \\$x", ["a", ")", "$(b)", "$x"]),
        ("LANG=C a b", ["a", "b"]),
    ],
)
def test_words_are_what_the_command_gets(text: str, words: list[str]) -> None:
    assert words_of(text) == [words]


@pytest.mark.parametrize(
    "word", ["$x", '"$x"', "a$(b)", "`b`", "{a,b}", "{1..3}", "~root/x", "<(b)", "$((1))"]
)
def test_a_word_that_is_not_known_before_is_told_as_such(word: str) -> None:
    command = read_script(f"a {word} c", HOME).commands[0]

    assert command.words == (Word("a"), Word(word, "unknown"), Word("c"))


@pytest.mark.parametrize("word", ["*", "*.py", "a?", "[ab]c", "x'y'*"])
def test_a_glob_is_told_from_what_only_looks_like_one(word: str) -> None:
    found = read_script(f"a {word} '*' \\*", HOME).commands[0].words

    assert [each.kind for each in found] == ["fixed", "glob", "fixed", "fixed"]


def test_redirections_are_told_as_reading_or_writing() -> None:
    script = read_script("a <b >c 2>>d &>e >|f 2>&1 >&-", HOME)

    assert script.doubts == ()
    assert script.redirects == (
        Redirect(Word("b"), False),
        *(Redirect(Word(name), True) for name in "cdef"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "f() { ls; }",
        "coproc ls",
        "ls >&f",
        "x=(a b)",
        "x[0]=1",
        "declare -n x=y",
        "((x))",
        "let x",
        "ls <<A <<B\nA\nB",
        "ls <<A\nno end",
        "ls <<\\A\nA",
        "ls <<$x\n$x",
        "ls 'x",
        "ls )",
        "$x",
        "{ls,x}",
        "a=1 b+=2",
        "echo $'x'",
        'echo $"x"',
        "echo ${x:1:2}",
        "select x in a; do ls; done",
    ],
)
def test_what_is_not_surely_understood_is_doubted(text: str) -> None:
    found = unwrap(read_script(text, HOME), HOME)

    assert found.doubts or [command.name for command in found.commands] == ["let"]


def test_lists_of_variables_are_of_those_that_change_nothing() -> None:
    harmless = ["x", "file_name", "LANG", "LC_ALL", "NO_COLOR", "PYTHONUNBUFFERED"]
    others = ["PATH", "path", "LD_PRELOAD", "GIT_DIR", "BASH_ENV", "IFS", "https_proxy", "PYTHONPATH", "X"]

    assert [name for name in harmless + others if is_harmless_variable(name)] == harmless


def test_wrappers_are_looked_through_and_kept_apart() -> None:
    found = unwrap(read_script("env A=1 nice -n 5 sudo -u x a; find . -exec b {} +; xargs c", HOME), HOME)

    assert [command.name for command in found.commands] == ["sudo", "a", "b", "find", "c"]
    assert [command.name for command in found.wrappers] == ["env", "nice", "xargs"]
    assert found.commands[2] == Command((Word("b"), Word("{}", "unknown")))


def judge(command: str, cwd: str = "/", *, allow: str = "bash", mode: Mode = "ask") -> str:
    """Judge a command where ``zap`` is denied and next to anything else is allowed."""
    lists = RuleLists(allow=(allow, "bash(git status)"), deny=("bash(zap *)",))
    policy = Policy(rules=read_rules(lists, "test"), mode=mode, default="allow", home="/home/u")
    return policy.judge(BASH, Intent(title="", command=command), cwd).decision


def quoted(word: str, how: str) -> str:
    """Write a word so that bash reads it as it is."""
    match how:
        case "single":
            return f"'{word}'"
        case "double":
            return f'"{word}"'
        case "escaped":
            return "".join(f"\\{letter}" for letter in word)
        case "empty":
            return f"{word[:1]}''{word[1:]}\"\""
        case "mixed":
            return f"'{word[:1]}'\"{word[1:]}\""
        case "by path":
            return f"/usr/bin/{word}"
        case _:
            return word


blanks = st.sampled_from([" ", "  ", "\t", " \\\n "])


def write_denied(how: str, blank: str, more: str) -> str:
    return f"{quoted('zap', how)}{blank}{more}"


def put_before(before: list[str], inner: str) -> str:
    return "".join(before) + inner


def put_around(around: Callable[[str], str], inner: str) -> str:
    return around(inner)


denied = st.builds(
    write_denied,
    st.sampled_from(["plain", "single", "double", "escaped", "empty", "mixed", "by path"]),
    blanks,
    st.sampled_from(["", "a", "-rf /", "'a b'", "$x", "*", "{a,b}", "$(git status)"]),
)
# What may stand before a simple command, and what any command may stand in.
BEFORE = [
    "env ", "env -i X=1 ", "env -u Y ", "command ", "command -p ", "exec ", "nohup ", "time ",
    "time -p ", "timeout 5 ", "timeout -s KILL 5m ", "nice ", "nice -n 5 ", "stdbuf -oL ", "setsid ",
    "xargs ", "xargs -0 -n1 ", "sudo ", "sudo -u root ", "busybox ", "! ", "LANG=C ", "X=1 ",
    "find . -exec ", "ionice -c 3 ", "strace -f ", "taskset 1 ", "chrt 5 ", "unbuffer ", "flock x ",
    "watch ", "su -c ", "ssh host ",
]  # fmt: skip
AROUND: list[Callable[[str], str]] = [
    lambda inner: f"( {inner}\n)",
    lambda inner: f"{{ {inner}\n}}",
    lambda inner: f"git status; {inner}",
    lambda inner: f"{inner} | git status",
    lambda inner: f"git status | {inner}",
    lambda inner: f"git status && {inner}",
    lambda inner: f"git status\n{inner}",
    lambda inner: f"{inner} &",
    lambda inner: f"echo $({inner}\n)",
    lambda inner: f'echo "a $({inner}\n) b"',
    lambda inner: f"cat <({inner}\n)",
    lambda inner: f"cat <<EOF\n$({inner}\n)\nEOF\n",
    lambda inner: f"if {inner}\nthen git status; fi",
    lambda inner: f"for i in 1; do {inner}\ndone",
    lambda inner: f"case x in x) {inner}\nesac",
    lambda inner: f"f() {{ {inner}\n}}; f",
    lambda inner: f"bash -c {shlex.quote(inner)}",
    lambda inner: f"sh -ec {shlex.quote(inner)}",
    lambda inner: f"eval {shlex.quote(inner)}",
    lambda inner: f"env bash -c {shlex.quote(inner)}",
    lambda inner: f"echo {shlex.quote(inner)} | bash",
    lambda inner: f"bash <<'END'\n{inner}\nEND\n",
    lambda inner: f"ssh host {shlex.quote(inner)}",
    lambda inner: f"trap {shlex.quote(inner)} EXIT",
]


def rewrite(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(put_around, st.sampled_from(AROUND), inner)


rewritten: st.SearchStrategy[str] = st.recursive(
    st.builds(put_before, st.lists(st.sampled_from(BEFORE), max_size=3), denied), rewrite, max_leaves=4
)


@settings(max_examples=400, deadline=None)
@given(rewritten, st.sampled_from(["bash", "bash(*)", "*"]), st.sampled_from(["ask", "accept-edits", "full"]))
def test_no_rewriting_of_a_denied_command_is_allowed(command: str, allow: str, mode: Mode) -> None:
    assert judge(command, allow=allow, mode=mode) != "allow"


# Pieces of scripts, of which some make the command that is denied when a shell puts them together.
PIECES = [
    "zap", "z", "ap", "za", "p", "ok", "x=", "x", "$x", "${x}", "\"$x\"", " ", " ", " ", "\n", "\\\n",
    ";", "&&", "||", "|", "&", "(", ")", "{ ", "; }", "$(", "`", "'", '"', "\\", "#", "<<E\n", "\nE\n",
    "<<'E'\n", "<<<", "<(", ">f", "<f", "2>&1", "eval ", "env ", "xargs ", "bash -c ", "command ",
    "exec ", "if ", "; then ", "; fi", "; do ", "; done", "case a in a) ", ";; esac", "!", "[ ", " ]",
    "[[ ", " ]]", "((", "))", "$((", "-v ", "a[", "]", "*", "?", "{z,a}", "f() ", "f", "function ",
    "alias ", "=", "-", "--", "$'", '$"', "${", "}", ":-", "@P", "~", "\t", "\r", "time ", "coproc ",
    "trap ", " EXIT", "for x in ", "echo ", "printf ", "read ", "test ", "export ", "source ", ". ",
]  # fmt: skip
scripts = st.lists(st.sampled_from(PIECES), min_size=1, max_size=14).map("".join)


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a place where ``zap`` leaves a mark, and there is no other program to speak of."""
    root = tmp_path_factory.mktemp("stubs")
    (root / "bin").mkdir()
    (root / "work").mkdir()
    for name in ("zap", "ok"):
        (root / "bin" / name).write_text(f"#!/bin/sh\n: > {root}/{name}-ran\n")
        (root / "bin" / name).chmod(0o755)
    for name in ("env", "xargs", "bash"):
        (root / "bin" / name).symlink_to(
            next(p for p in (Path("/usr/bin") / name, Path("/bin") / name) if p.exists())
        )
    return root


def runs_zap(stubs: Path, script: str) -> bool:
    """Let a real bash run a script, and see whether it came to ``zap``."""
    mark = stubs / "zap-ran"
    mark.unlink(missing_ok=True)
    run(
        ["/bin/bash", "--noprofile", "--norc", "-c", script],
        cwd=stubs / "work",
        env={"PATH": str(stubs / "bin"), "HOME": str(stubs / "work")},
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=DEVNULL,
        timeout=PATIENCE,
        check=False,
    )
    return mark.exists()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scripts)
@example("eval z''ap")
@example("x=zap; $x")
@example("ok <<E\n$(zap)\nE\n")
@example("x=#b zap")
@example("[ -v 'a[$(zap)]' ]")
def test_what_is_allowed_does_not_run_what_is_denied_in_a_real_bash(stubs: Path, script: str) -> None:
    if judge(script, str(stubs / "work")) == "allow":
        assert not runs_zap(stubs, script)


@pytest.mark.parametrize(
    "text",
    [
        "ls " * 350_000,
        "(" * 10_000,
        "(" * 10_000 + "ls" + ")" * 10_000,
        "$(" * 8_000,
        "`" * 16_000,
        "'\"" * 8_000,
        "cat <<A\n" * 2_000,
        "ls | " * 3_200 + "ls",
        "ls;" * 5_400,
        "ls " * 5_400,
        "bash -c " * 2_000 + "ls",
        "env " * 4_000 + "ls",
        "cat " + "a* " * 5_000,
        "cd a;" * 3_000,
        "{" * 16_000,
        "${x:-" * 3_000,
        "if " * 5_000,
        "find " + "-exec ls ; " * 1_500,
    ],
)
def test_a_monstrous_command_is_asked_about_soon(text: str, tmp_path: Path) -> None:
    policy = Policy(
        rules=read_rules(RuleLists(allow=("bash(ls *)",), deny=("bash(zap *)",)), "test"), home=HOME
    )
    began = time.process_time()

    ruling = policy.judge(BASH, Intent(title="", command=text), str(tmp_path))

    # In seconds of this process alone, and many times what it takes.
    assert time.process_time() - began < 2
    assert ruling.decision == "ask"
