"""Pages of a log's messages: from the steps that are in memory, and from the store what lies further back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import TypeAlias

from msgspec import Struct, structs

from crabd.messages import Message
from crabd.store.base import Store
from crabd.store.record import Cleared, Compacted, MessageAdded, Rewound, Step

# Steps read at first; each further go takes twice as many, so that a long log is not gone through often.
FIRST_GO = 500

IsEnough: TypeAlias = Callable[[Sequence[Step]], bool]


class Wanted(Struct, frozen=True):
    """``limit`` messages from step ``first`` on, or the last ones; of these ``roles``, or of all."""

    first: int | None
    limit: int
    roles: tuple[str, ...] | None = None


ANY = Wanted(None, 0)


class StoredMessage(Struct, frozen=True, gc=False):
    """A message, where and when it was stored, and the run that brought it, and if it was taken back."""

    step: int
    run: str
    at: datetime
    message: Message
    rewound: bool = False


class Page(Struct, frozen=True):
    """Messages in their order, and the step to go on from; null is the end."""

    messages: tuple[StoredMessage, ...]
    next: int | None


def list_messages(steps: Sequence[Step]) -> tuple[StoredMessage, ...]:
    """List all messages of a log, or of a part of it; of what was taken back, as far as the part tells."""
    return _marked(_pick(steps, ANY, None), steps)


def find_page(steps: Sequence[Step], wanted: Wanted) -> Page | None:
    """Find a page in the last steps of a log; null if it begins before them."""
    if wanted.first is None:
        newest = _pick(reversed(steps), wanted, wanted.limit)
        has_all = len(newest) == wanted.limit or steps[0].n == 1
        return Page(_marked(reversed(newest), steps), None) if has_all else None
    # Steps have no gaps, so the number of one tells its place.
    place = wanted.first - steps[0].n
    return _page(steps, place, wanted) if place >= 0 else None


async def read_page(store: Store, session: str, steps: tuple[Step, ...], wanted: Wanted) -> Page:
    """Find a page of a log whose last ``steps`` are in memory, and read what it has from before them.

    Raises:
      NotFound, StoreError.
    """
    if wanted.first is None or wanted.first >= steps[0].n:
        steps = await read_back(store, session, steps, lambda steps: find_page(steps, wanted) is not None)
        return find_page(steps, wanted) or Page((), None)
    steps = await read_on(store, session, wanted.first - 1, lambda steps: _is_settled(steps, wanted))
    return _page(steps, 0, wanted)


async def read_back(
    store: Store, session: str, steps: tuple[Step, ...], is_enough: IsEnough
) -> tuple[Step, ...]:
    """Put what lies before a log's ``steps`` in front of them until it is enough, or the log begins.

    Raises:
      NotFound, StoreError.
    """
    count = FIRST_GO
    while steps[0].n > 1 and not is_enough(steps):
        upto = steps[0].n - 1
        steps = (*await store.read(session, after=max(0, upto - count), upto=upto), *steps)
        count *= 2
    return steps


async def read_on(store: Store, session: str, after: int, is_enough: IsEnough) -> tuple[Step, ...]:
    """Read a log's steps above ``after`` until it is enough, or the log ends.

    Raises:
      NotFound, StoreError.
    """
    count = FIRST_GO
    steps: tuple[Step, ...] = ()
    while more := await store.read(session, after=after, upto=after + count):
        steps += more
        if is_enough(steps):
            break
        after += count
        count *= 2
    return steps


def _page(steps: Sequence[Step], place: int, wanted: Wanted) -> Page:
    found = _pick(islice(steps, place, None), wanted, wanted.limit + 1)
    rest = found[wanted.limit :]
    return Page(_marked(found[: wanted.limit], steps), rest[0].step if rest else None)


def _is_settled(steps: Sequence[Step], wanted: Wanted) -> bool:
    """Tell whether a page is there, and all that could still take its messages back."""
    found = _pick(steps, wanted, wanted.limit + 1)
    if len(found) <= wanted.limit:
        return False
    # What a summary has replaced, or was cleared away, cannot be taken back any more.
    last = found[-2].step
    return any(
        (isinstance(step.record, Cleared) and step.n > last)
        or (isinstance(step.record, Compacted) and step.record.upto >= last)
        for step in steps
    )


def _marked(found: Iterable[StoredMessage], steps: Sequence[Step]) -> tuple[StoredMessage, ...]:
    """Mark the messages that a later step has taken back."""
    gone = [(step.record.step, step.n) for step in steps if isinstance(step.record, Rewound)]
    return tuple(
        structs.replace(stored, rewound=True) if any(a < stored.step < b for a, b in gone) else stored
        for stored in found
    )


def _pick(steps: Iterable[Step], wanted: Wanted, count: int | None) -> list[StoredMessage]:
    found = (
        StoredMessage(step.n, added.run, step.at, added.message)
        for step in steps
        if isinstance(added := step.record, MessageAdded)
        and (wanted.roles is None or added.message.__struct_config__.tag in wanted.roles)
    )
    return list(islice(found, count))
