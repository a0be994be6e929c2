"""What a session has changed in files, by its log: what was there before, and what it has left. Pure.

A log tells of every change by a call of a tool that says what it touches; what a command does besides is not
in it. Nothing here knows where contents are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from crabd.store.record import FileChanged, FileKept, Step
from crabd.tools.base import FileState

FileAction: TypeAlias = Literal["restore", "remove"]


# What is lost then cannot be told from here, so a person says so himself.
ADVICE = "only with force"


class Change(Struct, frozen=True):
    """What a file was ``before``, and what the session has ``left``; null where nobody saw what that was."""

    path: str
    before: FileState
    left: FileState | None


class FilePlan(Struct, frozen=True):
    """What is to be done to have a file as it was ``before``. With a ``problem`` it takes a person's word."""

    path: str
    action: FileAction
    before: FileState
    problem: str = ""


def find_changes(steps: Iterable[Step], after: int) -> tuple[Change, ...]:
    """Find which files were changed behind a step, in the order of their first change."""
    found: dict[str, Change] = {}
    for step in steps:
        match step.record:
            case FileKept(path=path, before=before, mode=mode) if step.n > after:
                first = found[path].before if path in found else FileState(before, mode)
                found[path] = Change(path, first, None)
            case FileChanged(path=path, after=digest) if path in found:
                found[path] = Change(path, found[path].before, FileState(digest))
            case _:
                pass
    return tuple(found.values())


def plan_files(changes: Sequence[Change], now: Mapping[str, str | None]) -> tuple[FilePlan, ...]:
    """Choose what is to be done to files that are not as before; ``now`` has the digests that they have."""
    return tuple(
        _plan(change, now[change.path]) for change in changes if now[change.path] != change.before.digest
    )


def _plan(change: Change, now: str | None) -> FilePlan:
    action: FileAction = "remove" if change.before.digest is None else "restore"
    problem = ""
    if change.left is None:
        problem = f"the daemon stopped while it was changed, so nobody knows whose it is: {ADVICE}"
    elif now != change.left.digest:
        problem = f"somebody else has changed it since: {ADVICE}"
    return FilePlan(change.path, action, change.before, problem)
