"""The files that sessions change: kept before a call changes them, put back, and compared with what they are.

Contents are kept by whoever is handed in; which there were, and when, is in the session's log.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import structlog
from msgspec import Struct, structs
from structlog.typing import FilteringBoundLogger

from crabd.errors import StoreError
from crabd.messages import clean_text
from crabd.runtime.changes import Change, FileAction, FilePlan, find_changes, plan_files
from crabd.runtime.session import Session
from crabd.store.record import FileChanged, FileKept, Step
from crabd.tools.base import FileState, Preserver

# Characters of all that a session has changed, as far as it is shown at once.
MAX_DIFF = 1_000_000

log: FilteringBoundLogger = structlog.get_logger()


class Checkpoints(Protocol):
    """Keeps contents of files, by their digests, as long as there is the session that has changed them."""

    async def keep(self, session: str, path: str, content: bytes | None = None) -> FileState:
        """Keep a file as it is now, or that there is none; with ``content`` that instead.

        Raises:
          OSError: it cannot be kept.
        """
        ...

    async def look(self, path: str) -> str | None:
        """Find the digest of a file as it is now; null if there is none.

        Raises:
          OSError: it cannot be read.
        """
        ...

    async def restore(self, session: str, path: str, state: FileState) -> None:
        """Have a file as it was kept. What has begun is finished.

        Raises:
          OSError: it cannot be, or what was kept is there no more.
        """
        ...

    async def compare(self, session: str, path: str, state: FileState) -> str:
        """Show what is different now from what was kept, as a unified diff of bounded size.

        Raises:
          OSError: one of the two cannot be read.
        """
        ...

    async def drop(self, session: str) -> None:
        """Keep nothing of a session any more. Never raises."""
        ...


class Restored(Struct, frozen=True):
    """What was done with a file, or would be: a ``problem`` is why it is not."""

    plan: FilePlan
    is_done: bool


class Diff(Struct, frozen=True):
    """How a file differs from what it was before the session changed it, or the ``problem`` with that."""

    path: str
    before: str | None
    now: str | None
    text: str
    problem: str


class Files:
    """Keeps what sessions change. Everything here blocks in threads, and nothing of it is a lock."""

    def __init__(self, checkpoints: Checkpoints, find: Callable[[str], Session | None]) -> None:
        """``find`` looks up a session in memory."""
        self._checkpoints = checkpoints
        self._find = find

    def preserver(self, session: str, run: str, call: str) -> Preserver:
        """Make what keeps files for one call."""
        found = self._find(session)
        assert found is not None, "a session that makes a call is in memory"
        return _Preserver(self._checkpoints, found, run, call)

    async def settle(self, session: Session) -> None:
        """Note what calls have left of the files that they changed; they are over.

        Raises:
          StoreError: it is noted before anything later is.
        """
        kept, session.changing = session.changing, {}
        records: list[FileChanged] = []
        for path, (run, call) in kept.items():
            try:
                records.append(FileChanged(run, call, path, await self._checkpoints.look(path)))
            except OSError as exc:
                log.warning("change_not_seen", session=session.id, file=path, problem=exc.strerror)
        if records:
            await session.save(records, is_kept=True)

    async def plan(self, steps: Sequence[Step], after: int) -> tuple[FilePlan, ...]:
        """Tell which files are not any more what they were at a step, and what is to be done about it."""
        changes = find_changes(steps, after)
        now: dict[str, str | None] = {}
        unread: list[FilePlan] = []
        for change in changes:
            try:
                now[change.path] = await self._checkpoints.look(change.path)
            except OSError as exc:
                action: FileAction = "remove" if change.before.digest is None else "restore"
                unread.append(FilePlan(change.path, action, change.before, _tell(exc)))
        return (*plan_files([change for change in changes if change.path in now], now), *unread)

    async def restore(
        self, session: Session, plans: Iterable[FilePlan], *, force: bool
    ) -> tuple[Restored, ...]:
        """Have files as they were; with ``force`` also those that somebody else has changed.

        What each was until now is kept, so that this can be taken back too.

        Raises:
          StoreError.
        """
        done: list[Restored] = []
        for plan in plans:
            if plan.problem and not force:
                done.append(Restored(plan, is_done=False))
                continue
            try:
                await self.preserver(session.id, "", "").keep(plan.path)
                await self._checkpoints.restore(session.id, plan.path, plan.before)
                done.append(Restored(structs.replace(plan, problem=""), is_done=True))
            except OSError as exc:
                done.append(Restored(structs.replace(plan, problem=_tell(exc)), is_done=False))
        await self.settle(session)
        return tuple(done)

    async def compare(self, session: str, steps: Sequence[Step]) -> tuple[tuple[Diff, ...], bool]:
        """Show how files differ from what they were before the session; tell if something is left out."""
        diffs: list[Diff] = []
        room = MAX_DIFF
        for change in find_changes(steps, 0):
            diff = await self._compare(session, change)
            if diff is None:
                continue
            if len(diff.text) > room:
                return tuple(diffs), True
            room -= len(diff.text)
            diffs.append(diff)
        return tuple(diffs), False

    async def drop(self, session: str) -> None:
        """Keep nothing of a session that is gone."""
        await self._checkpoints.drop(session)

    async def _compare(self, session: str, change: Change) -> Diff | None:
        """Compare a file with what it was; null if it is the same."""
        before, now = change.before.digest, None
        try:
            now = await self._checkpoints.look(change.path)
            if now == before:
                return None
            text = await self._checkpoints.compare(session, change.path, change.before)
            return Diff(change.path, before, now, clean_text(text), "")
        except OSError as exc:
            return Diff(change.path, before, now, "", _tell(exc))


class _Preserver(Preserver):
    def __init__(self, checkpoints: Checkpoints, session: Session, run: str, call: str) -> None:
        self._checkpoints = checkpoints
        self._session = session
        self._run = run
        self._call = call

    async def keep(self, path: str, content: bytes | None = None) -> None:
        kept = await self._checkpoints.keep(self._session.id, path, content)
        try:
            await self._session.save([FileKept(self._run, self._call, path, kept.digest, kept.mode)])
        except StoreError as exc:
            raise OSError(errno.EIO, f"that it changes cannot be noted: {exc}", path) from exc
        self._session.changing[path] = (self._run, self._call)


def _tell(exc: OSError) -> str:
    return clean_text(exc.strerror or str(exc))
