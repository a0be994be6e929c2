"""Prompts: a client's words become a run of the session, or join one, and its end is their answer."""

from __future__ import annotations

from contextlib import suppress

from crabd.errors import INTERNAL_ERROR, CrabdError, NoRun, RequestCancelled
from crabd.events import ErrorInfo
from crabd.messages import ImageBlock, StopReason, TextBlock, UserBlock
from crabd.rpc.envelope import RpcError
from crabd.rpc.peer import Withdrawable
from crabd.runtime.intake import admit_steer, confirm, confirm_steer
from crabd.runtime.session import Session
from crabd.runtime.ticket import Admission, Outcome, Ticket
from crabd.server.acp import schema as acp
from crabd.server.acp.content import read_prompt
from crabd.server.acp.link import AcpLink
from crabd.server.acp.opened import Opened
from crabd.server.acp.options import COMMANDS, find_command

# A run that was cut off by the end of the daemon is over for its asker as a cancelled one is.
STOP_REASONS: dict[StopReason, acp.StopReason] = {
    "end_turn": "end_turn",
    "max_rounds": "max_turn_requests",
    "budget": "max_turn_requests",
    "max_tokens": "max_tokens",
    "refused": "refusal",
    "cancelled": "cancelled",
    "interrupted": "cancelled",
}
UNKNOWN = ErrorInfo(INTERNAL_ERROR, "internal", "the run failed: the daemon's log tells why")


class Prompting:
    """A prompt, from when it comes to when it is answered."""

    def __init__(self, link: AcpLink, session: str, content: tuple[UserBlock, ...]) -> None:
        self._link = link
        self._session = session
        self._content = content
        self._place = link.line.take_place(session)
        self._ticket: Ticket | None = None
        self._is_compacting = False
        self._is_cancelled = False
        link.prompts.setdefault(session, []).append(self)

    def cancel(self) -> None:
        """Have it end soon, with ``cancelled``, whatever it has come to."""
        self._is_cancelled = True
        session = self._link.runtime.sessions.find_live(self._session)
        if session is None:
            return
        ticket, job = self._ticket, session.job
        if ticket in session.waiting:
            self._link.peer.start_soon(self._leave_queue, session, ticket)
        elif job is not None and (self._is_compacting or (ticket is not None and job.ticket is ticket)):
            job.cancel()

    async def answer(self) -> acp.Prompted:
        """Do it.

        Raises:
          RpcError, CrabdError: it came to nothing, and that is not because it was cancelled.
        """
        try:
            reason = await self._finish()
        except (RpcError, CrabdError):
            if not self._is_cancelled:
                raise
            reason = "cancelled"
        finally:
            self._link.forget_prompt(self._session, self)
        return acp.Prompted(stop_reason="cancelled" if self._is_cancelled else reason)

    async def _finish(self) -> acp.StopReason:
        link, runtime = self._link, self._link.runtime
        async with self._place.turn():
            opened = await link.require(self._session)
            session = await runtime.sessions.load(self._session)
            if self._is_cancelled:
                return "cancelled"
            command = self._find_command()
            admission = None if command is not None else self._admit(session)
        if command is not None:
            return await self._do(opened, session, *command)
        assert admission is not None, "what is no command is a message"
        await confirm(session, admission)
        await admission.ticket.settled.wait()
        await opened.wait_level()
        assert admission.ticket.outcome is not None, "a ticket settles with its outcome"
        return _read_outcome(admission.ticket.outcome)

    def _find_command(self) -> tuple[str, str] | None:
        match self._content[0]:
            case TextBlock(text=text):
                return find_command(COMMANDS, text)
            case ImageBlock():
                return None

    def _admit(self, session: Session) -> Admission:
        return self._link.runtime.admit(session, self._content, on_ticket=self._note_ticket)

    def _note_ticket(self, ticket: Ticket) -> None:
        self._ticket = ticket
        if (opened := self._link.opened.get(self._session)) is not None:
            opened.teller.own.add(ticket.run)

    async def _do(self, opened: Opened, session: Session, command: str, text: str) -> acp.StopReason:
        """Do what a command says, and tell what came of it."""
        if command == "clear":
            await self._link.runtime.edits.clear(session)
            said = "Cleared: the model has forgotten what came before."
        else:
            self._is_compacting = True
            try:
                done = await self._link.runtime.edits.compact(session, text or None)
            except RequestCancelled:
                return "cancelled"
            finally:
                self._is_compacting = False
            said = f"Compacted: {done.usage_before} → {done.usage_after} tokens of context."
        chunk = acp.AgentChunk(content=acp.Text(text=said), message_id=f"{command}.{session.meta.steps}")
        self._link.tell(opened, [chunk])
        return "end_turn"

    async def _leave_queue(self, session: Session, ticket: Ticket) -> None:
        with suppress(CrabdError):
            await self._link.runtime.cancel(session, ticket.run)


def prompt(link: AcpLink, params: acp.Prompt) -> Withdrawable:
    prompting = Prompting(link, params.session_id, read_prompt(params.prompt))
    return Withdrawable(prompting.answer(), prompting.cancel)


def cancel(link: AcpLink, params: acp.OfSession) -> acp.Nothing:
    """Stop what the session does, whoever has asked for it, and what this client has waiting there."""
    for prompting in link.prompts.get(params.session_id, ()):
        prompting.cancel()
    session = link.runtime.sessions.find_live(params.session_id)
    if session is not None and session.job is not None:
        session.job.cancel()
    return acp.NOTHING


async def steer(link: AcpLink, params: acp.Prompt) -> acp.Steered:
    content = read_prompt(params.prompt)
    async with link.line.take_place(params.session_id).turn():
        opened = await link.require(params.session_id)
        session = await link.runtime.sessions.load(params.session_id)
        try:
            steering = admit_steer(session, content)
        except NoRun:
            if _wants_prompt(params.meta):
                return acp.Steered(outcome="promptRequired")
            admission = link.runtime.admit(
                session, content, on_ticket=lambda ticket: opened.teller.own.add(ticket.run)
            )
            await confirm(session, admission)
            return acp.Steered(outcome="startedNewTurn")
        opened.teller.own.add(steering.record.steer)
    await confirm_steer(session, steering)
    return acp.Steered(outcome="injected")


def _wants_prompt(meta: acp.Meta | None) -> bool:
    match meta:
        case {"steering": {"idleBehavior": "promptRequired"}}:
            return True
        case _:
            return False


def _read_outcome(outcome: Outcome) -> acp.StopReason:
    """Tell why a run stopped.

    Raises:
      RpcError: it failed.
    """
    reason = STOP_REASONS.get(outcome.stop_reason)
    if reason is None:
        error = outcome.error or UNKNOWN
        raise RpcError(error.code, error.message, {"kind": error.kind})
    return reason
