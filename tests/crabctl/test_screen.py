"""Events become what a person sees: the reply on one stream, the rest on the other."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest

from crabctl.screen import Screen, ending


class Tty(StringIO):
    """A terminal that keeps what it shows."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError("it has no descriptor to ask for a size")


class Paper(StringIO):
    """A file or a pipe."""


REPLY: list[dict[str, Any]] = [
    {"type": "run_started", "content": [], "step": 1},
    {"type": "thinking_start"},
    {"type": "thinking_delta", "text": "hmm"},
    {"type": "thinking_end"},
    {"type": "text_start"},
    {"type": "text_delta", "text": "It is "},
    {"type": "text_delta", "text": "\x1b[2Jfine."},
    {"type": "text_end"},
    {"type": "tool_call", "call": "1", "name": "shell", "arguments": '{"command":\n"ls"}'},
    {
        "type": "tool_result",
        "call": "1",
        "name": "shell",
        "status": "ok",
        "output": "a\nb",
        "duration_ms": 1500,
    },
    {"type": "something_new"},
]


def test_a_terminal_shows_the_reply_harmless_and_everything_else_faint() -> None:
    out = Tty()
    screen = Screen(out, out)

    for event in REPLY:
        screen.draw(event)

    assert out.getvalue() == (
        "\x1b[2mhmm\x1b[0m\n"
        "It is \\x1b[2Jfine.\n"
        '\x1b[2m→ shell {"command": "ls"}\x1b[0m\n'
        "\x1b[2m← shell: ok in 1.5 s: a b\x1b[0m\n"
    )


def test_a_file_gets_the_exact_reply_and_nothing_else() -> None:
    out, notes = Paper(), Paper()
    screen = Screen(out, notes)

    for event in REPLY:
        screen.draw(event)

    assert out.getvalue() == "It is \x1b[2Jfine.\n"
    assert notes.getvalue() == '→ shell {"command": "ls"}\n← shell: ok in 1.5 s: a b\n'


def test_colours_are_left_out_where_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Tty()

    Screen(out, out).note("waits")

    assert out.getvalue() == "waits\n"


def test_whoever_waits_for_a_model_reads_why() -> None:
    out, notes = StringIO(), Tty()
    screen = Screen(out, notes)

    screen.draw({"type": "retrying", "problem": "503: busy", "seconds": 1.5, "model": ""})
    screen.draw({"type": "retrying", "problem": "503: busy", "seconds": 0.0, "model": "b/c"})

    assert notes.getvalue().splitlines() == [
        "\x1b[2mno answer: 503: busy: asking again in 1.5 s\x1b[0m",
        "\x1b[2mno answer: 503: busy: asking b/c\x1b[0m",
    ]


def test_a_note_begins_on_its_own_line_and_ends_it() -> None:
    out, notes = Paper(), Paper()
    screen = Screen(out, notes)

    screen.text("half a sentence")
    screen.note("a note")
    screen.end_line()

    assert (out.getvalue(), notes.getvalue()) == ("half a sentence\n", "a note\n")


def test_a_long_note_is_cut_to_one_line_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Tty()

    Screen(out, out).note("x" * 1000)

    assert out.getvalue() == "x" * 79 + "…\n"


def test_a_picture_is_drawn_open_so_that_events_go_on_in_its_line() -> None:
    out, notes = Paper(), Paper()
    screen = Screen(out, notes)
    run: dict[str, Any] = {
        "reply": {"content": [{"type": "thinking", "text": "…"}, {"type": "text", "text": "one "}]},
        "open_calls": [],
    }

    screen.picture(run)
    screen.draw({"type": "text_delta", "text": "two"})
    screen.draw({"type": "text_end"})

    assert out.getvalue() == "one two\n"


@pytest.mark.parametrize(
    ("stop_reason", "code", "said"),
    [
        ("end_turn", 0, None),
        ("max_tokens", 1, "length limit"),
        ("max_rounds", 1, "used up its rounds"),
        ("cancelled", 130, "was cancelled"),
        ("refused", 1, "was refused"),
        ("interrupted", 1, "was interrupted"),
        ("one_day_perhaps", 1, "one_day_perhaps"),
    ],
)
def test_only_a_run_that_ended_by_itself_is_a_success(stop_reason: str, code: int, said: str | None) -> None:
    found, problem = ending(stop_reason, None)

    assert found == code
    assert (problem is None) if said is None else (said in str(problem))


def test_a_failed_run_says_why_and_what_to_do() -> None:
    error = {"code": -32010, "kind": "auth", "message": "openai: the key was not accepted"}

    code, problem = ending("error", error)

    assert code == 1
    assert problem is not None
    assert problem.startswith("the run failed: openai: the key was not accepted\n  next: set the key")
