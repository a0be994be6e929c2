"""Event fan-out: events get their numbers, the newest are kept, and each subscriber is served at its pace.

An event is encoded once for all, and what arises in one wake-up leaves together. A subscriber that does not
keep up loses events, never delays anybody, and is told which it lost. Nothing here awaits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from msgspec import Struct, structs

from crabd.events import (
    AnyEvent,
    ConfirmationRequested,
    ConfirmationResolved,
    QuestionAnswered,
    QuestionAsked,
    TextDelta,
    ThinkingDelta,
    ToolOutput,
)
from crabd.runtime.pace import DELTAS, Pack, Published, Reader, Scribe, Shipment, Subscriber, Wrap

# What a session keeps for a client that reconnects: some thousand deltas, or a long answer.
RING_BYTES = 256 * 1024
# Published bytes above which nobody waits for more: a burst must not make a prompt reader look slow.
FRESH_BYTES = 64 * 1024
# Events of one wake-up above which deltas are put together before they are told. They had been waiting for us
# already, so nobody waits for this.
FRESH_EVENTS = 16


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


class Broker:
    """The topics of one life of the daemon.

    ``wrap`` turns an event's JSON into what goes on the wire, ``pack`` what is posted together into the one
    object that all get. ``flush_soon``, called with every event, is to have ``flush`` called when no more
    come; without it every event leaves by itself.
    """

    def __init__(
        self,
        epoch: str,
        wrap: Wrap,
        pack: Pack = tuple,
        flush_soon: Callable[[Broker], None] = lambda broker: broker.flush(),
    ) -> None:
        self.epoch = epoch
        self.pack = pack
        self.watchers: dict[Subscriber, Reader] = {}
        # Told of every session that has an event which is not just more of a reply; it must not block.
        self.on_news: Callable[[str], None] = ignore_news
        self._wrap = wrap
        self._flush_soon = flush_soon
        self._topics: dict[str, Topic] = {}
        self._fresh: deque[Topic] = deque()
        self._readers: dict[Subscriber, Reader] = {}
        # The topics each subscriber has ever joined: one that leaves must not cost a look at all there are.
        self._joined: dict[Subscriber, set[Topic]] = {}

    def topic(self, session: str) -> Topic:
        """Get a session's topic. It outlasts the session's unloading, so that its numbers go on."""
        topic = self._topics.get(session)
        if topic is None:
            topic = self._topics[session] = Topic(Scribe(session, self.epoch, self._wrap), self)
        return topic

    def seq(self, session: str) -> int:
        """Tell the number of a session's newest event; 0 when it has had none."""
        topic = self._topics.get(session)
        return topic.seq if topic else 0

    def standing(self) -> tuple[bytes, ...]:
        """Give the events of all that waits for a person in any session, as they were told."""
        return tuple(payload for topic in self._topics.values() for payload in topic.standing(topic.seq))

    def freshen(self, topic: Topic) -> None:
        """Note that a topic has something to give, or more than before."""
        if not topic.is_fresh:
            topic.is_fresh = True
            self._fresh.append(topic)
        self._flush_soon(self)

    def flush(self) -> None:
        """Give everybody what was published since the last time.

        Done before anybody comes or goes, so that each gets exactly what is published while it is there.
        """
        # What several sessions have for a link goes in one send, too.
        is_alone = len(self._fresh) == 1
        while self._fresh:
            topic = self._fresh.popleft()
            topic.is_fresh = False
            topic.flush(at_once=is_alone)

    def watch(self, subscriber: Subscriber) -> None:
        """Give a subscriber the events of all sessions from now on."""
        self.flush()
        self.watchers[subscriber] = self.reader(subscriber)

    def unwatch(self, subscriber: Subscriber) -> bool:
        """Undo ``watch``; false if there was none."""
        self.flush()
        reader = self.watchers.pop(subscriber, None)
        if reader is not None:
            reader.settle()
        return reader is not None

    def forget(self, subscriber: Subscriber) -> None:
        """Undo all subscriptions of a subscriber that is gone."""
        self.flush()
        self.watchers.pop(subscriber, None)
        self._readers.pop(subscriber, None)
        for topic in self._joined.pop(subscriber, ()):
            topic.forget(subscriber)

    def drained(self, subscriber: Subscriber) -> None:
        """Send a subscriber what is held for it, and tell it what it lost.

        To be called when its backlog has fallen to ``MERGE_BACKLOG``.
        """
        reader = self._readers.get(subscriber)
        if reader is not None:
            reader.drained()

    def reader(self, subscriber: Subscriber) -> Reader:
        """Get how far a subscriber keeps up, one for all that it subscribes to."""
        reader = self._readers.get(subscriber)
        if reader is None:
            reader = self._readers[subscriber] = Reader(subscriber)
        return reader

    def join(self, subscriber: Subscriber, topic: Topic) -> Reader:
        """Note that a subscriber has to do with a topic, for ``forget``."""
        self._joined.setdefault(subscriber, set()).add(topic)
        return self.reader(subscriber)

    def drop(self, session: str) -> None:
        """Forget the topic of a session that was deleted."""
        self.flush()
        topic = self._topics.pop(session, None)
        if topic is not None:
            for joined in self._joined.values():
                joined.discard(topic)


class Topic:
    """The events of one session."""

    def __init__(self, scribe: Scribe, broker: Broker) -> None:
        self._scribe = scribe
        self._broker = broker
        self._seq = 0
        self._ring: deque[Published] = deque()
        self._ring_bytes = 0
        # The broker knows that there is something fresh.
        self.is_fresh = False
        self._fresh: list[Published] = []
        self._fresh_bytes = 0
        self._growing: Growing | None = None
        # What waits for a person, by the id of the waiting.
        self._standing: dict[str, Published] = {}
        self._subscriptions: dict[Subscriber, Reader] = {}
        self._followers: dict[tuple[Subscriber, str], Follower] = {}

    def __repr__(self) -> str:
        return f"<Topic {self.session}, seq {self._seq}, {len(self._subscriptions)} subscribers>"

    @property
    def session(self) -> str:
        return self._scribe.session

    @property
    def seq(self) -> int:
        """The number of the newest event, to which nothing is added any more."""
        self._end_growth()
        return self._seq

    def publish(self, event: AnyEvent, run: str | None = None) -> int:
        """Number an event, keep it and have it given to everybody; returns its number.

        Of a burst, deltas that go on where others end are one event with them.
        """
        if isinstance(event, DELTAS):
            if len(self._fresh) >= FRESH_EVENTS:
                self._grow(event, run)
                return self._seq
        else:
            self._broker.on_news(self.session)
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
        shipment = Shipment(self._scribe, fresh, self._broker.pack)
        watchers = self._broker.watchers
        for reader in self._subscriptions.values():
            reader.offer_all(shipment, at_once)
        for subscriber, reader in watchers.items():
            if subscriber not in self._subscriptions:
                reader.offer_all(shipment, at_once)
        for (subscriber, run), follower in self._followers.items():
            if subscriber not in self._subscriptions and subscriber not in watchers:
                follower.reader.offer_all(shipment.of_run(run), at_once)

    def subscribe(self, subscriber: Subscriber) -> bool:
        """Give a subscriber every event from now on; false if it had them already.

        It gets a picture or what it missed with it, and either closes whatever gap it had.
        """
        self._broker.flush()
        is_new = subscriber not in self._subscriptions
        reader = self._subscriptions[subscriber] = self._broker.join(subscriber, self)
        reader.catch_up(self._scribe)
        return is_new

    def unsubscribe(self, subscriber: Subscriber) -> bool:
        """Undo ``subscribe``; false if there was none."""
        self._broker.flush()
        reader = self._subscriptions.pop(subscriber, None)
        if reader is not None:
            reader.settle()
        return reader is not None

    def follow(self, subscriber: Subscriber, run: str) -> None:
        """Give a subscriber the events of one run, each once; ``unfollow`` as often as this."""
        self._broker.flush()
        reader = self._broker.join(subscriber, self)
        follower = self._followers.setdefault((subscriber, run), Follower(reader))
        follower.count += 1

    def unfollow(self, subscriber: Subscriber, run: str) -> None:
        """Undo one ``follow``."""
        self._broker.flush()
        follower = self._followers.get((subscriber, run))
        if follower is not None:
            follower.count -= 1
            if follower.count == 0:
                del self._followers[subscriber, run]
                follower.reader.settle()

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

    def standing(self, upto: int) -> tuple[bytes, ...]:
        """Give the events, up to a number, of what waits for a person: as they were told, and in order."""
        return tuple(asked.payload for asked in self._standing.values() if asked.seq <= upto)

    def forget_past(self) -> None:
        """Give up what is kept for those who come back; they get a new picture instead."""
        self._ring.clear()
        self._ring_bytes = 0

    def _grow(self, delta: TextDelta | ThinkingDelta, run: str | None) -> None:
        if self._growing is None or not self._growing.continues(delta, run):
            self._end_growth()
            self._seq += 1
            self._growing = Growing(self._seq, delta, run, [])
        self._growing.parts.append(delta.text)
        self._fresh_bytes += len(delta.text)
        if self._fresh_bytes > FRESH_BYTES:
            self.flush()
        else:
            self._broker.freshen(self)

    def _end_growth(self) -> None:
        grown, self._growing = self._growing, None
        if grown is not None:
            self._fresh_bytes -= sum(map(len, grown.parts))
            self._freshen(grown.seq, grown.whole(), grown.run)

    def _freshen(self, seq: int, event: AnyEvent, run: str | None) -> None:
        published = Published(seq, event, run, self._scribe.write(event, seq, run))
        self._keep(published)
        self._fresh.append(published)
        self._fresh_bytes += len(published.payload)
        if self._fresh_bytes > FRESH_BYTES and len(self._fresh) > 1:
            self.flush()
        else:
            self._broker.freshen(self)

    def _keep(self, published: Published) -> None:
        match published.event:
            case TextDelta() | ToolOutput() | ThinkingDelta():
                # Most events are these, and none of the others.
                pass
            case ConfirmationRequested(confirmation=asked) | QuestionAsked(question=asked):
                self._standing[asked.id] = published
            case ConfirmationResolved(id=id_) | QuestionAnswered(id=id_):
                self._standing.pop(id_, None)
            case _:
                pass
        self._ring.append(published)
        self._ring_bytes += len(published.payload)
        while self._ring_bytes > RING_BYTES and len(self._ring) > 1:
            self._ring_bytes -= len(self._ring.popleft().payload)


class Follower:
    """A subscriber that waits for a run, ``count`` times over."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.count = 0


def ignore_news(_session: str) -> None:
    """Take no note of it."""
