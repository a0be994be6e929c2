"""Parameters and results of ``confirmation/*``, ``question/*`` and ``tool/list``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from crabd.api.sessions import OfSession, Params, SessionId, Text
from crabd.events import Confirmation, PendingQuestion

CallId = Annotated[str, Meta(min_length=1, max_length=1024)]
Reason = Annotated[str, Meta(max_length=4000)]


class OfOneOrAll(Params, frozen=True):
    """Of one ``session``, or of all when it is left out."""

    session: SessionId | None = None


class Confirmations(Struct, frozen=True):
    """The calls that wait to be allowed, those of a session in the order in which they came."""

    confirmations: tuple[Confirmation, ...]


class Reply(OfSession, frozen=True):
    """Decides about a call that waits: the very one with this ``id``, where models use a call's id again.

    ``allow_session`` adds the suggested rules for as long as the session is live, ``allow_always`` for good.
    The model reads the ``reason`` of a denial. The first reply wins; others get a conflict.
    """

    call: CallId
    decision: Literal["allow", "allow_session", "allow_always", "deny"]
    id: str | None = None
    reason: Reason = ""


class Replied(Struct, frozen=True):
    """``rules`` are those that were added."""

    id: str
    call: str
    decision: str
    rules: tuple[str, ...]


class Questions(Struct, frozen=True):
    """The calls that wait for answers, those of a session in the order in which they came."""

    questions: tuple[PendingQuestion, ...]


class AnswerQuestion(OfSession, frozen=True):
    """Answers the questions of a call, one after the other; to one with ``multiple`` several may be given.

    Without ``answers`` nobody will answer, and the model goes on as it thinks best. ``id`` and what is too
    late are as with a confirmation.
    """

    call: CallId
    id: str | None = None
    answers: tuple[Text | tuple[Text, ...], ...] | None = None


class Answered(Struct, frozen=True):
    """What was answered to which ``call``; ``answers`` are null if there will be none."""

    id: str
    call: str
    answers: tuple[str, ...] | None


class ToolInfo(Struct, frozen=True, kw_only=True):
    """``parameters`` is a JSON Schema. One that is not ``offered`` the model of the session knows nothing of:
    its agent has not got it, or a rule denies it outright.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    read_only: bool
    idempotent: bool
    offered: bool


class ToolList(Struct, frozen=True):
    """The tools, those of all agents or of one session."""

    tools: tuple[ToolInfo, ...]
