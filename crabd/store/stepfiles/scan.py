"""The step files of a session as they are found: in their order, and how far they can be believed.

Every call here blocks, so it runs in a thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from crabd.store.disk import load_file
from crabd.store.journal.line import BadLine
from crabd.store.stepfiles.line import Document, read_document

# Six digits, and more where that is not enough; what else crabtalk would take for a step is none.
_STEP = re.compile(r"step-(?!0+$)([0-9]{6}|[1-9][0-9]{6,17})")


class Item(Struct, frozen=True):
    """A step file as it was read: a document of ours, or of crabtalk's when null, or a problem."""

    number: int
    data: bytes
    document: Document | None = None
    problem: str | None = None
    is_sealed: bool = False


class Walk(Struct, frozen=True):
    """How far step files can be believed; ``rest`` is what follows, from the beginning of its append on."""

    good: Sequence[Item]
    rest: Sequence[Item] = ()
    problem: str | None = None
    is_torn: bool = False


def step_path(home: Path, number: int) -> Path:
    """Name a step's file. More than six digits are nothing special."""
    return home / f"step-{number:06}"


def list_numbers(home: Path) -> list[int]:
    """List the numbers of a session's step files, in their order.

    Raises:
      OSError: the disk fails.
    """
    with os.scandir(home) as entries:
        return sorted(int(found[1]) for entry in entries if (found := _STEP.fullmatch(entry.name)))


def weigh(home: Path) -> int:
    """Sum up the bytes of a session's step files.

    Raises:
      OSError: the disk fails.
    """
    with os.scandir(home) as entries:
        return sum(entry.stat().st_size for entry in entries if is_step(entry.name))


def read_item(home: Path, number: int) -> Item:
    """Read a step file.

    Raises:
      OSError: the disk fails, or it is no file.
    """
    data = load_file(step_path(home, number))
    try:
        return Item(number, data, read_document(data))
    except BadLine as bad:
        return Item(number, data, None, bad.problem, bad.is_sealed)


def is_step(name: str) -> bool:
    """Tell whether this is the name of a step file."""
    return _STEP.fullmatch(name) is not None


def walk_through(items: Sequence[Item], steps: int, vouched: int) -> Walk:
    """Go through step files as far as they can be believed, behind a log of so many ``steps``.

    Those up to the number ``vouched`` were acknowledged, so nobody was cut short while writing them.
    """
    n = whole = steps
    good = 0
    append: tuple[int, int] | None = None
    problem: str | None = None
    for index, item in enumerate(items):
        problem = _find_problem(item, n + 1, append)
        if problem is not None:
            break
        if item.document is not None:
            n, append = item.document.steps[-1].n, item.document.append
        if append is None or append[1] == n:
            good, whole, append = index + 1, n, None
    rest = items[good:]
    if rest and problem is None:
        problem = f"{step_path(Path(), rest[-1].number)}: the append is cut short behind it"
    is_torn = all(item.number > vouched and _is_part(item, whole + 1) for item in rest)
    return Walk(items[:good], rest, problem, is_torn)


def _find_problem(item: Item, n: int, append: tuple[int, int] | None) -> str | None:
    """Tell what keeps a file from being the next; ``append`` is what has begun before it and is not whole."""
    document = item.document
    problem = item.problem
    if problem is None and document is not None and document.steps[0].n != n:
        problem = f"its number is {document.steps[0].n}, not {n}"
    if problem is None and append is not None and (document is None or document.append != append):
        problem = f"the append of the records {append[0]} to {append[1]} is cut short before it"
    return f"{step_path(Path(), item.number)}: {problem}" if problem else None


def _is_part(item: Item, first: int) -> bool:
    """Tell whether a crash may have left a file of an append of several that began with record ``first``."""
    if item.document is None:
        return item.problem is not None and not item.is_sealed
    return item.document.append is not None and item.document.append[0] == first
