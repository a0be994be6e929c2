"""What waits for a person is asked at the editor of each client that has the session open.

Whoever answers first, there or anywhere else, is heard: then all others are asked no more. A client that
answers with an error, not at all, or goes away has decided nothing, and holds up nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec
import structlog
import trio
from msgspec import Raw
from structlog.typing import FilteringBoundLogger

from crabd import events
from crabd.errors import CrabdError
from crabd.events import AnyEvent, Confirmation, PendingQuestion, Waiting
from crabd.rpc.envelope import RpcError
from crabd.runtime.session import Session
from crabd.server.acp import asking
from crabd.server.acp import schema as acp

if TYPE_CHECKING:
    from crabd.server.acp.link import AcpLink
    from crabd.server.acp.opened import Opened

T = TypeVar("T")
W = TypeVar("W", bound=Waiting)

log: FilteringBoundLogger = structlog.get_logger()


class Asker:
    """Asks one client's person."""

    def __init__(self, link: AcpLink) -> None:
        self._link = link
        # What was asked and not answered, by session and id.
        self._open: dict[tuple[str, str], trio.CancelScope] = {}

    def __repr__(self) -> str:
        return f"<Asker, {len(self._open)} open>"

    def take(self, opened: Opened, event: AnyEvent) -> None:
        """Take an event of a session; what it tells of a call was told to the client before."""
        match event:
            case events.ConfirmationRequested(confirmation=asked):
                self._begin(opened, asked)
            case events.QuestionAsked(question=asked):
                self._begin(opened, asked)
            case events.ConfirmationResolved(id=id_) | events.QuestionAnswered(id=id_):
                self._withdraw(opened.session, id_)
            case events.RunEnded():
                # That somebody answered may never have come to a slow client; this always does.
                session = self._link.runtime.sessions.find_live(opened.session)
                self.forget(opened.session, but=_ids_of(_waiting_in(session) if session else ()))
            case _:
                pass

    def resume(self, opened: Opened, session: Session) -> None:
        """Ask what waits in a session and was not asked yet, and no more what does not, after any gap."""
        waiting = _waiting_in(session)
        self.forget(session.id, but=_ids_of(waiting))
        for asked in waiting:
            self._begin(opened, asked)

    def forget(self, session: str, *, but: Sequence[str] = ()) -> None:
        """Withdraw what was asked of a session."""
        for place, id_ in tuple(self._open):
            if place == session and id_ not in but:
                self._withdraw(place, id_)

    def _begin(self, opened: Opened, asked: Confirmation | PendingQuestion) -> None:
        if (asked.session, asked.id) in self._open:
            return
        call = opened.teller.id_of_call(asked.call) or f"{asked.run}/{asked.call}"
        form = self._link.capabilities.elicitation and self._link.capabilities.elicitation.form
        # Made here and not in the task, so that an answer that comes from elsewhere at once finds it.
        scope = trio.CancelScope()
        if isinstance(asked, Confirmation):
            self._link.peer.start_soon(self._confirm, asked, call, scope)
        elif form is not None:
            self._link.peer.start_soon(self._elicit, asked, call, scope)
        elif asking.can_be_chosen(asked):
            self._link.peer.start_soon(self._offer, asked, call, scope)
        else:
            text = acp.Text(text=asking.tell_questions(asked))
            self._link.tell(opened, [acp.AgentChunk(content=text, message_id=f"{asked.id}.question")])
            return
        self._open[asked.session, asked.id] = scope

    async def _confirm(self, asked: Confirmation, call: str, scope: trio.CancelScope) -> None:
        answer = await self._ask(
            "session/request_permission", asking.ask_permission(asked, call), asked, scope
        )
        decision: asking.Decision | None = self._read(asking.read_permission, answer, asked)
        session = self._link.runtime.sessions.find_live(asked.session)
        if decision is None or session is None:
            return
        try:
            session.desk.find_confirmation(asked.call, asked.id)
            await self._link.runtime.decide(session, asked, decision, by=self._link.name)
        except CrabdError as exc:
            log.info("decision_not_taken", session=asked.session, call=asked.call, problem=str(exc))

    async def _elicit(self, asked: PendingQuestion, call: str, scope: trio.CancelScope) -> None:
        answer = await self._ask("elicitation/create", asking.ask_form(asked, call), asked, scope)
        self._answer(asked, self._read(asking.read_form, answer, asked))

    async def _offer(self, asked: PendingQuestion, call: str, scope: trio.CancelScope) -> None:
        answer = await self._ask("session/request_permission", asking.ask_choice(asked, call), asked, scope)
        self._answer(asked, self._read(asking.read_choice, answer, asked))

    def _answer(self, asked: PendingQuestion, said: asking.Answers | None) -> None:
        session = self._link.runtime.sessions.find_live(asked.session)
        if said is None or session is None:
            return
        try:
            session.desk.find_question(asked.call, asked.id)
            session.desk.answer(asked.id, said.texts, by=self._link.name)
        except CrabdError as exc:
            log.info("answer_not_taken", session=asked.session, call=asked.call, problem=str(exc))

    async def _ask(self, method: str, params: object, asked: Waiting, scope: trio.CancelScope) -> Raw | None:
        """Ask the client until it answers, the link ends or nobody needs to know; null for nothing."""
        try:
            with scope:
                return await self._link.peer.request(method, params)
        except (RpcError, trio.BrokenResourceError) as exc:
            log.info("not_answered", session=asked.session, call=asked.call, problem=str(exc))
        finally:
            # From here on the decision itself must not be withdrawn: it is being carried out.
            if self._open.get((asked.session, asked.id)) is scope:
                del self._open[asked.session, asked.id]
        return None

    def _read(self, read: Callable[[Raw, W], T | None], answer: Raw | None, asked: W) -> T | None:
        if answer is None:
            return None
        try:
            return read(answer, asked)
        except msgspec.DecodeError as exc:
            log.info("answer_not_read", client=self._link.name, problem=str(exc))
        return None

    def _withdraw(self, session: str, id_: str) -> None:
        scope = self._open.pop((session, id_), None)
        if scope is not None:
            scope.cancel()


def _waiting_in(session: Session) -> tuple[Confirmation | PendingQuestion, ...]:
    return (*session.desk.confirmations, *session.desk.questions)


def _ids_of(waiting: Sequence[Confirmation | PendingQuestion]) -> tuple[str, ...]:
    return tuple(asked.id for asked in waiting)
