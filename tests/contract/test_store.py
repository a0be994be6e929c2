"""What every store promises, whatever it keeps its sessions on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import reduce
from pathlib import Path
from typing import TypeAlias

import pytest
import trio
from hypothesis import given, settings

from crabd.errors import NotFound, StoreError
from crabd.store.base import (
    Cleared,
    Created,
    Record,
    RunOpened,
    SessionMeta,
    Step,
    Store,
    advance,
    begin_meta,
    is_session_id,
)
from crabd.store.inmemory import InMemoryStore
from crabd.store.journal import JournalStore
from tests.store.samples import a_turn, appends, said

# Gives a store that has what the last one had when it was closed.
MakeStore: TypeAlias = Callable[[], Store]

HOSTILE_IDS = [
    "",
    ".",
    "..",
    "../x",
    "/etc",
    "a_b_0",
    "a_b_1\n",
    "a_b_1/..",
    "a_b_1\0",
    "A_b_1",
    "a_b_١",
    "x" * 5000,
]


def backend(name: str, root: Path) -> MakeStore:
    if name == "journal":
        return lambda: JournalStore(root)
    kept = InMemoryStore()
    return lambda: kept


@pytest.fixture(params=["journal", "memory"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    return backend(str(request.param), tmp_path / "store")


@pytest.fixture
async def store(make_store: MakeStore) -> AsyncIterator[Store]:
    store = make_store()
    await store.open()
    yield store
    await store.aclose()


def fold(steps: tuple[Step, ...]) -> SessionMeta:
    return reduce(advance, steps[1:], begin_meta(steps[0]))


async def test_a_new_store_is_empty_and_sound(make_store: MakeStore) -> None:
    store = make_store()

    found = await store.open()

    assert found == store.damage() == ()
    assert store.metas() == ()
    await store.aclose()


async def test_closing_a_store_twice_does_nothing(store: Store) -> None:
    await store.aclose()

    await store.aclose()


async def test_create_keeps_the_names_exactly_and_decorates_the_id_with_them(store: Store) -> None:
    loaded = await store.create("My Agent", "nvim:7", topic="t", description="d", cwd="/home", parent="a_b_1")

    meta = loaded.log.meta
    assert meta.id == "my-agent_nvim-7_1"
    assert [step.n for step in loaded.steps] == [1]
    assert loaded.steps[0].record == Created(
        session=meta.id,
        agent="My Agent",
        sender="nvim:7",
        topic="t",
        description="d",
        cwd="/home",
        parent="a_b_1",
    )
    assert meta == begin_meta(loaded.steps[0])
    assert store.meta(meta.id) == meta
    assert store.metas() == (meta,)


async def test_senders_that_share_a_slug_are_different_sessions(store: Store) -> None:
    senders = ["b_1", "b-1", "b:1", "B 1", "!!", "??", "x" * 300]

    created = [await store.create("a", sender) for sender in senders]

    ids = {loaded.log.meta.id for loaded in created}
    assert len(ids) == len(senders)
    assert all(is_session_id(id_) for id_ in ids)
    assert [store.meta(loaded.log.meta.id) for loaded in created] == [loaded.log.meta for loaded in created]
    assert [loaded.log.meta.sender for loaded in created] == senders


async def test_sessions_created_at_once_get_different_ids(store: Store) -> None:
    ids: list[str] = []

    async def create() -> None:
        ids.append((await store.create("a", "b")).log.meta.id)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(create)

    assert sorted(ids) == sorted(f"a_b_{n}" for n in range(1, 21))


@pytest.mark.parametrize("victims", [[3], [1], [2, 3], [3, 2, 1]])
async def test_a_number_is_never_used_again(make_store: MakeStore, victims: list[int]) -> None:
    store = make_store()
    await store.open()
    for _ in range(3):
        await (await store.create("a", "b")).log.aclose()
    for victim in victims:
        await store.delete(f"a_b_{victim}")
    before = (await store.create("a", "b")).log.meta.id
    await store.delete(before)
    await store.aclose()
    store = make_store()
    await store.open()

    after = (await store.create("a", "b")).log.meta.id

    assert (before, after) == ("a_b_4", "a_b_5")
    await store.aclose()


async def test_append_numbers_the_records_on_from_the_last(store: Store) -> None:
    log = (await store.create("a", "b")).log

    first = await log.append([said("one"), said("two")])
    second = await log.append([Cleared()])

    assert [(step.n, step.record) for step in first] == [(2, said("one")), (3, said("two"))]
    assert [(step.n, step.record) for step in second] == [(4, Cleared())]


async def test_appending_nothing_changes_nothing(store: Store) -> None:
    log = (await store.create("a", "b")).log
    before = log.meta

    steps = await log.append([])

    assert steps == ()
    assert log.meta == before


async def test_the_meta_is_the_sum_of_the_log_at_once(store: Store) -> None:
    loaded = await store.create("a", "b")

    steps = await loaded.log.append(a_turn())

    assert loaded.log.meta == fold(loaded.steps + steps)
    assert store.meta(loaded.log.meta.id) == loaded.log.meta
    assert store.metas() == (loaded.log.meta,)


async def test_concurrent_appends_are_served_in_order(store: Store) -> None:
    log = (await store.create("a", "b")).log
    numbers: dict[int, list[int]] = {}

    async def append(turn: int, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        numbers[turn] = [step.n for step in await log.append([said(str(turn)), Cleared()])]

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for turn in range(20):
                await nursery.start(append, turn)

    assert numbers == {turn: [2 * turn + 2, 2 * turn + 3] for turn in range(20)}


async def test_a_cancelled_append_is_there_as_a_whole_or_not_at_all(store: Store) -> None:
    loaded = await store.create("a", "b")

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(loaded.log.append, a_turn())
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    meta = loaded.log.meta
    assert (meta.steps - 1) % len(a_turn()) == 0
    await loaded.log.aclose()
    again = await store.load(meta.id)
    assert fold(again.steps) == again.log.meta == meta


async def test_load_gives_back_everything_that_was_appended(make_store: MakeStore) -> None:
    store = make_store()
    await store.open()
    created = await store.create("a", "b")
    steps = created.steps + await created.log.append(a_turn())
    meta = created.log.meta
    await store.aclose()
    store = make_store()

    found = await store.open()

    assert found == ()
    assert store.metas() == (meta,)
    loaded = await store.load(meta.id)
    assert loaded.steps == steps
    assert loaded.log.meta == meta
    await store.aclose()


async def test_a_loaded_log_goes_on_where_it_ended(store: Store) -> None:
    created = await store.create("a", "b")
    await created.log.append([RunOpened("r1")])
    await created.log.aclose()

    loaded = await store.load(created.log.meta.id)
    steps = await loaded.log.append([Cleared()])

    assert [step.n for step in loaded.steps + steps] == [1, 2, 3]
    assert loaded.log.meta.open_run == "r1"


async def test_a_log_is_open_once_at_a_time(store: Store) -> None:
    created = await store.create("a", "b")

    with pytest.raises(StoreError) as caught:
        await store.load(created.log.meta.id)

    assert caught.value.kind == "locked"
    assert caught.value.session == created.log.meta.id
    assert len(await created.log.append([Cleared()])) == 1


async def test_a_session_loaded_by_two_at_once_goes_to_one_of_them(store: Store) -> None:
    created = await store.create("a", "b")
    await created.log.aclose()
    outcomes: list[str] = []

    async def load() -> None:
        try:
            await store.load(created.log.meta.id)
            outcomes.append("loaded")
        except StoreError as exc:
            outcomes.append(exc.kind)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            nursery.start_soon(load)

    assert sorted(outcomes) == ["loaded", "locked"]


async def test_a_closed_log_refuses_and_closing_it_again_does_nothing(store: Store) -> None:
    log = (await store.create("a", "b")).log
    await log.aclose()
    await log.aclose()

    with pytest.raises(StoreError, match="closed"):
        await log.append([Cleared()])

    assert log.meta.steps == 1


async def test_a_log_closes_in_a_cancelled_scope_too(store: Store) -> None:
    log = (await store.create("a", "b")).log

    with trio.CancelScope() as scope:
        scope.cancel()
        await log.aclose()

    assert len((await store.load(log.meta.id)).steps) == 1


async def test_a_checkpoint_is_not_needed_and_does_no_harm(make_store: MakeStore) -> None:
    store = make_store()
    await store.open()
    log = (await store.create("a", "b")).log
    await log.append([RunOpened("r1")])
    await log.checkpoint()
    await log.append([Cleared()])
    meta = log.meta
    await store.aclose()
    store = make_store()

    await store.open()

    assert store.metas() == (meta,)
    await store.aclose()


async def test_a_deleted_session_is_gone_for_good(make_store: MakeStore) -> None:
    store = make_store()
    await store.open()
    kept, gone = await store.create("a", "b"), await store.create("a", "b")
    await gone.log.aclose()

    deleted = await store.delete(gone.log.meta.id)

    assert deleted
    assert not await store.delete(gone.log.meta.id)
    assert store.meta(gone.log.meta.id) is None
    with pytest.raises(NotFound):
        await store.load(gone.log.meta.id)
    await store.aclose()
    store = make_store()
    await store.open()
    assert store.metas() == (kept.log.meta,)
    await store.aclose()


async def test_a_late_append_to_a_deleted_session_is_refused_and_brings_nothing_back(
    make_store: MakeStore,
) -> None:
    store = make_store()
    await store.open()
    log = (await store.create("a", "b")).log
    await store.delete(log.meta.id)

    with pytest.raises(StoreError):
        await log.append([Cleared()])

    await log.aclose()
    await store.aclose()
    store = make_store()
    assert await store.open() == ()
    assert store.metas() == ()
    await store.aclose()


@pytest.mark.parametrize("session", ["a_b_1", *HOSTILE_IDS])
async def test_an_id_that_is_none_is_not_found(store: Store, session: str) -> None:
    assert store.meta(session) is None
    assert not await store.delete(session)
    with pytest.raises(NotFound) as caught:
        await store.load(session)

    assert caught.value.name == session


@pytest.mark.parametrize("name", ["journal", "memory"])
@given(appends=appends)
@settings(max_examples=40, deadline=None)
async def test_any_log_reads_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, name: str, appends: list[list[Record]]
) -> None:
    make_store = backend(name, tmp_path_factory.mktemp("store"))
    store = make_store()
    await store.open()
    created = await store.create("a", "b")
    steps = created.steps
    for records in appends:
        steps += await created.log.append(records)
    meta = created.log.meta
    await store.aclose()
    store = make_store()

    found = await store.open()

    loaded = await store.load(meta.id)
    assert found == ()
    assert loaded.steps == steps
    assert loaded.log.meta == meta == fold(steps)
    await store.aclose()


async def test_a_store_in_memory_counts_from_where_it_is_told() -> None:
    store = InMemoryStore(first_number=41)

    ids = [(await store.create("a", sender)).log.meta.id for sender in ("b", "c")]

    assert ids == ["a_b_41", "a_c_42"]
