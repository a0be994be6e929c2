"""A journal under the doctor's eyes: read from its first byte to its last, whatever vouches for it.

Every call here blocks, so it runs in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from zlib import crc32

from crabd.store.disk import load_file, replace_file_durably
from crabd.store.doctor.flaws import REPAIR
from crabd.store.doctor.treatment import AS_IT_IS, BACKUP, Treatment, stranger
from crabd.store.journal.line import Place, Scan, find_place, is_newer, scan
from crabd.store.journal.recovery import EVERYTHING, JOURNAL, META, SavedMeta, find_bounds, load_meta
from crabd.store.journal.salvage import Salvage, salvage
from crabd.store.meta import SessionMeta
from crabd.store.record import Created, Step


class JournalTreatment(Treatment):
    """Looks into a session that is kept as a journal."""

    def _read_log(self) -> tuple[Step, ...]:
        data = self._read()
        if data is None:
            return ()
        result = scan(data)
        problem = result.problem or stranger(result.steps, self._session)
        if problem:
            if not self._heal(data, result, problem) or not self._home.exists():
                return ()
            result = scan(load_file(self._home / JOURNAL))
        return result.steps

    def _read(self) -> bytes | None:
        """Read what is acknowledged of the journal; null if there is nothing to be had."""
        try:
            data = load_file(self._home / JOURNAL)
        except FileNotFoundError:
            self._add(
                "missing", "problem", f"{JOURNAL} is missing", f"{BACKUP}, or {AS_IT_IS}", self._give_up
            )
            return None
        except OSError as exc:
            advice = f"check the disk, and {self._home / JOURNAL}"
            self._add("unreadable", "problem", f"{JOURNAL} cannot be read: {exc.strerror}", advice)
            return None
        if any(map(is_newer, data.split(b"\n"))):
            self._add_newer()
            return None
        if self._held is None:
            return data
        data = data[: self._held.size]
        if crc32(data) != self._held.checksum:
            problem = f"{JOURNAL} is not what was written: another program has changed it, or the disk has"
            self._add("changed", "problem", problem, f"crabctl close {self._session}, then {REPAIR}")
        return data

    def _heal(self, data: bytes, result: Scan, problem: str) -> bool:
        """Tell what is wrong with a journal, and get it into order if that is asked for; tell if it is."""
        saved = load_meta(self._home)
        vouched = saved.journal_size if saved else 0
        if result.steps and result.is_torn and not result.good_length < vouched <= len(data):
            advice = "it was never acknowledged: the next load of the session cuts it off and sets it aside"
            return self._add("torn", "notice", problem, advice, self._recover)
        if result.steps and not result.problem:
            return self._add("stranger", "problem", problem, AS_IT_IS, self._give_up)
        found = salvage(data, _first_step(saved.meta) if saved else None)
        kept = 0 if stranger(found.steps, self._session) else len(found.steps)
        return self._add_damaged(problem, kept, _tell_lost(found), partial(self._keep, found))

    def _check_sum(self, steps: Sequence[Step], meta: SessionMeta) -> None:
        data = load_file(self._home / JOURNAL)
        saved = load_meta(self._home)
        # It lags behind where nobody has closed the log, and that is all.
        advice = f"nothing is lost: it is made again from the log when the session is loaded, and by {REPAIR}"
        replace = partial(self._replace_sum, META)
        if saved is None:
            problem = f"{META} {'cannot be used' if (self._home / META).exists() else 'is missing'}"
            self._add("meta", "notice", problem, advice, replace)
        elif saved.journal_size < len(data):
            problem = f"{META} knows {saved.journal_size} of the log's {len(data)} bytes"
            self._add("meta", "notice", problem, advice, replace)
        elif saved.journal_size > len(data):
            missing = saved.journal_size - len(data)
            problem = f"{JOURNAL} is {missing} bytes shorter than it was: records are lost"
            advice = f"{BACKUP}; without one, {REPAIR} goes on with what is there"
            self._add("lost", "problem", problem, advice, replace)
        elif not _is_sum(saved, data, steps, meta):
            problem = f"{META} is not the sum of the log"
            self._add("meta", "problem", problem, f"{REPAIR} makes it again", replace)

    def _is_own(self, name: str) -> bool:
        return name in (JOURNAL, META)

    def _keep(self, found: Salvage) -> str:
        copy = self._hands.quarantine.copy(self._home)
        replace_file_durably(self._home / JOURNAL, found.data)
        # It vouches for what is gone.
        (self._home / META).unlink(missing_ok=True)
        self._close()
        return f"{len(found.steps)} records kept, and {_tell_lost(found)}; all as it was: {copy}"


def _first_step(meta: SessionMeta) -> Step:
    """Make a log's first step again from what the log added up to."""
    key = next((claim.key for claim in meta.claims if claim.created), None)
    first = Created(
        session=meta.id,
        agent=meta.agent,
        sender=meta.sender,
        topic=meta.topic,
        description=meta.description,
        cwd=meta.cwd,
        parent=meta.parent,
        source=meta.source,
        request_key=key,
    )
    return Step(1, meta.created_at, first)


def _is_sum(saved: SavedMeta, data: bytes, steps: Sequence[Step], meta: SessionMeta) -> bool:
    """Tell whether a meta is that of a journal of its size; what it says is needed may be more than is."""
    if (saved.journal_checksum, saved.meta) != (crc32(data), meta):
        return False
    exact = find_bounds(data, EVERYTHING, steps, meta)
    tail, goal = saved.bounds.tail, saved.bounds.goal
    is_enough = tail.step <= exact.tail.step and (
        goal is not None or exact.goal is None or tail.step <= exact.goal.step
    )
    return is_enough and all(_is_place(data, place) for place in (tail, goal) if place is not None)


def _is_place(data: bytes, place: Place) -> bool:
    try:
        return find_place(data, Place(), place.step) == place
    except ValueError:
        return False


def _tell_lost(kept: Salvage) -> str:
    runs = f", of {', '.join(kept.lost_runs)}" if kept.lost_runs else ""
    return f"{kept.lost} lost{runs}" if kept.lost else "none is lost"
