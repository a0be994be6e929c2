"""The runtime: what sessions are asked to do. Messages become runs here, and runs belong here.

Runs live in the nursery that the runtime is given, so that no client can end one by leaving.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Literal, TypeVar

import structlog
import trio
from msgspec import UNSET, UnsetType, structs
from structlog.typing import FilteringBoundLogger

from crabd import events
from crabd.errors import (
    CrabdError,
    NoRun,
    NotFound,
    NothingToCompact,
    RequestCancelled,
    SessionPaused,
    ShuttingDown,
)
from crabd.events import Budget, BudgetState, SessionInfo, Snapshot
from crabd.messages import StopReason, UserBlock, utc_now
from crabd.providers.base import NO_MODEL, Models
from crabd.runtime.agents import Agent, Agents
from crabd.runtime.broker import Broker
from crabd.runtime.budget import Allowance, limits_of, state_of
from crabd.runtime.compaction import plan_cut
from crabd.runtime.intake import take_steer
from crabd.runtime.loop import INTERNAL, Driver, Equipment
from crabd.runtime.naming import give_title, lacks_title
from crabd.runtime.partials import Partials
from crabd.runtime.rewind import Rewinding, plan_rewind
from crabd.runtime.router import Identity
from crabd.runtime.run import Run
from crabd.runtime.session import Job, Session
from crabd.runtime.sessions import Sessions
from crabd.runtime.summarise import Wish, summarise
from crabd.runtime.ticket import Admission, Compacting, Compaction, Deed, Ticket
from crabd.runtime.trust import Trust
from crabd.runtime.waiting import STOPPED, cancel_waiting, leave_waiting
from crabd.store.meta import SessionMeta
from crabd.store.record import Cleared, Configured, Rewound
from crabd.tools.base import Tool

# How long cancelled jobs may take to close their logs before the daemon goes on to stop.
SETTLE_SECONDS = 8.0

log: FilteringBoundLogger = structlog.get_logger()

T = TypeVar("T")
WhenBusy = Literal["queue", "steer", "reject"]


class Runtime:
    """Has sessions work. ``agents`` and ``models`` may be replaced; runs keep what they began with.

    With ``titles`` a session without one is given one after its first good answer.
    """

    def __init__(
        self,
        *,
        runs: trio.Nursery,
        sessions: Sessions,
        broker: Broker,
        agents: Agents,
        models: Models,
        tools: Mapping[str, Tool],
        trust: Trust,
        titles: bool = False,
    ) -> None:
        self.sessions = sessions
        self.broker = broker
        self.agents = agents
        self.models = models
        self.trust = trust
        self.titles = titles
        self.is_stopping = False
        self._runs = runs
        self._partials = Partials(runs)
        self._tools = tools

    def __repr__(self) -> str:
        return f"<Runtime {self.running} running{', stopping' if self.is_stopping else ''}>"

    @property
    def running(self) -> int:
        """How many sessions have a run or a compaction going."""
        return sum(session.job is not None for session in self.sessions.live())

    async def get_or_create(
        self,
        identity: Identity,
        *,
        topic: str | None,
        description: str | None,
        cwd: str | None,
        request_key: str | None = None,
    ) -> tuple[Session, bool]:
        """Find or make an identity's session, as ``Sessions`` does, for an agent that exists.

        Raises:
          NotFound: no such agent, or the session of the key is gone.
          ShuttingDown, RequestKeyReused, StoreError.
        """
        self.agents.get(identity.agent)
        self._refuse_when_stopping()
        return await self.sessions.get_or_create(
            identity, topic=topic, description=description, cwd=cwd, request_key=request_key
        )

    async def delete(self, session: str, request_key: str | None = None) -> None:
        """Remove a session for good, as ``Sessions`` does. Once begun it goes on whoever leaves.

        Raises:
          NotFound, RequestKeyReused, StoreError.
        """
        deed: Deed[None] = Deed()
        work = partial(self.sessions.delete, session, request_key)
        self._runs.start_soon(self._carry_out, deed, work, "the deletion")
        await deed.wait()

    async def close(self, session: str, *, cancel: bool) -> bool:
        """Unload a session, as ``Sessions`` does. Once begun it goes on whoever leaves.

        Raises:
          NotFound, SessionBusy.
        """
        deed: Deed[bool] = Deed()
        work = partial(self.sessions.close, session, cancel=cancel)
        self._runs.start_soon(self._carry_out, deed, work, "the closing")
        return await deed.wait()

    def admit(
        self,
        session: Session,
        content: tuple[UserBlock, ...],
        *,
        on_ticket: Callable[[Ticket], None],
        request_key: str | None = None,
        when_busy: WhenBusy = "queue",
        tool_choice: str = "auto",
        guest: str = "",
    ) -> Admission:
        """Take a message in, at once, so that messages keep the order in which they came.

        With a ``guest`` that agent answers in place of the session's own, once and without tools.
        ``on_ticket`` is called when it is known which run it will be, before that run's next event. A message
        that came with the same request key before is not taken again. Wait for ``confirm`` before telling
        anybody: only then is the message durable. Its run goes on whoever leaves.

        Raises:
          SessionPaused, BudgetSpent, SessionBusy, QueueFull, ShuttingDown, RequestKeyReused; NotFound: its
            agent or model.
        """
        known = session.keys.find(request_key, Admission, content)
        if known is not None:
            on_ticket(known.ticket)
            return Admission(known.ticket, "attached", known.steering)
        self._refuse_when_stopping()
        if session.meta.paused:
            raise SessionPaused(session.id)
        self._refuse_when_spent(session)
        self.sessions.check_room(session)
        job = session.job
        if job is not None and when_busy == "reject":
            raise session.busy("wait for it, or queue the message")
        is_steer = when_busy == "steer" and not guest
        if job is not None and job.ticket and job.run and job.run.is_steerable and is_steer:
            steering = take_steer(session, job.run, content, request_key, is_sent=True)
            admission = Admission(job.ticket, "steered", steering)
        else:
            guest = "" if guest == session.meta.agent else guest
            self._equip(session, guest)
            ticket = session.accept(content, request_key=request_key, tool_choice=tool_choice, guest=guest)
            is_next = job is None and len(session.waiting) == 1
            admission = Admission(ticket, "started" if is_next else "queued")
        session.keys.add(request_key, content, admission)
        on_ticket(admission.ticket)
        if admission.disposition == "started":
            self._start_next(session)
        elif admission.disposition == "queued":
            session.publish([events.Queued(len(session.waiting), content)], admission.ticket.run)
        return admission

    async def cancel(self, session: Session, run: str | None) -> tuple[str | None, StopReason]:
        """Stop what is going, or the run of that id even while it waits; returns when it has settled.

        Raises:
          NoRun: nothing is going, or not that run.
          StoreError.
        """
        waiting = next((ticket for ticket in session.waiting if ticket.run == run), None)
        if waiting is not None:
            await cancel_waiting(session, waiting)
            return waiting.run, "cancelled"
        job = session.job
        if job is None or (run is not None and (job.run is None or job.run.id != run)):
            raise NoRun(session.id, run)
        job.cancel()
        await job.settled.wait()
        return (job.run.id, job.run.stop_reason or "cancelled") if job.run else (None, "cancelled")

    async def compact(
        self, session: Session, instructions: str | None, request_key: str | None = None
    ) -> Compaction:
        """Replace the session's older history by a summary; its other requests are served meanwhile.

        One that came with the same request key before is waited for, or its result returned again.

        Raises:
          SessionBusy, NothingToCompact, RequestCancelled, RequestKeyReused, ShuttingDown, NotFound,
          ProviderError, StoreError.
        """
        known = session.keys.find(request_key, Compacting, instructions)
        if known is not None:
            return await known.wait()
        self._refuse_when_stopping()
        self._refuse_when_busy(session)
        equipment = self._equip(session)
        window = equipment.choice.context_window
        cut = plan_cut(session.context, limit=session.gauge.limit(window))
        if cut is None:
            raise NothingToCompact(session.id)
        wish = Wish(choice=equipment.choice, instructions=instructions, request_key=request_key)
        session.job = Job()
        compacting = Compacting()
        session.keys.add(request_key, instructions, compacting)
        work = partial(summarise, session, wish, cut)
        self._runs.start_soon(self._compact, session, session.job, compacting, work, request_key)
        return await compacting.wait()

    async def configure(
        self,
        session: Session,
        *,
        title: str | UnsetType = UNSET,
        model: str | None | UnsetType = UNSET,
        thinking: bool | None | UnsetType = UNSET,
        system_prompt: str | None | UnsetType = UNSET,
        cwd: str | None | UnsetType = UNSET,
        auto_compact: bool | None | UnsetType = UNSET,
        paused: bool | UnsetType = UNSET,
        budget: Budget | UnsetType = UNSET,
    ) -> None:
        """Change settings, null for the default; what is going now goes on as it began.

        A budget without a limit is as good as none: the agent's limits count.

        Raises:
          NotFound: a model that no configured server has.
          StoreError.
        """
        if isinstance(model, str):
            self.models.resolve(model)
        change = Configured(
            title=title,
            model=model,
            thinking=thinking,
            system_prompt=system_prompt,
            cwd=cwd,
            auto_compact=auto_compact,
            paused=paused,
            budget=budget,
        )
        if change == Configured():
            return
        await session.save([change])
        if isinstance(title, str):
            session.publish([events.TitleChanged(title)])
        await self._announce(session)
        self._start_next(session)

    def snapshot(self, session: str) -> Snapshot:
        """Draw a session, live or not, and what it may use.

        Raises:
          NotFound: no such session.
        """
        budget = self.budget_of(self.sessions.meta(session))
        return structs.replace(self.sessions.snapshot(session), budget=budget)

    def budget_of(self, meta: SessionMeta) -> BudgetState | None:
        """Tell what a session may use, and what it has used of that; null when nothing limits it."""
        return state_of(meta, limits_of(meta, self.agents.by_name.get(meta.agent)))

    async def clear(self, session: Session) -> None:
        """Have the model forget what came before; the log keeps it.

        Raises:
          SessionBusy, StoreError.
        """
        self._refuse_when_busy(session)
        await session.save([Cleared()])
        await self._announce(session)

    async def rewind(self, session: Session, step: int | None) -> Rewinding:
        """Have the model forget what came after a step, or the last message of a person; the log keeps it.

        Raises:
          SessionBusy, BadRequest, StoreError.
        """
        self._refuse_when_busy(session)
        plan = plan_rewind(session.id, session.context, step)
        if plan.messages:
            await session.save([Rewound(plan.step, plan.context_tokens)])
            session.gauge.reset()
            await self._announce(session)
        return plan

    async def fork(self, session: str, at: int | None) -> tuple[SessionInfo, int]:
        """Copy a session, as ``Sessions`` does. Once begun it goes on whoever leaves.

        Raises:
          NotFound, StoreError, BadRequest, ShuttingDown.
        """
        self._refuse_when_stopping()
        deed: Deed[tuple[SessionInfo, int]] = Deed()
        self._runs.start_soon(self._carry_out, deed, partial(self.sessions.fork, session, at), "the fork")
        return await deed.wait()

    async def remove_queued(self, session: Session, run: str) -> None:
        """Take a message that waits out of the queue for good.

        Raises:
          NotFound: none waits for that run.
          SessionBusy: it has begun.
          StoreError.
        """
        waiting = next((ticket for ticket in session.waiting if ticket.run == run), None)
        if waiting is not None:
            await cancel_waiting(session, waiting)
        elif session.run is not None and session.run.id == run:
            raise session.busy("it waits no more, so cancel it")
        else:
            raise NotFound("waiting message", run, hint="queue/list tells which there are")

    async def drain(self, grace: trio.CancelScope) -> None:
        """Refuse new runs, let those that are going finish within ``grace``, cancel the rest, close all logs.

        Every run is closed in its log and announced; messages that wait join the history unanswered.
        """
        self.is_stopping = True
        jobs = [session.job for session in self.sessions.live() if session.job is not None]
        with grace:
            for job in jobs:
                await job.settled.wait()
        with trio.move_on_after(SETTLE_SECONDS):
            for job in jobs:
                job.cancel(STOPPED)
            for job in jobs:
                await job.settled.wait()
            for session in self.sessions.live():
                await leave_waiting(session)
        await self.sessions.aclose()

    def _refuse_when_stopping(self) -> None:
        if self.is_stopping:
            raise ShuttingDown

    def _refuse_when_busy(self, session: Session) -> None:
        if session.job is not None:
            raise session.busy("wait for it, or cancel it")

    def _equip(self, session: Session, guest: str = "") -> Equipment:
        meta = session.meta
        allowance = self._allowance(session, self.agents.get(meta.agent))
        if guest:
            agent = self.agents.get(guest)
            choice = self.models.resolve(agent.options.model, agent.options.fallbacks)
            return Equipment(agent, choice, {}, allowance)
        agent = self.agents.get(meta.agent)
        choice = self.models.resolve(meta.model or agent.options.model, agent.options.fallbacks)
        allowed = agent.options.tools
        tools = {name: tool for name, tool in self._tools.items() if allowed is None or name in allowed}
        return Equipment(agent, choice, tools, allowance)

    def _allowance(self, session: Session, agent: Agent) -> Allowance:
        limits = limits_of(session.meta, agent)
        return Allowance(limits, agent.options.daily_budget, lambda: session.meta, self.sessions.metas)

    def _refuse_when_spent(self, session: Session) -> None:
        allowance = self._allowance(session, self.agents.get(session.meta.agent))
        spent = allowance.find_spent(utc_now().date())
        if spent is not None:
            raise spent

    def _start_next(self, session: Session) -> None:
        """Give an idle session to the message that waits longest. All of this happens at once."""
        is_held = session.job is not None or session.end is not None or session.meta.paused
        if is_held or self.is_stopping or not session.waiting:
            return
        ticket = session.waiting.popleft()
        run = Run(ticket.run, ticket.content, request_key=ticket.request_key, guest=ticket.guest)
        session.job = Job(run, ticket)
        self._runs.start_soon(self._work, session, session.job, run, ticket)

    async def _work(self, session: Session, job: Job, run: Run, ticket: Ticket) -> None:
        driver = Driver(session, job, run, ticket, lambda: self._equip(session, run.guest), self.trust)
        try:
            with self._partials.kept(driver):
                await driver.drive()
        finally:
            self._release(session, job)
        await session.checkpoint()
        if run.stop_reason == "end_turn" and run.text.strip():
            await self._name(session, run.text)

    async def _name(self, session: Session, answer: str) -> None:
        """Give the session a title if it has none. Only a bug is ever raised, and that is logged."""
        if not self.titles or self.is_stopping or not lacks_title(session):
            return
        try:
            choice = self._equip(session).choice
            if choice.provider.name != NO_MODEL and await give_title(session, choice, answer):
                await self._announce(session)
        except NotFound as exc:
            log.info("title_not_given", session=session.id, problem=str(exc))
        except Exception:
            log.exception("title_failed", session=session.id)

    async def _compact(
        self,
        session: Session,
        job: Job,
        compacting: Compacting,
        work: Callable[[], Awaitable[Compaction]],
        request_key: str | None,
    ) -> None:
        try:
            with job.scope:
                await self._carry_out(compacting, work, "the compaction")
        finally:
            # All of this happens at once, so that whoever waited finds the session released.
            if compacting.has_failed:
                session.keys.drop(request_key)
            self._release(session, job)
        await session.checkpoint()

    async def _carry_out(self, deed: Deed[T], work: Callable[[], Awaitable[T]], what: str) -> None:
        """Do something and tell how it ended. Never raises but ``Cancelled``."""
        try:
            deed.settle(await work())
        except CrabdError as exc:
            deed.settle(exc)
        except Exception:
            log.exception("deed_failed", deed=what)
            deed.settle(CrabdError(INTERNAL.message))
        finally:
            deed.settle(RequestCancelled(what))

    def _release(self, session: Session, job: Job) -> None:
        session.job = None
        job.settled.set()
        self._start_next(session)

    async def _announce(self, session: Session) -> None:
        session.publish([events.SessionChanged(self.sessions.info(session))])
        await session.checkpoint()
