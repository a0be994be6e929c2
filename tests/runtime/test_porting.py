"""Imports and exports, over a store of each side."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from crabd.errors import BadRequest, NotFound, StoreError
from crabd.events import RuleLists
from crabd.messages import AssistantMessage, TextBlock, ToolCall, ToolMessage, user_text
from crabd.runtime.porting import DISARMED, Brought, Porting, Wish
from crabd.store.base import Store
from crabd.store.inmemory import InMemoryStore
from crabd.store.meta import SessionMeta
from crabd.store.porting.export import write_page
from crabd.store.porting.sources import read_sources
from crabd.store.record import Configured, MessageAdded, MessageQueued, Record, RunClosed, RunOpened
from tests.crabtalk import V22_META, compact, user, write_root, write_steps
from tests.store.samples import a_turn


def porting(store: Store, scratch: Store | None = None) -> Porting:
    return Porting(store, scratch or InMemoryStore(), read_sources, write_page)


async def bring(store: Store, path: Path, **wish: object) -> list[Brought]:
    with trio.fail_after(30):
        return list(await porting(store).bring(Wish(path=str(path), **wish)))  # type: ignore[arg-type]  # a Wish's own fields


async def export(store: Store, session: str, path: Path, limit: int = 3) -> Path:
    pages: list[str] = []
    step: int | None = 1
    while step is not None:
        text, step = await porting(store).give(session, step, limit)
        pages.append(text)
    path.write_text("".join(pages))
    return path


async def a_store(*records: Record) -> InMemoryStore:
    """Make a store with one session, ``a_b_1``."""
    store = InMemoryStore()
    created = await store.create("a", "b", topic="t", cwd="/")
    await created.log.append(records)
    return store


def statuses(brought: list[Brought]) -> list[tuple[str, str | None]]:
    return [(one.status, one.meta.id if one.meta else None) for one in brought]


async def test_an_export_imports_back_to_equal_state(tmp_path: Path) -> None:
    here, there = await a_store(*a_turn(), *a_turn()), InMemoryStore()
    path = await export(here, "a_b_1", tmp_path / "x.jsonl")

    brought = await bring(there, path)

    assert statuses(brought) == [("imported", "a_b_1")]
    assert await there.read("a_b_1") == await here.read("a_b_1")
    assert there.metas() == here.metas()


async def test_what_was_imported_before_is_told_and_not_doubled_unless_that_is_asked_for(
    tmp_path: Path,
) -> None:
    store = InMemoryStore()
    sessions = write_root(tmp_path)
    first = await bring(store, tmp_path)

    again = await bring(store, sessions)
    doubled = await bring(store, sessions / "crab_user_1", again=True)

    assert [one.status for one in first] == ["imported"] * 3
    assert [(one.status, one.meta) for one in again] == [("there", one.meta) for one in first]
    assert [one.notes for one in again] == [()] * 3
    assert [one.status for one in doubled] == ["imported"]
    assert len(store.metas()) == 4


async def test_an_export_of_what_is_there_is_known_again(tmp_path: Path) -> None:
    store = await a_store(*a_turn())
    await bring(store, write_root(tmp_path) / "crab_user_1")
    own = await export(store, "a_b_1", tmp_path / "own.jsonl")
    brought = await export(store, "crab_user_2", tmp_path / "brought.jsonl")

    assert statuses(await bring(store, own)) == [("there", "a_b_1")]
    assert statuses(await bring(store, brought)) == [("there", "crab_user_2")]
    assert statuses(await bring(store, own, again=True)) == [("imported", "a_b_3")]


async def test_a_source_that_has_gone_on_is_there_already_and_said_to_have_more(tmp_path: Path) -> None:
    store = InMemoryStore()
    place = write_steps(tmp_path / "crab_user_1", V22_META, [user("hi")])
    await bring(store, place)
    (place / "step-000002").write_bytes(compact(user("ho")))

    (found,) = await bring(store, place)

    assert found.status == "there"
    assert "gone on" in found.notes[0]


async def test_a_dry_run_tells_all_and_changes_nothing(tmp_path: Path) -> None:
    store = InMemoryStore()
    sessions = write_root(tmp_path)
    (sessions / "crab_user_9").mkdir()
    (sessions / "crab_user_9" / "step-000001").write_bytes(b"{}")

    told = await bring(store, sessions, dry_run=True)

    assert [one.status for one in told] == ["found", "found", "found", "refused"]
    assert store.metas() == ()


async def test_one_bad_session_does_not_keep_the_others_out(tmp_path: Path) -> None:
    store = InMemoryStore()
    sessions = write_root(tmp_path)
    (sessions / "crab_user_1" / "meta").unlink()

    brought = await bring(store, sessions)

    assert [one.status for one in brought] == ["imported", "refused", "imported"]
    assert {meta.id for meta in store.metas()} == {"crab_tg-12345_1", "crab_user_2"}


async def test_agent_and_sender_may_be_others_than_those_in_the_files(tmp_path: Path) -> None:
    store = InMemoryStore()

    (one,) = await bring(store, write_root(tmp_path) / "crab_user_1", agent="my crab", sender="me")

    assert one.meta is not None
    assert (one.meta.id, one.meta.agent, one.meta.sender) == ("my-crab_me_1", "my crab", "me")


async def test_a_run_that_was_going_when_its_session_was_exported_is_closed_where_it_comes_to(
    tmp_path: Path,
) -> None:
    call = AssistantMessage((ToolCall("c", "read", "{}"),))
    here = await a_store(
        RunOpened("r1"), MessageAdded("r1", user_text("go")), MessageAdded("r1", call),
        MessageQueued("r2", (TextBlock("next"),)),
    )  # fmt: skip
    there = InMemoryStore()

    (one,) = await bring(there, await export(here, "a_b_1", tmp_path / "x.jsonl"))

    assert one.meta is not None
    meta = there.meta("a_b_1")
    assert meta is not None
    assert (meta.open_run, meta.queued) == (None, ())
    records = [step.record for step in await there.read("a_b_1", after=5)]
    results = [
        r.message for r in records if isinstance(r, MessageAdded) and isinstance(r.message, ToolMessage)
    ]
    assert [(result.call, result.status) for result in results] == [("c", "interrupted")]
    assert [r.stop_reason for r in records if isinstance(r, RunClosed)] == ["interrupted", "interrupted"]


async def test_what_a_session_was_allowed_elsewhere_it_is_not_here(tmp_path: Path) -> None:
    rules = RuleLists(allow=("bash",), deny=("edit(docs/**)",))
    here, there = await a_store(Configured(mode="full", permissions=rules)), InMemoryStore()
    path = await export(here, "a_b_1", tmp_path / "x.jsonl")

    (brought,) = await bring(there, path)

    (meta,) = there.metas()
    assert (meta.mode, meta.permissions) == (None, RuleLists(deny=("edit(docs/**)",)))
    assert brought.notes == (DISARMED,)


async def test_what_a_session_was_forbidden_elsewhere_it_is_here_too(tmp_path: Path) -> None:
    here, there = await a_store(Configured(mode="read-only")), InMemoryStore()
    path = await export(here, "a_b_1", tmp_path / "x.jsonl")

    (brought,) = await bring(there, path)

    assert [meta.mode for meta in there.metas()] == ["read-only"]
    assert brought.notes == ()


async def test_two_imports_of_the_same_at_once_bring_it_once(tmp_path: Path) -> None:
    store = InMemoryStore()
    write_root(tmp_path)
    both = porting(store)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(both.bring, Wish(path=str(tmp_path)))

    assert len(store.metas()) == 3


class FullStore(InMemoryStore):
    """A store that has room for one session."""

    async def restore(self, steps: object) -> SessionMeta:
        if self.metas():
            raise StoreError("full", "no room for it; free some space and try again")
        return await super().restore(steps)  # type: ignore[arg-type]  # whatever it is given


async def test_a_session_that_the_store_refuses_is_told_and_can_be_brought_later(tmp_path: Path) -> None:
    store = FullStore()
    write_root(tmp_path)

    brought = await bring(store, tmp_path)

    assert [one.status for one in brought] == ["imported", "refused", "refused"]
    assert brought[1].problem == "no room for it; free some space and try again"
    assert len(store.metas()) == 1


async def test_an_ephemeral_session_can_be_exported_and_so_kept(tmp_path: Path) -> None:
    store, scratch = InMemoryStore(), InMemoryStore(first_number=1000)
    await (await scratch.create("a", "b")).log.append(a_turn())
    text, step = await porting(store, scratch).give("a_b_1000", 1, 100)
    (tmp_path / "x.jsonl").write_text(text)

    brought = await bring(store, tmp_path / "x.jsonl")

    assert step is None
    assert statuses(brought) == [("imported", "a_b_1000")]


async def test_an_export_of_what_is_not_there_is_refused() -> None:
    store = await a_store()

    with pytest.raises(NotFound):
        await porting(store).give("a_b_2", 1, 10)
    with pytest.raises(BadRequest, match=r"step 2 is behind the last one, 1"):
        await porting(store).give("a_b_1", 2, 10)
