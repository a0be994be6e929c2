"""What every store promises of a session that is brought to it whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crabd.messages import TextBlock, UserMessage
from crabd.store.base import Store
from crabd.store.meta import add_up
from crabd.store.record import Cleared, Created, MessageAdded, Record, Source, Step, rename_log
from tests.contract.test_store import MakeStore, backend
from tests.faults.backends import BACKENDS
from tests.store.samples import AT, a_turn, numbered, records


@pytest.fixture(params=[*BACKENDS, "memory"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    return backend(str(request.param), tmp_path / "store")


@pytest.fixture
async def store(make_store: MakeStore) -> AsyncIterator[Store]:
    store = make_store()
    await store.open()
    yield store
    await store.aclose()


async def test_a_restored_session_is_the_log_it_was_made_of_with_its_times(make_store: MakeStore) -> None:
    source = Source("x", "key", "digest")
    steps = [
        Step(1, AT, Created(session="a_b_7", agent="a", sender="b", topic="t", source=source)),
        *(Step(n, AT + timedelta(days=n), record) for n, record in enumerate(a_turn(), 2)),
    ]
    store = make_store()
    await store.open()

    meta = await store.restore(steps)

    assert meta == add_up(steps) == store.meta("a_b_7")
    assert meta.source == source
    assert await store.read("a_b_7") == tuple(steps)
    await store.aclose()
    store = make_store()
    assert await store.open() == ()
    assert store.metas() == (meta,)
    loaded = await store.load("a_b_7")
    assert loaded.steps == tuple(steps)
    (step,) = await loaded.log.append([Cleared()])
    assert step.n == len(steps) + 1
    await store.aclose()


@pytest.mark.parametrize(
    "wanted", ["a_b_1", "a_b_2", "a_c_9", "../x", "", "a_b_0", "a_b_9999999999", "A_b_5", "a_b_5\n"]
)
async def test_an_id_that_was_used_or_is_not_right_becomes_a_new_one(store: Store, wanted: str) -> None:
    for _ in range(2):
        await (await store.create("a", "b")).log.aclose()
    await store.delete("a_b_2")

    meta = await store.restore(numbered(Cleared(), session=wanted))

    assert meta.id == "a_b_3"
    assert await store.read("a_b_3") == rename_log(numbered(Cleared()), "a_b_3")


async def test_the_number_of_a_restored_session_is_used_up(make_store: MakeStore) -> None:
    store = make_store()
    await store.open()
    await store.restore(numbered(session="a_b_5"))
    made = await store.create("a", "b")
    await made.log.aclose()
    await store.delete("a_b_5")
    await store.delete("a_b_6")
    await store.aclose()
    store = make_store()
    await store.open()

    again = await store.restore(numbered(session="a_b_5"))

    assert (made.log.meta.id, again.id) == ("a_b_6", "a_b_7")
    await store.aclose()


async def test_who_listens_hears_of_a_restored_session_once(store: Store) -> None:
    heard: list[str] = []
    store.on_commit(heard.append)

    await store.restore(numbered(Cleared(), Cleared()))

    assert heard == ["a_b_1"]


@pytest.mark.parametrize(
    "steps",
    [
        [],
        numbered(Cleared())[1:],
        [*numbered(Cleared()), *numbered(Cleared())],
        [*numbered(), Step(3, AT, Cleared())],
        [*numbered(), Step(2, AT, Created(session="a_b_2", agent="a", sender="b"))],
    ],
)
async def test_what_is_no_log_is_refused_and_leaves_nothing(store: Store, steps: list[Step]) -> None:
    with pytest.raises(ValueError, match="step"):
        await store.restore(steps)

    assert store.metas() == ()


async def test_a_record_that_cannot_be_kept_on_disk_leaves_nothing_there(tmp_path: Path) -> None:
    make_store = backend("journal", tmp_path)
    store = make_store()
    await store.open()
    half = MessageAdded("r1", UserMessage((TextBlock("\ud800"),)))
    odd = MessageAdded("r1", UserMessage((TextBlock(cast("str", 7)),)))

    for record in (half, odd):
        with pytest.raises(ValueError, match=r"."):
            await store.restore(numbered(Cleared(), record))

    assert store.metas() == ()
    assert [path.name for path in (tmp_path / "sessions").iterdir()] == []
    assert (await store.restore(numbered())).id == "a_b_1"
    await store.aclose()


@pytest.mark.parametrize("name", [*BACKENDS, "memory"])
@given(log=st.lists(records, max_size=10))
@settings(max_examples=30, deadline=None)
async def test_any_log_that_one_store_has_another_can_be_given(
    tmp_path_factory: pytest.TempPathFactory, name: str, log: list[Record]
) -> None:
    make_store = backend(name, tmp_path_factory.mktemp("store"))
    store = make_store()
    await store.open()
    steps = numbered(*log)

    meta = await store.restore(steps)

    assert await store.read(meta.id) == tuple(steps)
    assert (await store.load(meta.id)).log.meta == meta == add_up(steps)
    await store.aclose()
