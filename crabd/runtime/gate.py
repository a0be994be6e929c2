"""The gate: every call of a tool passes here, in one order, whoever asked for it.

    arguments → before_tool hooks → permission → confirmation → run, confined → truncate → after_tool hooks

A call that does not come through has an outcome all the same: the model reads why, and what to do instead.
Who keeps files, runs hooks and confines processes is handed in; what a tool does is its own affair.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import msgspec
import structlog
import trio
from msgspec import structs
from structlog.typing import FilteringBoundLogger

from crabd import events
from crabd.errors import StoreError
from crabd.events import Confirmation, PendingQuestion, PlanItem, Question
from crabd.masking import MaskedStream
from crabd.messages import ToolCall, clean_text, utc_now
from crabd.runtime.agents import Agent
from crabd.runtime.calls import read_arguments
from crabd.runtime.clock import RunClock
from crabd.runtime.confirmations import Answers, Verdict
from crabd.runtime.guards import Guards
from crabd.runtime.hooks import HookedCall
from crabd.runtime.permissions.policy import Policy, Ruling
from crabd.runtime.permissions.rulebook import Rulebook
from crabd.runtime.permissions.rules import Rule
from crabd.runtime.run import Run
from crabd.runtime.session import Session
from crabd.store.record import Answered, Asked, Planned
from crabd.tools.base import (
    BadArguments,
    Intent,
    Planner,
    PreparedCall,
    Tool,
    ToolContext,
    ToolOutcome,
    ToolSpec,
)
from crabd.tools.offers import fit

# Characters of an output that a model reads: some thousand tokens. Of a longer one it gets both ends.
MAX_OUTPUT = 30_000
HEAD, TAIL = 20_000, 8_000
# Characters that a person is shown of one thing. Nobody reads more, and nobody should allow what he has not
# seen, so a longer command is refused; of long arguments and diffs both ends are shown, and the gap.
MAX_SHOWN = 32_000
# Of what is asked, so much is in the log and told to the model after an interruption.
MAX_ASKED = 1000
# Looking up what paths really are takes microseconds, but for disks that hang.
JUDGES = 8

log: FilteringBoundLogger = structlog.get_logger()


class NotMade(Exception):
    """The call was not made; the text tells the model why."""


class Gate:
    """The gate of one run. ``tools`` are those of its agent, ``allowed`` are rules for this run alone."""

    def __init__(
        self,
        session: Session,
        run: Run,
        agent: Agent,
        guards: Guards,
        clock: RunClock,
        *,
        rulebook: Rulebook,
        tools: Mapping[str, Tool],
        allowed: tuple[Rule, ...] = (),
    ) -> None:
        self._session = session
        self._run = run
        self._agent = agent
        self._guards = guards
        self._clock = clock
        self._rulebook = rulebook
        self._tools = tools
        self._allowed = allowed
        self._judges = trio.CapacityLimiter(JUDGES)

    def __repr__(self) -> str:
        return f"<Gate of {self._session.id}, {len(self._tools)} tools>"

    def offers(self) -> tuple[ToolSpec, ...]:
        """List the tools that the model is told of: not those that it may not use whatever it asks for."""
        policy = self._policy()
        return tuple(fit(tool.spec) for name, tool in self._tools.items() if policy.offers(name))

    async def make(self, call: ToolCall) -> ToolOutcome:
        """Make a call, or tell why not, in words without secrets. Never raises but ``Cancelled``."""
        outcome = await self._try(call)
        return structs.replace(outcome, output=self._guards.masker.mask(clean_text(outcome.output)))

    async def _try(self, call: ToolCall) -> ToolOutcome:
        try:
            return await self._make(call)
        except (NotMade, BadArguments) as exc:
            return ToolOutcome(f"The call was not made: {exc}", is_error=True)
        except Exception:
            log.exception("tool_failed", session=self._session.id, run=self._run.id, tool=call.name)
            return ToolOutcome(f"the tool {call.name} failed; this is a fault in the tool", is_error=True)

    async def _make(self, call: ToolCall) -> ToolOutcome:
        tool = self._find(call.name)
        live = self._guards.masker.open_stream()
        arguments, context = read_arguments(call), self._context_of(call, live, await self._find_place())
        prepared = await tool.prepare(arguments, context)
        hooked = HookedCall(
            session=self._session.id,
            run=self._run.id,
            call=call.id,
            tool=call.name,
            arguments=arguments,
            cwd=context.cwd,
        )
        verdict = await self._guards.hooks.before_tool(hooked)
        if verdict.block is not None:
            raise NotMade(f"a hook forbids it: {verdict.block}")
        if verdict.arguments is not None:
            hooked = structs.replace(hooked, arguments=verdict.arguments)
            prepared = await tool.prepare(verdict.arguments, context)
        await self._permit(tool.spec, prepared, hooked)
        self._tell_start(call, prepared.intent)
        outcome = await prepared.run()
        self._report(call, live.close())
        outcome = await self._shorten(call, outcome)
        after = await self._guards.hooks.after_tool(hooked, outcome)
        said = [text for text in (outcome.output, verdict.context, after) if text]
        return ToolOutcome("\n\n".join(said), outcome.is_error)

    def _find(self, name: str) -> Tool:
        tool = self._tools.get(name)
        policy = self._policy()
        if tool is None or not policy.offers(name):
            known = ", ".join(sorted(each for each in self._tools if policy.offers(each))) or "none"
            raise NotMade(f"there is no tool {name!r}; the tools are: {known}")
        return tool

    def _policy(self) -> Policy:
        policy = self._rulebook.policy(self._session.meta, self._agent, self._session.project.rules)
        return structs.replace(policy, rules=(*policy.rules, *self._allowed))

    async def _permit(self, spec: ToolSpec, prepared: PreparedCall, call: HookedCall) -> None:
        """Let a call through, or not, by the rules, and where they leave it to a person, by him."""
        intent = prepared.intent
        ruling = await self._judge(spec, intent, call.cwd)
        if ruling.decision == "ask":
            await self._confirm(spec, prepared, call, ruling)
        elif ruling.decision == "deny":
            raise NotMade(f"it is not permitted: {ruling.reason}. Do not do the same in another way.")

    async def _judge(self, spec: ToolSpec, intent: Intent, cwd: str | None) -> Ruling:
        judge = self._policy().judge
        return await trio.to_thread.run_sync(
            judge, spec, intent, cwd, limiter=self._judges, abandon_on_cancel=True
        )

    async def _confirm(
        self, spec: ToolSpec, prepared: PreparedCall, call: HookedCall, ruling: Ruling
    ) -> None:
        intent, guards, desk = prepared.intent, self._guards, self._session.desk
        if intent.command is not None and len(intent.command) > MAX_SHOWN:
            raise NotMade("the command is too long for a person to read: write a script file, then run that")
        confirmation = Confirmation(
            id=desk.next_id(call.run),
            session=call.session,
            run=call.run,
            call=call.call,
            tool=call.tool,
            since=utc_now(),
            title=clean_text(intent.title),
            arguments=cut(msgspec.json.encode(call.arguments).decode(), MAX_SHOWN),
            command=intent.command,
            diff=cut(clean_text(await prepared.preview()), MAX_SHOWN),
            reads=intent.reads,
            writes=intent.writes,
            url=intent.url,
            cwd=call.cwd,
            rule=ruling.rule,
            reason=ruling.reason,
            sandbox=guards.confinement.describe(),
            suggestions=ruling.suggestions,
        )

        async def is_allowed_now() -> bool:
            return (await self._judge(spec, intent, call.cwd)).decision == "allow"

        verdict = await self._wait_for_person(
            confirmation,
            f"{call.tool}: {intent.command or intent.title}",
            lambda: desk.confirm(confirmation, self._rulebook.answer_within, is_allowed_now),
        )
        assert isinstance(verdict, Verdict), "a confirmation ends with a verdict"
        if verdict.decision == "deny":
            raise NotMade(_tell_denial(verdict))

    async def _ask(self, call: ToolCall, questions: Sequence[Question]) -> tuple[str, ...] | None:
        desk = self._session.desk
        question = PendingQuestion(
            id=desk.next_id(self._run.id),
            session=self._session.id,
            run=self._run.id,
            call=call.id,
            tool=call.name,
            since=utc_now(),
            questions=tuple(questions),
        )
        answers = await self._wait_for_person(
            question,
            "\n".join(each.text for each in questions),
            lambda: desk.ask(question, self._rulebook.answer_within),
        )
        assert isinstance(answers, Answers), "questions end with answers"
        return answers.texts

    async def _wait_for_person(
        self,
        waiting: Confirmation | PendingQuestion,
        text: str,
        wait: Callable[[], Awaitable[Verdict | Answers]],
    ) -> Verdict | Answers:
        """Have it in the log what is asked before anybody is, and what was said before anything is done."""
        run, call = self._run, waiting.call
        asked = cut(clean_text(text), MAX_ASKED)
        await self._save(Asked(run.id, call, waiting.tool, asked))
        run.asks_person(call, asked)
        self._guards.hooks.notify(waiting)
        with self._clock.paused():
            said = await wait()
        decision, rules = (said.decision, said.rules) if isinstance(said, Verdict) else (None, ())
        await self._save(Answered(run.id, call, decision, said.by, said.reason, rules))
        run.was_answered(call)
        if rules:
            # They are in force with the record, and may let others through that wait.
            await self._session.desk.look_again()
        return said

    async def _save(self, record: Asked | Answered) -> None:
        try:
            await self._session.save([record])
        except StoreError as exc:
            # The results of this round will meet the same disk, and end the run.
            raise NotMade(f"what is asked of a person is written down, and that failed: {exc}") from exc

    async def _shorten(self, call: ToolCall, outcome: ToolOutcome) -> ToolOutcome:
        """Of an output that is too long, give both ends and say where the rest is."""
        # Before a secret can be cut in two, or lie in a file.
        text = self._guards.masker.mask(clean_text(outcome.output))
        if len(text) <= MAX_OUTPUT:
            return ToolOutcome(text, outcome.is_error)
        try:
            place = await self._guards.artifacts.keep(self._session.id, call.id, text)
            rest = f"all of it is in {place}: read the part that you need"
        except OSError as exc:
            log.warning("artifact_not_kept", session=self._session.id, problem=str(exc))
            rest = "it could not be kept: ask for less at a time"
        left_out = len(text) - HEAD - TAIL
        note = f"\n\n[… {left_out} characters of the output are left out here; {rest} …]\n\n"
        return ToolOutcome(text[:HEAD] + note + text[-TAIL:], outcome.is_error)

    def _tell_start(self, call: ToolCall, intent: Intent) -> None:
        mask = self._guards.masker.mask
        started = events.ToolStarted(
            call=call.id,
            title=mask(clean_text(intent.title)),
            reads=tuple(map(clean_text, intent.reads)),
            writes=tuple(map(clean_text, intent.writes)),
            command=mask(clean_text(intent.command)) if intent.command is not None else None,
            url=intent.url,
        )
        self._session.publish([started], self._run.id)

    def _report(self, call: ToolCall, text: str) -> None:
        if text:
            self._session.publish([events.ToolOutput(call.id, text)], self._run.id)

    async def _find_place(self) -> str | None:
        """Find where the session's directory really is, so that all of a call speaks of the same one."""
        cwd = self._session.meta.cwd
        if cwd is None:
            return None
        return await trio.to_thread.run_sync(
            os.path.realpath, cwd, limiter=self._judges, abandon_on_cancel=True
        )

    def _context_of(self, call: ToolCall, live: MaskedStream, cwd: str | None) -> ToolContext:
        session, run, guards = self._session, self._run, self._guards

        def report(text: str) -> None:
            self._report(call, live.feed(clean_text(text)))

        async def ask(questions: Sequence[Question]) -> tuple[str, ...] | None:
            return await self._ask(call, questions)

        return ToolContext(
            session=session.id,
            run=run.id,
            call=call.id,
            cwd=cwd,
            report=report,
            ask=ask,
            preserver=guards.preserver(session.id, run.id, call.id),
            planner=_SessionPlanner(session, run.id),
            confinement=guards.confinement,
            editor=partial(guards.editors.find, session.id),
        )


class _SessionPlanner(Planner):
    def __init__(self, session: Session, run: str) -> None:
        self._session = session
        self._run = run

    @property
    def items(self) -> tuple[PlanItem, ...]:
        return self._session.meta.plan

    async def change(self, items: tuple[PlanItem, ...]) -> None:
        await self._session.save([Planned(self._run, items)])
        self._session.publish([events.PlanChanged(items)], self._run)


def cut(text: str, limit: int) -> str:
    """Leave the middle out of a text that is too long, and say so."""
    if len(text) <= limit:
        return text
    left_out = len(text) - limit
    return f"{text[: limit // 2]}\n[… {left_out} characters are not shown …]\n{text[-limit // 2 :]}"


def _tell_denial(verdict: Verdict) -> str:
    why = f": {verdict.reason}" if verdict.reason else ""
    return (
        f"it was denied by {verdict.by}{why}. Do not make it again, nor do the same in another way, unless "
        "you are asked to."
    )
