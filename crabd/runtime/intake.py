"""How words come in: messages and steerings, which are durable before anybody is told that they were taken.

What is taken is taken at once, so that words keep the order in which they came; only then is the disk waited
for. Whether a message is taken at all, and when its run begins, is the runtime's business.
"""

from __future__ import annotations

from crabd.errors import NoRun, StoreError
from crabd.messages import UserBlock
from crabd.runtime.run import Run
from crabd.runtime.session import Session
from crabd.runtime.ticket import Admission, Steering, Ticket
from crabd.store.record import MessageQueued


async def confirm(session: Session, admission: Admission) -> None:
    """Wait until an admitted message is durable.

    Raises:
      StoreError: it is not, and may not run.
    """
    ticket = admission.ticket
    if admission.steering is not None:
        await confirm_steer(session, admission.steering)
        return
    if ticket in session.waiting:
        await _confirm_queued(session, ticket)
    else:
        await ticket.accepted.wait()
    # Who attaches to a run that has ended is told how, be it by this very refusal.
    is_told = admission.disposition == "attached" and ticket.outcome is not None
    if ticket.refusal is not None and not is_told:
        raise ticket.refusal


def admit_steer(session: Session, content: tuple[UserBlock, ...], request_key: str | None = None) -> Steering:
    """Take a word to the run that is going, at once; save its record before telling anybody.

    A word that came with the same request key before is not taken again, whatever its run has come to.

    Raises:
      NoRun: none is going, or it is ending.
      QueueFull, RequestKeyReused.
    """
    known = session.keys.find(request_key, Steering, content)
    if known is not None:
        return known
    if session.run is None:
        raise NoRun(session.id)
    steering = take_steer(session, session.run, content, request_key, is_sent=False)
    session.keys.add(request_key, content, steering)
    return steering


async def confirm_steer(session: Session, steering: Steering) -> None:
    """Wait until a steering is durable, waiting or joined.

    Raises:
      StoreError: it is not, and may join all the same.
    """
    if await session.save_while(lambda: steering.is_unrecorded, steering.record):
        steering.is_recorded = True
        return
    # It was recorded before, or has joined, and what it joined with stood in line before: with nothing
    # left over it is there. Only a cancelled run may have left the line, to stand at its end once more.
    await session.save(())
    while steering.is_joining and session.run is steering.run:
        await session.save(())
    if steering.is_joining:
        raise StoreError("io", "the disk did not take it in time: say it again", session=session.id)


def take_steer(
    session: Session, run: Run, content: tuple[UserBlock, ...], request_key: str | None, *, is_sent: bool
) -> Steering:
    """Put a steering in line, and make what is to be saved of it.

    Raises:
      NoRun: the run is ending.
      QueueFull.
    """
    steer, position = run.steer(session.id, content, request_key, is_sent=is_sent)
    record = MessageQueued(run.id, content, steer.id, request_key, steer.position)
    return Steering(run, position, record)


async def _confirm_queued(session: Session, ticket: Ticket) -> None:
    """Record that a message waits, if nobody has; whoever asks for it again comes here too."""

    def is_unrecorded() -> bool:
        return ticket in session.waiting and not ticket.is_recorded

    record = MessageQueued(ticket.run, ticket.content, request_key=ticket.request_key)
    try:
        if await session.save_while(is_unrecorded, record):
            ticket.is_recorded = True
    except StoreError as exc:
        session.withdraw(ticket, exc)
        raise
    if not ticket.is_recorded:
        # Its run has begun, and makes it durable.
        await ticket.accepted.wait()
