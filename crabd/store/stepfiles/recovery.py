"""What is to be believed of a session's step files, which an earlier life of the daemon left, or crabtalk.

Nothing is answered from files that this process has not synced: a kill between a write and its sync leaves
records that look whole and may yet be lost. The sum beside them vouches for those it counts. An append of
which a crash has left only some files was never acknowledged, and they are set aside. What crabtalk has
written since is taken over into the log by one document of ours.

Every call here blocks, so it runs in a thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import reduce
from itertools import count
from pathlib import Path

from crabd.messages import clean_text
from crabd.store.disk import TEMP_PREFIX, replace_file_durably, save_new_file, sync_dir
from crabd.store.journal.recovery import JOURNAL
from crabd.store.layout import ADVICE, Found, guess_meta, other_store
from crabd.store.meta import SessionMeta, add_up, advance, begin_meta
from crabd.store.porting.assembly import Found as Piece
from crabd.store.porting.crabtalk import BadDocument, Meta, read_line
from crabd.store.stepfiles.line import encode_taken_over
from crabd.store.stepfiles.meta import META, Dense, Sum, load_meta, load_sum, save_meta, save_sum
from crabd.store.stepfiles.scan import Item, Walk, is_step, list_numbers, read_item, step_path, walk_through
from crabd.store.stepfiles.takeover import begin_log, continue_log

# What crabtalk writes first, and a crash leaves, beside the file that it is to become.
_TEMP = re.compile(r"(?:step-[0-9]+|meta)\.tmp\.[0-9]+\.[0-9]+")


class StepFound(Found, frozen=True):
    """A session as it is on the disk: its newest file's number, how many there are, and how they count."""

    last: int = 0
    files: int = 0
    dense: Dense = Dense()


def examine(home: Path) -> StepFound:
    """Find out what a directory holds, mend what a crash has left there, and take over what is crabtalk's.

    Reads only the steps that its sum does not account for.

    Raises:
      OSError: the disk fails, or a name that should be a file is none.
    """
    notes = _sweep(home)
    numbers = list_numbers(home)
    theirs = _load_meta(home, notes)
    known = load_sum(home)
    if not numbers and (theirs is None or known is not None):
        return StepFound(known.meta if known else guess_meta(home), f"{home} holds no steps: {ADVICE}")
    title = theirs.title if known and theirs and theirs.title != known.meta.title else ""
    base = known if known is not None and _accounts_for(known, numbers) else None
    if base is not None and base.last == numbers[-1] and theirs is not None and not title:
        return StepFound(base.meta, notes=tuple(notes), last=base.last, files=base.files, dense=base.dense)
    return _Recovery(home, base, known, notes).run(numbers, theirs, title)


def _sweep(home: Path) -> list[str]:
    """Remove the left-overs of writes that a crash cut short, and tell which names are odd."""
    notes: list[str] = []
    with os.scandir(home) as entries:
        for name in [entry.name for entry in entries if not is_step(entry.name)]:
            if name == JOURNAL:
                raise other_store(home, "journal")
            if name.startswith(TEMP_PREFIX) or _TEMP.fullmatch(name):
                (home / name).unlink()
            elif name.startswith("step-"):
                notes.append(f"{home / clean_text(name)} is no step and was left alone: move it elsewhere")
    return notes


def _load_meta(home: Path, notes: list[str]) -> Meta | None:
    try:
        return load_meta(home)
    except BadDocument as exc:
        aside = set_aside(home / META)
        notes.append(f"{home / META} is damaged and now {aside}: {exc}")
        return None


def _accounts_for(known: Sum, numbers: Sequence[int]) -> bool:
    """Tell whether the files are still there that a sum has counted."""
    counted = numbers[: known.files]
    return len(counted) == known.files and counted[-1:] == [known.last]


class _Recovery:
    """Makes step files safe, all or those behind ``base``; what ``known`` counts was acknowledged."""

    def __init__(self, home: Path, base: Sum | None, known: Sum | None, notes: list[str]) -> None:
        self._home = home
        self._known = known
        self._vouched = known.last if known else 0
        self._notes = notes
        self._meta = base.meta if base else None
        self._last = base.last if base else 0
        self._files = base.files if base else 0
        self._dense = base.dense if base else Dense()

    def run(self, numbers: Sequence[int], theirs: Meta | None, title: str) -> StepFound:
        """Do it; ``title`` is one that crabtalk has given it, or empty."""
        items = [read_item(self._home, number) for number in numbers if number > self._last]
        walk = walk_through(items, self._meta.steps if self._meta else 0, self._vouched)
        try:
            self._add_up(walk.good)
        except ValueError as exc:
            return self._give_up(walk.problem or str(exc))
        if walk.problem and not walk.is_torn:
            return self._give_up(walk.problem)
        self._set_aside(walk)
        self._make_safe(walk.good)
        if self._last < self._vouched:
            last = step_path(Path(), self._vouched)
            self._note(f"acknowledged records are lost: there were files up to {last}")
        theirs = theirs or _as_theirs(self._meta)
        if theirs is None or not theirs.agent:
            return self._give_up(f"{META} does not tell whose session it is")
        self._take_over(_behind_takeover(walk.good), theirs, title)
        return self._save()

    def _add_up(self, items: Sequence[Item]) -> None:
        """Sum up the steps; a ValueError says that they are none of this session."""
        for item in items:
            self._last, self._files = item.number, self._files + 1
            if item.document is None:
                continue
            steps = item.document.steps
            if self._meta is None:
                self._meta = begin_meta(steps[0])
                steps = steps[1:]
            self._meta = reduce(advance, steps, self._meta)
            self._dense = _go_on(self._dense, item)
        if self._meta is not None and self._meta.id != self._home.name:
            raise ValueError(f"it is the log of {self._meta.id}")

    def _set_aside(self, walk: Walk) -> None:
        if walk.rest:
            kept = ", ".join(set_aside(step_path(self._home, item.number)).name for item in walk.rest)
            sync_dir(self._home)
            self._note(f"{walk.problem}; that append was cut short and never acknowledged, and is now {kept}")

    def _make_safe(self, items: Sequence[Item]) -> None:
        """Put documents that nobody vouches for on the disk, as new files.

        If a sync of the old ones has failed in an earlier life, the kernel takes them for clean, and a sync
        would do nothing.
        """
        for item in items:
            if item.document is not None and item.number > self._vouched:
                replace_file_durably(step_path(self._home, item.number), item.data)

    def _take_over(self, items: Sequence[Item], theirs: Meta, title: str) -> None:
        """Take what crabtalk has written over into the log."""
        pieces = [piece for item in items if (piece := self._read_theirs(item))]
        if self._meta is None:
            taken = begin_log(self._home.name, theirs, pieces)
        elif pieces or title not in ("", self._meta.title):
            taken = continue_log(self._meta, theirs, pieces, title)
        else:
            return
        if not taken.steps:
            return
        self._last, self._files = self._last + 1, self._files + 1
        save_new_file(step_path(self._home, self._last), encode_taken_over(taken.steps))
        sync_dir(self._home)
        self._meta = add_up(taken.steps) if self._meta is None else reduce(advance, taken.steps, self._meta)
        self._dense = Dense(self._last + 1, self._meta.steps + 1)
        self._notes += (f"{self._home}: {note}" for note in taken.notes)

    def _read_theirs(self, item: Item) -> Piece | None:
        path = step_path(self._home, item.number)
        try:
            return Piece(path.name, read_line(item.data), _written_at(path))
        except BadDocument as exc:
            self._note(f"{path.name} is not in the log: {exc}")
            return None

    def _save(self) -> StepFound:
        assert self._meta is not None, "a log was found or begun"
        with suppress(OSError):
            # In this order, for the sum says which title crabtalk has been told.
            save_meta(self._home, self._meta)
            save_sum(self._home, self._meta, self._last, self._files, self._dense)
        return StepFound(
            self._meta, notes=tuple(self._notes), last=self._last, files=self._files, dense=self._dense
        )

    def _note(self, text: str) -> None:
        self._notes.append(f"{self._home}: {text}")

    def _give_up(self, problem: str) -> StepFound:
        meta = self._meta or (self._known.meta if self._known else guess_meta(self._home))
        return StepFound(meta, f"{self._home}: {problem}: {ADVICE}", tuple(self._notes))


def set_aside(path: Path) -> Path:
    """Give a file a name that neither crabtalk nor we read; returns it."""
    for number in count(1):
        aside = path.with_name(f"torn-{path.name.removeprefix('step-')}-{number}")
        if not os.path.lexists(aside):
            return path.rename(aside)
    raise AssertionError("count() ends")


def _go_on(dense: Dense, item: Item) -> Dense:
    """Find from which file on each holds one step, now that there is one file more."""
    assert item.document is not None, "crabtalk's are not in the log"
    last = item.document.steps[-1].n
    if item.document.takes_over:
        return Dense(item.number + 1, last + 1)
    return dense if item.number - dense.number == last - dense.n else Dense(item.number, last)


def _behind_takeover(items: Sequence[Item]) -> list[Item]:
    """List crabtalk's documents that are not in the log yet."""
    new: list[Item] = []
    for item in items:
        if item.document is None:
            new.append(item)
        elif item.document.takes_over:
            new.clear()
    return new


def _as_theirs(meta: SessionMeta | None) -> Meta | None:
    if meta is None:
        return None
    return Meta(agent=meta.agent, created_by=meta.sender, created_at=meta.created_at.isoformat())


def _written_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.lstat().st_mtime, UTC)
