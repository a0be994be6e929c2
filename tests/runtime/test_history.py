"""What a session has not in memory: pages of its history, its request keys, what its model sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from crabd.errors import RequestKeyReused
from crabd.messages import (
    AssistantMessage,
    TextBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserBlock,
    UserMessage,
    user_text,
)
from crabd.runtime.broker import Broker
from crabd.runtime.compaction import plan_cut
from crabd.runtime.history import FIRST_GO, Page, Wanted, find_page, read_page
from crabd.runtime.prompt import Context
from crabd.runtime.recovery import close_interrupted
from crabd.runtime.rewind import plan_rewind
from crabd.runtime.session import Session
from crabd.runtime.sessions import Sessions
from crabd.runtime.ticket import Admission
from crabd.store.base import Loaded, SessionLog, Store
from crabd.store.inmemory import InMemoryStore
from crabd.store.journal.line import encode_step
from crabd.store.journal.store import JournalStore
from crabd.store.meta import KEY_AGE, tail_of
from crabd.store.record import (
    Cleared,
    Compacted,
    MessageAdded,
    MessageQueued,
    Record,
    Rewound,
    RunClosed,
    RunOpened,
    Shortened,
    Step,
)

GO: tuple[UserBlock, ...] = (TextBlock("go"),)


def a_run(number: int, key: str | None = None) -> list[Record]:
    """Make what a run of one round leaves in the log."""
    run = f"r{number}"
    return [
        RunOpened(run, key),
        MessageAdded(run, user_text("go")),
        MessageAdded(run, AssistantMessage((TextBlock(f"answer {number}"),))),
        RunClosed(run, "end_turn", 0.1, Usage(1, 1)),
    ]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JournalStore]:
    store = JournalStore(tmp_path / "store")
    await store.open()
    yield store
    await store.aclose()


def sessions_of(store: Store) -> Sessions:
    return Sessions(store, InMemoryStore(), Broker("epoch", lambda payload: payload))


async def reload(store: JournalStore, log: SessionLog) -> Loaded:
    await log.aclose()
    return await store.load(log.meta.id)


async def compact(log: SessionLog, steps: tuple[Step, ...]) -> None:
    """Cut where the runtime would."""
    cut = plan_cut(Context(steps))
    assert cut is not None
    goal = cut.goal.step if cut.goal else None
    await log.append([Compacted("a_b_1/1", "they talked", cut.upto, goal, 5)])


async def fill(store: JournalStore, runs: int, *, key_of_first: str | None = None) -> tuple[Step, ...]:
    """Leave a closed session of many runs with a compaction after them; returns all its steps."""
    log = (await store.create("a", "b")).log
    for number in range(1, runs + 1):
        await log.append(a_run(number, key_of_first if number == 1 else None))
    await compact(log, await store.read(log.meta.id))
    await log.aclose()
    return await store.read(log.meta.id)


async def test_a_loaded_session_has_in_memory_what_its_model_sees_and_knows_the_rest(
    store: JournalStore,
) -> None:
    steps = await fill(store, 20)
    sessions = sessions_of(store)

    session = await sessions.load("a_b_1")

    assert len(session.steps) < 20 < len(steps)
    assert session.steps == list(steps[session.first - 1 :])
    assert session.context.messages() == Context(steps).messages()
    assert session.context.goal is not None
    assert session.meta.message_count == 40
    assert session.accept(GO).run == "r21"


async def test_a_boundary_lets_go_of_what_the_model_no_longer_sees(store: JournalStore) -> None:
    await fill(store, 3)
    session = await sessions_of(store).load("a_b_1")
    await session.save(a_run(4))
    before = session.first

    await session.save([Cleared()])

    assert before < session.first == session.meta.steps
    assert session.context.messages() == ()


@pytest.mark.parametrize("roles", [None, ("user",), ("assistant",), ("tool",)])
@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_pages_are_the_same_wherever_the_messages_are(
    store: JournalStore, roles: tuple[str, ...] | None, limit: int
) -> None:
    steps = await fill(store, FIRST_GO // 2)
    sessions = sessions_of(store)
    session = await sessions.load("a_b_1")
    starts = (None, 1, 2, FIRST_GO, session.first - 1, session.first, len(steps), len(steps) + 9)

    pages = [await sessions.read_page(session, Wanted(first, limit, roles)) for first in starts]

    assert pages == [find_page(steps, Wanted(first, limit, roles)) for first in starts]


@pytest.mark.parametrize("limit", [1, 5, 100])
async def test_what_was_taken_back_is_marked_wherever_the_messages_are(
    store: JournalStore, limit: int
) -> None:
    log = (await store.create("a", "b")).log
    for number in range(1, 40):
        await log.append(a_run(number))
        if number % 4 == 0:
            await log.append([Rewound(log.meta.steps - 6, 10)])
        if number % 10 == 0:
            await log.append([Compacted("a/1", "so far", log.meta.steps - 12, None, 10)])
        if number % 10 == 1:
            # Back into what the summary has left.
            await log.append([Rewound(log.meta.steps - 15, 10)])
    await log.aclose()
    steps = await store.read("a_b_1")
    sessions = sessions_of(store)
    session = await sessions.load("a_b_1")
    starts = (None, *range(1, len(steps), 3))

    pages = [await sessions.read_page(session, Wanted(first, limit)) for first in starts]

    assert pages == [find_page(steps, Wanted(first, limit)) for first in starts]
    everything = await sessions.read_page(session, Wanted(1, len(steps)))
    assert {stored.rewound for stored in everything.messages} == {True, False}


async def test_what_was_taken_back_much_later_is_marked_too(store: JournalStore) -> None:
    log = (await store.create("a", "b")).log
    for number in range(1, FIRST_GO // 2):
        await log.append(a_run(number))
    await log.append(
        [Rewound(4, 10), *a_run(FIRST_GO), Compacted("a/1", "so far", log.meta.steps + 3, None, 10)]
    )
    await log.aclose()
    sessions = sessions_of(store)
    session = await sessions.load("a_b_1")

    page = await sessions.read_page(session, Wanted(1, 3))

    assert session.first > FIRST_GO
    assert [(stored.step > 4) for stored in page.messages] == [stored.rewound for stored in page.messages]


async def test_a_page_that_is_in_memory_is_found_there_at_once(store: JournalStore) -> None:
    await fill(store, 20)
    session = await sessions_of(store).load("a_b_1")

    assert find_page(session.steps, Wanted(None, 3)) is not None
    assert find_page(session.steps, Wanted(session.first, 50)) is not None
    assert find_page(session.steps, Wanted(session.first - 1, 50)) is None
    assert find_page(session.steps, Wanted(None, 50)) is None


async def test_a_page_of_a_log_without_messages_is_empty(store: JournalStore) -> None:
    log = (await store.create("a", "b")).log

    page = await read_page(store, log.meta.id, await store.read(log.meta.id), Wanted(None, 5))

    assert page == Page((), None)


async def test_a_key_from_before_the_boundary_is_known_to_whoever_asks_for_it(store: JournalStore) -> None:
    await fill(store, 20, key_of_first="k")
    sessions = sessions_of(store)
    session = await sessions.load("a_b_1")
    is_known_at_once = session.knows("k")

    again = await sessions.load("a_b_1", "k")
    found = again.keys.find("k", Admission, GO)

    assert not is_known_at_once
    assert session.knows(None)
    assert again is session
    assert found is not None
    assert found.ticket.outcome is not None
    assert (found.ticket.run, found.ticket.outcome.text) == ("r1", "answer 1")
    assert session.knows("one that nobody has sent")
    with pytest.raises(RequestKeyReused):
        await session.claim("k", None)


async def test_what_is_known_of_a_live_request_is_not_replaced_by_what_the_log_says(
    store: JournalStore,
) -> None:
    await fill(store, 20, key_of_first="old")
    sessions = sessions_of(store)
    session = await sessions.load("a_b_1")
    ticket = session.accept(GO, request_key="new")
    session.keys.add("new", GO, Admission(ticket, "started"))
    await session.save([MessageQueued(ticket.run, GO, request_key="new")])

    await sessions.load("a_b_1", "other")

    found = session.keys.find("new", Admission, GO)
    assert found is not None
    assert found.ticket is ticket
    assert session.keys.find("old", Admission, GO) is not None


async def test_a_log_that_is_old_enough_is_not_read_for_keys(tmp_path: Path) -> None:
    store = JournalStore(tmp_path / "store")
    await store.open()
    await fill(store, 5)
    await store.aclose()
    await age(tmp_path / "store")
    await store.open()

    session = await sessions_of(store).load("a_b_1")

    assert session.first > 1
    assert session.knows("k")
    await store.aclose()


async def age(root: Path) -> None:
    """Have a session's log tell of a time when keys that are forgotten by now were sent."""
    store = JournalStore(root)
    await store.open()
    steps = await store.read("a_b_1")
    await store.aclose()
    lines = b"".join(encode_step(structs.replace(step, at=step.at - 2 * KEY_AGE)) for step in steps)
    (root / "sessions" / "a_b_1" / "journal.jsonl").write_bytes(lines)


async def test_keys_that_claim_and_delete_a_session_are_held_against_all_of_its_log(
    store: JournalStore,
) -> None:
    await fill(store, 20, key_of_first="k")
    sessions = sessions_of(store)
    await sessions.load("a_b_1")

    with trio.fail_after(30), pytest.raises(RequestKeyReused):
        await sessions.delete("a_b_1", "k")

    assert store.meta("a_b_1") is not None


call = ToolCall("c", "tool", "{}")
# What may happen to a session next, by the runtime's own rules.
happenings = st.lists(
    st.sampled_from(["run", "tools", "compact", "clear", "rewind", "shorten", "queue", "cancel queued"]),
    max_size=25,
)


class Life:
    """Writes a log as the runtime does."""

    def __init__(self, log: SessionLog) -> None:
        self.log = log
        self.number = 0
        self.waiting: list[MessageQueued] = []

    def next_run(self) -> str:
        self.number += 1
        return f"r{self.number}"

    def records(self, happening: str, steps: tuple[Step, ...]) -> list[Record]:
        match happening:
            case "run" | "tools":
                return self.run(with_tools=happening == "tools")
            case "clear":
                return [Cleared()]
            case "compact":
                cut = plan_cut(Context(steps))
                if cut is None:
                    return []
                goal = cut.goal.step if cut.goal else None
                return [Compacted("x/1", f"summary {len(steps)}", cut.upto, goal, 5)]
            case "shorten":
                return [Shortened(self.log.meta.steps, 2, 4)]
            case "rewind":
                context = Context(steps)
                if not any(isinstance(entry.message, UserMessage) for entry in context.entries):
                    return []
                back = plan_rewind("a_b_1", context, None)
                return [Rewound(back.step, back.context_tokens)]
            case "queue":
                self.waiting.append(MessageQueued(self.next_run(), GO))
                return [self.waiting[-1]]
            case "cancel queued" if self.waiting:
                return [RunClosed(self.waiting.pop().run, "cancelled", 0.0, Usage())]
            case _:
                return []

    def run(self, *, with_tools: bool) -> list[Record]:
        run = self.waiting.pop(0).run if self.waiting else self.next_run()
        middle: list[Record] = []
        if with_tools:
            middle = [
                MessageAdded(run, AssistantMessage((call,))),
                MessageAdded(run, ToolMessage("c", "tool", "done", "ok")),
            ]
        opened, said, *rest = a_run(int(run[1:]))
        return [opened, said, *middle, *rest]


@given(happenings, st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
async def test_from_its_tail_a_session_goes_on_as_from_its_whole_log(
    tmp_path_factory: pytest.TempPathFactory, lived: list[str], is_cut_short: bool, checkpoints: bool
) -> None:
    store = JournalStore(tmp_path_factory.mktemp("store"))
    await store.open()
    log = (await store.create("a", "b")).log
    life = Life(log)
    for happening in lived:
        await log.append(life.records(happening, await store.read("a_b_1")))
        if checkpoints:
            await log.checkpoint()
    if is_cut_short:
        await log.append(life.run(with_tools=True)[:3])

    loaded = await reload(store, log)

    steps = await store.read("a_b_1")
    tail = tail_of(steps, log.meta)
    assert loaded.steps == steps[loaded.steps[0].n - 1 :]
    assert loaded.steps[0].n == tail.first
    assert Context(loaded.steps, loaded.goal).messages() == Context(steps).messages()
    assert close_interrupted(log.meta, loaded.steps) == close_interrupted(log.meta, steps)
    session = Session(loaded, Broker("epoch", lambda payload: payload).topic("a_b_1"))
    assert session.accept(GO).run == f"r{life.number + 1}"
    await store.aclose()
