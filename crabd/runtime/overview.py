"""All sessions at a glance, for lists and status bars: they are told of changes, and not of each step.

States and counters only. A session that changes often, or a client that reads seldom, gets what is so by
then. Nothing here awaits: whoever calls ``tell`` decides how often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import msgspec
from msgspec import structs

from crabd.events import Changes, Counts, SessionGlance
from crabd.runtime.pace import MERGE_BACKLOG, Subscriber, Wrap

# How many sessions one notification tells of, lest it be too long for one message.
MOST_AT_ONCE = 100

_encoder = msgspec.json.Encoder()


class Overview:
    """Who looks at the sessions, and which of these have changed since.

    ``glance`` describes a session, null for one that is gone. ``wrap``, to be set, turns JSON into what goes
    on the wire, and ``on_news`` is called when there is something to ``tell``.
    """

    def __init__(
        self, epoch: str, glance: Callable[[str], SessionGlance | None], count: Callable[[], Counts]
    ) -> None:
        self.wrap: Wrap = bytes
        self.on_news: Callable[[], None] = ignore_news
        self._epoch = epoch
        self._glance = glance
        self._count = count
        # The sessions that each has not been told of because it has not read what came before.
        self._behind: dict[Subscriber, set[str]] = {}
        # In the order in which they changed.
        self._changed: dict[str, None] = {}
        # What was told last, but for the number of the last event.
        self._told: dict[str, SessionGlance] = {}

    def __repr__(self) -> str:
        return f"<Overview {len(self._behind)} look at it, {len(self._changed)} changed>"

    @property
    def has_news(self) -> bool:
        return bool(self._changed)

    def touch(self, session: str) -> None:
        """Note that a session may be another than before."""
        if self._behind and session not in self._changed:
            self._changed[session] = None
            self.on_news()

    def subscribe(self, subscriber: Subscriber) -> None:
        """Tell somebody of changes from now on. To be called in one step with drawing the picture."""
        # What is told last is what the picture has: else a change that is undone would not be told.
        self.tell()
        self._behind.setdefault(subscriber, set()).clear()

    def unsubscribe(self, subscriber: Subscriber) -> bool:
        """Undo ``subscribe``; false if there was none."""
        found = self._behind.pop(subscriber, None)
        if not self._behind:
            self._changed.clear()
            self._told.clear()
        return found is not None

    def tell(self) -> None:
        """Tell everybody what has changed; one that does not read is told later."""
        changed, self._changed = self._changed, {}
        news = [session for session in changed if self._is_news(session)]
        payloads = tuple(self._write(news))
        for subscriber, behind in self._behind.items():
            if subscriber.backlog > MERGE_BACKLOG:
                behind.update(news)
            else:
                for payload in payloads:
                    subscriber.post(payload)

    def drained(self, subscriber: Subscriber) -> None:
        """Tell a subscriber what it was not told: its backlog has fallen to ``MERGE_BACKLOG``."""
        behind = self._behind.get(subscriber)
        if behind:
            missed, self._behind[subscriber] = tuple(behind), set()
            for payload in self._write(missed):
                subscriber.post(payload)

    def _is_news(self, session: str) -> bool:
        """Tell whether a session is another than it was told last, and keep what it is."""
        glance = self._glance(session)
        if glance is None:
            self._told.pop(session, None)
            return True
        # Its number grows with every word of a reply, and tells nothing here.
        seen = structs.replace(glance, seq=0)
        was, self._told[session] = self._told.get(session), seen
        return was != seen

    def _write(self, sessions: Iterable[str]) -> Iterator[bytes]:
        rest = iter(sessions)
        while batch := tuple(islice(rest, MOST_AT_ONCE)):
            glances = {session: self._glance(session) for session in batch}
            changes = Changes(
                self._epoch,
                tuple(glance for glance in glances.values() if glance is not None),
                tuple(session for session, glance in glances.items() if glance is None),
                self._count(),
            )
            yield self.wrap(_encoder.encode(changes))


def ignore_news() -> None:
    """Take no note of it."""
