"""Accepted messages: what became of one at the door, and its ticket from there to the end of its run.

A ticket knows what was asked and how it ended; who has it run, and where that is written, is not its affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import trio
from msgspec import Struct

from crabd.errors import StoreError
from crabd.events import ErrorInfo
from crabd.messages import AssistantMessage, StopReason, Usage, UserBlock, text_of
from crabd.runtime.run import Run
from crabd.store.base import MessageAdded, MessageQueued, RunClosed, RunOpened, Step

# Request keys a session remembers, the newest ones; each is a few hundred bytes.
MAX_KEYS = 256

Disposition = Literal["started", "queued", "steered", "attached"]


class Outcome(Struct, frozen=True, kw_only=True):
    """How a run ended. The seqs are 0 for a run of an earlier life of the daemon."""

    run: str
    stop_reason: StopReason
    text: str
    usage: Usage
    persisted: bool
    error: ErrorInfo | None
    first_seq: int
    last_seq: int


class Ticket:
    """An accepted message, from the door to the end of its run.

    ``accepted`` is set once the message is durable or cannot be; ``settled`` once there is an outcome.
    """

    def __init__(
        self, run: str, content: tuple[UserBlock, ...], *, request_key: str | None, tool_choice: str
    ) -> None:
        self.run = run
        self.content = content
        self.request_key = request_key
        self.tool_choice = tool_choice
        self.first_seq = 0
        self.refusal: StoreError | None = None
        self.outcome: Outcome | None = None
        self.accepted = trio.Event()
        self.settled = trio.Event()

    def __repr__(self) -> str:
        return f"<Ticket {self.run} {self.outcome.stop_reason if self.outcome else 'open'}>"

    def settle(self, outcome: Outcome) -> None:
        """Tell everybody who waits how it ended."""
        self.outcome = outcome
        self.accepted.set()
        self.settled.set()


class Steering(Struct, frozen=True):
    """A steering that waits for the run's next boundary; ``position`` counts from 1."""

    run: Run
    position: int
    record: MessageQueued


class Admission(Struct, frozen=True):
    """A message that was taken in, and what became of it."""

    ticket: Ticket
    disposition: Disposition
    steering: Steering | None = None


def recall_tickets(steps: Sequence[Step]) -> dict[str, Ticket]:
    """Rebuild the tickets of finished runs that came with a request key, the newest ``MAX_KEYS``."""
    keys: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    tickets: dict[str, Ticket] = {}
    for step in steps:
        match step.record:
            case RunOpened(run=run, request_key=str(key)) | MessageQueued(run=run, request_key=str(key)):
                keys.setdefault(run, []).append(key)
            case MessageAdded(run=run, message=AssistantMessage() as message):
                texts[run] = text_of(message)
            case RunClosed(run=run) as closed if run in keys:
                tickets |= dict.fromkeys(keys[run], _settled_ticket(closed, texts.get(run, "")))
            case _:
                pass
    return dict(list(tickets.items())[-MAX_KEYS:])


def _settled_ticket(closed: RunClosed, text: str) -> Ticket:
    ticket = Ticket(closed.run, (), request_key=None, tool_choice="auto")
    ticket.settle(
        Outcome(
            run=closed.run,
            stop_reason=closed.stop_reason,
            text=text,
            usage=closed.usage,
            persisted=True,
            error=closed.error,
            first_seq=0,
            last_seq=0,
        )
    )
    return ticket
