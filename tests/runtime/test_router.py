"""Which session an identity means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import trio
import trio.testing
from msgspec import structs

from crabd.runtime.router import Identity, Router, choose_stored
from crabd.store.meta import SessionMeta

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
ANN = Identity("crab", "ann")


def meta(number: int, *, sender: str = "ann", topic: str | None = None, hours: int = 0) -> SessionMeta:
    return SessionMeta(
        id=f"crab_{sender}_{number}",
        agent="crab",
        sender=sender,
        topic=topic,
        created_at=BEGIN,
        updated_at=BEGIN + timedelta(hours=hours),
        steps=1,
    )


def test_an_identity_has_the_active_session_it_was_given_last() -> None:
    router = Router()
    before = router.active(ANN)

    router.activate(ANN, "crab_ann_1")
    router.activate(ANN, "crab_ann_2")

    assert (before, router.active(ANN)) == (None, "crab_ann_2")
    assert router.is_active("crab_ann_2", ANN)
    assert not router.is_active("crab_ann_1", ANN)


def test_identities_are_compared_as_they_spell_themselves() -> None:
    router = Router()
    router.activate(Identity("crab", "b-1"), "crab_b-1_1")
    others = [Identity("crab", "b:1"), Identity("Crab", "b-1"), Identity("crab", "b-1", is_ephemeral=True)]

    assert [router.active(other) for other in others] == [None, None, None]


def test_a_session_that_is_gone_leaves_nobody_active_and_the_others_as_they_are() -> None:
    router, bob = Router(), Identity("crab", "bob")
    router.activate(ANN, "crab_ann_1")
    router.activate(bob, "crab_bob_1")

    router.deactivate("crab_ann_1")
    router.deactivate("crab_ann_9")

    assert (router.active(ANN), router.active(bob)) == (None, "crab_bob_1")


async def test_all_who_look_for_one_thing_at_the_same_time_share_its_lock() -> None:
    router = Router()
    had_a_turn: list[Identity | str] = []

    async def take(key: Identity | str) -> None:
        async with router.lock(key):
            had_a_turn.append(key)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, router.lock(ANN):
            for key in (Identity("crab", "ann"), Identity("crab", "bob"), "crab_ann_1"):
                nursery.start_soon(take, key)
            await trio.testing.wait_all_tasks_blocked()
            before = set(had_a_turn)

    assert before == {Identity("crab", "bob"), "crab_ann_1"}
    assert len(had_a_turn) == 3


def test_the_session_that_was_used_last_is_chosen() -> None:
    metas = [meta(1, hours=1), meta(2, hours=3), meta(3, hours=2)]

    assert choose_stored(metas, ANN, None) == metas[1]


def test_a_topic_chooses_among_the_sessions_of_that_title() -> None:
    metas = [meta(1, topic="deploy", hours=1), meta(2, topic="deploy", hours=2), meta(3, hours=3)]

    assert choose_stored(metas, ANN, "deploy") == metas[1]
    assert choose_stored(metas, ANN, "review") is None


def test_the_sessions_of_others_are_never_chosen() -> None:
    metas = [meta(1, sender="bob"), structs.replace(meta(2), agent="Crab")]

    assert choose_stored(metas, ANN, None) is None
    assert choose_stored([], ANN, None) is None


def test_the_choice_does_not_depend_on_the_order_of_the_store() -> None:
    metas = [meta(1), meta(2), meta(3)]

    chosen = {choose_stored(order, ANN, None) for order in (metas, metas[::-1])}

    assert len(chosen) == 1
