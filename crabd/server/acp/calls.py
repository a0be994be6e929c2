"""How a tool call looks in an editor, as far as name and arguments tell: title, kind, places, diff. Pure.

Arguments are a model's and may be anything. What the gate knows of a call that it makes comes later and is
better.
"""

from __future__ import annotations

import os.path
import re
from pathlib import PurePosixPath
from typing import Any

import msgspec

from crabd.server.acp import schema as acp

KINDS: dict[str, acp.ToolKind] = {
    "read": "read",
    "ls": "read",
    "glob": "search",
    "grep": "search",
    "write": "edit",
    "edit": "edit",
    "apply_patch": "edit",
    "bash": "execute",
    "jobs": "execute",
    "job_output": "execute",
    "job_stop": "execute",
    "web_fetch": "fetch",
    "todo": "think",
}
# What a call is about, by the first of these arguments that it has.
SUBJECTS = ("description", "command", "path", "pattern", "url", "query", "job", "name")
MAX_TITLE = 120
# Characters of what a command prints that are shown while it works: about a screen.
MAX_LIVE = 4000
_FENCES = re.compile(r"^ {0,3}(`{3,})", re.MULTILINE)


def describe_call(id_: str, name: str, arguments: str, cwd: str | None) -> acp.ToolCall:
    """Make the first update of a call."""
    given = read_arguments(arguments)
    return acp.ToolCall(
        tool_call_id=id_,
        title=_title(name, given),
        name=name,
        kind=KINDS.get(name, "other"),
        status="pending",
        raw_input=given if given is not None else arguments,
        locations=_locations(given or {}, cwd),
        content=_changes(name, given or {}, cwd),
    )


def describe_result(call: acp.ToolCall, output: str, *, is_ok: bool) -> acp.ToolCallUpdate:
    """Make the last update of a call: what it has changed, or what it has said."""
    status: acp.ToolStatus = "completed" if is_ok else "failed"
    # That a change was made is said by the change; why it was not is for people to read.
    content = call.content if is_ok and call.content else (*call.content, *show(output))
    return acp.ToolCallUpdate(tool_call_id=call.tool_call_id, status=status, content=content)


def show(text: str) -> tuple[acp.Content, ...]:
    """Make content of what a tool says. Clients read Markdown, and this is none."""
    if not text.strip():
        return ()
    return (acp.Content(content=acp.Text(text=fence(text))),)


def fence(text: str, language: str = "") -> str:
    """Put text into a block of code whatever is in it."""
    longest = max((len(found) for found in _FENCES.findall(text)), default=2)
    marks = "`" * (longest + 1)
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def read_arguments(arguments: str) -> dict[str, Any] | None:
    """Read what a model wrote; null if it is no JSON object."""
    try:
        return msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        return None


def _title(name: str, given: dict[str, Any] | None) -> str:
    subjects = (given.get(subject) for subject in SUBJECTS) if given else ()
    subject = next((each for each in subjects if isinstance(each, str) and each.strip()), "")
    line, *more = subject.strip().splitlines() or [""]
    if len(line) > MAX_TITLE or more:
        line = f"{line[:MAX_TITLE]}…"
    return f"{name}: {line}" if line else name


def _locations(given: dict[str, Any], cwd: str | None) -> tuple[acp.Location, ...]:
    path, line = _path(given, cwd), given.get("offset")
    if path is None:
        return ()
    return (acp.Location(path=path, line=line if isinstance(line, int) and line > 0 else None),)


def _changes(name: str, given: dict[str, Any], cwd: str | None) -> tuple[acp.ToolContent, ...]:
    """Show what a call would change, where its arguments say it all."""
    path = _path(given, cwd)
    match name, given:
        case "edit", {"old": str(old), "new": str(new)} if path is not None:
            return (acp.Diff(path=path, old_text=old, new_text=new),)
        case "write", {"content": str(content)} if path is not None:
            return (acp.Diff(path=path, new_text=content),)
        case "apply_patch", {"patch": str(patch)}:
            return (acp.Content(content=acp.Text(text=fence(patch, "diff"))),)
        case _:
            return ()


def _path(given: dict[str, Any], cwd: str | None) -> str | None:
    """Find the file or directory that a call is about, as an absolute path."""
    path = given.get("path")
    if not isinstance(path, str) or not path:
        return None
    whole = PurePosixPath(cwd or "", path)
    return os.path.normpath(whole) if whole.is_absolute() else None
