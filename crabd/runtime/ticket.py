"""What was accepted, and what its askers hold until they know how it ended: tickets, steerings, deeds.

They know what was asked and how it ended; who does it, and where that is written, is not their affair.
"""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

import trio
from msgspec import Struct

from crabd.errors import CrabdError, StoreError
from crabd.events import ErrorInfo
from crabd.messages import StopReason, Usage, UserBlock
from crabd.runtime.permissions.rules import Rule
from crabd.runtime.run import Run
from crabd.store.record import MessageQueued

T = TypeVar("T")
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

    ``accepted`` is set once its run is durable or cannot be; ``settled`` once there is an outcome. Until
    then ``is_recorded`` tells whether the log has that the message waits. ``allowed`` are rules for its run.
    """

    def __init__(
        self,
        run: str,
        content: tuple[UserBlock, ...],
        *,
        request_key: str | None,
        tool_choice: str,
        guest: str = "",
        allowed: tuple[Rule, ...] = (),
    ) -> None:
        self.run = run
        self.content = content
        self.request_key = request_key
        self.tool_choice = tool_choice
        self.guest = guest
        self.allowed = allowed
        self.first_seq = 0
        self.is_recorded = False
        self.refusal: StoreError | None = None
        self.outcome: Outcome | None = None
        self.accepted = trio.Event()
        self.settled = trio.Event()

    def __repr__(self) -> str:
        return f"<Ticket {self.run} {self.outcome.stop_reason if self.outcome else 'open'}>"

    def refuse(self, refusal: StoreError) -> None:
        """Tell everybody who waits that the message cannot be made durable."""
        self.refusal = refusal
        self.accepted.set()

    def settle(self, outcome: Outcome) -> None:
        """Tell everybody who waits how it ended."""
        self.outcome = outcome
        self.accepted.set()
        self.settled.set()


class Steering(Struct):
    """A word to a run; ``position`` was its place in line when it came, from 1.

    ``run`` is null for one of an earlier life of the session, which is in the log.
    """

    run: Run | None
    position: int
    record: MessageQueued
    is_recorded: bool = False

    @property
    def is_unrecorded(self) -> bool:
        """It waits for a boundary, and the log does not have that yet."""
        waits = self.run is not None and self.run.has_waiting(self.record.steer)
        return waits and not self.is_recorded

    @property
    def is_joining(self) -> bool:
        """It has joined its run, and the log does not have that yet."""
        return self.run is not None and self.run.is_saving(self.record.steer)


class Compaction(Struct, frozen=True):
    """What a compaction did; the usages are tokens of context, the one after it an estimate."""

    archive: str
    summary: str
    usage_before: int
    usage_after: int


class Deed(Generic[T]):
    """Something that is done once, whether its asker stays or not, for all who wait for its outcome."""

    def __init__(self) -> None:
        self._outcome: list[T | CrabdError] = []
        self._settled = trio.Event()

    def settle(self, outcome: T | CrabdError) -> None:
        """Tell everybody who waits how it ended. The first word counts."""
        if not self._outcome:
            self._outcome.append(outcome)
            self._settled.set()

    @property
    def has_failed(self) -> bool:
        return any(isinstance(outcome, CrabdError) for outcome in self._outcome)

    async def wait(self) -> T:
        """Wait for the outcome.

        Raises:
          CrabdError: that is the outcome.
        """
        await self._settled.wait()
        (outcome,) = self._outcome
        if isinstance(outcome, CrabdError):
            raise outcome
        return outcome


class Compacting(Deed[Compaction]):
    """A compaction that is going, or is done."""


class Admission(Struct, frozen=True):
    """A message that was taken in, and what became of it."""

    ticket: Ticket
    disposition: Disposition
    steering: Steering | None = None
