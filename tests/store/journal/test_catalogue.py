"""The catalogue: what a start takes from it, and when it looks for itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from crabd.store.journal.catalogue import CATALOGUE, load_catalogue
from crabd.store.journal.recovery import META
from crabd.store.journal.store import JournalStore
from crabd.store.meta import SessionMeta
from crabd.store.record import Configured
from crabd.store.seal import seal
from tests.store.samples import a_turn


async def fill(root: Path, count: int = 3) -> dict[str, SessionMeta]:
    """Leave sessions behind, in order."""
    store = JournalStore(root)
    await store.open()
    for number in range(count):
        log = (await store.create("a", "b")).log
        await log.append(a_turn(f"turn {number}"))
    metas = by_id(store)
    await store.aclose()
    return metas


def by_id(store: JournalStore) -> dict[str, SessionMeta]:
    return {meta.id: meta for meta in store.metas()}


def hide_metas(root: Path) -> None:
    """Leave nothing but the catalogue to tell what the sessions are."""
    for path in (root / "sessions").glob(f"*/{META}"):
        path.write_bytes(b"")


async def reopened(root: Path) -> dict[str, SessionMeta]:
    store = JournalStore(root)
    assert await store.open() == ()
    metas = by_id(store)
    await store.aclose()
    return metas


async def test_after_an_orderly_stop_no_session_is_opened(tmp_path: Path) -> None:
    metas = await fill(tmp_path)
    hide_metas(tmp_path)

    store = JournalStore(tmp_path)
    await store.open()
    found = by_id(store)

    # A journal without its meta is scanned, and its meta made anew.
    assert found == metas
    assert [path.read_bytes() for path in (tmp_path / "sessions").glob(f"*/{META}")] == [b""] * 3
    await store.aclose()


@pytest.mark.parametrize("spoilt", [b"", b"{", b'{"v":1,"meta_v":1,"entries":[]}\n', b"\0" * 5000, None])
async def test_without_a_good_catalogue_the_sessions_are_asked(tmp_path: Path, spoilt: bytes | None) -> None:
    metas = await fill(tmp_path)
    if spoilt is None:
        (tmp_path / CATALOGUE).unlink()
    else:
        (tmp_path / CATALOGUE).write_bytes(spoilt)

    assert await reopened(tmp_path) == metas
    assert load_catalogue(tmp_path).keys() == metas.keys()


async def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    metas = await fill(tmp_path)
    data = (tmp_path / CATALOGUE).read_bytes()
    (tmp_path / CATALOGUE).write_bytes(data.replace(b'"agent":"a"', b'"agent":"c"', 1))

    assert load_catalogue(tmp_path) == {}
    assert await reopened(tmp_path) == metas


async def test_a_catalogue_of_another_version_is_none(tmp_path: Path) -> None:
    await fill(tmp_path)
    document = (tmp_path / CATALOGUE).read_bytes().removesuffix(b"\n")
    body = document[: document.rindex(b',"crc"')] + b"}"

    (tmp_path / CATALOGUE).write_bytes(seal(body.replace(b'"v":1', b'"v":2', 1)))

    assert load_catalogue(tmp_path) == {}


async def test_a_session_that_went_on_since_is_looked_at(tmp_path: Path) -> None:
    await fill(tmp_path)
    old = (tmp_path / CATALOGUE).read_bytes()
    store = JournalStore(tmp_path)
    await store.open()
    loaded = await store.load("a_b_2")
    await loaded.log.append([Configured(title="later")])
    await store.create("a", "b")
    await store.delete("a_b_1", request_key="k")
    metas = by_id(store)
    await store.aclose()
    # As a kill would have left it.
    (tmp_path / CATALOGUE).write_bytes(old)

    found = await reopened(tmp_path)

    assert found == metas
    assert found["a_b_2"].title == "later"
    assert "a_b_1" not in found


async def test_a_journal_that_was_restored_behind_our_back_is_looked_at(tmp_path: Path) -> None:
    await fill(tmp_path)
    journal = tmp_path / "sessions" / "a_b_1" / "journal.jsonl"
    shutil.copy2(tmp_path / "sessions" / "a_b_1" / META, tmp_path / "old meta")
    shutil.copy2(journal, tmp_path / "old journal")
    store = JournalStore(tmp_path)
    await store.open()
    loaded = await store.load("a_b_1")
    await loaded.log.append([Configured(title="lost")])
    await store.aclose()

    shutil.copy2(tmp_path / "old journal", journal)
    shutil.copy2(tmp_path / "old meta", tmp_path / "sessions" / "a_b_1" / META)

    assert (await reopened(tmp_path))["a_b_1"].title == ""


async def test_a_change_that_keeps_size_and_time_is_noticed(tmp_path: Path) -> None:
    await fill(tmp_path)
    journal = tmp_path / "sessions" / "a_b_1" / "journal.jsonl"
    before = journal.stat()
    hide_metas(tmp_path)

    data = journal.read_bytes()
    journal.write_bytes(data.replace(b"turn 0", b"turn 9", 1))
    os.utime(journal, ns=(before.st_atime_ns, before.st_mtime_ns))
    store = JournalStore(tmp_path)
    damage = await store.open()

    assert [each.session for each in damage] == ["a_b_1"]
    await store.aclose()


async def test_a_link_in_the_place_of_a_session_is_not_followed(tmp_path: Path) -> None:
    await fill(tmp_path)
    home = tmp_path / "sessions" / "a_b_1"
    home.rename(tmp_path / "elsewhere")
    home.symlink_to(tmp_path / "elsewhere")

    store = JournalStore(tmp_path)
    (damage,) = await store.open()

    assert "symbolic link" in damage.problem
    assert store.meta("a_b_1") is None
    await store.aclose()


async def test_numbers_and_deletions_are_known_as_without_it(tmp_path: Path) -> None:
    await fill(tmp_path)
    store = JournalStore(tmp_path)
    await store.open()
    await store.delete("a_b_3", request_key="k")
    await store.aclose()
    store = JournalStore(tmp_path)
    await store.open()

    made = await store.create("a", "b")

    assert made.log.meta.id == "a_b_4"
    assert [(each.session, each.request_key) for each in store.deletions()] == [("a_b_3", "k")]
    await store.aclose()


async def test_it_is_written_while_sessions_are_open_and_believed_only_for_what_it_saw(
    tmp_path: Path,
) -> None:
    await fill(tmp_path)
    store = JournalStore(tmp_path)
    await store.open()
    loaded = await store.load("a_b_1")
    await loaded.log.append([Configured(title="open")])

    await store.save_catalogue()

    assert load_catalogue(tmp_path).keys() == {"a_b_2", "a_b_3"}
    await store.aclose()
    assert load_catalogue(tmp_path)["a_b_1"].saved.meta.title == "open"
