"""What crabtalk has written to a session, as the steps by which our log of it goes on. Pure.

The log is begun by it, or it has gone on with what crabd had left; then runs and steps are numbered on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct, structs

from crabd.messages import UserMessage, utc_now
from crabd.store.meta import SessionMeta
from crabd.store.porting.assembly import PLACEHOLDER, Assembled, Found, assemble
from crabd.store.porting.crabtalk import Meta, read_time
from crabd.store.record import (
    Compacted,
    Created,
    MessageAdded,
    ModelCalled,
    Record,
    RunClosed,
    RunOpened,
    Step,
    run_number,
)


class TakenOver(Struct, frozen=True):
    """The next steps of a log, and what a person should know of them."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...]


def begin_log(session: str, theirs: Meta, found: Sequence[Found]) -> TakenOver:
    """Make the log of a session that crabtalk has begun."""
    # Where there is no time of the last write this is it.
    created_at = read_time(theirs.created_at) if theirs.updated_at else None
    # The sender that crabtalk itself takes for nobody's name.
    sender = theirs.created_by or "user"
    created = Created(session=session, agent=theirs.agent, sender=sender, topic=theirs.topic or None)
    assembled = _assemble(theirs, found, created, created_at)
    return TakenOver(assembled.steps, _notes(assembled))


def continue_log(meta: SessionMeta, theirs: Meta, found: Sequence[Found], title: str) -> TakenOver:
    """Make the steps that follow a log that adds up to ``meta``; ``title`` is a new one, or empty."""
    seconds = max(0.0, theirs.uptime_secs - meta.active_seconds)
    theirs = structs.replace(theirs, title=title, uptime_secs=seconds)
    blank = Created(session=meta.id, agent=meta.agent, sender=meta.sender)
    assembled = _assemble(theirs, found, blank, meta.updated_at)
    # Of these the first is the blank one, which the log has already.
    shift = meta.steps - 1
    steps = tuple(
        Step(step.n + shift, step.at, _renumber(step.record, shift, meta.last_run))
        for step in assembled.steps[1:]
    )
    return TakenOver(steps, _notes(assembled))


def _assemble(
    theirs: Meta, found: Sequence[Found], created: Created, created_at: datetime | None
) -> Assembled:
    now = utc_now()
    return assemble(theirs, found, {}, created=created, created_at=created_at, last_write=now)


def _renumber(record: Record, shift: int, runs: int) -> Record:
    match record:
        case MessageAdded(message=UserMessage(steer=str(steer)) as message) if steer:
            run, _, place = steer.partition(".")
            message = structs.replace(message, steer=f"{_later(run, runs)}.{place}")
            return structs.replace(record, run=_later(record.run, runs), message=message)
        case MessageAdded() | RunOpened() | RunClosed() | ModelCalled():
            return structs.replace(record, run=_later(record.run, runs))
        case Compacted(upto=upto):
            return structs.replace(record, upto=upto + shift)
        case _:
            return record


def _later(run: str, runs: int) -> str:
    return f"r{run_number(run) + runs}"


def _notes(assembled: Assembled) -> tuple[str, ...]:
    missing = tuple(
        f"archive {step.record.archive!r} is in crabtalk's memory, so a placeholder stands for it"
        for step in assembled.steps
        if isinstance(step.record, Compacted)
        and step.record.summary == PLACEHOLDER.format(step.record.archive)
    )
    if not assembled.skipped:
        return missing
    first = assembled.skipped[0]
    more = f" (and {len(assembled.skipped) - 1} more)" if len(assembled.skipped) > 1 else ""
    return (*missing, f"of {first.where} crabd's log has no place for all: {first.problem}{more}")
