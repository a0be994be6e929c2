"""The pace of a subscriber: events as they are while it keeps up, then deltas put together, then gaps.

One that does not keep up loses events, never delays anybody, and is told which it lost. Knows how an event
goes on the wire, and not who subscribes to what. Nothing here awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from crabd.events import (
    AnyEvent,
    ConfirmationRequested,
    Envelope,
    Lagged,
    QuestionAsked,
    RunEnded,
    TextDelta,
    ThinkingDelta,
)
from crabd.messages import utc_now

# Unsent bytes above which deltas are put together before they are sent. A link says when it has fallen to
# this again (``drained``), so what is held goes out even if nothing more comes.
MERGE_BACKLOG = 256 * 1024
# Unsent bytes above which a subscriber loses events.
MAX_BACKLOG = 1024 * 1024
# Bytes of what is never dropped that a subscriber may be owed above that: some thousand ends of runs. One
# that leaves more unread is hung up on. When it comes back, the picture has what it would have been told.
MAX_OWED = 1024 * 1024
# A client that waits for these, or that these wait for, would wait for ever, so even a slow one gets them.
NEVER_DROPPED = (RunEnded, ConfirmationRequested, QuestionAsked)
DELTAS = (TextDelta, ThinkingDelta)

Wrap: TypeAlias = Callable[[bytes], bytes]
Pack: TypeAlias = Callable[[Sequence[bytes]], Any]

_encoder = msgspec.json.Encoder()


class Subscriber(Protocol):
    """Somebody who takes encoded events."""

    @property
    def backlog(self) -> int:
        """Bytes it has been given and has not taken yet."""
        ...

    def post(self, payload: bytes) -> None:
        """Take an encoded event; never blocks."""
        ...

    def post_at_once(self, bundle: Any) -> bool:
        """Take encoded events that others get as well, as packed; false if others have to go before them."""
        ...

    def close(self) -> None:
        """Take nothing more: it has left too much unread. Idempotent."""
        ...


class Published(Struct, frozen=True, gc=False):
    """An event that was told: its number, what it is, and how it goes on the wire."""

    seq: int
    event: AnyEvent
    run: str | None
    payload: bytes


class Scribe:
    """Writes the events of one session as they go on the wire."""

    def __init__(self, session: str, epoch: str, wrap: Wrap) -> None:
        self.session = session
        self._epoch = epoch
        self._wrap = wrap

    def write(self, event: AnyEvent, seq: int, run: str | None, first: int | UnsetType = UNSET) -> bytes:
        """Encode an event, which may stand for those from ``first`` on."""
        envelope = Envelope(self.session, self._epoch, seq, utc_now(), UNSET if run is None else run, first)
        # Two objects become one flat one: the envelope without its brace, the event without its own.
        head, body = _encoder.encode(envelope), _encoder.encode(event)
        return self._wrap(b"%b,%b" % (head[:-1], body[1:]))

    def merged(self, deltas: Sequence[Published]) -> bytes:
        """Make one event of adjacent deltas of a kind. It bears the number of the last."""
        first, last = deltas[0], deltas[-1]
        text = "".join(delta.event.text for delta in deltas if isinstance(delta.event, DELTAS))
        event = TextDelta(text) if isinstance(first.event, TextDelta) else ThinkingDelta(text)
        return self.write(event, last.seq, last.run, first.seq)

    def lagged(self, gap: Gap) -> bytes:
        """Make the notice of a gap. It bears the number of the last event in the gap."""
        return self.write(Lagged(gap.first, gap.last), gap.last, None)


class Gap(Struct, gc=False):
    """The numbers of the events of a session that a subscriber has lost, and not been told of yet."""

    first: int
    last: int


class Shipment:
    """Events of a session that leave together."""

    def __init__(self, scribe: Scribe, events: Sequence[Published], pack: Pack) -> None:
        self.scribe = scribe
        self.events = events
        self.bundle = pack([published.payload for published in events])
        self._pack = pack
        self._of_run: dict[str, Shipment] = {}

    def of_run(self, run: str) -> Shipment:
        """Leave out what is not of a run."""
        found = self._of_run.get(run)
        if found is None:
            mine = [published for published in self.events if published.run == run]
            found = self if len(mine) == len(self.events) else Shipment(self.scribe, mine, self._pack)
            self._of_run[run] = found
        return found


class Reader:
    """How far one subscriber keeps up with all that it has subscribed to.

    It keeps up; or deltas of one session are held for it, to be sent as one; or it has a gap in each session
    that it lost events of. While it takes an event, its link may find that it has drained: so what was held
    or missed is forgotten here before it is posted.
    """

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self._gaps: dict[Scribe, Gap] = {}
        self._held: list[Published] = []
        self._held_bytes = 0
        self._held_of: Scribe | None = None
        self._owed = 0

    def __repr__(self) -> str:
        return f"<Reader {len(self._held)} held, {len(self._gaps)} gaps, {self._owed} bytes owed>"

    def offer_all(self, shipment: Shipment, at_once: bool) -> None:
        """Give the subscriber events as they are if it keeps up, or else look at each."""
        is_level = self._held_of is None and not self._gaps
        if not (at_once and is_level and self._subscriber.post_at_once(shipment.bundle)):
            for published in shipment.events:
                self.offer(shipment.scribe, published)

    def offer(self, scribe: Scribe, published: Published) -> None:
        """Give the subscriber an event, hold it, or note that it missed it."""
        if self._held_of is not None and not self._continues(scribe, published):
            self.flush()
        backlog = self._subscriber.backlog + self._held_bytes
        # Once behind, it has to draw level before it gets more: one notice for all of a gap.
        limit = MERGE_BACKLOG if scribe in self._gaps else MAX_BACKLOG
        if backlog > limit and not isinstance(published.event, NEVER_DROPPED):
            self._miss(scribe, published)
            return
        self._close_gap(scribe)
        if backlog > MERGE_BACKLOG and isinstance(published.event, DELTAS):
            self._hold(scribe, published)
            return
        self.flush()
        self._subscriber.post(published.payload)
        if backlog > MAX_BACKLOG:
            self._owe(published)

    def catch_up(self, scribe: Scribe) -> None:
        """Forget what was held and missed of a session: it is being made up for."""
        self._gaps.pop(scribe, None)
        if self._held_of is scribe:
            self._let_go()

    def drained(self) -> None:
        """Send what is held, and say what was missed: there is room again."""
        self._owed = 0
        self.settle()

    def settle(self) -> None:
        """Send what is held, and say what was missed, as before something is not subscribed to any more."""
        self.flush()
        for scribe in tuple(self._gaps):
            self._close_gap(scribe)

    def flush(self) -> None:
        """Send what is held, as one event."""
        if self._held_of is not None:
            scribe, held = self._held_of, self._let_go()
            self._subscriber.post(scribe.merged(held) if len(held) > 1 else held[0].payload)

    def _continues(self, scribe: Scribe, published: Published) -> bool:
        """Tell whether an event is a delta that goes on where the held ones end."""
        last = self._held[-1]
        is_alike = type(published.event) is type(last.event) and published.run == last.run
        return is_alike and scribe is self._held_of and published.seq == last.seq + 1

    def _hold(self, scribe: Scribe, published: Published) -> None:
        self._held_of = scribe
        self._held.append(published)
        self._held_bytes += len(published.payload)

    def _let_go(self) -> list[Published]:
        held = self._held
        self._held, self._held_bytes, self._held_of = [], 0, None
        return held

    def _miss(self, scribe: Scribe, published: Published) -> None:
        held = self._let_go()
        gap = self._gaps.setdefault(scribe, Gap(held[0].seq if held else published.seq, published.seq))
        gap.last = published.seq

    def _close_gap(self, scribe: Scribe) -> None:
        gap = self._gaps.pop(scribe, None)
        if gap is not None:
            self._subscriber.post(scribe.lagged(gap))

    def _owe(self, published: Published) -> None:
        self._owed += len(published.payload)
        if self._owed > MAX_OWED:
            self._subscriber.close()
