"""One session's directory under the doctor's eyes: what is looked at in every layout, and in which order.

Only a mend changes anything, and what it takes away is in quarantine first. Every call here but a ward's own
blocks, so it runs in a thread.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

from msgspec import Struct, structs

from crabd.messages import clean_text, utc_now
from crabd.store.base import Partial
from crabd.store.disk import TEMP_PREFIX
from crabd.store.doctor.flaws import OPEN_ENDS, REPAIR, Chart, Flaw, Grade, Mend, find_flaws
from crabd.store.doctor.modes import check_modes
from crabd.store.doctor.quarantine import Quarantine
from crabd.store.layout import Layout
from crabd.store.meta import SessionMeta, add_up
from crabd.store.partial import PARTIAL
from crabd.store.record import Created, Record, Step

# Makes the records that close a log: from what it adds up to, its steps, and what there was of a reply.
Close: TypeAlias = Callable[[SessionMeta, Sequence[Step], Partial | None], tuple[Record, ...]]

BACKUP = "restore it from a backup"
AS_IT_IS = f"{REPAIR} moves it into quarantine as it is"
# What a recovery has cut off, or put aside.
_SET_ASIDE = re.compile(r"(journal\.)?torn-")


class Held(Struct, frozen=True):
    """What of an open journal is acknowledged: so many bytes, with that checksum, that add up to ``meta``."""

    size: int
    checksum: int
    meta: SessionMeta


class Ward(Protocol):
    """A store with a doctor in it: sees to it that nobody else changes what is looked at."""

    async def look_around(self, look: Callable[[], None]) -> None:
        """Have ``look`` called in a thread while no session comes or goes."""
        ...

    async def look_into(self, session: str, look: Callable[[Held | None], bool]) -> None:
        """Have ``look`` called in a thread, with what the session's log holds if it is open.

        Only of a closed one it may change something, and it tells whether it has.
        """
        ...


class Hands(Struct, frozen=True):
    """What a treatment works with. ``retire`` moves a session out of the store, and says where it went."""

    layout: Layout
    quarantine: Quarantine
    close: Close
    retire: Callable[[Path], str]


class Treatment(ABC):
    """Looks into the directory ``home`` of one session; ``held`` is null unless its log is open."""

    def __init__(self, home: Path, chart: Chart, hands: Hands, held: Held | None = None) -> None:
        self._home = home
        self._session = home.name
        self._chart = chart
        self._hands = hands
        self._held = held
        # A part of a reply belongs there as long as the run that gives it is open, or nobody knows.
        self._is_answering = True

    def run(self) -> None:
        """Look at everything, in an order in which one mend makes way for the next look.

        Raises:
          OSError: the directory cannot be looked into.
        """
        paths = [self._home, *sorted(self._home.iterdir())]
        check_modes(self._chart, self._session, paths, is_mendable=self._held is None)
        steps = self._read_log()
        if steps:
            self._chart.records += len(steps)
            self._check_steps(steps, add_up(steps))
        if self._home.exists():
            self._check_names()

    @abstractmethod
    def _read_log(self) -> tuple[Step, ...]:
        """Read the whole log, and get it into order if that is asked for; empty if there is none."""

    @abstractmethod
    def _check_sum(self, steps: Sequence[Step], meta: SessionMeta) -> None:
        """Hold what was saved of the log's sum against the log, which is not open."""

    @abstractmethod
    def _is_own(self, name: str) -> bool:
        """Tell whether a file of that name is one of the session's."""

    def _check_steps(self, steps: Sequence[Step], meta: SessionMeta) -> None:
        self._is_answering = self._held is not None or meta.open_run is not None
        if self._held is None:
            self._check_sum(steps, meta)
        elif self._held.meta != meta:
            self._add("meta", "problem", "what the daemon takes for its sum is wrong", "crabctl restart")
        for flaw in find_flaws(self._session, steps, is_live=self._held is not None):
            self._note(flaw, self._close if flaw.kind in OPEN_ENDS else None)

    def _check_names(self) -> None:
        """Look for what is none of the session's files, or was one once."""
        advice = f"{REPAIR} moves it into quarantine"
        for path in sorted(self._home.iterdir()):
            if not (self._is_own(path.name) or (path.name == PARTIAL and self._is_answering)):
                self._add(*_describe(path), advice, partial(self._put_away, path))

    def _add(self, kind: str, grade: Grade, problem: str, advice: str, mend: Mend | None = None) -> bool:
        flaw = Flaw(kind=kind, grade=grade, where=self._session, problem=problem, advice=advice)
        return self._note(flaw, mend)

    def _note(self, flaw: Flaw, mend: Mend | None) -> bool:
        if self._held is not None and mend is not None:
            # Whoever works in the session must not find it changed.
            flaw = structs.replace(flaw, advice=f"crabctl close {self._session}, then {REPAIR}")
            mend = None
        return self._chart.add(flaw, mend)

    def _add_newer(self) -> None:
        advice = "go back to that crabd; this one leaves the session alone"
        self._add("newer", "problem", "a newer crabd has written to it", advice)

    def _add_damaged(self, problem: str, kept: int, lost: str, keep: Mend) -> bool:
        """Note damage in the middle, of which so many records can be kept, by ``keep``, if any."""
        if not kept:
            told = f"{problem}; no record can be kept"
            return self._add("damaged", "problem", told, f"{BACKUP}, or {AS_IT_IS}", self._give_up)
        told = f"{problem}; {kept} records can be kept, and {lost}"
        advice = f"{BACKUP}; without one, {REPAIR} keeps what is sound, and all as it is in quarantine"
        return self._add("damaged", "problem", told, advice, keep)

    def _recover(self) -> str:
        """Do what the next load would do."""
        return "; ".join(self._hands.layout.examine(self._home).notes)

    def _give_up(self) -> str:
        return self._hands.retire(self._home)

    def _close(self) -> str:
        """Add the records that close a log of which nothing is wrong otherwise.

        Raises:
          OSError: it cannot be read, or written.
        """
        layout = self._hands.layout
        opened = layout.load(self._home)
        if opened.files is None:
            raise OSError(opened.found.problem)
        try:
            steps = layout.read(self._home, 0, None)
            ending = self._hands.close(add_up(steps), steps, opened.partial)
            added = tuple(Step(n, utc_now(), record) for n, record in enumerate(ending, len(steps) + 1))
            if added:
                opened.files.append(added)
                opened.files.save_meta(add_up((*steps, *added)))
        finally:
            opened.files.close()
        # What was streamed of a reply is among those records now.
        (self._home / PARTIAL).unlink(missing_ok=True)
        self._is_answering = False
        return f"{len(added)} records added that close it"

    def _replace_sum(self, name: str) -> str:
        """Have a saved sum made again of which somebody may want to know what it said."""
        place, aside = self._home / name, ""
        if os.path.lexists(place):
            aside = f"; as it was: {self._hands.quarantine.move(place, self._session)}"
        self._recover()
        return f"{name} made again{aside}"

    def _put_away(self, path: Path) -> str:
        return f"moved to {self._hands.quarantine.move(path, self._session)}"


def stranger(steps: Sequence[Step], session: str) -> str | None:
    """Say why steps are no log of this session; null if they are one."""
    if not steps:
        return "it holds not one whole record"
    first = steps[0].record
    if not isinstance(first, Created):
        return "its first record does not begin a session"
    return None if first.session == session else f"it is the log of {clean_text(first.session)}"


def _describe(path: Path) -> tuple[str, Grade, str]:
    """Say what it is that does not belong into a session's directory."""
    name = clean_text(path.name)
    if path.is_symlink():
        return "link", "notice", f"{name} is a symbolic link, which crabd does not follow"
    if _SET_ASIDE.match(name):
        return "set_aside", "notice", f"{name} has {path.stat().st_size} bytes that a crash had cut short"
    if name.startswith(TEMP_PREFIX) or ".tmp." in name or name == PARTIAL:
        return "leftover", "notice", f"{name} was left behind by a crash"
    return "foreign", "notice", f"{name} is none of crabd's files"
