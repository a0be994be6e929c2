"""The index: what is found, what is not any more, and that nothing that befalls it makes it wrong."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import trio

from crabd.errors import BadRequest, StoreError
from crabd.messages import AssistantMessage, TextBlock, ToolMessage, utc_now
from crabd.store.base import Hit, Hits, Query, Store
from crabd.store.inmemory import InMemoryStore
from crabd.store.journal.store import JournalStore
from crabd.store.meta import SessionMeta, advance, begin_meta
from crabd.store.record import Cleared, Compacted, Configured, Created, MessageAdded, Record, Step
from crabd.store.search.file import ENOUGH_SESSIONS, RANKED, Addition, SearchFile
from crabd.store.search.index import FILE, SLICE, StoreIndex
from tests.store.samples import AT, said

PATIENCE = 30.0


def replied(text: str) -> MessageAdded:
    return MessageAdded("r1", AssistantMessage((TextBlock(text),)))


@asynccontextmanager
async def running(home: Path, store: Store) -> AsyncGenerator[StoreIndex]:
    """Keep an index in step with a store until the block ends."""
    index = StoreIndex(home, store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(index.run)
        yield index
        nursery.cancel_scope.cancel()


async def tell(store: Store, *records: Record, sender: str = "b", topic: str | None = None) -> str:
    """Make a session with these records; returns its id."""
    log = (await store.create("a", sender, topic=topic)).log
    await log.append(records)
    await log.aclose()
    return log.meta.id


async def add(store: Store, session: str, *records: Record) -> None:
    log = (await store.load(session)).log
    await log.append(records)
    await log.aclose()


async def search(
    index: StoreIndex,
    text: str,
    *,
    agent: str | None = None,
    sender: str | None = None,
    topic: str | None = None,
    session: str | None = None,
) -> Hits:
    """Search until the index is complete."""
    query = Query(text=text, agent=agent, sender=sender, topic=topic, session=session)
    with trio.fail_after(PATIENCE):
        while (found := await index.search(query)).indexing:
            await trio.lowlevel.checkpoint()
    return found


async def places(index: StoreIndex, text: str, *, session: str | None = None) -> list[tuple[str, int, str]]:
    found = await search(index, text, session=session)
    return [(hit.session, hit.step, hit.role) for hit in found.hits]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "index"


async def test_everything_that_was_said_is_found_with_its_place(home: Path) -> None:
    store = InMemoryStore()
    output = MessageAdded("r1", ToolMessage("c1", "shell", "the OUTPUT of make", "ok"))
    session = await tell(store, said("my question"), replied("an answer"), output, topic="Topical")
    async with running(home, store) as index:
        assert await places(index, "question") == [(session, 2, "user")]
        assert await places(index, "answer") == [(session, 3, "assistant")]
        assert await places(index, "output") == [(session, 4, "tool")]
        assert await places(index, "topical") == [(session, 1, "title")]
        assert await places(index, "question albatross") == []


async def test_it_is_not_called_ready_before_it_knows_what_it_lacks(home: Path) -> None:
    store = InMemoryStore()
    session = await tell(store, said("my question"))
    async with running(home, store) as index:
        with trio.fail_after(PATIENCE):
            while index.health().state != "ready":
                await trio.lowlevel.checkpoint()

        found = await index.search(Query(text="question"))

    assert [hit.session for hit in found.hits] == [session]


async def test_a_hit_tells_title_time_snippet_and_how_often(home: Path) -> None:
    store = InMemoryStore()
    session = await tell(
        store, said("Is the build red?"), replied("The build is red."), Configured(title="Builds")
    )
    async with running(home, store) as index:
        (hit,) = (await search(index, "build")).hits

    step = (await store.read(session, after=hit.step - 1, upto=hit.step))[0]
    assert hit == Hit(
        session=session,
        title="Builds",
        step=hit.step,
        role=hit.role,
        at=step.at,
        snippet=("Is the ", "build", " red?"),
        score=hit.score,
        matches=2,
    )


async def test_what_lies_before_a_boundary_is_found_and_so_is_the_summary(home: Path) -> None:
    store = InMemoryStore()
    compacted = Compacted("1", "They spoke of pelicans", 2, None, 10)
    session = await tell(store, said("albatross"), compacted, said("cormorant"), Cleared(), said("dodo"))
    async with running(home, store) as index:
        assert await places(index, "albatross") == [(session, 2, "user")]
        assert await places(index, "pelicans") == [(session, 3, "summary")]
        assert await places(index, "cormorant") == [(session, 4, "user")]
        assert await places(index, "dodo") == [(session, 6, "user")]


async def test_what_was_just_committed_is_found_at_once(home: Path) -> None:
    store = InMemoryStore()
    session = await tell(store, said("first"))
    async with running(home, store) as index:
        await search(index, "first")
        for number in range(20):
            await add(store, session, said(f"word{number}"))

            found = await index.search(Query(text=f"word{number}"))

            assert [hit.step for hit in found.hits] == [3 + number]


async def test_a_new_title_takes_the_place_of_the_old_one(home: Path) -> None:
    store = InMemoryStore()
    session = await tell(store, said("hello"), Configured(title="Pelicans"))
    async with running(home, store) as index:
        before = await places(index, "pelicans")
        await add(store, session, Configured(title="Cormorants"))

        after = await places(index, "pelicans"), await places(index, "cormorants")

    assert before == [(session, 3, "title")]
    assert after == ([], [(session, 4, "title")])


async def test_a_deleted_session_is_gone_at_once_and_then_from_the_file(home: Path) -> None:
    store = InMemoryStore()
    left = await tell(store, said("another word"))
    gone = await tell(store, said("the secret word"))
    async with running(home, store) as index:
        await search(index, "word")
        await store.delete(gone)

        at_once = await index.search(Query(text="word", limit=1))

        await search(index, "word")
    assert [hit.session for hit in at_once.hits] == [left]
    assert b"another word" in (home / FILE).read_bytes()
    assert b"the secret word" not in (home / FILE).read_bytes()


async def test_sessions_are_told_apart_by_exact_names(home: Path) -> None:
    store = InMemoryStore()
    senders = ["b_1", "b-1", "b:1", "B 1"]
    sessions = {sender: await tell(store, said("hello"), sender=sender) for sender in senders}
    topics = {topic: await tell(store, said("hello"), topic=topic) for topic in ("x", "X")}
    async with running(home, store) as index:
        by_sender = {
            sender: [hit.session for hit in (await search(index, "hello", sender=sender)).hits]
            for sender in senders
        }
        by_topic = {
            topic: [hit.session for hit in (await search(index, "hello", topic=topic)).hits]
            for topic in topics
        }
        of_nobody = await search(index, "hello", agent="A")
        of_both = await search(index, "hello", agent="a", sender="b-1")

    assert by_sender == {sender: [session] for sender, session in sessions.items()}
    assert by_topic == {topic: [session] for topic, session in topics.items()}
    assert of_nobody.hits == ()
    assert [hit.session for hit in of_both.hits] == [sessions["b-1"]]


async def test_words_that_are_nowhere_together_are_looked_for_in_one_session(home: Path) -> None:
    store = InMemoryStore()
    apart = await tell(store, said("about pelicans"), replied("and about cormorants"), said("nothing"))
    await tell(store, said("pelicans alone"))
    async with running(home, store) as index:
        found = await search(index, "pelicans cormorants")
        without = await places(index, "pelicans cormorants dodo")
        new = await tell(store, said("pelicans and cormorants"))
        together = await places(index, "cormorants pelicans")

    assert [(hit.session, hit.matches) for hit in found.hits] == [(apart, 2)]
    assert without == []
    assert together == [(new, 2, "user")]


async def test_in_one_session_every_message_is_a_hit(home: Path) -> None:
    store = InMemoryStore()
    session = await tell(store, said("one word"), replied("two words"), said("word again"))
    await tell(store, said("word elsewhere"))
    async with running(home, store) as index:
        found = await places(index, "word", session=session)

    assert sorted(found) == [(session, 2, "user"), (session, 4, "user")]


async def test_titles_and_summaries_come_before_messages_and_of_equals_the_newest(home: Path) -> None:
    store = InMemoryStore()
    said_it = [await tell(store, said("about pelicans and fish"), replied("yes")) for _ in range(3)]
    titled = await tell(store, said("hello"), Configured(title="About pelicans and fish"))
    for _ in range(5):
        await tell(store, said("other things altogether"))
    async with running(home, store) as index:
        found = await search(index, "pelicans")

    assert [hit.session for hit in found.hits] == [titled, *reversed(said_it)]


async def test_pages_follow_each_other_without_a_gap_or_a_double(home: Path) -> None:
    store = InMemoryStore()
    sessions = [await tell(store, said(f"word number {number}")) for number in range(25)]
    async with running(home, store) as index:
        await search(index, "word")
        found: list[str] = []
        cursor: str | None = None
        while True:
            page = await index.search(Query(text="word", limit=10, cursor=cursor))
            found += [hit.session for hit in page.hits]
            cursor = page.cursor
            if cursor is None:
                break
            # What is said meanwhile does not shift the pages.
            await tell(store, said("one more word"))

    assert sorted(found) == sorted(sessions)
    assert len(found) == 25


@pytest.mark.parametrize("cursor", ["x", "1", "1.", "-1.0", "1.1.1", "9" * 40 + ".0", "١.٠"])
async def test_a_cursor_that_was_never_given_is_refused(home: Path, cursor: str) -> None:
    store = InMemoryStore()
    async with running(home, store) as index:
        await search(index, "word")

        with pytest.raises(BadRequest) as refused:
            await index.search(Query(text="word", cursor=cursor))

    assert refused.value.path == "$.cursor"


async def test_a_query_without_a_word_is_refused(home: Path) -> None:
    async with running(home, InMemoryStore()) as index:
        await search(index, "word")

        with pytest.raises(BadRequest) as refused:
            await index.search(Query(text="-?"))

    assert refused.value.path == "$.query"


async def test_a_session_far_longer_than_a_slice_is_indexed_to_its_end(home: Path) -> None:
    store = InMemoryStore()
    session = await tell(store, *(said(f"word{number}") for number in range(3 * SLICE + 7)))
    async with running(home, store) as index:
        found = [await places(index, f"word{number}") for number in (0, SLICE, 3 * SLICE + 6)]

    assert found == [[(session, number + 2, "user")] for number in (0, SLICE, 3 * SLICE + 6)]


async def test_it_goes_on_where_an_earlier_life_has_stopped(home: Path) -> None:
    store = InMemoryStore()
    old, gone = await tell(store, said("old words")), await tell(store, said("gone words"))
    async with running(home, store) as index:
        await search(index, "words")
    await add(store, old, said("more"), Configured(title="Retitled"))
    await store.delete(gone)
    new = await tell(store, said("new words"))

    async with running(home, store) as index:
        found = sorted(await places(index, "words"))
        more = await places(index, "more"), await places(index, "retitled")

    assert found == [(old, 2, "user"), (new, 2, "user")]
    assert more == ([(old, 3, "user")], [(old, 4, "title")])


async def test_a_session_that_is_another_one_now_is_indexed_anew(home: Path) -> None:
    first, second, shorter = InMemoryStore(), InMemoryStore(), InMemoryStore()
    session = await tell(first, said("before one"), said("before two"))
    await tell(second, said("after one"), said("after two"), said("after three"))
    await tell(shorter, said("last"))
    for store, there, away in (
        (first, "before", "after"),
        (second, "after", "before"),
        (shorter, "last", "after"),
    ):
        async with running(home, store) as index:
            found = await places(index, there), await places(index, away)

        assert found[0][0][0] == session
        assert found[1] == []


async def test_an_index_of_another_crabd_is_made_anew_without_a_word(home: Path) -> None:
    store = InMemoryStore()
    session = await tell(store, said("hello"))
    async with running(home, store) as index:
        await search(index, "hello")
    connection = sqlite3.connect(home / FILE)
    connection.executescript("DROP TABLE texts; PRAGMA user_version = 999")
    connection.close()

    async with running(home, store) as index:
        found = await places(index, "hello")

        assert index.health().problem is None
    assert found == [(session, 2, "user")]


HARMS: dict[str, Callable[[Path], object]] = {
    "no directory": lambda path: shutil.rmtree(path.parent),
    "no file": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "other": lambda path: path.write_bytes(b"no database at all" * 1000),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "overwritten": lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 50_000),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
async def test_an_index_that_cannot_be_used_is_made_anew(home: Path, harm: Callable[[Path], object]) -> None:
    store = InMemoryStore()
    session = await tell(store, said("hello"), *(said(f"filler {number}") for number in range(100)))
    async with running(home, store) as index:
        await search(index, "hello")

    harm(home / FILE)
    async with running(home, store) as index:
        found = await places(index, "hello")

    assert found == [(session, 2, "user")]


async def test_an_index_that_is_removed_under_way_is_made_anew(home: Path) -> None:
    store = InMemoryStore()
    session = await tell(store, said("hello"))
    async with running(home, store) as index:
        await search(index, "hello")

        shutil.rmtree(home)
        await add(store, session, said("more"))
        with trio.fail_after(PATIENCE):
            while not (home / FILE).exists():
                await trio.sleep(0)
        found = await places(index, "hello"), await places(index, "more")

        assert found == ([(session, 2, "user")], [(session, 3, "user")])
        assert "made anew" in (index.health().problem or "")


async def test_a_session_that_cannot_be_read_keeps_no_other_from_being_found(
    tmp_path: Path, home: Path
) -> None:
    store = JournalStore(tmp_path / "state")
    await store.open()
    good, bad = await tell(store, said("good words")), await tell(store, said("bad words"))
    journal = store.home(bad) / "journal.jsonl"
    data = journal.read_bytes()
    journal.write_bytes(data.replace(b"bad words", b"BAD words"))

    async with running(home, store) as index:
        found = await places(index, "words")

    assert found == [(good, 2, "user")]
    await store.aclose()


async def test_only_we_can_read_it(home: Path) -> None:
    store = InMemoryStore()
    await tell(store, said("hello"))
    async with running(home, store) as index:
        await search(index, "hello")

        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()}

    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert modes == {FILE: 0o600, f"{FILE}-wal": 0o600, f"{FILE}-shm": 0o600}


async def test_a_directory_that_cannot_be_written_is_told_and_hurts_nobody(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("a file in its place")
    store = InMemoryStore()
    async with running(tmp_path / "index", store) as index:
        session = await tell(store, said("hello"))
        with trio.fail_after(PATIENCE):
            while index.health().problem is None:
                await trio.sleep(0)

        found = await index.search(Query(text="hello"))

        assert (found.hits, found.indexing) == ((), True)
        assert "File exists" in (index.health().problem or "")
        assert store.meta(session) is not None


async def test_a_file_that_cannot_be_written_now_is_searched_meanwhile(home: Path) -> None:
    store = InMemoryStore()
    session = await tell(store, said("hello"))
    async with running(home, store) as index:
        await search(index, "hello")
        writer = sqlite3.connect(home / FILE, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        await add(store, session, said("more"))
        with trio.fail_after(PATIENCE):
            while index.health().problem is None:
                await trio.sleep(0)

        found = await index.search(Query(text="hello"))

        writer.close()
        assert [hit.session for hit in found.hits] == [session]
        assert found.indexing
        assert "locked" in (index.health().problem or "")


async def test_a_crash_in_it_ends_the_search_and_nothing_else(home: Path) -> None:
    class Broken(InMemoryStore):
        def metas(self) -> tuple[SessionMeta, ...]:
            raise RuntimeError("a bug")

    store = Broken()
    async with running(home, store) as index:
        with trio.fail_after(PATIENCE):
            while index.health().state != "off":
                await trio.sleep(0)

        with pytest.raises(StoreError, match="restart crabd"):
            await index.search(Query(text="hello"))
        await tell(store, said("goes on"))


def a_session(number: int, *texts: str, title: str = "") -> Addition:
    """Steps of a session that no store has."""
    steps = [Step(1, AT, Created(session=f"a_b_{number}", agent="a", sender="b"))]
    steps += [Step(n, AT + timedelta(seconds=n), said(text)) for n, text in enumerate(texts, 2)]
    if title:
        steps.append(Step(len(steps) + 1, AT, Configured(title=title)))
    meta = begin_meta(steps[0])
    for step in steps[1:]:
        meta = advance(meta, step)
    return Addition(meta, tuple(steps))


def test_of_more_matches_than_are_ranked_the_newest_count_and_every_title(home: Path) -> None:
    file = SearchFile(home / FILE)
    sessions = [a_session(number, *["word"] * 50) for number in range(1, 81)]
    metas = {addition.meta.id: addition.meta for addition in sessions}
    titled = a_session(99, "hello", title="Word")
    metas[titled.meta.id] = titled.meta
    file.add([titled], is_past=True)
    for addition in sessions:
        file.add([addition], is_past=False)

    hits, _ = file.search(Query(text="word", limit=100), metas.get)
    file.close()

    found = {hit.session for hit in hits}
    newest = {f"a_b_{number}" for number in range(81 - max(RANKED // 50, ENOUGH_SESSIONS), 81)}
    assert found >= newest | {"a_b_99"}
    assert "a_b_1" not in found


def test_sessions_that_the_store_lacks_take_no_place_on_a_page(home: Path) -> None:
    file = SearchFile(home / FILE)
    left, gone = a_session(1, "word"), a_session(2, "word")
    file.add([left, gone], is_past=False)

    hits, cursor = file.search(Query(text="word", limit=1), {left.meta.id: left.meta}.get)
    file.close()

    assert [hit.session for hit in hits] == ["a_b_1"]
    assert cursor is None


def test_the_past_is_older_than_all_there_is_and_its_newest_session_comes_first(home: Path) -> None:
    file = SearchFile(home / FILE)
    now, yesterday, before, long_ago = (a_session(number, "word") for number in (4, 3, 2, 1))
    metas = {addition.meta.id: addition.meta for addition in (now, yesterday, before, long_ago)}
    file.add([now], is_past=False)
    file.add([yesterday, before], is_past=True)
    file.add([long_ago], is_past=True)

    hits, _ = file.search(Query(text="word"), metas.get)
    file.close()

    assert [hit.session for hit in hits] == ["a_b_4", "a_b_3", "a_b_2", "a_b_1"]


def test_a_session_that_is_half_forgotten_is_known_to_be_so(home: Path) -> None:
    file = SearchFile(home / FILE)
    addition = a_session(1, "one", "two", "three")
    file.add([addition], is_past=False)
    complete = file.progress()

    more = file.forget("a_b_1", 2)
    file.close()
    file = SearchFile(home / FILE)
    half = file.progress()
    while file.forget("a_b_1", 2):
        pass
    gone = file.progress()
    file.close()

    assert more
    assert complete == {"a_b_1": addition.progress}
    assert half["a_b_1"].upto == 0
    assert gone == {}


def test_long_texts_are_found_by_their_beginning_and_their_end(home: Path) -> None:
    file = SearchFile(home / FILE)
    output = "alpha " + "x " * 100_000 + "omega"
    step = Step(2, utc_now(), MessageAdded("r1", ToolMessage("c", "shell", output, "ok")))
    base = a_session(1)
    addition = Addition(advance(base.meta, step), (*base.steps, step))
    file.add([addition], is_past=False)

    found = [file.search(Query(text=text), {"a_b_1": addition.meta}.get)[0] for text in ("alpha", "omega")]
    size = (home / FILE).stat().st_size
    file.close()

    assert [len(hits) for hits in found] == [1, 1]
    assert size < 100_000
