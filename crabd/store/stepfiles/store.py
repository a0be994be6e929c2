"""The store in crabtalk's layout: a directory for each session, a small JSON document for each step.

    <root>/sessions/<id>/meta                 crabtalk's: who talks to whom, the title; other keys are kept
    <root>/sessions/<id>/step-000001 …        the records, the only truth
    <root>/sessions/<id>/crabd.json           what they add up to
    <root>/sessions/<id>/torn-<number>-<n>    steps of an append that a crash cut short

crabtalk reads and writes the same directories, not at the same time: it takes no lock. Prefer ``journal``
where it never will, for this costs a file and a sync for each record. Every call here but the store's own
blocks, so it runs in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path

from msgspec import UNSET, UnsetType, structs

from crabd.errors import StoreError
from crabd.store.disk import save_new_file, sync_dir
from crabd.store.layout import ADVICE, Layout, Opened, SessionFiles
from crabd.store.meta import SessionMeta, add_up, tail_of
from crabd.store.ondisk import DiskStore
from crabd.store.partial import read_partial
from crabd.store.record import Cleared, Compacted, Step
from crabd.store.stepfiles.line import Trace, encode_append, follow
from crabd.store.stepfiles.meta import UNKNOWN, Dense, load_sum, save_meta, save_sum
from crabd.store.stepfiles.recovery import StepFound, examine
from crabd.store.stepfiles.scan import list_numbers, read_item, step_path, weigh


class StepStore(DiskStore):
    """Sessions in the directory ``root``, which is made if need be. One crabd holds it at a time."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, StepLayout())


class StepLayout(Layout):
    """A session as step files. There is no catalogue: with every step it would hold no longer."""

    name = "stepfiles"

    def read_catalogue(self, root: Path) -> None:
        pass

    def recall(self, home: os.DirEntry[str]) -> None:
        return None

    def save_catalogue(self, root: Path, sessions: Path) -> None:
        pass

    def examine(self, home: Path) -> StepFound:
        return examine(home)

    def fill(self, home: Path, steps: Sequence[Step]) -> None:
        trace = Trace()
        for step in steps:
            (document,) = encode_append((step,), trace)
            save_new_file(step_path(home, step.n), document)
            trace = follow(trace, step.record)
        meta = add_up(steps)
        save_meta(home, meta)
        save_sum(home, meta, len(steps), len(steps), Dense())

    def open(self, home: Path, steps: Sequence[Step]) -> StepFiles:
        return StepFiles(home, last=len(steps), files=len(steps), dense=Dense(), steps=steps)

    def load(self, home: Path) -> Opened:
        found = examine(home)
        if found.problem or found.meta is None:
            return Opened(found)
        try:
            steps, goal = _read_tail(home, found, found.meta)
        except ValueError as exc:
            return Opened(structs.replace(found, problem=f"{home}: {exc}: {ADVICE}"))
        partial = read_partial(home) if found.meta.open_run is not None else None
        files = StepFiles(home, last=found.last, files=found.files, dense=found.dense, steps=steps)
        return Opened(found, files, steps, partial, goal)

    def read(self, home: Path, after: int, upto: int | None) -> tuple[Step, ...]:
        known = load_sum(home)
        if known is not None:
            # A sum that lags behind what crabtalk has done since may mislead.
            with suppress(ValueError):
                return _read_some(home, known.dense, after, upto)
        try:
            return _read_some(home, UNKNOWN, after, upto)
        except ValueError as exc:
            raise StoreError("damaged", f"{home}: {exc}: {ADVICE}", session=home.name) from exc


class StepFiles(SessionFiles):
    """The step files of one session, of which the newest has the number ``last``. None is kept open."""

    def __init__(self, home: Path, *, last: int, files: int, dense: Dense, steps: Sequence[Step]) -> None:
        self._home = home
        self._last = last
        self._files = files
        self._dense = dense
        self._trace = reduce(follow, (step.record for step in steps), Trace())
        self._summary: str | None | UnsetType = UNSET
        # What a failed append has left behind, and could not be taken away yet.
        self._rubbish: list[Path] = []
        self._size = weigh(home)

    @property
    def size(self) -> int:
        return self._size

    @property
    def checksum(self) -> int:
        return 0

    def append(self, steps: Sequence[Step]) -> None:
        documents = encode_append(steps, self._trace)
        self._clear_away()
        try:
            for number, document in enumerate(documents, self._last + 1):
                self._save(step_path(self._home, number), document)
            sync_dir(self._home)
        except (OSError, StoreError):
            # A sync that fails is not tried again: the next append makes new files.
            with suppress(OSError):
                self._clear_away()
            raise
        self._rubbish = []
        self._last += len(documents)
        self._files += len(documents)
        self._size += sum(map(len, documents))
        for step in steps:
            self._trace = follow(self._trace, step.record)
            match step.record:
                case Compacted(summary=summary):
                    self._summary = summary
                case Cleared():
                    self._summary = None
                case _:
                    pass

    def save_meta(self, meta: SessionMeta) -> None:
        self._clear_away()
        # In this order, for the sum says which title crabtalk has been told.
        save_meta(self._home, meta, self._summary)
        save_sum(self._home, meta, self._last, self._files, self._dense)
        self._summary = UNSET

    def close(self) -> None:
        """Do nothing."""

    def _save(self, path: Path, document: bytes) -> None:
        try:
            save_new_file(path, document)
        except FileExistsError as exc:
            problem = (
                f"{path} is there already, so another program writes this session: stop it, load it anew"
            )
            raise StoreError("io", problem, session=self._home.name) from exc
        self._rubbish.append(path)

    def _clear_away(self) -> None:
        while self._rubbish:
            self._rubbish[-1].unlink(missing_ok=True)
            self._rubbish.pop()


def _read_steps(home: Path, number: int) -> tuple[Step, ...]:
    """Read the steps in a file; none if it is crabtalk's, for a later one of ours has taken them over.

    A ValueError tells that it cannot be believed.
    """
    item = read_item(home, number)
    if item.problem is not None:
        raise ValueError(f"{step_path(Path(), number)}: {item.problem}")
    return item.document.steps if item.document else ()


def _read_tail(home: Path, found: StepFound, meta: SessionMeta) -> tuple[tuple[Step, ...], Step | None]:
    """Read backwards as far as is needed to go on with a log, and the step of its goal."""
    pieces: list[tuple[Step, ...]] = []
    first, needed = meta.steps + 1, 1
    # A run or a message that may be older than a boundary is found among all.
    is_holding = meta.open_run is not None or bool(meta.queued)
    for number in reversed(list_numbers(home)):
        piece = _read_steps(home, number)
        for step in reversed(piece):
            if step.n != first - 1:
                raise ValueError(f"{step_path(Path(), number)}: its number is {step.n}, not {first - 1}")
            first = step.n
            match step.record:
                case Compacted(upto=upto):
                    needed = max(needed, min(upto + 1, step.n))
                case Cleared():
                    needed = max(needed, step.n)
                case _:
                    pass
        pieces.append(piece)
        if first <= needed and not is_holding:
            break
    steps = tuple(step for piece in reversed(pieces) for step in piece)
    tail = tail_of(steps, meta)
    kept = tuple(step for step in steps if step.n >= tail.first)
    if tail.goal is None or not 1 <= tail.goal < tail.first:
        return kept, None
    (goal,) = _read_some(home, found.dense, tail.goal - 1, tail.goal)
    return kept, goal


def _read_some(home: Path, dense: Dense, after: int, upto: int | None) -> tuple[Step, ...]:
    """Read the steps above ``after``, up to ``upto`` or to the end; a ValueError tells what is wrong."""
    steps: list[Step] = []
    for piece in _pieces(home, dense, after, upto):
        steps += (step for step in piece if step.n > after and (upto is None or step.n <= upto))
        if upto is not None and piece and piece[-1].n >= upto:
            break
    numbers = [step.n for step in steps]
    wanted = range(after + 1, 1 + (after + len(steps) if upto is None else upto))
    if numbers != list(wanted):
        raise ValueError(f"step {min(set(wanted) - set(numbers), default=after + 1)} is missing")
    return tuple(steps)


def _pieces(home: Path, dense: Dense, after: int, upto: int | None) -> Iterator[tuple[Step, ...]]:
    """Read what files hold, without looking into those that hold nothing that is wanted."""
    for number in list_numbers(home):
        n = dense.n + number - dense.number
        if n <= after if number >= dense.number else after >= dense.n - 1:
            continue
        if upto is not None and number >= dense.number and n > upto:
            return
        yield _read_steps(home, number)
