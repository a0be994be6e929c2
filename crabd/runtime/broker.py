"""Event fan-out: events get their numbers, the newest are kept, and each subscriber is served at its pace.

An event is encoded once for all, and what arises in one wake-up leaves together. A subscriber that does not
keep up loses events, never delays anybody, and is told which it lost. Nothing here awaits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

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

# What a session keeps for a client that reconnects: some thousand deltas, or a long answer.
RING_BYTES = 256 * 1024
# Unsent bytes above which deltas are put together before they are sent. A link says when it has fallen to
# this again (``drained``), so what is held goes out even if nothing more comes.
MERGE_BACKLOG = 256 * 1024
# Published bytes above which nobody waits for more: a burst must not make a prompt reader look slow.
FRESH_BYTES = 64 * 1024
# Events of one wake-up above which deltas are put together before they are told. They had been waiting for us
# already, so nobody waits for this.
FRESH_EVENTS = 16
# Unsent bytes above which a subscriber loses events.
MAX_BACKLOG = 1024 * 1024
# A client that waits for these, or that these wait for, would wait for ever, so even a slow one gets them.
NEVER_DROPPED = (RunEnded, ConfirmationRequested, QuestionAsked)
DELTAS = (TextDelta, ThinkingDelta)

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
        """Take encoded events that others get as well, as packed; false if others have to go before."""
        ...


class Published(Struct, frozen=True, gc=False):
    """An event that was told: its number, what it is, and how it goes on the wire."""

    seq: int
    event: AnyEvent
    run: str | None
    payload: bytes


class Growing(Struct):
    """Deltas of one kind that become one event, whose number is known."""

    seq: int
    event: TextDelta | ThinkingDelta
    run: str | None
    parts: list[str]

    def continues(self, event: AnyEvent, run: str | None) -> bool:
        """Tell whether an event goes on where these end."""
        return type(event) is type(self.event) and run == self.run

    def whole(self) -> TextDelta | ThinkingDelta:
        return structs.replace(self.event, text="".join(self.parts))


Wrap = Callable[[bytes], bytes]
Pack = Callable[[Sequence[bytes]], Any]


class Broker:
    """The topics of one life of the daemon.

    ``wrap`` turns an event's JSON into what goes on the wire, ``pack`` what is posted together into the one
    object that all get. ``flush_soon`` is to have ``flush`` called when this wake-up is over; without it
    every event leaves by itself.
    """

    def __init__(
        self,
        epoch: str,
        wrap: Wrap,
        pack: Pack = tuple,
        flush_soon: Callable[[Broker], None] = lambda broker: broker.flush(),
    ) -> None:
        self.epoch = epoch
        self.watchers: dict[Subscriber, Subscription] = {}
        self.pack = pack
        self._wrap = wrap
        self._flush_soon = flush_soon
        self._topics: dict[str, Topic] = {}
        self._fresh: deque[Topic] = deque()
        # The topics each subscriber has ever joined: one that leaves must not cost a look at all there are.
        self._joined: dict[Subscriber, set[Topic]] = {}

    def topic(self, session: str) -> Topic:
        """Get a session's topic. It outlasts the session's unloading, so that its numbers go on."""
        topic = self._topics.get(session)
        if topic is None:
            topic = self._topics[session] = Topic(session, self, self._wrap)
        return topic

    def seq(self, session: str) -> int:
        """Tell the number of a session's newest event; 0 when it has had none."""
        topic = self._topics.get(session)
        return topic.seq if topic else 0

    def freshen(self, topic: Topic) -> None:
        """Note that a topic has something to give."""
        self._fresh.append(topic)
        if len(self._fresh) == 1:
            self._flush_soon(self)

    def flush(self) -> None:
        """Give everybody what was published since the last time.

        Done before anybody comes or goes, so that each gets exactly what is published while it is there.
        """
        # What several sessions have for a link goes in one send, too.
        is_alone = len(self._fresh) == 1
        while self._fresh:
            self._fresh.popleft().flush(at_once=is_alone)

    def watch(self, subscriber: Subscriber) -> None:
        """Give a subscriber the events of all sessions from now on."""
        self.flush()
        self.watchers.setdefault(subscriber, Subscription(subscriber))

    def unwatch(self, subscriber: Subscriber) -> bool:
        """Undo ``watch``; false if there was none."""
        self.flush()
        return self.watchers.pop(subscriber, None) is not None

    def forget(self, subscriber: Subscriber) -> None:
        """Undo all subscriptions of a subscriber that is gone."""
        self.unwatch(subscriber)
        for topic in self._joined.pop(subscriber, ()):
            topic.forget(subscriber)

    def drained(self, subscriber: Subscriber) -> None:
        """Send a subscriber what is held for it: its backlog has fallen to ``MERGE_BACKLOG``."""
        if subscriber in self.watchers:
            self.watchers[subscriber].flush()
        for topic in self._joined.get(subscriber, ()):
            topic.drained(subscriber)

    def join(self, subscriber: Subscriber, topic: Topic) -> None:
        """Note that a subscriber has to do with a topic, for ``drained`` and ``forget``."""
        self._joined.setdefault(subscriber, set()).add(topic)

    def drop(self, session: str) -> None:
        """Forget the topic of a session that was deleted."""
        self.flush()
        topic = self._topics.pop(session, None)
        if topic is not None:
            for joined in self._joined.values():
                joined.discard(topic)


class Topic:
    """The events of one session."""

    def __init__(self, session: str, broker: Broker, wrap: Wrap) -> None:
        self.session = session
        self._seq = 0
        self._broker = broker
        self._wrap = wrap
        self._ring: deque[Published] = deque()
        self._ring_bytes = 0
        self._fresh: list[Published] = []
        self._fresh_bytes = 0
        self._growing: Growing | None = None
        self._subscriptions: dict[Subscriber, Subscription] = {}
        self._followers: dict[tuple[Subscriber, str], Follower] = {}

    def __repr__(self) -> str:
        return f"<Topic {self.session}, seq {self._seq}, {len(self._subscriptions)} subscribers>"

    @property
    def seq(self) -> int:
        """The number of the newest event, to which nothing is added any more."""
        self._end_growth()
        return self._seq

    def pack(self, payloads: Sequence[bytes]) -> Any:
        """Make the one object that all get."""
        return self._broker.pack(payloads)

    def publish(self, event: AnyEvent, run: str | None = None) -> int:
        """Number an event, keep it and have it given to everybody; returns its number.

        Of a burst, deltas that go on where others end are one event with them.
        """
        if isinstance(event, DELTAS) and len(self._fresh) >= FRESH_EVENTS:
            self._grow(event, run)
            return self._seq
        self._end_growth()
        self._seq += 1
        self._freshen(self._seq, event, run)
        return self._seq

    def flush(self, *, at_once: bool = True) -> None:
        """Give everybody what is fresh, in one piece where they keep up.

        Not ``at_once``, each link gathers it with what else there is for it.
        """
        self._end_growth()
        fresh, self._fresh, self._fresh_bytes = self._fresh, [], 0
        if not fresh:
            return
        shipment = Shipment(self, fresh)
        watchers = self._broker.watchers
        for subscription in self._subscriptions.values():
            subscription.offer_all(shipment, at_once)
        for subscriber, subscription in watchers.items():
            if subscriber not in self._subscriptions:
                subscription.offer_all(shipment, at_once)
        for (subscriber, run), follower in self._followers.items():
            if subscriber not in self._subscriptions and subscriber not in watchers:
                follower.subscription.offer_all(shipment.of_run(run), at_once)

    def subscribe(self, subscriber: Subscriber) -> bool:
        """Give a subscriber every event from now on; false if it had them already."""
        self._broker.flush()
        known = self._subscriptions.get(subscriber)
        if known is not None:
            # It has just drawn a new picture, which closes whatever gap it had.
            known.catch_up(self)
            return False
        self._broker.join(subscriber, self)
        self._subscriptions[subscriber] = Subscription(subscriber)
        return True

    def unsubscribe(self, subscriber: Subscriber) -> bool:
        """Undo ``subscribe``; false if there was none."""
        self._broker.flush()
        return self._subscriptions.pop(subscriber, None) is not None

    def follow(self, subscriber: Subscriber, run: str) -> None:
        """Give a subscriber the events of one run, each once; ``unfollow`` as often as this."""
        self._broker.flush()
        self._broker.join(subscriber, self)
        follower = self._followers.setdefault((subscriber, run), Follower(Subscription(subscriber)))
        follower.count += 1

    def unfollow(self, subscriber: Subscriber, run: str) -> None:
        """Undo one ``follow``."""
        self._broker.flush()
        follower = self._followers.get((subscriber, run))
        if follower is not None:
            follower.count -= 1
            if follower.count == 0:
                del self._followers[subscriber, run]

    def forget(self, subscriber: Subscriber) -> None:
        """Undo everything for a subscriber that is gone."""
        self._subscriptions.pop(subscriber, None)
        self._followers = {key: kept for key, kept in self._followers.items() if key[0] is not subscriber}

    def missed(self, after: int) -> tuple[bytes, ...] | None:
        """Give the events after a number; null when some of them are no longer kept."""
        oldest = self._ring[0].seq if self._ring else self.seq + 1
        if after + 1 < oldest or after > self.seq:
            return None
        return tuple(published.payload for published in self._ring if published.seq > after)

    def forget_past(self) -> None:
        """Give up what is kept for those who come back; they get a new picture instead."""
        self._ring.clear()
        self._ring_bytes = 0

    def drained(self, subscriber: Subscriber) -> None:
        """Send a subscriber what is held for it."""
        mine = [kept.subscription for (who, _), kept in self._followers.items() if who is subscriber]
        if subscriber in self._subscriptions:
            mine.append(self._subscriptions[subscriber])
        for subscription in mine:
            subscription.flush()

    def merged(self, deltas: Sequence[Published]) -> bytes:
        """Make one event of adjacent deltas of a kind. It bears the number of the last."""
        first, last = deltas[0], deltas[-1]
        text = "".join(delta.event.text for delta in deltas if isinstance(delta.event, DELTAS))
        event = TextDelta(text) if isinstance(first.event, TextDelta) else ThinkingDelta(text)
        return self._encode(event, last.seq, last.run, first=first.seq)

    def lagged(self, first: int, last: int) -> bytes:
        """Make the notice of a gap. It bears the number of the last event in the gap."""
        return self._encode(Lagged(first, last), last, None)

    def _grow(self, delta: TextDelta | ThinkingDelta, run: str | None) -> None:
        if self._growing is None or not self._growing.continues(delta, run):
            self._end_growth()
            self._seq += 1
            self._growing = Growing(self._seq, delta, run, [])
        self._growing.parts.append(delta.text)
        self._fresh_bytes += len(delta.text)
        if self._fresh_bytes > FRESH_BYTES:
            self.flush()

    def _end_growth(self) -> None:
        grown, self._growing = self._growing, None
        if grown is not None:
            self._fresh_bytes -= sum(map(len, grown.parts))
            self._freshen(grown.seq, grown.whole(), grown.run)

    def _freshen(self, seq: int, event: AnyEvent, run: str | None) -> None:
        published = Published(seq, event, run, self._encode(event, seq, run))
        self._keep(published)
        self._fresh.append(published)
        self._fresh_bytes += len(published.payload)
        if len(self._fresh) == 1:
            self._broker.freshen(self)
        elif self._fresh_bytes > FRESH_BYTES:
            self.flush()

    def _keep(self, published: Published) -> None:
        self._ring.append(published)
        self._ring_bytes += len(published.payload)
        while self._ring_bytes > RING_BYTES and len(self._ring) > 1:
            self._ring_bytes -= len(self._ring.popleft().payload)

    def _encode(self, event: AnyEvent, seq: int, run: str | None, *, first: int | UnsetType = UNSET) -> bytes:
        run_or_none = UNSET if run is None else run
        envelope = Envelope(self.session, self._broker.epoch, seq, utc_now(), run_or_none, first)
        # Two objects become one flat one: the envelope without its brace, the event without its own.
        head, body = _encoder.encode(envelope), _encoder.encode(event)
        return self._wrap(b"%b,%b" % (head[:-1], body[1:]))


class Shipment:
    """Events of a topic that leave together."""

    def __init__(self, topic: Topic, events: Sequence[Published]) -> None:
        self.topic = topic
        self.events = events
        self.bundle = topic.pack([published.payload for published in events])
        self._of_run: dict[str, Shipment] = {}

    def of_run(self, run: str) -> Shipment:
        """Leave out what is not of a run."""
        found = self._of_run.get(run)
        if found is None:
            mine = [published for published in self.events if published.run == run]
            found = self if len(mine) == len(self.events) else Shipment(self.topic, mine)
            self._of_run[run] = found
        return found


class Subscription:
    """One subscriber's place in the stream.

    It keeps up; or deltas are held for it, to be sent as one; or it has a gap in each topic that it lost
    events of.
    """

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self._gaps: dict[str, int] = {}
        self._held: list[Published] = []
        self._held_bytes = 0
        self._held_of: Topic | None = None

    def catch_up(self, topic: Topic) -> None:
        """Forget what was held and missed: it has been made up for."""
        self._gaps.pop(topic.session, None)
        if self._held_of is topic:
            self._let_go()

    def offer_all(self, shipment: Shipment, at_once: bool) -> None:
        """Give the subscriber events as they are if it keeps up, or else look at each."""
        is_level = self._held_of is None and not self._gaps
        if not (at_once and is_level and self._subscriber.post_at_once(shipment.bundle)):
            for published in shipment.events:
                self.offer(shipment.topic, published)

    def offer(self, topic: Topic, published: Published) -> None:
        """Give the subscriber an event, hold it, or note that it missed it."""
        if self._held_of is not None and not self._continues(topic, published):
            self.flush()
        backlog = self._subscriber.backlog + self._held_bytes
        # Once behind, it has to draw level before it gets more: one notice for all of a gap.
        limit = MERGE_BACKLOG if topic.session in self._gaps else MAX_BACKLOG
        if backlog > limit and not isinstance(published.event, NEVER_DROPPED):
            self._miss(topic, published)
            return
        self._close_gap(topic, published.seq - 1)
        if backlog > MERGE_BACKLOG and isinstance(published.event, DELTAS):
            self._hold(topic, published)
        else:
            self.flush()
            self._subscriber.post(published.payload)

    def flush(self) -> None:
        """Send what is held, as one event."""
        if self._held_of is not None:
            topic, held = self._held_of, self._let_go()
            self._subscriber.post(topic.merged(held) if len(held) > 1 else held[0].payload)

    def _continues(self, topic: Topic, published: Published) -> bool:
        """Tell whether an event is a delta that goes on where the held ones end."""
        last = self._held[-1]
        is_alike = type(published.event) is type(last.event) and published.run == last.run
        return is_alike and topic is self._held_of

    def _hold(self, topic: Topic, published: Published) -> None:
        self._held_of = topic
        self._held.append(published)
        self._held_bytes += len(published.payload)

    def _let_go(self) -> list[Published]:
        held = self._held
        self._held, self._held_bytes, self._held_of = [], 0, None
        return held

    def _miss(self, topic: Topic, published: Published) -> None:
        held = self._let_go()
        self._gaps.setdefault(topic.session, held[0].seq if held else published.seq)

    def _close_gap(self, topic: Topic, last: int) -> None:
        first = self._gaps.pop(topic.session, None)
        if first is not None:
            self._subscriber.post(topic.lagged(first, last))


class Follower:
    """A subscriber that waits for a run, ``count`` times over."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.count = 0
