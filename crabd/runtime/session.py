"""A live session: its log, what the model sees of it, what is going in it, and what waits.

One job at a time, a run or a compaction, has the session. What has to change together changes here without an
await in between; what awaits is its log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal

import structlog
import trio
from structlog.typing import FilteringBoundLogger

from crabd import events
from crabd.errors import QueueFull, SessionBusy, StoreError
from crabd.events import (
    ErrorInfo,
    ProjectFile,
    QueuedMessage,
    RunPicture,
    SessionInfo,
    SessionState,
    Snapshot,
)
from crabd.messages import StopReason, Usage, UserBlock, utc_now, without_pictures
from crabd.runtime.broker import Topic
from crabd.runtime.compaction import Gauge
from crabd.runtime.confirmations import Desk
from crabd.runtime.keys import Keys, recall_keys
from crabd.runtime.permissions.rules import Rule
from crabd.runtime.project import NO_PROJECT
from crabd.runtime.prompt import Context
from crabd.runtime.run import Run
from crabd.runtime.ticket import Outcome, Ticket
from crabd.store.base import Loaded, SessionLog
from crabd.store.meta import KEY_AGE, Claim, SessionMeta, tail_of
from crabd.store.record import Claimed, Cleared, Compacted, Record, Step
from crabd.tools.base import Toolbox
from crabd.tools.offers import LeftOut
from crabd.tools.servers import Servers

log: FilteringBoundLogger = structlog.get_logger()

# Messages that may wait for a busy session.
MAX_WAITING = 16
NO_USAGE = Usage()


class Job:
    """What has the session: a run, or a compaction when ``run`` is null."""

    def __init__(self, run: Run | None = None, ticket: Ticket | None = None) -> None:
        self.run = run
        self.ticket = ticket
        self.scope = trio.CancelScope()  # pyright: ignore[reportCallIssue]  # it misreads trio's attrs
        self.settled = trio.Event()
        self.started_at: datetime = utc_now()
        self.cancel_error: ErrorInfo | None = None

    def cancel(self, error: ErrorInfo | None = None) -> None:
        """Ask the job to stop at its next checkpoint; ``error`` says why if no person asked."""
        self.cancel_error = error
        self.scope.cancel()


class Session:
    """A session in memory. The runtime makes at most one for an id and closes its log."""

    def __init__(self, loaded: Loaded, topic: Topic, *, is_ephemeral: bool = False) -> None:
        self.log: SessionLog = loaded.log
        self.topic = topic
        self.is_ephemeral = is_ephemeral
        # The log's last steps, without a gap; what lies before them is in the store.
        self.steps: list[Step] = list(loaded.steps)
        self.context = Context(loaded.steps, loaded.goal)
        self.gauge = Gauge()
        # A title is being asked for; how often that has come to nothing.
        self.is_being_named = False
        self.naming_failures = 0
        # What its directory brings along, as it was read last, and of what was told last that it is left out.
        self.project = NO_PROJECT
        self.untrusted: tuple[ProjectFile, ...] = ()
        # Files that calls have begun to change and not yet been seen to have changed: run and call by path.
        self.changing: dict[str, tuple[str, str]] = {}
        # Its hooks were told of its first run; what they had to say goes with every request.
        self.has_begun = False
        self.opening = ""
        # Hooks are told of the end of one run after that of the other; nothing else waits for it.
        self.telling = trio.Lock()
        self.desk = Desk(self.id, topic.publish)
        # Opened with the first run; and what was told last that it is not offered, or not there.
        self.toolbox: Toolbox | None = None
        self.servers: Servers | None = None
        self.failed_servers: tuple[events.FailedServer, ...] = ()
        self.left_out: tuple[LeftOut, ...] = ()
        self.waiting: deque[Ticket] = deque()
        self.job: Job | None = None
        self.end: Literal["closed", "deleted"] | None = None
        # In the clock of the event loop: when somebody asked for the session last.
        self.used_at = trio.current_time()
        # A part of the log may begin in the middle of a run, and what its keys have led to is not all there.
        self._has_all_keys = self.first == 1 or self.steps[0].at < utc_now() - KEY_AGE
        self.keys = recall_keys(loaded.steps, utc_now()) if self._has_all_keys else Keys()
        self._next_run = 1 + self.meta.last_run
        self._unsaved: list[Record] = []
        self._save_lock = trio.Lock()

    def __repr__(self) -> str:
        doing = repr(self.job.run) if self.job and self.job.run else "compacting" if self.job else "idle"
        return f"<Session {self.id} {doing}, {len(self.waiting)} waiting>"

    @property
    def id(self) -> str:
        return self.log.meta.id

    @property
    def meta(self) -> SessionMeta:
        return self.log.meta

    @property
    def run(self) -> Run | None:
        """The run that is going, if one is."""
        return self.job.run if self.job else None

    @property
    def is_at_rest(self) -> bool:
        """Nothing is going, waits or is being written: the log has all there is."""
        is_working = self.job is not None or self.waiting or self._unsaved or self._save_lock.locked()
        is_busy = self.toolbox is not None and self.toolbox.is_busy
        return not is_working and not is_busy and not self.is_being_named and self.end is None

    @property
    def weight(self) -> int:
        """What its steps in memory take in the log, about, in bytes."""
        return self.log.size * len(self.steps) // self.meta.steps

    @property
    def first(self) -> int:
        """The number of the first step that is in memory."""
        return self.steps[0].n

    def knows(self, request_key: str | None) -> bool:
        """Tell whether it is known what the key has led to, be it to nothing; if not, ``recall`` the log."""
        return request_key is None or self._has_all_keys or request_key in self.keys

    def recall(self, steps: Sequence[Step]) -> None:
        """Learn the request keys of a longer part of the log, which reaches back as far as they count."""
        self.keys.add_earlier(recall_keys(steps, utc_now()))
        self._has_all_keys = True

    @property
    def unsaved(self) -> int:
        """Records that the store has refused so far; they go first with the next save."""
        return len(self._unsaved)

    async def save(self, records: Sequence[Record], *, is_kept: bool = False) -> tuple[Step, ...]:
        """Make records durable, after those that an earlier failure left behind.

        Cancelled before the write begins, nothing is taken.

        Raises:
          StoreError: with ``is_kept`` the records stay here and are written before anything later is, because
            what they tell has happened; else they are forgotten, because their sender is told no.
        """
        return await self.save_made(lambda: records, is_kept=is_kept)

    async def save_made(
        self, make: Callable[[], Sequence[Record]], *, is_kept: bool = False
    ) -> tuple[Step, ...]:
        """Make records durable, as ``save``, that are made once it is their turn.

        Raises:
          StoreError: as ``save``.
        """
        async with self._save_lock:
            return await self._write(make(), is_kept=is_kept)

    async def save_while(self, is_waiting: Callable[[], bool], record: Record) -> bool:
        """Save a record, such as that a message waits, if that is still so once it is its turn; tell which.

        A message may be taken while its record stands in line. Written behind what took it, the record would
        have it wait for ever.

        Raises:
          StoreError: as ``save``.
        """
        async with self._save_lock:
            if not is_waiting():
                return False
            await self._write((record,), is_kept=False)
            return True

    async def claim(self, request_key: str, topic: str | None) -> None:
        """Note in the log that a request for the identity's session was given this one.

        Raises:
          RequestKeyReused, StoreError.
        """
        self.keys.refuse(request_key)
        (*_, step) = await self.save([Claimed(request_key, topic)])
        self.keys.add(request_key, topic, Claim(request_key, step.at, topic), step.at)

    async def checkpoint(self) -> None:
        """Have the store note the meta. A failure is logged: the log has everything."""
        async with self._save_lock:
            if self.end is None:
                try:
                    await self.log.checkpoint()
                except StoreError as exc:
                    log.warning("checkpoint_failed", session=self.id, problem=str(exc))

    async def aclose(self) -> None:
        """Stop what tools have left running, save what could not be saved, and close the log.

        Never raises ``StoreError``.
        """
        if self.servers is not None:
            await self.servers.aclose()
        if self.toolbox is not None:
            await self.toolbox.aclose()
        try:
            await self.save(())
        except StoreError as exc:
            log.warning("records_lost", session=self.id, records=self.unsaved, problem=str(exc))
        async with self._save_lock:
            await self.log.aclose()

    def accept(
        self,
        content: tuple[UserBlock, ...],
        *,
        request_key: str | None = None,
        tool_choice: str = "auto",
        guest: str = "",
        allowed: tuple[Rule, ...] = (),
    ) -> Ticket:
        """Take a message into the queue.

        Raises:
          QueueFull: ``MAX_WAITING`` wait already.
        """
        if len(self.waiting) >= MAX_WAITING:
            raise QueueFull(self.id, "messages", MAX_WAITING)
        run = f"r{self._next_run}"
        ticket = Ticket(
            run,
            content,
            request_key=request_key,
            tool_choice=tool_choice,
            guest=guest,
            allowed=allowed,
        )
        self._next_run += 1
        ticket.first_seq = self.topic.seq + 1
        self.waiting.append(ticket)
        return ticket

    def withdraw(self, ticket: Ticket, refusal: StoreError) -> None:
        """Forget a message that could not be made durable and has not begun to run."""
        if ticket in self.waiting:
            self.waiting.remove(ticket)
            self.keys.drop(ticket.request_key)
            ticket.refuse(refusal)

    def settle(
        self,
        ticket: Ticket,
        reason: StopReason,
        *,
        persisted: bool,
        text: str = "",
        usage: Usage = NO_USAGE,
        error: ErrorInfo | None = None,
    ) -> None:
        """Announce how a run ended, and tell everybody who waits for it."""
        last = self.topic.publish(events.RunEnded(reason, usage, persisted, error), ticket.run)
        ticket.settle(
            Outcome(
                run=ticket.run,
                stop_reason=reason,
                text=text,
                usage=usage,
                persisted=persisted,
                error=error,
                first_seq=ticket.first_seq,
                last_seq=last,
            )
        )

    @property
    def state(self) -> SessionState:
        """What it is doing."""
        if self.job:
            return "running" if self.desk.is_empty else "waiting"
        return "paused" if self.meta.paused else "idle"

    def busy(self, advice: str) -> SessionBusy:
        """Make the refusal of what does not go together with what is going."""
        return SessionBusy(self.id, self.run.id if self.run else None, advice)

    def info(self, *, is_active: bool) -> SessionInfo:
        """Describe the session at a glance."""
        return describe(
            self.meta,
            state=self.state,
            is_active=is_active,
            is_ephemeral=self.is_ephemeral,
            queue=len(self.waiting),
            seq=self.topic.seq,
        )

    def snapshot(self, *, is_active: bool) -> Snapshot:
        """Draw the session as it is between two events."""
        queue = tuple(QueuedMessage(ticket.run, without_pictures(ticket.content)) for ticket in self.waiting)
        return Snapshot(
            self.info(is_active=is_active),
            self._picture(),
            queue,
            confirmations=self.desk.confirmations,
            questions=self.desk.questions,
            plan=self.meta.plan,
        )

    def publish(self, seen: Sequence[events.AnyEvent], run: str | None = None) -> None:
        """Give events to whoever listens, in order."""
        for event in seen:
            self.topic.publish(event, run)

    async def _write(self, records: Sequence[Record], *, is_kept: bool) -> tuple[Step, ...]:
        batch = (*self._unsaved, *records)
        if not batch:
            return ()
        try:
            steps = await self.log.append(batch)
        except StoreError:
            if is_kept:
                self._unsaved = list(batch)
            raise
        self._unsaved = []
        self.steps += steps
        for step in steps:
            self.context.add(step)
        if any(isinstance(step.record, Compacted | Cleared) for step in steps):
            del self.steps[: max(0, tail_of(self.steps, self.meta).first - self.first)]
        return steps

    def _picture(self) -> RunPicture | None:
        if self.job is None or self.job.run is None:
            return None
        run = self.job.run
        return RunPicture(
            run=run.id,
            started_at=self.job.started_at,
            round=run.rounds,
            reply=run.reply.message("", with_calls=False, partial=True),
            open_calls=run.open_calls,
            steers_waiting=run.steers_waiting,
            reply_kept=run.has_kept_reply,
            results=run.results,
        )


def describe(
    meta: SessionMeta, *, state: SessionState, is_active: bool, is_ephemeral: bool, queue: int, seq: int
) -> SessionInfo:
    """Put a session's meta and its live state together."""
    return SessionInfo(
        id=meta.id,
        agent=meta.agent,
        sender=meta.sender,
        topic=meta.topic,
        title=meta.title,
        state=state,
        active=is_active,
        ephemeral=is_ephemeral,
        cwd=meta.cwd,
        model=meta.model,
        parent=meta.parent,
        forked_from=meta.forked_from,
        created_at=meta.created_at,
        updated_at=meta.updated_at,
        last_run_at=meta.last_run_at,
        message_count=meta.message_count,
        steps=meta.steps,
        active_seconds=meta.active_seconds,
        queue=queue,
        usage=meta.usage,
        seq=seq,
        mode=meta.mode,
    )
