"""Parameters and results of what changes a session's course: its queue, going back, going another way."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from crabd.api.sessions import OfSession, RequestKey
from crabd.events import QueuedMessage, SessionInfo

StepNumber = Annotated[int, Meta(ge=1)]


class Queue(Struct, frozen=True):
    """The messages that wait for a busy or paused session, the next one first."""

    session: str
    messages: tuple[QueuedMessage, ...]


class Remove(OfSession, frozen=True):
    """``run`` is what the message was told its run would be."""

    run: Annotated[str, Meta(min_length=1, max_length=64)]


class Removed(Struct, frozen=True):
    """``removed`` is the run that the message will not have."""

    removed: str


class Fork(OfSession, frozen=True):
    """``at`` is the last step to copy; between rounds, so it may be an earlier one that is.

    Without it all that is complete is copied. The copy has no topic, and has used nothing. Repeated with its
    key it gets the same copy, as it is by now.
    """

    at: StepNumber | None = None
    request_key: RequestKey | None = None


class Forked(SessionInfo, frozen=True, kw_only=True):
    """The new session, and up to which ``at`` it is a copy."""

    at: int


class Rewind(OfSession, frozen=True):
    """``step`` is the last one that the model still sees, or an earlier one where that parts a round.

    Without it the last message of a person is taken back, with all that followed. With ``restore_files`` the
    files that tools have changed since are made what they were then; with ``force`` also those that somebody
    else has changed meanwhile.
    """

    step: StepNumber | None = None
    restore_files: bool = False
    force: bool = False


class RewoundFile(Struct, frozen=True):
    """A file that is not what it was at the step: ``done`` says that it now is, ``problem`` why not.

    To ``remove`` is a file that was not there.
    """

    path: str
    action: Literal["restore", "remove"]
    done: bool
    problem: str


class Rewound(Struct, frozen=True):
    """``messages`` is how many were taken back; ``text`` is what a person had said in the first of these.

    ``files`` are those that the session has changed since, whether they were to be restored or not.
    """

    step: int
    messages: int
    text: str
    files: tuple[RewoundFile, ...]


class DiffFile(Struct, frozen=True):
    """How a file differs from what it was before the session changed it, as a unified diff.

    ``problem`` is why that cannot be told.
    """

    path: str
    change: Literal["added", "changed", "removed"]
    diff: str
    problem: str


class Diffs(Struct, frozen=True):
    """What tools have changed in files, in the order of the first change; ``cut`` if there is more of it.

    What commands have changed besides is not known.
    """

    session: str
    files: tuple[DiffFile, ...]
    cut: bool
