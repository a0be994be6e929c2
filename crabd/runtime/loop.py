"""The driver of a run: does what the machine asks for, one thing after the other, until it ends.

Everything that awaits in a run is here: the model's stream, the tools, the store. The rules are in ``run``.
A cancel takes effect at the next checkpoint; whatever happens, the run is closed in the log and says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import structlog
import trio
from msgspec import Struct, structs
from structlog.typing import FilteringBoundLogger

from crabd import events
from crabd.errors import INTERNAL_ERROR, BudgetSpent, CrabdError, HookBlocked, ProviderError, StoreError
from crabd.events import ErrorInfo
from crabd.messages import (
    StopReason,
    ToolCall,
    ToolStatus,
    UserMessage,
    clean_text,
    utc_now,
    without_pictures,
    words_of,
)
from crabd.providers.base import ModelChoice, ModelRequest, Retry, ToolOffer
from crabd.runtime.agents import Agent
from crabd.runtime.budget import Allowance
from crabd.runtime.clock import RunClock
from crabd.runtime.compaction import Need
from crabd.runtime.continuation import Continuation
from crabd.runtime.files import Files
from crabd.runtime.gate import Gate
from crabd.runtime.guards import Guards
from crabd.runtime.guests import as_guest, heard_by, introduce
from crabd.runtime.hooking import CommandHooks
from crabd.runtime.hooks import frame
from crabd.runtime.metering import Meter, tell_usage
from crabd.runtime.permissions.rulebook import Rulebook
from crabd.runtime.prompt import compose_request, estimate_overhead
from crabd.runtime.rewind import plan_rewind
from crabd.runtime.run import Ask, CallTools, End, Run, Save, tell_error, tell_spent
from crabd.runtime.session import Job, Session
from crabd.runtime.summarise import Wish, make_room
from crabd.runtime.ticket import Ticket
from crabd.runtime.trust import Trust
from crabd.store.base import Partial
from crabd.store.record import MessageAdded, ModelCalled, Purpose, Record, Rewound, Step
from crabd.tools.base import Tool, ToolOutcome

# Tools of one round that work at the same time.
MAX_PARALLEL_TOOLS = 8
# How long the last records of a cancelled run may take. Disks that need longer are broken.
CLOSING_SECONDS = 5.0
INTERNAL = ErrorInfo(INTERNAL_ERROR, "internal", "internal error: the daemon's log has the traceback")

log: FilteringBoundLogger = structlog.get_logger()


class Equipment(Struct, frozen=True):
    """What a run works with, fixed when it starts."""

    agent: Agent
    choice: ModelChoice
    allowance: Allowance


def shielded(seconds: float) -> trio.CancelScope:
    """Open the one kind of shield there is: it holds against cancellation, and not for ever."""
    return trio.move_on_after(seconds, shield=True)


class Driver:
    """Drives one run of a session from its message to its end."""

    def __init__(
        self,
        session: Session,
        job: Job,
        run: Run,
        ticket: Ticket,
        equip: Callable[[], Equipment],
        find_tools: Callable[[], Awaitable[Mapping[str, Tool]]],
        trust: Trust,
        guards: Guards,
        rulebook: Rulebook,
        hooks: CommandHooks,
        files: Files | None = None,
    ) -> None:
        self._session = session
        self._job = job
        self._run = run
        self._ticket = ticket
        self._equip = equip
        self._find_tools = find_tools
        self._trust = trust
        self._guards = guards
        self._rulebook = rulebook
        self._hooks = hooks
        self._files = files
        # What hooks have said to the model about the message; null until they are asked.
        self._context: str | None = None
        self._is_blocked = False
        self._equipment: Equipment | None = None
        self._gate: Gate | None = None
        self._clock = RunClock()
        self._store_error: ErrorInfo | None = None
        # The last step before the model was asked. A reply that the log has whole comes after it.
        self._asked_after = 0
        self._meter: Meter | None = None
        # The reply of which a part was written down last.
        self._kept = run.reply
        self._is_keeping = False
        # The first step of the run.
        self._first_step: int | None = None
        # What is told once the records that go with it are durable.
        self._untold: list[events.AnyEvent] = []

    async def drive(self) -> None:
        """Run to the end. Never raises but ``Cancelled``; the run is closed and announced even then."""
        run = self._run
        try:
            # Once, so that all requests of a run begin alike.
            self._session.project = await self._trust.read(self._session.meta.cwd)
            self._equipment = self._equip()
            run.max_rounds = self._equipment.agent.options.max_rounds
            with self._job.scope, self._clock.limit(self._equipment.allowance.seconds_left) as clock:
                await self._advance()
            if clock.cancelled_caught:
                self._run_out_of_time(self._equipment)
        except HookBlocked as exc:
            self._is_blocked = True
            self._cut_short("refused", tell_error(exc))
        except CrabdError as exc:
            self._cut_short("error", tell_error(exc))
        except Exception:
            log.exception("run_failed", session=self._session.id, run=run.id)
            self._cut_short("error", INTERNAL)
        finally:
            # Whoever is asked something when the daemon stops finds it in the history, as after a crash.
            is_left = run.is_asking and self._job.cancel_error is not None
            self._cut_short("interrupted" if is_left else "cancelled", self._job.cancel_error)
            with shielded(CLOSING_SECONDS):
                await self._close()
                await self._take_back()
            self._settle()

    async def _open_gate(self, equipment: Equipment) -> Gate:
        """Open the gate to the tools that there are, some of which may have to be started first."""
        return Gate(
            self._session,
            self._run,
            equipment.agent,
            self._guards,
            self._clock,
            rulebook=self._rulebook,
            tools=await self._find_tools(),
            allowed=self._ticket.allowed,
        )

    async def _ask_hooks(self) -> str:
        """Ask the hooks about the message, once it is durable.

        Raises:
          HookBlocked.
        """
        session = self._session
        if not session.has_begun:
            session.has_begun = True
            session.opening = await self._hooks.session_start(session)
        prompt = words_of(UserMessage(self._ticket.content))
        said = await self._hooks.before_prompt(session, self._run.id, prompt)
        return "\n".join(filter(None, (session.opening, said)))

    @property
    def has_partial(self) -> bool:
        """Something has come that is to be written down, and nothing is being written."""
        return self._run.reply.has_fresh and not self._is_keeping

    async def keep_partial(self) -> None:
        """Write down what has come of the reply since the last time."""
        reply = self._run.reply
        piece = Partial(self._run.id, self._asked_after, reply.take_fresh())
        is_first, self._kept = reply is not self._kept, reply
        self._is_keeping = True
        try:
            await self._session.log.keep_partial(piece, is_first=is_first)
        except StoreError as exc:
            log.warning("partial_not_kept", session=self._session.id, problem=str(exc))
        finally:
            self._is_keeping = False

    async def _advance(self) -> None:
        while True:
            action, seen = self._run.next_action(self._seconds(), self._find_spent())
            self._untold += seen
            match action:
                case Save(records=records):
                    await self._save(records)
                case Ask():
                    await self._ask()
                case CallTools(calls=calls):
                    await self._call_tools(calls)
                case End():
                    return

    async def _save(self, records: Sequence[Record]) -> None:
        try:
            steps = await self._session.save(records, is_kept=True)
        except StoreError as exc:
            # The session keeps them and writes them first next time; the run must not give them twice.
            self._run.saved()
            self._tell()
            self._fail_persistence(exc)
            raise
        self._run.saved()
        if not self._ticket.accepted.is_set():
            self._first_step = self._first_message(steps)
            self._publish([events.RunStarted(without_pictures(self._ticket.content), self._first_step)])
            self._ticket.accepted.set()
            self._tell_untrusted()
        calls = [step.record for step in steps if isinstance(step.record, ModelCalled)]
        self._publish([tell_usage(call, self._session.meta.usage) for call in calls])
        self._tell()

    def _tell_untrusted(self) -> None:
        """Tell which files of the directory are left out, each time that these are others."""
        files = self._session.project.untrusted
        if files and files != self._session.untrusted:
            self._publish([events.ProjectUntrusted(files)])
        self._session.untrusted = files

    def _first_message(self, steps: Sequence[Step]) -> int:
        """Find the step of the message that the run is for; steerings may have joined behind it already."""
        return next(
            step.n
            for step in steps
            if isinstance(step.record, MessageAdded) and step.record.run == self._run.id
        )

    def _tell(self) -> None:
        seen, self._untold = self._untold, []
        self._publish(seen)

    async def _ask(self) -> None:
        equipment = self._equipment
        assert equipment is not None, "a run that is going has been equipped"
        if self._context is None:
            # Once the message is durable: nobody waits for its answer to know that.
            self._context = await self._ask_hooks()
            self._gate = await self._open_gate(equipment)
        if self._run.guest:
            # The history is made to fit the model that it belongs to.
            await self._ask_once(equipment)
            return
        session, part = self._session, equipment.agent.options.compact_at
        need = session.gauge.read(session.context.weight, equipment.choice.context_window, part)
        if need != "none" and session.meta.auto_compact is not False:
            await self._make_room(equipment, need)
        try:
            await self._ask_once(equipment)
        except ProviderError as exc:
            if exc.kind != "context_too_long" or not self._run.reply.is_empty:
                raise
            session.gauge.too_long(session.context.weight)
            await self._make_room(equipment, "forced")
            await self._ask_again(equipment)

    async def _make_room(self, equipment: Equipment, need: Need) -> None:
        request = self._request(equipment)
        wish = Wish(
            choice=equipment.choice,
            overhead=estimate_overhead(request),
            run=self._run.id,
            since=self._first_step,
        )
        part = equipment.agent.options.compact_at
        self._run.usage += await make_room(self._session, wish, need, part, self._hooks)

    async def _ask_again(self, equipment: Equipment) -> None:
        try:
            await self._ask_once(equipment)
        except ProviderError as exc:
            if exc.kind != "context_too_long":
                raise
            advice = "compacting has not helped: choose a model with a larger window, or crabctl rewind"
            raise ProviderError(
                "context_too_long", f"{exc.problem}; {advice}", provider=exc.provider, status=exc.status
            ) from exc

    async def _ask_once(self, equipment: Equipment) -> None:
        answer = Continuation(self._request(equipment))
        self._asked_after = self._session.meta.steps
        while not await self._hear(equipment, answer):
            pass

    async def _hear(self, equipment: Equipment, answer: Continuation) -> bool:
        """Take what a stream brings of the reply; false if it broke off and the rest is to be asked for."""
        meter = self._meter = self._begin_call(equipment, answer.request)
        try:
            async with equipment.choice.provider.stream(answer.request, self._tell_retry) as chunks:
                async for chunk in chunks:
                    meter.hear(chunk, trio.current_time())
                    for held in answer.take(chunk):
                        self._publish(self._run.receive(held))
        except ProviderError as exc:
            if not equipment.agent.options.continue_partial or not answer.go_on_after(exc):
                raise
            log.warning("answer_continued", session=self._session.id, run=self._run.id, problem=str(exc))
            self._run.reply_broke_off(meter.record(trio.current_time()))
            return False
        self._meter = None
        self._publish(self._run.reply_finished(meter.record(trio.current_time())))
        return True

    def _tell_retry(self, retry: Retry) -> None:
        self._publish([events.Retrying(clean_text(retry.problem), round(retry.seconds, 3), retry.model)])

    def _begin_call(self, equipment: Equipment, request: ModelRequest) -> Meter:
        purpose: Purpose = "guest" if self._run.guest else "reply"
        began = trio.current_time()
        return Meter(equipment.choice, request, run=self._run.id, purpose=purpose, began=began)

    def _request(self, equipment: Equipment) -> ModelRequest:
        session = self._session
        specs = self._gate.offers() if self._gate else ()
        offers = tuple(ToolOffer(spec.name, spec.description, spec.parameters) for spec in specs)
        agent, meta, messages = equipment.agent, session.meta, session.context.messages()
        if self._run.guest or session.context.has_guests:
            messages = tuple(heard_by(agent.name, meta.agent, messages))
            agent = introduce(agent, meta.agent)
        return compose_request(
            agent,
            as_guest(meta) if self._run.guest else meta,
            equipment.choice,
            messages,
            tools=offers,
            tool_choice=self._ticket.tool_choice if self._run.rounds == 1 else "auto",
            instructions=session.project.instructions + frame(self._context or ""),
            mode=self._rulebook.mode_of(meta, equipment.agent) if offers else "ask",
        )

    async def _call_tools(self, calls: Sequence[ToolCall]) -> None:
        limiter = trio.CapacityLimiter(MAX_PARALLEL_TOOLS)
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(self._call_tool, call, limiter)
        await self._settle_files()

    async def _settle_files(self) -> None:
        """Note what the calls of a round have left of files. What cannot be written waits with the rest."""
        if self._files is not None:
            with suppress(StoreError):
                await self._files.settle(self._session)

    async def _call_tool(self, call: ToolCall, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            self._publish([events.ToolCalled(call.id, call.name, call.arguments)])
            began = trio.current_time()
            outcome = await self._work(call)
        status: ToolStatus = "error" if outcome.is_error else "ok"
        output = clean_text(outcome.output)
        self._run.tool_finished(call, output, status)
        milliseconds = round((trio.current_time() - began) * 1000)
        self._publish([events.ToolResult(call.id, call.name, status, output, milliseconds)])

    async def _work(self, call: ToolCall) -> ToolOutcome:
        objection = self._run.objection(call)
        if objection is not None:
            return ToolOutcome(objection, is_error=True)
        assert self._gate is not None, "a run that is going has been equipped"
        return await self._gate.make(call)

    def _find_spent(self) -> BudgetSpent | None:
        return self._equipment.allowance.find_spent(utc_now().date()) if self._equipment else None

    def _run_out_of_time(self, equipment: Equipment) -> None:
        spent = equipment.allowance.out_of_time()
        self._cut_short("budget", tell_error(spent))
        if self._run.stop_reason == "budget":
            self._untold.append(tell_spent(spent))

    def _cut_short(self, reason: StopReason, error: ErrorInfo | None) -> None:
        model = self._equipment.choice.id if self._equipment else ""
        meter = self._meter
        call = meter.record(trio.current_time()) if meter is not None and meter.has_begun else None
        if error is not None:
            error = structs.replace(error, message=self._guards.masker.mask(error.message))
        self._untold += self._run.cut_short(reason, model, error, call)
        self._meter = None

    async def _close(self) -> None:
        try:
            await self._settle_files()
            await self._advance()
        except StoreError:
            # Said by ``_save``. What the run still had to say waits in the session with the rest.
            await self._advance_to_end()
        except Exception:
            # Nothing but a bug comes here, and it must not take the other runs along.
            log.exception("run_not_closed", session=self._session.id, run=self._run.id)
            self._store_error = INTERNAL

    async def _take_back(self) -> None:
        """Have no model ever read the message that a hook has blocked; the log keeps it."""
        if not self._is_blocked or self._first_step is None:
            return
        plan = plan_rewind(self._session.id, self._session.context, self._first_step - 1)
        try:
            await self._session.save([Rewound(plan.step, plan.context_tokens)], is_kept=True)
        except StoreError as exc:
            self._fail_persistence(exc)

    async def _advance_to_end(self) -> None:
        action, _ = self._run.next_action(self._seconds())
        assert isinstance(action, End), "the closing records were the last"

    def _fail_persistence(self, exc: StoreError) -> None:
        if not self._ticket.accepted.is_set():
            self._ticket.refusal = exc
            self._ticket.accepted.set()
        log.error("records_not_saved", session=self._session.id, run=self._run.id, problem=str(exc))
        self._store_error = tell_error(exc)
        self._publish([events.PersistenceFailed(self._store_error, self._session.unsaved)])

    def _settle(self) -> None:
        run = self._run
        assert run.stop_reason is not None, "the machine came to its end"
        self._tell()
        persisted = self._session.unsaved == 0 and self._session.meta.open_run != run.id
        # An answer that may not be there tomorrow is no success, whatever the model made of it.
        reason = run.stop_reason if self._store_error is None else "error"
        error = self._store_error or run.error
        self._session.settle(
            self._ticket, reason, persisted=persisted, text=run.text, usage=run.usage, error=error
        )

    def _publish(self, seen: Sequence[events.AnyEvent]) -> None:
        self._session.publish(seen, self._run.id)

    def _seconds(self) -> float:
        return self._clock.seconds
