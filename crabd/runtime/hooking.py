"""The driver of hooks: has their commands run, one after the other, and tells what they come to.

Nobody who asks here may hold a lock: a hook takes its time. Cancellation ends its command.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import structlog
import trio
from msgspec import structs
from structlog.typing import FilteringBoundLogger

from crabd.errors import HookBlocked
from crabd.events import Confirmation, PendingQuestion
from crabd.messages import StopReason, ToolStatus, clean_text
from crabd.runtime.guards import Hooks
from crabd.runtime.hooks import (
    MAX_BYTES,
    Hook,
    HookedCall,
    HookFailed,
    HookPoint,
    HookRan,
    HookVerdict,
    Occasion,
    choose,
    encode,
    environment_of,
    fail,
    follow,
    read_answer,
)
from crabd.runtime.session import Session
from crabd.tools.base import ToolOutcome

SHELL = "/bin/sh"
# Runs of a session whose ends are yet to be told. With hooks that are slower than runs, further ones are not.
MAX_UNTOLD = 16

log: FilteringBoundLogger = structlog.get_logger()


class RunHook(Protocol):
    """Runs a command to its end, and leaves nothing of it behind."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        seconds: float,
        stdin: bytes,
        max_bytes: int,
        has_own_errors: bool,
    ) -> Awaitable[HookRan]:
        """Give it ``stdin`` to read, and keep ``max_bytes`` of its output, apart from its errors.

        Raises:
          OSError: it cannot be started.
        """
        ...


async def cannot_run(argv: Sequence[str], **_: object) -> HookRan:
    """Refuse: there is nobody to run commands.

    Raises:
      OSError: always.
    """
    raise OSError(errno.ENOSYS, "crabd was made without hooks", argv[-1])


class CommandHooks(Hooks):
    """Asks the hooks of the person, which are ``own`` and may be replaced, then those of the project.

    ``find`` looks up a session in memory. Notifications are told in the nursery ``runs``.
    """

    def __init__(
        self,
        run: RunHook,
        find: Callable[[str], Session | None],
        runs: trio.Nursery,
        own: tuple[Hook, ...] = (),
    ) -> None:
        self.own = own
        self._run = run
        self._find = find
        self._runs = runs

    def __repr__(self) -> str:
        return f"<CommandHooks {len(self.own)} own>"

    async def session_start(self, session: Session) -> str:
        """Tell that a session has its first run since it is live; returns what the model is to read."""
        return (await self._ask(session, _occasion(session, "session_start"))).context

    async def session_end(self, session: Session, reason: str) -> None:
        """Tell that a session that had begun is live no more: ``closed``, ``deleted``, ``unloaded``."""
        async with session.telling:
            await self._ask(session, _occasion(session, "session_end", reason=reason))

    async def before_prompt(self, session: Session, run: str, prompt: str) -> str:
        """Ask about a message that a run begins with; returns what the model is to read with it.

        Raises:
          HookBlocked.
        """
        return await self._pass(session, _occasion(session, "before_prompt", run=run, prompt=prompt))

    async def before_tool(self, call: HookedCall) -> HookVerdict:
        """Ask about a call. One that fails or takes too long blocks it."""
        return await self._ask_of_call("before_tool", call)

    async def after_tool(self, call: HookedCall, outcome: ToolOutcome) -> str:
        """Tell how a call has ended; returns what the model is to read besides its outcome."""
        status: ToolStatus = "error" if outcome.is_error else "ok"
        verdict = await self._ask_of_call("after_tool", call, status=status, output=outcome.output)
        return verdict.context

    async def before_compact(self, session: Session, run: str | None, instructions: str | None) -> str:
        """Ask whether the history may be summarised; returns what the summary is to heed besides.

        Raises:
          HookBlocked.
        """
        return await self._pass(
            session, _occasion(session, "before_compact", run=run, instructions=instructions)
        )

    async def run_end(self, session: Session, run: str, stop_reason: StopReason, text: str) -> None:
        """Tell that a run is over, once it was told of all those before it."""
        if session.telling.statistics().tasks_waiting >= MAX_UNTOLD:
            log.warning(
                "run_end_not_told", session=session.id, run=run, problem="its hooks are slower than runs"
            )
            return
        occasion = _occasion(session, "run_end", run=run, stop_reason=stop_reason, text=text)
        async with session.telling:
            await self._ask(session, occasion)

    def notify(self, waiting: Confirmation | PendingQuestion) -> None:
        """Have it told elsewhere that a person is waited for; returns at once."""
        session = self._find(waiting.session)
        if session is not None:
            asked = waiting.title if isinstance(waiting, Confirmation) else waiting.questions[0].text
            message = f"session {session.id} waits for you ({waiting.tool}): {asked}"
            facts = {"run": waiting.run, "call": waiting.call, "tool": waiting.tool, "message": message}
            self._runs.start_soon(self._ask, session, _occasion(session, "notification", **facts))

    async def _ask_of_call(self, hook: HookPoint, call: HookedCall, **facts: Any) -> HookVerdict:
        session = self._find(call.session)
        assert session is not None, "a session that makes a call is in memory"
        facts |= {"run": call.run, "call": call.call, "tool": call.tool, "arguments": call.arguments}
        return await self._ask(session, _occasion(session, hook, **facts))

    async def _pass(self, session: Session, occasion: Occasion) -> str:
        verdict = await self._ask(session, occasion)
        if verdict.block is not None:
            raise HookBlocked(session.id, occasion.hook, verdict.block)
        return verdict.context

    async def _ask(self, session: Session, occasion: Occasion) -> HookVerdict:
        """Ask the hooks of a point in order, each with what the former have left, until one blocks."""
        verdict = HookVerdict()
        for hook in choose((*self.own, *session.project.hooks), occasion):
            verdict = await self._consult(session, hook, occasion, verdict)
            if verdict.block is not None:
                break
            if verdict.arguments is not None:
                occasion = structs.replace(occasion, arguments=verdict.arguments)
        return verdict

    async def _consult(
        self, session: Session, hook: Hook, occasion: Occasion, verdict: HookVerdict
    ) -> HookVerdict:
        try:
            return follow(verdict, hook, read_answer(hook, await self._call(hook, occasion)))
        except (HookFailed, OSError) as exc:
            problem = clean_text(str(exc))
            log.warning("hook_failed", session=session.id, on=hook.on, problem=problem)
        except Exception:
            log.exception("hook_not_run", session=session.id, on=hook.on)
            problem = "crabd could not run it: the daemon's log has the traceback"
        return fail(verdict, hook, problem)

    async def _call(self, hook: Hook, occasion: Occasion) -> HookRan:
        return await self._run(
            (SHELL, "-c", hook.run),
            cwd=occasion.cwd or str(Path.home()),
            env=environment_of(os.environ, hook, occasion.session),
            stdin=encode(occasion) + b"\n",
            seconds=hook.seconds,
            max_bytes=MAX_BYTES,
            has_own_errors=True,
        )


def _occasion(session: Session, hook: HookPoint, **facts: Any) -> Occasion:
    meta = session.meta
    return Occasion(hook=hook, session=meta.id, agent=meta.agent, sender=meta.sender, cwd=meta.cwd, **facts)
