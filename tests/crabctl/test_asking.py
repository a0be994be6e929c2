"""Whoever sits at the terminal is asked in place, sees what there is to see, and is heard once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from crabctl.arguments import split
from crabctl.asking import chosen, shown
from tests.crabctl.program import PATIENCE, at_terminal, crabctl, home
from tests.crabctl.small_daemon import Handler, Peer, SmallDaemon, always, small_daemon
from tests.crabctl.test_program import RESULT, SESSION, got

CONFIRMATION: dict[str, Any] = {
    "id": "r1.1",
    "session": SESSION,
    "run": "r1",
    "call": "c1",
    "tool": "bash",
    "since": "2026-01-01T00:00:00Z",
    "title": "run make",
    "arguments": '{"command": "make"}',
    "command": "make\n\x1b[2Jrm -rf ~",
    "diff": "",
    "reads": [],
    "writes": [],
    "url": None,
    "cwd": "/src",
    "rule": "ask",
    "reason": "make is not known to be harmless",
    "sandbox": "bubblewrap: writes only in /src",
    "suggestions": ["bash(make)"],
}
QUESTION: dict[str, Any] = {
    "id": "r1.2",
    "session": SESSION,
    "run": "r1",
    "call": "c2",
    "tool": "ask_user",
    "since": "2026-01-01T00:00:00Z",
    "questions": [
        {"text": "Which?", "options": ["red", "blue"], "multiple": True},
        {"text": "Why?", "options": [], "multiple": False},
    ],
}


class Waiting:
    """An agent that waits for its question to be answered, by whomever."""

    def __init__(self, **asked: dict[str, Any]) -> None:
        self.asked = asked
        self.replies: list[dict[str, Any]] = []
        self._answered = threading.Event()
        self._peer: Peer | None = None

    @property
    def handlers(self) -> dict[str, Handler]:
        return {
            "session__get_or_create": got,
            "session__send": self._send,
            "initialize": always({}),
            "confirmation__reply": self._reply,
            "question__reply": self._reply,
        }

    def resolve(self, decision: str, by: str, reason: str = "") -> None:
        """Have it answered."""
        assert self._peer is not None, "it was asked before"
        told: dict[str, object] = {
            "id": "r1.1",
            "call": "c1",
            "decision": decision,
            "by": by,
            "reason": reason,
            "rules": [],
        }
        self._peer.tell(type="confirmation_resolved", run="r1", **told)
        self._answered.set()

    def _send(self, peer: Peer, _params: dict[str, Any]) -> dict[str, Any]:
        self._peer = peer
        kind = "confirmation_requested" if "confirmation" in self.asked else "question_asked"
        peer.tell(type=kind, run="r1", **self.asked)
        assert self._answered.wait(PATIENCE)
        return RESULT

    def _reply(self, _peer: Peer, params: dict[str, Any]) -> dict[str, Any]:
        self.replies.append(params)
        if "decision" in params:
            self.resolve(params["decision"], "crabctl", params["reason"])
        else:
            self._answered.set()
        return {}


def environment(daemon: SmallDaemon, tmp_path: Path) -> dict[str, str]:
    return home(tmp_path, CRABD_SOCKET=str(daemon.path), NO_COLOR="1")


@pytest.mark.parametrize(
    ("typed", "decision", "reason"),
    [
        ("y\n", "allow", ""),
        ("s\n", "allow_session", ""),
        ("maybe\na\n", "allow_always", ""),
        ("n use ninja\n", "deny", "use ninja"),
    ],
)
def test_a_person_is_asked_in_place(tmp_path: Path, typed: str, decision: str, reason: str) -> None:
    agent = Waiting(confirmation=CONFIRMATION)
    with (
        small_daemon(tmp_path, **agent.handlers) as daemon,
        at_terminal("send", "hi", env=environment(daemon, tmp_path)) as terminal,
    ):
        terminal.wait_for("n REASON to deny it: ")
        terminal.type(typed)
        code = terminal.exit_code()

    assert code == 0
    assert agent.replies == [
        {"session": SESSION, "call": "c1", "id": "r1.1", "decision": decision, "reason": reason}
    ]
    assert "? run make (bash in /src)\n  │ make\n  │ \\x1b[2Jrm -rf ~\n" in terminal.shown
    assert "why: make is not known to be harmless (mode ask)" in terminal.shown
    assert "sandbox: bubblewrap: writes only in /src" in terminal.shown
    assert "for more than this time: bash(make)" in terminal.shown


def test_what_somebody_else_has_answered_is_asked_no_more(tmp_path: Path) -> None:
    agent = Waiting(confirmation=CONFIRMATION)
    with (
        small_daemon(tmp_path, **agent.handlers) as daemon,
        at_terminal("send", "hi", env=environment(daemon, tmp_path)) as terminal,
    ):
        terminal.wait_for("n REASON to deny it: ")
        agent.resolve("deny", "the editor", "too late")
        code = terminal.exit_code()

    assert (code, agent.replies) == (0, [])
    assert "denied by the editor: too late" in terminal.shown


def test_questions_are_asked_one_after_the_other(tmp_path: Path) -> None:
    agent = Waiting(question=QUESTION)
    with (
        small_daemon(tmp_path, **agent.handlers) as daemon,
        at_terminal("send", "hi", env=environment(daemon, tmp_path)) as terminal,
    ):
        terminal.wait_for("numbers with commas, or words; nothing to decline: ")
        terminal.type("1, 2\n")
        terminal.wait_for("an answer; nothing to decline: ")
        terminal.type("they go together\n")
        code = terminal.exit_code()

    assert code == 0
    assert agent.replies == [
        {"session": SESSION, "call": "c2", "id": "r1.2", "answers": ["red\nblue", "they go together"]}
    ]


def test_where_nobody_sits_it_is_denied_and_said_why(tmp_path: Path) -> None:
    agent = Waiting(confirmation=CONFIRMATION)
    with small_daemon(tmp_path, **agent.handlers) as daemon:
        done = crabctl("send", "hi", env=environment(daemon, tmp_path))

    (reply,) = agent.replies
    assert done.returncode == 0
    assert reply["decision"] == "deny"
    assert "nobody is at a terminal" in reply["reason"]
    assert "? crabctl confirm r1.1: bash: make \\x1b[2Jrm -rf ~" in done.stderr


def test_yes_allows_and_rules_go_with_the_message(tmp_path: Path) -> None:
    agent = Waiting(confirmation=CONFIRMATION)
    with small_daemon(tmp_path, **agent.handlers) as daemon:
        crabctl(
            "send", "-y", "--allow", "read", "--allow", "bash(make)", "hi", env=environment(daemon, tmp_path)
        )
        (sent,) = daemon.asked_for("session/send")

    assert [reply["decision"] for reply in agent.replies] == ["allow"]
    assert sent["allow"] == ["read", "bash(make)"]


def test_an_option_that_repeats_has_all_its_values() -> None:
    options, words = split(["send", "--allow", "a", "hi", "--allow", "b"])

    assert (options, words) == ({"allow": "a\nb"}, ["send", "hi"])


@pytest.mark.parametrize(
    ("text", "is_multiple", "answer"),
    [
        ("2", False, "blue"),
        ("2,1", True, "blue\nred"),
        ("2,1", False, "2,1"),
        ("9", True, "9"),
        ("no", True, "no"),
    ],
)
def test_a_number_stands_for_its_option(text: str, is_multiple: bool, answer: str) -> None:
    question = {"text": "Which?", "options": ["red", "blue"], "multiple": is_multiple}

    assert chosen(question, text) == answer


def test_what_is_long_is_shown_in_part_and_says_where_the_rest_is() -> None:
    asked = CONFIRMATION | {"command": None, "diff": "\n".join(f"+{n}" for n in range(100))}

    lines = shown(asked, most=60).splitlines()

    assert lines[60:62] == ["  │ +59", "  … 40 more lines: crabctl confirm"]
