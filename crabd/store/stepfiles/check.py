"""Step files under the doctor's eyes, each of them read, whatever vouches for them.

What crabtalk has written since the daemon last looked is no flaw: the next load takes it over. Every call
here blocks, so it runs in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from crabd.store.disk import sync_dir
from crabd.store.doctor.flaws import REPAIR
from crabd.store.doctor.treatment import AS_IT_IS, BACKUP, Treatment, stranger
from crabd.store.meta import SessionMeta
from crabd.store.porting.crabtalk import BadDocument
from crabd.store.record import Step
from crabd.store.stepfiles.meta import META, SUM, load_meta, load_sum
from crabd.store.stepfiles.scan import Item, Walk, list_numbers, read_item, step_path, walk_through


class StepTreatment(Treatment):
    """Looks into a session that is kept as step files."""

    def _read_log(self) -> tuple[Step, ...]:
        walk = self._walk()
        if walk is None:
            return ()
        steps = _steps_in(walk.good)
        problem = walk.problem or (stranger(steps, self._session) if steps else None)
        if problem:
            if not self._heal(walk, steps, problem) or not self._home.exists():
                return ()
            steps = _steps_in(walk_through(self._read_items(), 0, 0).good)
        # What stands behind these nobody has acknowledged.
        return steps if self._held is None else steps[: self._held.meta.steps]

    def _walk(self) -> Walk | None:
        """Go through the files; null if there is nothing to be had."""
        items = self._read_items()
        if not items:
            self._check_theirs()
            if not (self._home / META).exists():
                problem = "it has no step files"
                self._add("missing", "problem", problem, f"{BACKUP}, or {AS_IT_IS}", self._give_up)
            return None
        if any(item.is_sealed and "a newer crabd" in (item.problem or "") for item in items):
            self._add_newer()
            return None
        self._check_theirs()
        known = load_sum(self._home)
        return walk_through(items, 0, known.last if known else 0)

    def _heal(self, walk: Walk, steps: tuple[Step, ...], problem: str) -> bool:
        """Tell what is wrong with the files, and get them into order if that is asked for; tell if so."""
        if walk.problem and walk.is_torn:
            advice = "it was never acknowledged: the next load of the session sets it aside"
            return self._add("torn", "notice", problem, advice, self._recover)
        if not walk.problem:
            return self._add("stranger", "problem", problem, AS_IT_IS, self._give_up)
        kept = 0 if stranger(steps, self._session) else len(steps)
        lost = f"{len(walk.rest)} files lost"
        return self._add_damaged(problem, kept, lost, partial(self._keep, walk, kept, lost))

    def _check_theirs(self) -> None:
        """Look at what crabtalk knows of the session."""
        try:
            load_meta(self._home)
        except BadDocument as exc:
            advice = f"crabtalk needs it; {REPAIR} makes it again"
            replace = partial(self._replace_sum, META)
            self._add("meta", "problem", f"{META} is damaged: {exc}", advice, replace)

    def _check_sum(self, steps: Sequence[Step], meta: SessionMeta) -> None:
        numbers = list_numbers(self._home)
        known = load_sum(self._home)
        advice = f"nothing is lost: it is made again from the log when the session is loaded, and by {REPAIR}"
        replace = partial(self._replace_sum, SUM)
        if known is None:
            problem = f"{SUM} {'cannot be used' if (self._home / SUM).exists() else 'is missing'}"
            self._add("meta", "notice", problem, advice, replace)
        elif known.last > numbers[-1] or known.files > len(numbers):
            problem = f"there were step files up to {known.last}: records are lost"
            advice = f"{BACKUP}; without one, {REPAIR} goes on with what is there"
            self._add("lost", "problem", problem, advice, replace)
        elif known.last < numbers[-1]:
            problem = f"{SUM} knows {known.files} of {len(numbers)} step files"
            self._add("meta", "notice", problem, advice, replace)
        elif known.meta != meta:
            problem = f"{SUM} is not the sum of the log"
            self._add("meta", "problem", problem, f"{REPAIR} makes it again", replace)

    def _is_own(self, name: str) -> bool:
        known = {META, SUM, *(step_path(self._home, number).name for number in list_numbers(self._home))}
        return name in known

    def _keep(self, walk: Walk, kept: int, lost: str) -> str:
        copy = self._hands.quarantine.copy(self._home)
        for item in walk.rest:
            step_path(self._home, item.number).unlink()
        # It vouches for what is gone.
        (self._home / SUM).unlink(missing_ok=True)
        sync_dir(self._home)
        self._close()
        return f"{kept} records kept, and {lost}; all as it was: {copy}"

    def _read_items(self) -> list[Item]:
        return [read_item(self._home, number) for number in list_numbers(self._home)]


def _steps_in(items: Sequence[Item]) -> tuple[Step, ...]:
    return tuple(step for item in items if item.document is not None for step in item.document.steps)
