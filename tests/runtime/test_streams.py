"""The broker's promise, for any order of things: who follows the rules ends with just what was published."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from crabd.events import (
    AnyEvent,
    ConfirmationResolved,
    RunEnded,
    TextDelta,
    TextEnd,
    ThinkingDelta,
)
from crabd.messages import Usage
from crabd.runtime.broker import FRESH_EVENTS, RING_BYTES, Broker, Topic
from crabd.runtime.pace import MAX_BACKLOG, MERGE_BACKLOG
from tests.runtime.samples import ask

SESSIONS = ("a_b_1", "a_b_2")
CLIENTS = 2
ENDED = RunEnded("end_turn", Usage(), True)
# What a client has in front of it that it does not read: enough for deltas to be put together, or to lose
# events.
CLOGS = (MERGE_BACKLOG + 1, MAX_BACKLOG + 1)

Json: TypeAlias = dict[str, Any]


class Truth:
    """A session: what was published in it, written as one text, and what waits for a person."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.text = ""
        self.waiting: list[str] = []
        self.ended: list[int] = []
        self._count = 0

    def publish(self, kind: str, size: int) -> None:
        self._count += 1
        mark = f"{self._count} " + "x" * size
        match kind:
            case "text":
                self._tell(TextDelta(mark), mark)
            case "thinking":
                self._tell(ThinkingDelta(mark), mark)
            case "ask":
                self.waiting.append(str(self._count))
                self._tell(ask(str(self._count), self.topic.session), f"?{self._count}")
            case "answer" if self.waiting:
                id_ = self.waiting.pop(0)
                self._tell(ConfirmationResolved(id_, id_, "allow", "me", "", ()), f"!{id_}")
            case "end":
                self._tell(ENDED, "#")
                self.ended.append(self.topic.seq)
            case _:
                self._tell(TextEnd(), "|")

    def _tell(self, event: AnyEvent, mark: str) -> None:
        self.topic.publish(event, "r1")
        self.text += mark


class Link:
    """A subscriber that has read some of what it was given, and none of a clog before it."""

    def __init__(self, broker: Broker) -> None:
        self.unread: list[bytes] = []
        self.clog = 0
        self._broker = broker

    @property
    def backlog(self) -> int:
        return self.clog + sum(map(len, self.unread))

    def post(self, payload: bytes) -> None:
        self.unread.append(payload)

    def post_at_once(self, bundle: Sequence[bytes]) -> bool:
        if not self.backlog:
            self.unread += bundle
            return True
        return False

    def close(self) -> None:
        raise AssertionError("no client here is owed that much")

    def read(self, count: int) -> list[Json]:
        """Take some of what there is; the daemon notices when little is left."""
        was_above = self.backlog > MERGE_BACKLOG
        self.clog = 0
        taken, self.unread = self.unread[:count], self.unread[count:]
        if was_above and self.backlog <= MERGE_BACKLOG:
            self._broker.drained(self)
        return [json.loads(payload) for payload in taken]


class View:
    """One session as a client believes it to be."""

    def __init__(self) -> None:
        self.seq = 0
        self.text = ""
        self.waiting: list[str] = []
        self.ended: list[int] = []
        self.is_behind = False

    def take(self, event: Json) -> None:
        """Take an event by the rules: what is known is left out, what has a gap before it is asked for."""
        if event["type"] == "confirmation_requested" and event["confirmation"]["id"] not in self.waiting:
            # One that came before the picture comes behind it again, though the picture has its number.
            self.waiting.append(event["confirmation"]["id"])
        if event["type"] == "run_ended" and event["seq"] not in self.ended:
            self.ended.append(event["seq"])
        if event["seq"] <= self.seq or self.is_behind:
            return
        if event["type"] == "lagged":
            assert event["from"] == self.seq + 1
            self.is_behind = True
            return
        assert event.get("merged_from", event["seq"]) == self.seq + 1
        self.seq = event["seq"]
        self._write(event)

    def _write(self, event: Json) -> None:
        match event["type"]:
            case "text_delta" | "thinking_delta":
                self.text += event["text"]
            case "confirmation_requested":
                self.text += f"?{event['confirmation']['id']}"
            case "confirmation_resolved":
                self.text += f"!{event['id']}"
                self.waiting.remove(event["id"])
            case "run_ended":
                self.text += "#"
            case _:
                self.text += "|"


class Plugin:
    """A client that follows the rules, over as many links as it takes."""

    def __init__(self, broker: Broker, truths: dict[str, Truth]) -> None:
        self.views: dict[str, View] = {}
        self._broker = broker
        self._truths = truths
        self.link = Link(broker)
        # Since when a session has been subscribed to without a break, in ends of runs.
        self._ends_due: dict[str, int] = {}

    def subscribe(self, session: str) -> None:
        """Ask for a session from where this client is, and take the answer at once."""
        truth, view = self._truths[session], self.views.get(session)
        # As the handler does it: the picture is drawn, and from then on everything is told.
        text = truth.text
        truth.topic.subscribe(self.link)
        missed = truth.topic.missed(view.seq) if view is not None else None
        standing = truth.topic.standing(truth.topic.seq if view is None or missed is None else view.seq)
        # The answer comes behind what was told before it, and another clog may be before that again.
        clog = self.link.clog
        self.read(len(self.link.unread))
        self.link.clog = clog
        if view is None or missed is None:
            ended = view.ended if view is not None else []
            view = self.views[session] = View()
            view.seq, view.text, view.ended = truth.topic.seq, text, ended
        view.is_behind = False
        self.link.unread += (*standing, *(missed or ()))
        self._ends_due.setdefault(session, len(truth.ended))

    def unsubscribe(self, session: str) -> None:
        self._truths[session].topic.unsubscribe(self.link)
        self.read(len(self.link.unread))
        self.views.pop(session, None)
        self._ends_due.pop(session, None)

    def read(self, count: int) -> None:
        for event in self.link.read(count):
            view = self.views.get(event["session"])
            if view is not None:
                view.take(event)

    def lose_link(self) -> None:
        """Have the link end with what was unread on it, and come back on another."""
        self._broker.forget(self.link)
        self.link = Link(self._broker)
        self._ends_due.clear()
        for session, view in tuple(self.views.items()):
            view.is_behind = True
            self.subscribe(session)

    def settle(self) -> None:
        """Read all there is, and ask again for what was lost, until there is nothing left."""
        while self.link.unread or self.link.clog or any(view.is_behind for view in self.views.values()):
            self.read(len(self.link.unread))
            for session, view in tuple(self.views.items()):
                if view.is_behind:
                    self.subscribe(session)

    def check(self) -> None:
        for session, view in self.views.items():
            truth = self._truths[session]
            assert (view.seq, view.text) == (truth.topic.seq, truth.text)
            assert Counter(view.waiting) == Counter(truth.waiting)
            assert set(truth.ended[self._ends_due[session] :]) <= set(view.ended)


class Deed(Struct, frozen=True):
    """Something that happens; each needs some of what is here."""

    what: str
    client: int
    session: str
    kind: str
    size: int
    count: int
    clog: int


class Stage:
    """A broker whose wake-ups end when it is told so, its sessions and its clients."""

    def __init__(self) -> None:
        self.broker = Broker("epoch", lambda payload: payload, flush_soon=lambda broker: None)
        self.truths = {session: Truth(self.broker.topic(session)) for session in SESSIONS}
        self.plugins = [Plugin(self.broker, self.truths) for _ in range(CLIENTS)]

    def do(self, deed: Deed) -> None:
        plugin, truth = self.plugins[deed.client], self.truths[deed.session]
        match deed.what:
            case "publish":
                for _ in range(deed.count):
                    truth.publish(deed.kind, deed.size)
            case "flush":
                self.broker.flush()
            case "read":
                plugin.read(deed.count)
            case "clog":
                plugin.link.clog = deed.clog
            case "subscribe":
                plugin.subscribe(deed.session)
            case "unsubscribe":
                plugin.unsubscribe(deed.session)
            case "watch":
                self.broker.watch(plugin.link)
            case "unwatch":
                self.broker.unwatch(plugin.link)
            case "follow":
                truth.topic.follow(plugin.link, "r1")
            case "unfollow":
                truth.topic.unfollow(plugin.link, "r1")
            case "lose link":
                plugin.lose_link()
            case _:
                truth.topic.forget_past()

    def check(self) -> None:
        self.broker.flush()
        for plugin in self.plugins:
            plugin.settle()
            plugin.check()


OFTEN = ("publish", "publish", "publish", "subscribe", "clog", "clog")
SELDOM = (
    "flush",
    "read",
    "unsubscribe",
    "watch",
    "unwatch",
    "follow",
    "unfollow",
    "lose link",
    "forget past",
)
deeds = st.builds(
    Deed,
    what=st.sampled_from(OFTEN) | st.sampled_from(SELDOM),
    client=st.integers(0, CLIENTS - 1),
    session=st.sampled_from(SESSIONS),
    kind=st.sampled_from(["text", "text", "thinking", "mark", "ask", "answer", "end"]),
    size=st.sampled_from([0, 0, 0, RING_BYTES // 3]),
    count=st.sampled_from([1, 1, 3, FRESH_EVENTS + 5]),
    clog=st.sampled_from(CLOGS),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(deeds, min_size=10, max_size=60))
def test_who_follows_the_rules_ends_with_exactly_what_was_published(script: list[Deed]) -> None:
    stage = Stage()

    for deed in script:
        stage.do(deed)

    stage.check()
