"""What every store promises, whatever it keeps its sessions on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import TypeAlias

import pytest
import trio
from hypothesis import given, settings

from crabd.errors import NotFound, StoreError
from crabd.messages import MAX_IMAGE, ImageBlock, TextBlock, UserMessage, utc_now
from crabd.store.base import Store
from crabd.store.inmemory import InMemoryStore
from crabd.store.meta import (
    KEY_AGE,
    MAX_KEYS,
    Claim,
    Deletion,
    SessionMeta,
    advance,
    begin_meta,
    note_deletion,
    still_known,
    tail_of,
)
from crabd.store.names import is_session_id
from crabd.store.record import Claimed, Cleared, Created, MessageAdded, MessageQueued, Record, RunOpened, Step
from tests.faults.backends import BACKENDS
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
    if name in BACKENDS:
        return lambda: BACKENDS[name].make(root)
    kept = InMemoryStore()
    return lambda: kept


@pytest.fixture(params=[*BACKENDS, "memory"])
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


async def test_the_largest_picture_comes_back_as_it_was_shown(make_store: MakeStore) -> None:
    shown = (TextBlock("Look:"), ImageBlock("image/png", b"\x89" * MAX_IMAGE))
    store = make_store()
    await store.open()
    created = await store.create("a", "b")
    records: list[Record] = [
        MessageQueued("r1", shown),
        RunOpened("r1"),
        MessageAdded("r1", UserMessage(shown)),
    ]
    steps = created.steps + await created.log.append(records)
    await store.aclose()
    store = make_store()

    found = await store.open()

    assert found == ()
    is_same = (await store.load(created.log.meta.id)).steps == steps
    assert is_same
    await store.aclose()


async def test_a_log_can_be_read_from_any_step_while_it_is_open_and_after(store: Store) -> None:
    loaded = await store.create("crab", "user")
    session = loaded.log.meta.id
    steps = (*loaded.steps, *await loaded.log.append(a_turn("hi")))

    assert await store.read(session) == steps
    assert await store.read(session, after=2) == steps[2:]
    assert await store.read(session, after=1, upto=3) == steps[1:3]
    assert await store.read(session, after=steps[-1].n) == ()
    assert await store.read(session, after=3, upto=2) == ()
    await loaded.log.aclose()
    assert await store.read(session, after=1) == steps[1:]
    with pytest.raises(NotFound):
        await store.read("crab_user_99")


async def test_each_session_has_a_size_that_grows_with_it(store: Store) -> None:
    small = (await store.create("a", "b")).log
    large = (await store.create("a", "c")).log
    await large.append([said("x" * 20_000)] * 10)

    sizes = await store.sizes()

    assert sizes.keys() == {small.meta.id, large.meta.id}
    assert 0 < sizes[small.meta.id] < sizes[large.meta.id]
    store.check_room()


async def test_who_listens_hears_of_each_commit_and_of_the_deletion(store: Store) -> None:
    heard: list[str] = []
    store.on_commit(heard.append)

    loaded = await store.create("crab", "user")
    session = loaded.log.meta.id
    await loaded.log.append(a_turn("hi"))
    await loaded.log.append([])
    await loaded.log.aclose()
    await store.load(session)
    await store.delete(session)

    assert heard == [session] * 3


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


async def test_the_keys_that_claimed_a_session_are_in_its_meta(make_store: MakeStore) -> None:
    store = make_store()
    await store.open()
    created = await store.create("a", "b", topic="t", request_key="k1")
    (claimed,) = await created.log.append([Claimed("k2")])
    await store.aclose()
    store = make_store()

    await store.open()

    (meta,) = store.metas()
    assert meta.claims == (
        Claim("k1", created.steps[0].at, "t", created=True),
        Claim("k2", claimed.at),
    )
    await store.aclose()


async def test_a_deletion_that_keys_lead_to_is_remembered(make_store: MakeStore) -> None:
    store = make_store()
    await store.open()
    for key in (None, None, "made"):
        await (await store.create("a", "b", request_key=key)).log.aclose()
    await store.delete("a_b_1")
    await store.delete("a_b_2", request_key="k")
    await store.delete("a_b_3")
    told = store.deletions()
    await store.aclose()
    store = make_store()

    await store.open()

    facts = [(deletion.session, deletion.request_key, deletion.claims) for deletion in store.deletions()]
    assert facts == [("a_b_2", "k", ()), ("a_b_3", None, ("made",))]
    assert store.deletions() == told
    assert store.metas() == ()
    assert not await store.delete("a_b_2", request_key="k")
    await store.aclose()


async def test_what_keeps_its_place_for_a_key_never_takes_the_number_of_a_new_session(
    make_store: MakeStore,
) -> None:
    store = make_store()
    await store.open()
    await store.create("a", "b")
    await store.delete("a_b_1", request_key="k")
    await store.aclose()
    store = make_store()
    await store.open()

    made = await store.create("a", "b")

    assert made.log.meta.id == "a_b_2"
    assert store.damage() == ()
    await store.aclose()


async def test_of_many_deletions_the_newest_are_remembered(make_store: MakeStore) -> None:
    store = make_store()
    await store.open()
    for number in range(1, MAX_KEYS + 3):
        await store.create("a", "b")
        await store.delete(f"a_b_{number}", request_key=f"k{number}")

    told = store.deletions()

    assert [deletion.request_key for deletion in told] == [f"k{n}" for n in range(3, MAX_KEYS + 3)]
    await store.aclose()
    store = make_store()
    await store.open()
    assert store.deletions() == told
    await store.aclose()


def test_what_is_old_or_too_much_is_known_no_longer() -> None:
    now = utc_now()
    old = Deletion("a_b_1", now - KEY_AGE - timedelta(seconds=1), "k")
    young = [Deletion(f"a_b_{number}", now, "k") for number in range(MAX_KEYS + 1)]

    known = still_known([old, *young], now)

    assert known == tuple(young[1:])
    assert still_known([old], now) == ()


def test_an_old_claim_is_not_in_the_note_of_a_deletion() -> None:
    now = utc_now()
    first = Step(1, now - 2 * KEY_AGE, Created(session="a_b_1", agent="a", sender="b", request_key="old"))
    meta = advance(begin_meta(first), Step(2, now, Claimed("young")))

    notes = [note_deletion("a_b_1", each, None, now) for each in (begin_meta(first), meta, None)]

    assert notes == [None, Deletion("a_b_1", now, None, ("young",)), None]
    assert [claim.key for claim in meta.claims] == ["young"]


@pytest.mark.parametrize("session", ["a_b_1", *HOSTILE_IDS])
async def test_an_id_that_is_none_is_not_found(store: Store, session: str) -> None:
    assert store.meta(session) is None
    assert not await store.delete(session)
    with pytest.raises(NotFound) as caught:
        await store.load(session)

    assert caught.value.name == session


@pytest.mark.parametrize("name", [*BACKENDS, "memory"])
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
    assert loaded.steps == steps[loaded.steps[0].n - 1 :]
    assert loaded.steps[0].n <= max(1, tail_of(steps, meta).first)
    assert loaded.log.meta == meta == fold(steps)
    assert await store.read(meta.id) == steps
    await store.aclose()


async def test_a_store_in_memory_counts_from_where_it_is_told() -> None:
    store = InMemoryStore(first_number=41)

    ids = [(await store.create("a", sender)).log.meta.id for sender in ("b", "c")]

    assert ids == ["a_b_41", "a_c_42"]
