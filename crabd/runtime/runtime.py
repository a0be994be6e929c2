"""The runtime: what sessions are asked to do. Messages become runs here, and runs belong here.

Runs live in the nursery that the runtime is given, so that no client can end one by leaving.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import structlog
import trio
from msgspec import UNSET, UnsetType, structs
from structlog.typing import FilteringBoundLogger

from crabd import events
from crabd.errors import BadRequest, NoRun, NotFound, SessionPaused
from crabd.events import Budget, Confirmation, Counts, Mode, Resolution, RuleLists, Snapshot
from crabd.messages import StopReason, UserBlock, without_pictures
from crabd.providers.base import NO_MODEL, Models
from crabd.runtime.agents import Agents
from crabd.runtime.attaching import Attachments
from crabd.runtime.broker import Broker
from crabd.runtime.confirmations import Verdict
from crabd.runtime.deeds import Deeds
from crabd.runtime.editing import Edits
from crabd.runtime.equipping import Equipper
from crabd.runtime.files import Files
from crabd.runtime.guards import Guards
from crabd.runtime.hooking import CommandHooks, cannot_run
from crabd.runtime.intake import take_steer
from crabd.runtime.loop import Driver
from crabd.runtime.naming import give_title, lacks_title
from crabd.runtime.overview import Overview
from crabd.runtime.pace import Subscriber
from crabd.runtime.partials import Partials
from crabd.runtime.permissions.rulebook import Rulebook
from crabd.runtime.permissions.rules import Rule, parse_rule
from crabd.runtime.router import Identity
from crabd.runtime.run import Run
from crabd.runtime.session import Job, Session
from crabd.runtime.sessions import Sessions
from crabd.runtime.ticket import Admission, Ticket
from crabd.runtime.trust import Trust
from crabd.runtime.waiting import STOPPED, cancel_waiting, leave_waiting
from crabd.store.record import Configured
from crabd.tools.base import Toolmaker
from crabd.tools.servers import ServerKeeper

# How long cancelled jobs may take to close their logs before the daemon goes on to stop.
SETTLE_SECONDS = 8.0
# How long the hooks of sessions may take that end with the daemon. They are told, not waited for.
FAREWELL_SECONDS = 3.0

log: FilteringBoundLogger = structlog.get_logger()

WhenBusy = Literal["queue", "steer", "reject"]


class Runtime:
    """Has sessions work. What they go with is the ``equipper``'s; their histories are edited by ``edits``.

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
        toolmaker: Toolmaker,
        guards: Guards,
        trust: Trust,
        rulebook: Rulebook,
        hooks: CommandHooks | None = None,
        files: Files | None = None,
        servers: ServerKeeper | None = None,
        titles: bool = False,
    ) -> None:
        self.sessions = sessions
        self.broker = broker
        self.trust = trust
        self.rulebook = rulebook
        self.titles = titles
        self.editors = guards.editors
        self.hooks = CommandHooks(cannot_run, sessions.find_loaded, runs) if hooks is None else hooks
        self.overview = Overview(broker.epoch, sessions.glance, self.count)
        sessions.on_change = broker.on_news = self.overview.touch
        self.files = files
        self._runs = runs
        self._guards = guards
        self._deeds = Deeds(runs)
        self._partials = Partials(runs)
        self.attachments = Attachments(servers)
        self.equipper = Equipper(sessions, agents, models, toolmaker, rulebook, self.attachments)
        self.edits = Edits(sessions, self.equipper, self._deeds, self.hooks, files, self._release)
        sessions.on_end = self._tell_end

    def __repr__(self) -> str:
        return f"<Runtime {self.running} running{', stopping' if self.is_stopping else ''}>"

    @property
    def agents(self) -> Agents:
        """The agents that there are by now, beside those of projects."""
        return self.equipper.agents

    @property
    def models(self) -> Models:
        """The models that there are by now."""
        return self.equipper.models

    @property
    def is_stopping(self) -> bool:
        """No run begins any more."""
        return self._deeds.is_stopping

    @property
    def running(self) -> int:
        """How many sessions have a run or a compaction going."""
        return sum(session.job is not None for session in self.sessions.live())

    def drained(self, subscriber: Subscriber) -> None:
        """Tell a subscriber what was held for it: its backlog has fallen to ``MERGE_BACKLOG``."""
        self.broker.drained(subscriber)
        self.overview.drained(subscriber)

    def forget(self, subscriber: Subscriber) -> None:
        """Undo all that a subscriber that is gone has subscribed to."""
        self.broker.forget(subscriber)
        self.overview.unsubscribe(subscriber)

    def count(self) -> Counts:
        """Count the sessions by what they do."""
        live = self.sessions.live()
        waiting = sum(not session.desk.is_empty for session in live)
        return Counts(self.sessions.stored, len(live), self.running, waiting)

    async def get_or_create(
        self,
        identity: Identity,
        *,
        topic: str | None,
        description: str | None,
        cwd: str | None,
        request_key: str | None = None,
        is_fresh: bool = False,
    ) -> tuple[Session, bool]:
        """Find or make an identity's session, as ``Sessions`` does, for an agent that exists.

        Raises:
          NotFound: no such agent, or the session of the key is gone.
          ShuttingDown, RequestKeyReused, StoreError.
        """
        self._deeds.refuse_when_stopping()
        if identity.agent not in self.agents.by_name:
            self.agents.get(identity.agent, (await self.trust.read(cwd)).agents)
        return await self.sessions.get_or_create(
            identity,
            topic=topic,
            description=description,
            cwd=cwd,
            request_key=request_key,
            is_fresh=is_fresh,
        )

    async def delete(self, session: str, request_key: str | None = None) -> None:
        """Remove a session for good, as ``Sessions`` does. Once begun it goes on whoever leaves.

        Raises:
          NotFound, RequestKeyReused, StoreError.
        """
        await self._deeds.do(partial(self.sessions.delete, session, request_key), "the deletion")

    async def close(self, session: str, *, cancel: bool) -> bool:
        """Unload a session, as ``Sessions`` does. Once begun it goes on whoever leaves.

        Raises:
          NotFound, SessionBusy.
        """
        return await self._deeds.do(partial(self.sessions.close, session, cancel=cancel), "the closing")

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
        allow: Sequence[str] = (),
    ) -> Admission:
        """Take a message in, at once, so that messages keep the order in which they came.

        With a ``guest`` that agent answers in place of the session's own, once and without tools. ``allow``
        are rules for the message's own run.
        ``on_ticket`` is called when it is known which run it will be, before that run's next event. A message
        that came with the same request key before is not taken again. Wait for ``confirm`` before telling
        anybody: only then is the message durable. Its run goes on whoever leaves.

        Raises:
          SessionPaused, BudgetSpent, SessionBusy, QueueFull, ShuttingDown, RequestKeyReused; NotFound: its
            agent or model; BadRequest: a rule is none, or it joins a run that others have started, or a
            picture is shown to a model that takes none.
        """
        known = session.keys.find(request_key, Admission, content)
        if known is not None:
            on_ticket(known.ticket)
            return Admission(known.ticket, "attached", known.steering)
        self._deeds.refuse_when_stopping()
        allowed = _read_rules(allow)
        if session.meta.paused:
            raise SessionPaused(session.id)
        self.equipper.refuse_when_spent(session)
        self.sessions.check_room(session)
        job = session.job
        if job is not None and when_busy == "reject":
            raise session.busy("wait for it, or queue the message")
        is_steer = when_busy == "steer" and not guest
        if job is not None and job.ticket and job.run and job.run.is_steerable and is_steer:
            if allowed:
                raise BadRequest("$.allow", "rules are for a run of its own, so let the message queue")
            self.equipper.refuse_unseen(session, content)
            steering = take_steer(session, job.run, content, request_key, is_sent=True)
            admission = Admission(job.ticket, "steered", steering)
        else:
            guest = "" if guest == session.meta.agent else guest
            self.equipper.equip(session, guest)
            self.equipper.refuse_unseen(session, content, guest)
            ticket = session.accept(
                content, request_key=request_key, tool_choice=tool_choice, guest=guest, allowed=allowed
            )
            is_next = job is None and len(session.waiting) == 1
            admission = Admission(ticket, "started" if is_next else "queued")
        session.keys.add(request_key, content, admission)
        on_ticket(admission.ticket)
        if admission.disposition == "started":
            self._start_next(session)
        elif admission.disposition == "queued":
            queued = events.Queued(len(session.waiting), without_pictures(content))
            session.publish([queued], admission.ticket.run)
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

    async def decide(
        self, session: Session, confirmation: Confirmation, decision: Resolution, *, by: str, reason: str = ""
    ) -> Verdict:
        """Decide about a call that waits. The rules that this adds may let others through that wait.

        Raises:
          BadRequest: it is to be allowed for longer than this time, and no rule could say that.
          StoreError, ConfigError: it is allowed this once, and the rules could not be kept.
        """
        verdict = session.desk.decide(confirmation.id, decision, by=by, reason=reason)
        if decision == "allow_always":
            await self._deeds.do(partial(self._remember, verdict.rules), "the rule")
        return verdict

    async def look_again(self) -> None:
        """Let through what waits in any session and is allowed by now, because rules have changed."""
        for session in self.sessions.live():
            await session.desk.look_again()

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
        mode: Mode | None | UnsetType = UNSET,
        permissions: RuleLists | UnsetType = UNSET,
    ) -> None:
        """Change settings, null for the default; what is going now goes on as it began, but in the new mode.

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
            mode=mode,
            permissions=permissions,
        )
        if change == Configured():
            return
        await session.save([change])
        if cwd is not UNSET:
            session.project = await self.trust.read(session.meta.cwd)
        if isinstance(title, str):
            session.publish([events.TitleChanged(title)])
        await self.sessions.announce(session)
        self._start_next(session)
        if not session.desk.is_empty:
            # Another mode, or another rule, may let through what waits.
            self._deeds.begin(session.desk.look_again, "the mode")

    def snapshot(self, session: str) -> Snapshot:
        """Draw a session, live or not, what it may use and in which mode it is.

        Raises:
          NotFound: no such session.
        """
        meta = self.sessions.meta(session)
        mode = self.rulebook.mode_of(meta, self.agents.by_name.get(meta.agent))
        return structs.replace(
            self.sessions.snapshot(session), budget=self.equipper.budget_of(meta), mode=mode
        )

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
        self._deeds.is_stopping = True
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
        self.attachments.stop(self.sessions.live())
        begun = [session for session in self.sessions.live() if session.has_begun]
        await self.sessions.aclose()
        with trio.move_on_after(FAREWELL_SECONDS):
            async with trio.open_nursery() as farewells:
                for session in begun:
                    farewells.start_soon(self.hooks.session_end, session, "stopped")

    def _tell_end(self, session: Session, reason: str) -> None:
        self.attachments.forget(session, reason)
        if session.has_begun and not self.is_stopping:
            self._runs.start_soon(self.hooks.session_end, session, reason)

    async def _remember(self, rules: Sequence[str]) -> None:
        await self.rulebook.remember(rules)
        await self.look_again()

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
        driver = Driver(
            session,
            job,
            run,
            ticket,
            lambda: self.equipper.equip(session, run.guest),
            lambda: self.equipper.find_tools(session, run.id, run.guest),
            self.trust,
            self._guards,
            self.rulebook,
            self.hooks,
            self.files,
        )
        try:
            with self._partials.kept(driver):
                await driver.drive()
        finally:
            self._release(session, job)
        await session.checkpoint()
        if run.stop_reason is not None:
            await self.hooks.run_end(session, run.id, run.stop_reason, run.text)
        if run.stop_reason == "end_turn" and run.text.strip():
            await self._name(session, run.text)

    async def _name(self, session: Session, answer: str) -> None:
        """Give the session a title if it has none. Only a bug is ever raised, and that is logged."""
        if not self.titles or self.is_stopping or not lacks_title(session):
            return
        try:
            choice = self.equipper.equip(session).choice
            if choice.provider.name != NO_MODEL and await give_title(session, choice, answer):
                await self.sessions.announce(session)
        except NotFound as exc:
            log.info("title_not_given", session=session.id, problem=str(exc))
        except Exception:
            log.exception("title_failed", session=session.id)

    def _release(self, session: Session, job: Job) -> None:
        session.job = None
        job.settled.set()
        self._start_next(session)
        self.overview.touch(session.id)


def _read_rules(texts: Sequence[str]) -> tuple[Rule, ...]:
    try:
        return tuple(parse_rule(text, "allow", "the request") for text in texts)
    except ValueError as exc:
        raise BadRequest("$.allow", str(exc)) from exc
