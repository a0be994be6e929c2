"""Which sessions are listed, and in what order: that of their last use, kept as it changes.

No list has to be sorted, and none that is paged through shows a session twice. Decides only.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TypeAlias

from msgspec import Struct

from crabd.events import SessionState
from crabd.store.meta import SessionMeta

# When a session was last used, and its id, for those of the same moment.
Place: TypeAlias = tuple[datetime, str]


class Filter(Struct, frozen=True, kw_only=True):
    """Which sessions are wanted; null is any. ``text`` is looked for in titles, topics and ids."""

    agent: str | None = None
    sender: str | None = None
    topic: str | None = None
    state: SessionState | None = None
    text: str | None = None
    cwd: str | None = None

    def matches(self, meta: SessionMeta) -> bool:
        """Tell whether a session is wanted, if its state is."""
        return (
            self.agent in (None, meta.agent)
            and self.sender in (None, meta.sender)
            and self.topic in (None, meta.topic)
            and self.cwd in (None, meta.cwd)
            and (not self.text or self._is_named(meta, self.text.casefold()))
        )

    def _is_named(self, meta: SessionMeta, text: str) -> bool:
        return any(text in (field or "").casefold() for field in (meta.title, meta.topic, meta.id))


class Listing:
    """Sessions by their places."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._order = sorted(places)
        self._places = {place[1]: place for place in self._order}

    def __repr__(self) -> str:
        return f"<Listing of {len(self._order)}>"

    def note(self, session: str, used: datetime | None) -> None:
        """Move a session to when it was used last; null takes it off the list."""
        before = self._places.pop(session, None)
        if before is not None:
            del self._order[bisect_left(self._order, before)]
        if used is not None:
            place = self._places[session] = (used, session)
            insort(self._order, place)

    def newest(self, before: Place | None = None) -> Iterator[str]:
        """Go through the sessions, the last used first: all, or those behind a place, be it one that is gone.

        The list must not change meanwhile.
        """
        end = len(self._order) if before is None else bisect_left(self._order, before)
        return (self._order[at][1] for at in range(end - 1, -1, -1))
