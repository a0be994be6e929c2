"""What a person at an editor is shown, and what the client's answer says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec import Raw, structs

from crabd.events import Confirmation, PendingQuestion, Question
from crabd.server.acp import asking
from crabd.server.acp.schema import Diff
from crabd.tools.files.text import compare

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BASH = Confirmation(
    id="r1.1",
    session="crab_user_1",
    run="r1",
    call="c0",
    tool="bash",
    since=NOW,
    title="run: ls",
    arguments='{"command":"ls"}',
    command="ls",
    diff="",
    reads=(),
    writes=(),
    url=None,
    cwd="/p",
    rule="default",
    reason="no rule allows it",
    sandbox="bubblewrap",
    suggestions=("bash(ls *)",),
)


def asks(*questions: Question) -> PendingQuestion:
    return PendingQuestion(
        id="r1.1",
        session="crab_user_1",
        run="r1",
        call="c0",
        tool="ask_user",
        since=NOW,
        questions=questions,
    )


def sent(said: object) -> Any:
    """Give what travels."""
    return msgspec.json.decode(msgspec.json.encode(said))


def answered(said: object) -> Raw:
    return Raw(msgspec.json.encode(said))


def selects(option: str) -> Raw:
    return answered({"outcome": {"outcome": "selected", "optionId": option}})


def test_a_command_is_shown_with_why_it_is_asked_and_how_it_would_run() -> None:
    wanted = sent(asking.ask_permission(BASH, "r1/c0"))

    why = "Asked because: no rule allows it\n\nIt would run like this: bubblewrap"
    assert wanted == {
        "sessionId": "crab_user_1",
        "toolCall": {
            "toolCallId": "r1/c0",
            "title": "run: ls",
            "kind": "execute",
            "status": "pending",
            "content": [
                {"type": "content", "content": {"type": "text", "text": "```sh\nls\n```"}},
                {"type": "content", "content": {"type": "text", "text": why}},
            ],
            "locations": [],
        },
        "options": [
            {"optionId": "allow", "name": "Allow once", "kind": "allow_once"},
            {
                "optionId": "allow_session",
                "name": "Allow for this session: bash(ls *)",
                "kind": "allow_always",
            },
            {"optionId": "allow_always", "name": "Always allow: bash(ls *)", "kind": "allow_always"},
            {"optionId": "deny", "name": "Deny", "kind": "reject_once"},
        ],
    }


def test_what_no_rule_could_allow_is_allowed_once_or_not() -> None:
    asked = structs.replace(BASH, suggestions=())

    options = asking.ask_permission(asked, "c").options

    assert [each.option_id for each in options] == ["allow", "deny"]
    assert asking.read_permission(selects("allow_always"), asked) is None


def test_a_change_is_shown_as_one_with_where_it_is() -> None:
    diff = compare("/p/a.txt", b"one\ntwo\n", b"one\n2\n")
    asked = structs.replace(
        BASH, tool="edit", command=None, diff=diff, reads=("/p/a.txt",), writes=("/p/a.txt",)
    )

    shown = asking.ask_permission(asked, "c").tool_call

    assert shown.kind == "edit"
    assert shown.content[0] == Diff(path="/p/a.txt", old_text="one\ntwo\n", new_text="one\n2\n")
    assert [each.path for each in shown.locations] == ["/p/a.txt"]


@pytest.mark.parametrize(
    ("said", "decision"),
    [
        ({"outcome": {"outcome": "selected", "optionId": "allow"}}, "allow"),
        ({"outcome": {"outcome": "selected", "optionId": "allow_session"}}, "allow_session"),
        ({"outcome": {"outcome": "selected", "optionId": "allow_always"}}, "allow_always"),
        ({"outcome": {"outcome": "selected", "optionId": "deny"}, "_meta": {"a": 1}}, "deny"),
        ({"outcome": {"outcome": "selected", "optionId": "else"}}, None),
        ({"outcome": {"outcome": "selected"}}, None),
        ({"outcome": {"outcome": "cancelled"}}, None),
        ({"outcome": {"outcome": "cancelled", "optionId": "allow"}}, None),
        ({"outcome": {"outcome": "later"}}, None),
    ],
)
def test_only_an_option_that_was_offered_decides(said: object, decision: str | None) -> None:
    assert asking.read_permission(answered(said), BASH) == decision


def test_a_diff_of_several_files_comes_in_parts() -> None:
    long = "".join(f"line {n}\n" for n in range(40))
    diff = (
        compare("/p/new", None, b"a\nb")
        + compare("/p/old", b"-- x\n", None)
        + compare("/p/two", long.encode(), long.replace("line 3\n", "3\n").replace("line 33", "33").encode())
    )

    parts = asking.read_diff(diff)

    assert parts[:2] == (
        Diff(path="/p/new", new_text="a\nb"),
        Diff(path="/p/old", old_text="-- x\n", new_text=""),
    )
    assert [(each.path, each.new_text.count("\n")) for each in parts[2:]] == [("/p/two", 7), ("/p/two", 7)]
    assert parts[2].old_text == "".join(f"line {n}\n" for n in range(7))


@pytest.mark.parametrize(
    "diff",
    [
        compare("/p/a", b"\0", b"\1"),
        compare("/p/a", b"", b"x\n" * 1000),
        "it cannot be done as things are: no such file\n",
        compare("'/p/odd\\n'", b"a\n", b"b\n"),
        "--- /p/a\n+++ /p/a\n@@ -1,1 +1,1 @@\n-a\n[… 12 characters are not shown …]\n+b\n",
    ],
    ids=["binary", "left out", "problem", "odd name", "cut"],
)
def test_a_diff_that_does_not_tell_all_is_shown_as_it_is(diff: str) -> None:
    asked = structs.replace(BASH, command=None, diff=diff, reason="")

    (shown,) = sent(asking.ask_permission(asked, "c").tool_call)["content"]

    assert asking.read_diff(diff) == ()
    assert shown["content"]["text"] == f"```diff\n{diff.rstrip()}\n```"


def test_a_question_with_options_can_be_asked_by_buttons() -> None:
    asked = asks(Question("Which one?", ("left", "right")))

    wanted = asking.ask_choice(asked, "c")

    assert asking.can_be_chosen(asked)
    assert wanted.tool_call.title == "Which one?"
    assert [(each.name, each.kind) for each in wanted.options] == [
        ("left", "allow_once"),
        ("right", "allow_once"),
        ("No answer", "reject_once"),
    ]
    assert asking.read_choice(selects("1"), asked) == asking.Answers(("right",))
    assert asking.read_choice(selects("none"), asked) == asking.Answers(None)
    assert asking.read_choice(selects("7"), asked) is None
    assert asking.read_choice(answered({"outcome": {"outcome": "cancelled"}}), asked) is None


@pytest.mark.parametrize(
    "questions",
    [
        (Question("Why?"),),
        (Question("Which ones?", ("a", "b"), is_multiple=True),),
        (Question("Which?", ("a",)), Question("And?", ("b",))),
    ],
)
def test_other_questions_are_told_with_how_to_answer_them(questions: tuple[Question, ...]) -> None:
    asked = asks(*questions)

    told = asking.tell_questions(asked)

    assert not asking.can_be_chosen(asked)
    assert all(each.text in told for each in questions)
    assert "crabctl answer r1.1 --session crab_user_1" in told


def test_questions_make_a_form_in_which_there_is_room_for_another_answer() -> None:
    asked = asks(
        Question("Why?"), Question("Which?", ("a", "b")), Question("All?", ("c", "d"), is_multiple=True)
    )

    wanted = sent(asking.ask_form(asked, "r1/c0"))

    assert wanted == {
        "sessionId": "crab_user_1",
        "toolCallId": "r1/c0",
        "mode": "form",
        "message": "Why?\nWhich?\nAll?",
        "requestedSchema": {
            "type": "object",
            "properties": {
                "answer_1": {"type": "string", "title": "Why?"},
                "answer_2": {"type": "string", "title": "Which?", "enum": ["a", "b"]},
                "answer_2_other": {"type": "string", "title": "Another answer"},
                "answer_3": {
                    "type": "array",
                    "title": "All?",
                    "items": {"type": "string", "enum": ["c", "d"]},
                },
                "answer_3_other": {"type": "string", "title": "Another answer"},
            },
            "required": ["answer_1"],
        },
    }


@pytest.mark.parametrize(
    ("said", "texts"),
    [
        (
            {"answer_1": "so", "answer_2": "b", "answer_3": ["c", "d"], "answer_3_other": "e"},
            ("so", "b", "c\nd\ne"),
        ),
        ({"answer_1": "so", "answer_2_other": "else", "answer_3": []}, ("so", "else", "(no answer)")),
        ({"answer_1": 7, "answer_2": " "}, ("7", "(no answer)", "(no answer)")),
        (None, ("(no answer)", "(no answer)", "(no answer)")),
    ],
)
def test_a_form_is_read_in_the_order_of_the_questions(said: object, texts: tuple[str, ...]) -> None:
    asked = asks(
        Question("Why?"), Question("Which?", ("a", "b")), Question("All?", ("c", "d"), is_multiple=True)
    )

    answers = asking.read_form(answered({"action": "accept", "content": said}), asked)

    assert answers == asking.Answers(texts)


def test_a_form_that_is_declined_is_an_answer_and_one_put_aside_is_none() -> None:
    asked = asks(Question("Why?"))

    assert asking.read_form(answered({"action": "decline"}), asked) == asking.Answers(None)
    assert asking.read_form(answered({"action": "cancel"}), asked) is None
    assert asking.read_form(answered({"action": "later"}), asked) is None
