"""The doctor: looks at the store and all around it, says what to do, and mends what it can.

A client asks the daemon for it. Where none runs, or none can start, ``crabd --doctor`` does the same, and
holds the store's lock meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from urllib.parse import quote

import trio

from crabd.api.daemon import Diagnosis, Finding, IndexHealth
from crabd.config import Places, read_settings
from crabd.errors import ConfigError, StoreError
from crabd.runtime.recovery import answer_calls, close_interrupted
from crabd.store.base import Partial
from crabd.store.doctor.doctor import Doctor
from crabd.store.doctor.flaws import Flaw
from crabd.store.doctor.treatment import Held, Ward
from crabd.store.meta import SessionMeta
from crabd.store.record import Record, Step
from crabd.store.root import take_lock
from crabd.surroundings import check_surroundings, notice, sound, wrong

# One message holds as many with ease; whoever has more begins with these.
MAX_FINDINGS = 5000

_GRADES = ("problem", "notice", "ok")


class ClosedStore(Ward):
    """A store that no daemon has; ``open_closed_store`` has its lock."""

    async def look_around(self, look: Callable[[], None]) -> None:
        await trio.to_thread.run_sync(look)

    async def look_into(self, session: str, look: Callable[[Held | None], bool]) -> None:
        await trio.to_thread.run_sync(look, None)


@asynccontextmanager
async def open_closed_store(root: Path) -> AsyncGenerator[ClosedStore]:
    """Hold the lock of a store that no daemon has, so that none starts meanwhile.

    Raises:
      StoreError: ``locked``, naming who has it; ``io``.
    """
    try:
        lock = take_lock(root / "lock") if root.is_dir() else None
    except OSError as exc:
        problem = f"{root / 'lock'} cannot be taken: {exc.strerror}; check its permissions"
        raise StoreError("io", problem) from exc
    try:
        yield ClosedStore()
    finally:
        if lock is not None:
            os.close(lock)


async def examine(places: Places, *, repair: bool) -> Diagnosis:
    """Look at everything without a daemon. A store that somebody else has is not looked into."""
    try:
        store = (await trio.to_thread.run_sync(read_settings, places.config)).store
    except ConfigError:
        store = None
    try:
        async with open_closed_store(places.state) as ward:
            return await diagnose(places, ward, repair=repair, store=store)
    except StoreError as exc:
        advice = "ask that crabd, by its socket; if it does not answer, end the process"
        locked = wrong("store", exc.kind, places.state, f"it cannot be looked into: {exc}", advice)
        return _sum_up([locked, *await check_surroundings(places)])


async def diagnose(
    places: Places, ward: Ward, *, repair: bool, store: str | None = None, index: IndexHealth | None = None
) -> Diagnosis:
    """Look at everything; with ``repair`` mend what can be mended in the store.

    ``store`` is how sessions are to be kept, null if nobody knows, and ``index`` what the daemon says of its
    index, null without a daemon.

    Raises:
      StoreError: the store has been closed meanwhile.
    """
    doctor = Doctor(places.state, close_log, repairs=repair, store=store)
    await ward.look_around(doctor.check_root)
    sessions = await trio.to_thread.run_sync(doctor.sessions)
    for session in sessions:
        await ward.look_into(session, partial(doctor.check_session, session))
    found = [_finding_of(flaw) for flaw in doctor.chart.flaws]
    records = doctor.chart.records
    aside = await trio.to_thread.run_sync(doctor.quarantine.describe)
    found.append(
        sound("store", places.state, f"looked at {len(sessions)} sessions with {records} records{aside}")
    )
    return _sum_up(
        [
            *found,
            await trio.to_thread.run_sync(_check_index, places.state / "index", index),
            *await check_surroundings(places),
        ],
        len(sessions),
        records,
    )


def _check_index(folder: Path, health: IndexHealth | None) -> Finding:
    """Look at what search is made from. Whatever is wrong with it, no session is."""
    if health is not None and health.problem:
        return notice("index", health.state, folder, health.problem, "crabd's log has the details")
    if problem := _problem_of_index(folder):
        advice = "it is derived and may go: stop crabd, remove the directory, and it is made anew"
        return notice("index", "damaged", folder, problem, advice)
    if health is not None and health.waiting:
        return sound("index", folder, f"it lacks {health.waiting} sessions, and gets them by and by")
    return sound("index", folder, "it can be read" if folder.exists() else "it is made when the daemon runs")


def _problem_of_index(folder: Path) -> str | None:
    file = folder / "index.db"
    if not file.exists():
        return None
    try:
        # Imported here: a Python without it has no index either.
        import sqlite3
    except ImportError as exc:
        return f"it cannot be read: {exc}"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as database:
            (told,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as exc:
        return f"it cannot be read: {exc}"
    return None if told == "ok" else str(told)


def close_log(meta: SessionMeta, steps: Sequence[Step], reply: Partial | None) -> tuple[Record, ...]:
    """Make the records that close a log in which nothing goes on any more; none if nothing is open."""
    return close_interrupted(meta, steps, reply) or answer_calls(steps)


def _finding_of(flaw: Flaw) -> Finding:
    return Finding(
        area="store",
        grade=flaw.grade,
        kind=flaw.kind,
        where=flaw.where,
        told=flaw.problem,
        advice=flaw.advice,
        mended=flaw.mended,
    )


def _sum_up(findings: Sequence[Finding], sessions: int = 0, records: int = 0) -> Diagnosis:
    problems = sum(finding.grade == "problem" and finding.mended is None for finding in findings)
    worst_first = sorted(findings, key=lambda finding: _GRADES.index(finding.grade))
    return Diagnosis(
        findings=tuple(worst_first[:MAX_FINDINGS]), problems=problems, sessions=sessions, records=records
    )
