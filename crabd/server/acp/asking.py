"""What a person at an editor is shown to decide by, and what the client's answer says. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec
from msgspec import Raw, Struct, field

from crabd.events import Confirmation, PendingQuestion, Question
from crabd.server.acp import schema as acp
from crabd.server.acp.calls import KINDS, fence

# Characters of the rules in a button's name.
MAX_RULES = 100
NO_ANSWER = "(no answer)"

Decision: TypeAlias = Literal["allow", "allow_session", "allow_always", "deny"]
OptionKind: TypeAlias = Literal["allow_once", "allow_always", "reject_once"]
# What a person writes into a field of a form.
Written: TypeAlias = str | int | float | list[str] | None
_HUNK = re.compile(r"@@ -\d+,\d+ \+\d+,\d+ @@")


class PermissionOption(acp.Wire, frozen=True):
    option_id: str
    name: str
    kind: OptionKind


class ShownCall(acp.Wire, frozen=True, omit_defaults=False):
    tool_call_id: str
    title: str
    kind: acp.ToolKind
    status: Literal["pending"] = "pending"
    content: tuple[acp.ToolContent, ...] = ()
    locations: tuple[acp.Location, ...] = ()


class RequestPermission(acp.Wire, frozen=True):
    """The parameters of ``session/request_permission``."""

    session_id: str
    tool_call: ShownCall
    options: tuple[PermissionOption, ...]


class Outcome(acp.Wire, frozen=True):
    outcome: str
    option_id: str = ""


class Permission(acp.Wire, frozen=True):
    outcome: Outcome


class Items(acp.Wire, frozen=True, omit_defaults=False):
    choices: tuple[str, ...] = field(name="enum")
    type: Literal["string"] = "string"


class Entry(acp.Wire, frozen=True):
    """A field of a form."""

    type: Literal["string", "array"]
    title: str
    choices: tuple[str, ...] | None = field(name="enum", default=None)
    items: Items | None = None


class Form(acp.Wire, frozen=True, omit_defaults=False):
    properties: dict[str, Entry]
    required: tuple[str, ...] = ()
    type: Literal["object"] = "object"


class Elicit(acp.Wire, frozen=True, omit_defaults=False):
    """The parameters of ``elicitation/create``."""

    session_id: str
    tool_call_id: str
    message: str
    requested_schema: Form
    mode: Literal["form"] = "form"


class Elicited(acp.Wire, frozen=True):
    action: str
    content: dict[str, Written] | None = None


class Answers(Struct, frozen=True):
    """What a person said to questions; null when nobody will answer."""

    texts: tuple[str, ...] | None


def ask_permission(asked: Confirmation, call: str) -> RequestPermission:
    """Ask whether a call may be made, which the client knows by the id ``call``."""
    paths = dict.fromkeys((*asked.writes, *asked.reads))
    shown = ShownCall(
        tool_call_id=call,
        title=asked.title,
        kind=KINDS.get(asked.tool, "other"),
        content=tuple(_content(asked)),
        locations=tuple(acp.Location(path=path) for path in paths),
    )
    return RequestPermission(session_id=asked.session, tool_call=shown, options=tuple(_options(asked)))


def read_permission(answer: Raw, asked: Confirmation) -> Decision | None:
    """Read what was decided; null for nothing.

    A lone ``cancelled`` decides nothing: a client owes it for a turn that it has cancelled, and the run ends
    by that cancel. Taken for a denial it would have the model read what nobody said.
    """
    chosen = _read_choice(answer)
    offered: dict[str, Decision] = {"allow": "allow", "deny": "deny"}
    if asked.suggestions:
        offered |= {"allow_session": "allow_session", "allow_always": "allow_always"}
    return offered.get(chosen)


def can_be_chosen(asked: PendingQuestion) -> bool:
    """Tell whether all there is to answer is to choose one of some options."""
    (first, *more) = asked.questions
    return bool(first.options) and not first.is_multiple and not more


def ask_choice(asked: PendingQuestion, call: str) -> RequestPermission:
    """Ask a question of a client that can only show buttons."""
    (question,) = asked.questions
    shown = ShownCall(tool_call_id=call, title=question.text, kind=KINDS.get(asked.tool, "other"))
    options = [
        PermissionOption(option_id=str(number), name=option, kind="allow_once")
        for number, option in enumerate(question.options)
    ]
    no_answer = PermissionOption(option_id="none", name="No answer", kind="reject_once")
    return RequestPermission(session_id=asked.session, tool_call=shown, options=(*options, no_answer))


def read_choice(answer: Raw, asked: PendingQuestion) -> Answers | None:
    """Read what was chosen; null for nothing."""
    (question,) = asked.questions
    chosen = _read_choice(answer)
    answers = {str(number): Answers((option,)) for number, option in enumerate(question.options)}
    return {**answers, "none": Answers(None)}.get(chosen)


def ask_form(asked: PendingQuestion, call: str) -> Elicit:
    """Ask questions by a form, in which another answer than the options has a field of its own."""
    entries = {
        key: entry
        for number, question in enumerate(asked.questions)
        for key, entry in _entries(number, question)
    }
    required = tuple(_key(number) for number, each in enumerate(asked.questions) if not each.options)
    return Elicit(
        session_id=asked.session,
        tool_call_id=call,
        message="\n".join(each.text for each in asked.questions),
        requested_schema=Form(entries, required),
    )


def read_form(answer: Raw, asked: PendingQuestion) -> Answers | None:
    """Read what was written into a form; null when it was only put aside, and so left to others."""
    said = msgspec.json.decode(answer, type=Elicited)
    if said.action == "decline":
        return Answers(None)
    if said.action != "accept":
        return None
    given = said.content or {}
    return Answers(tuple(_read_entry(number, given) for number in range(len(asked.questions))))


def tell_questions(asked: PendingQuestion) -> str:
    """Say what is asked to a person whose editor cannot ask it, and how to answer."""
    lines: list[str] = []
    for question in asked.questions:
        lines.append(question.text)
        lines += [f"{number}. {option}" for number, option in enumerate(question.options, 1)]
    lines.append(f"Answer in a terminal: `crabctl answer {asked.id} --session {asked.session} ANSWER`")
    return "\n\n" + "\n".join(lines) + "\n\n"


def _options(asked: Confirmation) -> Iterator[PermissionOption]:
    yield PermissionOption(option_id="allow", name="Allow once", kind="allow_once")
    if asked.suggestions:
        rules = ", ".join(asked.suggestions)
        rules = rules if len(rules) <= MAX_RULES else f"{rules[:MAX_RULES]}…"
        for id_, name in (("allow_session", "Allow for this session"), ("allow_always", "Always allow")):
            yield PermissionOption(option_id=id_, name=f"{name}: {rules}", kind="allow_always")
    yield PermissionOption(option_id="deny", name="Deny", kind="reject_once")


def _content(asked: Confirmation) -> Iterator[acp.ToolContent]:
    if asked.command is not None:
        yield _text(fence(asked.command, "sh"))
    elif asked.diff:
        yield from read_diff(asked.diff) or (_text(fence(asked.diff, "diff")),)
    elif asked.url is not None:
        yield _text(fence(asked.url))
    elif not asked.reads and not asked.writes:
        yield _text(fence(asked.arguments, "json"))
    why = [f"Asked because: {asked.reason}"] if asked.reason else []
    how = [f"It would run like this: {asked.sandbox}"] if asked.command is not None else []
    if why or how:
        yield _text("\n\n".join([*why, *how]))


def read_diff(diff: str) -> tuple[acp.Diff, ...]:
    """Take a unified diff apart, a part for each hunk; none where it does not tell all."""
    parts: list[acp.Diff] = []
    lines = diff.splitlines(keepends=True)
    at, old_name, new_name = 0, "", ""
    while at < len(lines):
        if lines[at].startswith("--- ") and lines[at + 1 : at + 2] and lines[at + 1].startswith("+++ "):
            old_name, new_name = lines[at][4:].rstrip("\n"), lines[at + 1][4:].rstrip("\n")
            at += 2
            continue
        if not _HUNK.fullmatch(lines[at].rstrip("\n")):
            return ()
        end = at + 1
        while end < len(lines) and lines[end][0] in " +-\\" and not _starts_file(lines, end):
            end += 1
        path = old_name if new_name == "/dev/null" else new_name
        if not path.startswith("/"):
            return ()
        hunk = lines[at + 1 : end]
        old = None if old_name == "/dev/null" else _side(hunk, " -")
        parts.append(acp.Diff(path=path, old_text=old, new_text=_side(hunk, " +")))
        at = end
    return tuple(parts)


def _starts_file(lines: Sequence[str], at: int) -> bool:
    # A hunk may have a line that was removed and began with two dashes; only a head is followed by a hunk.
    head = lines[at : at + 3]
    is_named = len(head) == 3 and head[0].startswith("--- ") and head[1].startswith("+++ ")
    return is_named and head[2].startswith("@@ ")


def _side(hunk: Sequence[str], marks: str) -> str:
    """Give the lines of one side of a hunk."""
    side: list[str] = []
    for at, line in enumerate(hunk):
        if line[0] in marks:
            has_end = not hunk[at + 1 : at + 2] or hunk[at + 1][0] != "\\"
            side.append(line[1:] if has_end else line[1:].rstrip("\n"))
    return "".join(side)


def _text(text: str) -> acp.Content:
    return acp.Content(content=acp.Text(text=text))


def _read_choice(answer: Raw) -> str:
    said = msgspec.json.decode(answer, type=Permission).outcome
    return said.option_id if said.outcome == "selected" else ""


def _key(number: int) -> str:
    return f"answer_{number + 1}"


def _other_key(number: int) -> str:
    return f"{_key(number)}_other"


def _entries(number: int, question: Question) -> Iterator[tuple[str, Entry]]:
    choices = tuple(dict.fromkeys(question.options))
    if question.is_multiple and choices:
        yield _key(number), Entry(type="array", title=question.text, items=Items(choices))
    else:
        yield _key(number), Entry(type="string", title=question.text, choices=choices or None)
    if choices:
        yield _other_key(number), Entry(type="string", title="Another answer")


def _read_entry(number: int, given: Mapping[str, Written]) -> str:
    """Give an answer as text, several chosen options a line each."""
    said = [*_texts(given.get(_key(number))), *_texts(given.get(_other_key(number)))]
    return "\n".join(said) or NO_ANSWER


def _texts(value: Written) -> list[str]:
    values = value if isinstance(value, list) else [] if value is None else [str(value)]
    return [each for each in values if each.strip()]
