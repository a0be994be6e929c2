"""How messages end that waited and never ran: cancelled by a person, or left behind by a stop."""

from __future__ import annotations

import structlog
from structlog.typing import FilteringBoundLogger

from crabd.errors import SHUTTING_DOWN, StoreError
from crabd.events import ErrorInfo
from crabd.messages import Usage
from crabd.runtime.loop import CLOSING_SECONDS, shielded
from crabd.runtime.recovery import leave_unanswered
from crabd.runtime.session import Session
from crabd.runtime.ticket import Ticket
from crabd.store.record import MessageQueued, Record, RunClosed

STOPPED = ErrorInfo(SHUTTING_DOWN, "shutting_down", "the daemon was stopped: send the message again")

log: FilteringBoundLogger = structlog.get_logger()


async def cancel_waiting(session: Session, ticket: Ticket) -> None:
    """Take a message out of the queue for good; the model never sees it.

    Raises:
      StoreError: it is out of the queue, and may be found waiting after a crash.
    """
    session.waiting.remove(ticket)
    is_saved = False
    try:
        # Whoever asked for it may leave, and the message must not come back for that.
        with shielded(CLOSING_SECONDS):
            await session.save_made(lambda: _end_waiting(ticket), is_kept=True)
            is_saved = True
    finally:
        session.settle(ticket, "cancelled", persisted=is_saved)


def _end_waiting(ticket: Ticket) -> tuple[Record, ...]:
    """Make the records of a cancelled message; its key must be in the log, or it would be taken for new."""
    closed = RunClosed(ticket.run, "cancelled", 0.0, Usage())
    if ticket.is_recorded or ticket.request_key is None:
        return (closed,)
    return (MessageQueued(ticket.run, ticket.content, request_key=ticket.request_key), closed)


async def leave_waiting(session: Session) -> None:
    """Put the messages that wait into the history, unanswered, for the run after the daemon's next start."""
    while session.waiting:
        ticket = session.waiting.popleft()
        try:
            await session.save(
                leave_unanswered(ticket.run, ticket.content, ticket.request_key, "interrupted", STOPPED),
                is_kept=True,
            )
        except StoreError as exc:
            log.warning("records_not_saved", session=session.id, run=ticket.run, problem=str(exc))
        session.settle(ticket, "interrupted", persisted=session.unsaved == 0, error=STOPPED)
