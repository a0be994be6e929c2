"""Event fan-out: numbers, what is kept, and subscribers that keep up or do not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from crabd.events import (
    AnyEvent,
    ConfirmationResolved,
    PendingQuestion,
    Question,
    QuestionAnswered,
    QuestionAsked,
    RunEnded,
    TextDelta,
    TextEnd,
    TextStart,
    ThinkingDelta,
)
from crabd.messages import Usage, utc_now
from crabd.runtime.broker import FRESH_BYTES, FRESH_EVENTS, RING_BYTES, Broker, Topic
from crabd.runtime.pace import MAX_BACKLOG, MAX_OWED, MERGE_BACKLOG
from tests.runtime.samples import ask

ENDED = RunEnded("end_turn", Usage(), True)
# So large that only a handful are kept.
LARGE = TextDelta("x" * (RING_BYTES // 4))


class Reader:
    """A subscriber that reads as it is told to."""

    def __init__(self) -> None:
        self.backlog = 0
        self.payloads: list[bytes] = []
        self.is_closed = False

    def post(self, payload: bytes) -> None:
        self.payloads.append(payload)

    def close(self) -> None:
        self.is_closed = True

    def post_at_once(self, bundle: Sequence[bytes]) -> bool:
        return False

    def stop_reading(self) -> None:
        self.backlog = MAX_BACKLOG + 1

    def catch_up(self) -> None:
        self.backlog = 0

    @property
    def seqs(self) -> list[int]:
        return [event["seq"] for event in map(told, self.payloads)]

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in map(told, self.payloads)]


class Wire:
    """What goes round an event on its way out, and how often that was done."""

    def __init__(self) -> None:
        self.wrapped = 0

    def wrap(self, payload: bytes) -> bytes:
        self.wrapped += 1
        return payload


def told(payload: bytes) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(payload)
    return event


def open_broker() -> Broker:
    return Broker("epoch", lambda payload: payload)


def publish(topic: Topic, *events: AnyEvent) -> None:
    for event in events:
        topic.publish(event)


def test_events_are_numbered_from_one_in_each_session_by_itself() -> None:
    broker = open_broker()
    one, other = broker.topic("a_b_1"), broker.topic("a_b_2")

    numbers = [one.publish(TextStart()), one.publish(TextDelta("a")), other.publish(TextStart())]

    assert numbers == [1, 2, 1]
    assert (broker.seq("a_b_1"), broker.seq("a_b_2"), broker.seq("a_b_3")) == (2, 1, 0)


def test_an_event_and_its_envelope_are_one_flat_object() -> None:
    reader, topic = Reader(), open_broker().topic("a_b_1")
    topic.subscribe(reader)

    topic.publish(TextDelta("hi"), "r1")
    topic.publish(TextStart())

    of_run, of_session = map(told, reader.payloads)
    assert of_run.pop("at").endswith("Z")
    assert of_run == {
        "session": "a_b_1",
        "epoch": "epoch",
        "seq": 1,
        "run": "r1",
        "type": "text_delta",
        "text": "hi",
    }
    assert of_session.keys() == {"session", "epoch", "seq", "at", "type"}


def test_an_event_is_encoded_once_for_all() -> None:
    wire = Wire()
    broker = Broker("epoch", wire.wrap)
    topic = broker.topic("a_b_1")
    readers = [Reader() for _ in range(4)]
    topic.subscribe(readers[0])
    topic.subscribe(readers[1])
    broker.watch(readers[2])
    topic.follow(readers[3], "r1")

    topic.publish(TextDelta("hi"), "r1")

    kept = topic.missed(0)
    assert kept is not None
    assert all(reader.payloads[0] is kept[0] for reader in readers)
    assert wire.wrapped == 1


def test_who_comes_back_gets_exactly_what_was_missed() -> None:
    reader, topic = Reader(), open_broker().topic("a_b_1")
    topic.subscribe(reader)

    publish(topic, *(TextDelta(str(number)) for number in range(5)))

    assert topic.missed(2) == tuple(reader.payloads[2:])
    assert topic.missed(0) == tuple(reader.payloads)
    assert topic.missed(5) == ()


def test_a_topic_without_events_has_nothing_to_miss() -> None:
    assert open_broker().topic("a_b_1").missed(0) == ()


def test_a_number_from_the_future_is_of_another_life() -> None:
    topic = open_broker().topic("a_b_1")
    publish(topic, TextStart())

    assert topic.missed(2) is None


def test_the_oldest_events_are_let_go_and_what_is_gone_is_not_made_up() -> None:
    topic = open_broker().topic("a_b_1")

    publish(topic, *[LARGE] * 10)

    # Each is a little more than a quarter of the ring.
    assert topic.missed(6) is None
    kept = topic.missed(7)
    assert kept is not None
    assert [told(payload)["seq"] for payload in kept] == [8, 9, 10]
    assert sum(map(len, kept)) <= RING_BYTES


def test_an_event_larger_than_the_ring_is_kept_until_the_next() -> None:
    topic = open_broker().topic("a_b_1")

    publish(topic, TextStart(), TextDelta("x" * 2 * RING_BYTES))
    alone = topic.missed(1)
    publish(topic, TextStart())

    assert alone is not None
    assert len(alone) == 1
    assert topic.missed(1) is None
    assert topic.missed(2) is not None


def test_a_slow_subscriber_is_told_once_what_it_lost_and_goes_on() -> None:
    reader, topic = Reader(), open_broker().topic("a_b_1")
    topic.subscribe(reader)
    publish(topic, TextStart())
    reader.stop_reading()
    publish(topic, TextDelta("a"), TextDelta("b"), TextDelta("c"))
    assert reader.types == ["text_start"]

    reader.catch_up()
    publish(topic, TextDelta("d"), TextDelta("e"))

    assert reader.types == ["text_start", "lagged", "text_delta", "text_delta"]
    assert reader.seqs == [1, 4, 5, 6]
    lagged = told(reader.payloads[1])
    assert (lagged["from"], lagged["to"]) == (2, 4)


def test_what_a_slow_subscriber_lost_can_be_asked_for() -> None:
    reader, topic = Reader(), open_broker().topic("a_b_1")
    topic.subscribe(reader)
    reader.stop_reading()
    publish(topic, TextDelta("a"), TextDelta("b"))
    reader.catch_up()
    publish(topic, TextDelta("c"))
    gap = told(reader.payloads[0])

    missed = topic.missed(gap["from"] - 1) or ()

    assert [told(payload)["seq"] for payload in missed[: gap["to"] - gap["from"] + 1]] == [1, 2]


def test_the_end_of_a_run_reaches_even_a_slow_subscriber_behind_its_gap() -> None:
    reader, topic = Reader(), open_broker().topic("a_b_1")
    topic.subscribe(reader)
    reader.stop_reading()

    publish(topic, TextDelta("a"), TextDelta("b"), ENDED, TextStart(), ENDED)

    assert reader.types == ["lagged", "run_ended", "lagged", "run_ended"]
    assert reader.seqs == [2, 3, 4, 5]


def test_the_end_of_a_run_without_a_gap_comes_alone() -> None:
    reader, topic = Reader(), open_broker().topic("a_b_1")
    topic.subscribe(reader)
    reader.stop_reading()

    publish(topic, ENDED)

    assert reader.types == ["run_ended"]


def test_a_backlog_at_its_bound_is_not_slow() -> None:
    reader, topic = Reader(), open_broker().topic("a_b_1")
    topic.subscribe(reader)
    reader.backlog = MAX_BACKLOG

    publish(topic, TextStart())

    assert reader.types == ["text_start"]


def test_a_slow_subscriber_delays_and_costs_nobody_else() -> None:
    slow, fast, topic = Reader(), Reader(), open_broker().topic("a_b_1")
    topic.subscribe(slow)
    topic.subscribe(fast)
    slow.stop_reading()

    publish(topic, TextStart(), TextDelta("a"))

    assert (slow.seqs, fast.seqs) == ([], [1, 2])


def test_a_watcher_of_all_sessions_has_a_gap_for_each() -> None:
    reader, broker = Reader(), open_broker()
    broker.watch(reader)
    one, other = broker.topic("a_b_1"), broker.topic("a_b_2")
    publish(one, TextStart())
    reader.stop_reading()
    publish(one, TextDelta("a"))
    publish(other, TextStart(), TextDelta("b"))
    reader.catch_up()

    publish(other, ENDED)
    publish(one, ENDED)

    gaps = [told(payload) for payload in reader.payloads if told(payload)["type"] == "lagged"]
    assert [(gap["session"], gap["from"], gap["to"]) for gap in gaps] == [("a_b_2", 1, 2), ("a_b_1", 2, 2)]


def test_a_follower_gets_the_events_of_its_run_only() -> None:
    reader, topic = Reader(), open_broker().topic("a_b_1")
    topic.follow(reader, "r2")

    for run in ("r1", "r2", None, "r2"):
        topic.publish(TextStart(), run)
    topic.unfollow(reader, "r2")
    topic.publish(ENDED, "r2")

    assert reader.seqs == [2, 4]


def test_one_that_subscribes_watches_and_follows_gets_every_event_once() -> None:
    reader, broker = Reader(), open_broker()
    topic = broker.topic("a_b_1")
    topic.subscribe(reader)
    broker.watch(reader)
    topic.follow(reader, "r1")

    topic.publish(TextStart(), "r1")
    topic.unsubscribe(reader)
    topic.publish(TextStart(), "r1")
    broker.unwatch(reader)
    topic.publish(TextStart(), "r1")
    topic.unfollow(reader, "r1")
    topic.publish(TextStart(), "r1")

    assert reader.seqs == [1, 2, 3]


def test_subscribing_and_undoing_it_tell_whether_they_changed_anything() -> None:
    reader, broker = Reader(), open_broker()
    topic = broker.topic("a_b_1")

    assert [topic.subscribe(reader), topic.subscribe(reader)] == [True, False]
    assert [topic.unsubscribe(reader), topic.unsubscribe(reader)] == [True, False]
    broker.watch(reader)
    broker.watch(reader)
    assert [broker.unwatch(reader), broker.unwatch(reader)] == [True, False]


@pytest.mark.parametrize("is_watching", [False, True])
def test_one_that_is_gone_gets_nothing_any_more(is_watching: bool) -> None:
    gone, there, broker = Reader(), Reader(), open_broker()
    topics = [broker.topic("a_b_1"), broker.topic("a_b_2")]
    for reader in (gone, there):
        for topic in topics:
            topic.subscribe(reader)
        if is_watching:
            broker.watch(reader)

    broker.forget(gone)
    for topic in topics:
        topic.publish(TextStart())

    assert (gone.seqs, there.seqs) == ([], [1, 1])


def test_a_topic_outlasts_its_session_with_its_numbers_and_subscribers() -> None:
    reader, broker = Reader(), open_broker()
    broker.topic("a_b_1").subscribe(reader)
    publish(broker.topic("a_b_1"), TextStart())

    publish(broker.topic("a_b_1"), TextStart())

    assert reader.seqs == [1, 2]
    assert repr(broker.topic("a_b_1")) == "<Topic a_b_1, seq 2, 1 subscribers>"


def test_the_topic_of_a_deleted_session_is_forgotten() -> None:
    broker = open_broker()
    publish(broker.topic("a_b_1"), TextStart())

    broker.drop("a_b_1")
    broker.drop("a_b_2")

    assert broker.seq("a_b_1") == 0


def test_adjacent_deltas_of_a_slow_subscriber_are_sent_as_one() -> None:
    reader, topic = Reader(), open_broker().topic("a_b_1")
    topic.subscribe(reader)
    reader.backlog = MERGE_BACKLOG + 1

    publish(topic, TextDelta("a"), TextDelta("b"), TextDelta("c"), TextEnd())
    publish(topic, ThinkingDelta("d"), TextDelta("e"))
    events = [told(payload) for payload in reader.payloads]

    assert [(event["type"], event["seq"]) for event in events] == [
        ("text_delta", 3),
        ("text_end", 4),
        ("thinking_delta", 5),
    ]
    assert (events[0]["text"], events[0]["merged_from"]) == ("abc", 1)
    assert "merged_from" not in events[2]


def test_deltas_of_different_runs_and_sessions_are_not_put_together() -> None:
    reader, broker = Reader(), open_broker()
    broker.watch(reader)
    reader.backlog = MERGE_BACKLOG + 1
    one, two = broker.topic("a_b_1"), broker.topic("a_b_2")

    one.publish(TextDelta("a"), "r1")
    one.publish(TextDelta("b"), "r2")
    two.publish(TextDelta("c"), "r2")
    two.publish(TextEnd(), "r2")

    assert [told(payload).get("text") for payload in reader.payloads] == ["a", "b", "c", None]


@pytest.mark.parametrize("how", ["subscribe", "watch", "follow"])
def test_what_is_held_goes_out_when_the_link_has_drained(how: str) -> None:
    reader, broker = Reader(), open_broker()
    topic = broker.topic("a_b_1")
    match how:
        case "subscribe":
            topic.subscribe(reader)
        case "watch":
            broker.watch(reader)
        case _:
            topic.follow(reader, "r1")
    reader.backlog = MERGE_BACKLOG + 1
    topic.publish(TextDelta("a"), "r1")
    topic.publish(TextDelta("b"), "r1")
    assert reader.payloads == []

    broker.drained(reader)
    broker.drained(reader)

    assert [told(payload)["text"] for payload in reader.payloads] == ["ab"]


def test_what_is_held_is_bounded_and_becomes_part_of_the_gap() -> None:
    reader, topic = Reader(), open_broker().topic("a_b_1")
    topic.subscribe(reader)
    reader.backlog = MERGE_BACKLOG + 1
    text = "x" * 100_000

    publish(topic, *(TextDelta(text) for _ in range(20)))
    reader.backlog = 0
    publish(topic, TextEnd())

    lagged, end = (told(payload) for payload in reader.payloads)
    assert (lagged["type"], lagged["from"], lagged["to"], end["seq"]) == ("lagged", 1, 20, 21)


def test_a_new_picture_stands_for_what_was_held() -> None:
    reader, topic = Reader(), open_broker().topic("a_b_1")
    topic.subscribe(reader)
    reader.backlog = MERGE_BACKLOG + 1
    publish(topic, TextDelta("a"))

    topic.subscribe(reader)
    reader.backlog = 0
    publish(topic, TextDelta("b"))

    assert [told(payload)["text"] for payload in reader.payloads] == ["b"]


class Tick:
    """A broker whose events wait until the wake-up is over, and a reader that takes them in bundles."""

    def __init__(self) -> None:
        self.additions = 0
        self.broker = Broker("epoch", lambda payload: payload, tuple, self._note)

    def over(self) -> None:
        self.broker.flush()

    def _note(self, _broker: Broker) -> None:
        self.additions += 1


class Prompt(Reader):
    """A subscriber that has nothing unread."""

    def __init__(self) -> None:
        super().__init__()
        self.bundles: list[Sequence[bytes]] = []

    def post_at_once(self, bundle: Sequence[bytes]) -> bool:
        self.bundles.append(bundle)
        self.payloads += bundle
        return True


def test_what_arises_in_one_wake_up_leaves_together_and_is_one_object_for_all() -> None:
    tick = Tick()
    topic, readers = tick.broker.topic("a_b_1"), [Prompt() for _ in range(3)]
    topic.subscribe(readers[0])
    tick.broker.watch(readers[1])
    topic.follow(readers[2], "r1")

    topic.publish(TextStart(), "r1")
    topic.publish(TextDelta("a"), "r1")
    assert (tick.additions, readers[0].bundles) == (2, [])
    tick.over()

    assert [reader.seqs for reader in readers] == [[1, 2]] * 3
    assert all(reader.bundles[0] is readers[0].bundles[0] for reader in readers)


def test_what_arises_in_several_sessions_is_gathered_for_each_reader() -> None:
    tick, reader = Tick(), Prompt()
    topics = [tick.broker.topic(f"a_b_{n}") for n in range(3)]
    tick.broker.watch(reader)

    for topic in topics:
        topic.publish(TextStart())
    tick.over()
    gathered = list(reader.bundles)
    topics[0].publish(TextDelta("a"))
    tick.over()

    assert gathered == []
    assert [told(payload)["session"] for payload in reader.payloads] == ["a_b_0", "a_b_1", "a_b_2", "a_b_0"]
    assert len(reader.bundles) == 1


def test_a_follower_gets_of_a_bundle_what_is_of_its_run() -> None:
    tick, reader = Tick(), Prompt()
    topic = tick.broker.topic("a_b_1")
    topic.follow(reader, "r2")

    for run in ("r1", "r2", "r1", "r2"):
        topic.publish(TextStart(), run)
    tick.over()

    assert reader.seqs == [2, 4]


def test_who_comes_or_goes_in_mid_wake_up_gets_what_is_published_while_it_is_there() -> None:
    tick, reader = Tick(), Prompt()
    topic = tick.broker.topic("a_b_1")

    topic.publish(TextStart())
    topic.subscribe(reader)
    topic.publish(TextDelta("a"))
    topic.unsubscribe(reader)
    topic.publish(TextDelta("b"))
    tick.broker.watch(reader)
    topic.publish(TextDelta("c"))
    tick.broker.unwatch(reader)
    topic.follow(reader, "r1")
    topic.publish(TextDelta("d"), "r1")
    topic.unfollow(reader, "r1")
    tick.over()

    assert reader.seqs == [2, 4, 5]


def test_a_large_burst_does_not_wait_for_the_wake_up_to_be_over() -> None:
    tick, reader = Tick(), Prompt()
    topic = tick.broker.topic("a_b_1")
    topic.subscribe(reader)

    publish(topic, TextDelta("x" * FRESH_BYTES), TextEnd(), TextStart())

    assert reader.seqs == [1, 2]
    tick.over()
    assert reader.seqs == [1, 2, 3]


def open_lazy_broker() -> Broker:
    """Open a broker whose wake-ups end when it is flushed by hand."""
    return Broker("epoch", lambda payload: payload, flush_soon=lambda broker: None)


def test_deltas_of_a_burst_are_told_as_one_after_the_first_few() -> None:
    broker, reader = open_lazy_broker(), Reader()
    topic = broker.topic("a_b_1")
    topic.subscribe(reader)

    publish(topic, *(TextDelta(f"{n} ") for n in range(100)), TextEnd(), ENDED)
    broker.flush()

    texts = [told(payload)["text"] for payload in reader.payloads[:-2]]
    assert len(texts) == FRESH_EVENTS + 1
    assert "".join(texts) == "".join(f"{n} " for n in range(100))
    assert reader.types[-2:] == ["text_end", "run_ended"]
    assert reader.seqs == list(range(1, FRESH_EVENTS + 4))


def test_deltas_of_another_kind_or_run_are_another_event_of_the_burst() -> None:
    broker, reader = open_lazy_broker(), Reader()
    topic = broker.topic("a_b_1")
    topic.subscribe(reader)
    publish(topic, *[TextEnd()] * FRESH_EVENTS)

    said: list[tuple[str, AnyEvent]] = [
        ("r1", TextDelta("a")),
        ("r1", ThinkingDelta("b")),
        ("r2", ThinkingDelta("c")),
    ]
    for run, delta in said:
        topic.publish(delta, run)
        topic.publish(delta, run)
    broker.flush()

    events = [told(payload) for payload in reader.payloads[FRESH_EVENTS:]]
    assert [(event["type"], event["run"], event["text"]) for event in events] == [
        ("text_delta", "r1", "aa"),
        ("thinking_delta", "r1", "bb"),
        ("thinking_delta", "r2", "cc"),
    ]


def test_nothing_is_added_to_an_event_whose_number_somebody_knows() -> None:
    broker = open_lazy_broker()
    topic = broker.topic("a_b_1")
    publish(topic, *[TextDelta("a")] * (FRESH_EVENTS + 2))

    known = topic.seq
    publish(topic, TextDelta("b"), TextDelta("c"))
    broker.flush()

    missed = topic.missed(known)
    assert missed is not None
    assert [told(payload)["text"] for payload in missed] == ["bc"]


def test_a_burst_does_not_grow_without_end() -> None:
    broker, reader = open_lazy_broker(), Reader()
    topic = broker.topic("a_b_1")
    topic.subscribe(reader)

    publish(topic, *[TextDelta("x" * 1024)] * 200)

    assert max(map(len, reader.payloads)) < FRESH_BYTES + 2048
    assert sum(payload.count(b"x") for payload in reader.payloads) > 100 * 1024


def test_a_gap_is_told_when_the_link_has_drained_even_if_nothing_more_comes() -> None:
    reader, broker = Reader(), open_broker()
    topic = broker.topic("a_b_1")
    topic.subscribe(reader)
    reader.stop_reading()
    publish(topic, TextStart(), TextEnd())

    reader.catch_up()
    broker.drained(reader)
    broker.drained(reader)

    [lagged] = map(told, reader.payloads)
    assert (lagged["type"], lagged["seq"], lagged["from"], lagged["to"]) == ("lagged", 2, 1, 2)


def test_one_that_never_reads_is_hung_up_on_when_it_is_owed_too_much() -> None:
    reader, broker = Reader(), open_broker()
    topic = broker.topic("a_b_1")
    topic.subscribe(reader)
    reader.stop_reading()
    topic.publish(ENDED)
    size = len(reader.payloads[0])

    # The longer their numbers, the longer the events.
    publish(topic, *[ENDED] * (MAX_OWED // (size + 8)))
    was_closed_before = reader.is_closed
    publish(topic, *[ENDED] * 100)

    assert (was_closed_before, reader.is_closed) == (False, True)


def test_one_that_reads_now_and_then_is_never_hung_up_on() -> None:
    reader, broker = Reader(), open_broker()
    topic = broker.topic("a_b_1")
    topic.subscribe(reader)

    for _ in range(3):
        reader.stop_reading()
        publish(topic, *[ENDED] * (MAX_OWED // 500))
        reader.catch_up()
        broker.drained(reader)

    assert not reader.is_closed


def test_what_is_held_for_all_subscriptions_of_a_reader_is_bounded_by_one_bound() -> None:
    reader, broker = Reader(), open_broker()
    topics = [broker.topic(f"a_b_{n}") for n in range(20)]
    for topic in topics:
        topic.subscribe(reader)
    reader.backlog = MERGE_BACKLOG + 1

    for topic in topics:
        publish(topic, *[TextDelta("x" * 10_000)] * 10)

    # The backlog of a real link would have grown with all but the last of these.
    assert {told(payload)["session"] for payload in reader.payloads} == {f"a_b_{n}" for n in range(19)}
    assert repr(broker.reader(reader)) == "<Reader 10 held, 0 gaps, 0 bytes owed>"


def test_what_waits_for_a_person_is_told_again_until_it_is_answered() -> None:
    reader, broker = Reader(), open_broker()
    topic, other = broker.topic("a_b_1"), broker.topic("a_b_2")
    topic.subscribe(reader)
    question = PendingQuestion(
        id="q", session="a_b_2", run="r1", call="c", tool="ask", since=utc_now(), questions=(Question("why"),)
    )

    topic.publish(ask("c1", "a_b_1"), "r1")
    topic.publish(ask("c2", "a_b_1"), "r1")
    topic.publish(ConfirmationResolved("c1", "c1", "deny", "me", "", ()), "r1")
    other.publish(QuestionAsked(question), "r1")
    standing = broker.standing()
    other.publish(QuestionAnswered("q", "c", None, "me"), "r1")

    assert standing == (reader.payloads[1], *(other.missed(0) or ())[:1])
    assert (topic.standing(2), other.standing(2)) == ((reader.payloads[1],), ())
    assert topic.standing(1) == ()


def test_news_are_told_of_every_event_but_more_of_a_reply() -> None:
    broker = open_broker()
    news: list[str] = []
    broker.on_news = news.append

    publish(broker.topic("a_b_1"), TextStart(), TextDelta("a"), ThinkingDelta("b"))
    publish(broker.topic("a_b_2"), ENDED)

    assert news == ["a_b_1", "a_b_2"]


def test_one_that_leaves_a_session_and_watches_all_is_told_what_it_lost_in_between() -> None:
    reader, broker = Reader(), open_broker()
    topic = broker.topic("a_b_1")
    broker.watch(reader)
    topic.subscribe(reader)
    reader.stop_reading()
    publish(topic, TextStart(), TextEnd())

    topic.unsubscribe(reader)
    reader.catch_up()
    publish(topic, TextStart())

    assert [(event["type"], event["seq"]) for event in map(told, reader.payloads)] == [
        ("lagged", 2),
        ("text_start", 3),
    ]
