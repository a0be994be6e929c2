"""What is done to a session's history beside its runs: it is shortened, forgotten, gone back in, copied.

The log itself only grows. What was begun goes on whoever leaves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from crabd.errors import NothingToCompact
from crabd.events import SessionInfo
from crabd.runtime.compaction import plan_cut
from crabd.runtime.deeds import Deeds, carry_out
from crabd.runtime.equipping import Equipper
from crabd.runtime.files import Diff, Files, Restored
from crabd.runtime.hooking import CommandHooks
from crabd.runtime.rewind import Rewinding, plan_rewind
from crabd.runtime.session import Job, Session
from crabd.runtime.sessions import Sessions
from crabd.runtime.summarise import Wish, summarise
from crabd.runtime.ticket import Compacting, Compaction
from crabd.store.record import Cleared, Rewound


class Edits:
    """Edits the histories of sessions. ``release`` is called with a job once it has the session no more."""

    def __init__(
        self,
        sessions: Sessions,
        equipper: Equipper,
        deeds: Deeds,
        hooks: CommandHooks,
        files: Files | None,
        release: Callable[[Session, Job], None],
    ) -> None:
        self.hooks = hooks
        self.files = files
        self._sessions = sessions
        self._equipper = equipper
        self._deeds = deeds
        self._release = release

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
        self._deeds.refuse_when_stopping()
        _refuse_when_busy(session)
        choice = self._equipper.equip(session).choice
        cut = plan_cut(session.context, limit=session.gauge.limit(choice.context_window))
        if cut is None:
            raise NothingToCompact(session.id)
        wish = Wish(choice=choice, instructions=instructions, request_key=request_key)
        session.job = Job()
        self._sessions.on_change(session.id)
        compacting = Compacting()
        session.keys.add(request_key, instructions, compacting)
        work = partial(summarise, session, wish, cut, self.hooks)
        self._deeds.runs.start_soon(self._compact, session, session.job, compacting, work, request_key)
        return await compacting.wait()

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
                await carry_out(compacting, work, "the compaction")
        finally:
            # All of this happens at once, so that whoever waited finds the session released.
            if compacting.has_failed:
                session.keys.drop(request_key)
            self._release(session, job)
        await session.checkpoint()

    async def clear(self, session: Session) -> None:
        """Have the model forget what came before; the log keeps it.

        Raises:
          SessionBusy, StoreError.
        """
        _refuse_when_busy(session)
        await session.save([Cleared()])
        await self._sessions.announce(session)

    async def rewind(
        self, session: Session, step: int | None, *, restore_files: bool = False, force: bool = False
    ) -> tuple[Rewinding, tuple[Restored, ...]]:
        """Have the model forget what came after a step, or the last message of a person; the log keeps it.

        With ``restore_files`` the files that the session has changed since are as they were then; those that
        somebody else has changed only with ``force``. Without, it is told which these would be.

        Raises:
          SessionBusy, BadRequest, StoreError.
        """
        _refuse_when_busy(session)
        plan = plan_rewind(session.id, session.context, step)
        job = session.job = Job()

        async def go_back() -> tuple[Rewinding, tuple[Restored, ...]]:
            try:
                return await self._go_back(session, plan, restore_files=restore_files, force=force)
            finally:
                # At once with the answer, so that whoever has it finds the session released.
                self._release(session, job)

        return await self._deeds.do(go_back, "the rewind")

    async def _go_back(
        self, session: Session, plan: Rewinding, *, restore_files: bool, force: bool
    ) -> tuple[Rewinding, tuple[Restored, ...]]:
        steps = tuple(session.steps)
        if plan.messages:
            await session.save([Rewound(plan.step, plan.context_tokens)])
            session.gauge.reset()
            await self._sessions.announce(session)
        if self.files is None:
            return plan, ()
        files = await self.files.plan(steps, plan.step)
        if restore_files:
            return plan, await self.files.restore(session, files, force=force)
        return plan, tuple(Restored(each, is_done=False) for each in files)

    async def diff(self, session: str) -> tuple[tuple[Diff, ...], bool]:
        """Show how files differ from what they were before a session changed them; tell if some are left out.

        Raises:
          NotFound, StoreError.
        """
        self._sessions.meta(session)
        if self.files is None:
            return (), False
        return await self.files.compare(session, await self._sessions.read_log(session))

    async def fork(
        self, session: str, at: int | None, request_key: str | None = None
    ) -> tuple[SessionInfo, int]:
        """Copy a session, as ``Sessions`` does.

        Raises:
          NotFound, RequestKeyReused, StoreError, BadRequest, ShuttingDown.
        """
        self._deeds.refuse_when_stopping()
        return await self._deeds.do(partial(self._sessions.fork, session, at, request_key), "the fork")


def _refuse_when_busy(session: Session) -> None:
    if session.job is not None:
        raise session.busy("wait for it, or cancel it")
