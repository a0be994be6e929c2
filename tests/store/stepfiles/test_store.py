"""The store of step files: what it writes, what it makes of what crabtalk wrote, and of what a crash left."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path

import pytest

from crabd.errors import StoreError
from crabd.messages import (
    AssistantMessage,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
    text_of,
    user_text,
)
from crabd.store.journal.store import JournalStore
from crabd.store.meta import SessionMeta, add_up
from crabd.store.record import (
    Cleared,
    Compacted,
    Configured,
    Created,
    MessageAdded,
    Record,
    RunClosed,
    RunOpened,
    Step,
)
from crabd.store.stepfiles.store import StepStore
from tests import crabtalk_reader as crabtalk
from tests.crabtalk import (
    V21_META,
    V22_META,
    Json,
    assistant,
    blocks,
    boundary,
    compact,
    done,
    tool,
    user,
    write_steps,
)
from tests.store.samples import a_turn, said


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


@asynccontextmanager
async def opened(root: Path) -> AsyncGenerator[StepStore]:
    store = StepStore(root)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


async def fill(root: Path, *turns: str) -> SessionMeta:
    """Leave one session with a turn of these words each."""
    async with opened(root) as store:
        log = (await store.create("a", "b")).log
        for turn in turns:
            await log.append(a_turn(turn))
        return log.meta


async def read(root: Path, session: str = "a_b_1") -> tuple[Step, ...]:
    """Read a whole log as the next start finds it, which must be sound."""
    async with opened(root) as store:
        assert store.damage() == ()
        steps = await store.read(session)
        assert store.meta(session) == add_up(steps)
        return steps


def home(root: Path, session: str = "a_b_1") -> Path:
    return root / "sessions" / session


def step(root: Path, number: int, session: str = "a_b_1") -> Path:
    return home(root, session) / f"step-{number:06}"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def texts(steps: Sequence[Step]) -> list[str]:
    """List what was said, by whomever."""
    return [text_of(step.record.message) for step in steps if isinstance(step.record, MessageAdded)]


def killed_copy(root: Path) -> Path:
    """Copy a store in use: what a SIGKILL at this moment would leave."""
    copy = root.with_name("killed")
    shutil.copytree(root, copy, symlinks=True)
    return copy


def edit_meta(place: Path, **changes: object) -> None:
    """Write a session's meta as crabtalk's newer version does, which drops what it does not know."""
    old = json.loads((place / "meta").read_bytes())
    (place / "meta").write_bytes(compact({key: old[key] for key in V22_META} | changes))


@pytest.mark.usefixtures("umask")
async def test_everything_is_ours_alone_whatever_the_umask(root: Path) -> None:
    await fill(root, "hello")

    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if not path.is_dir()} == {0o600}


async def test_a_session_is_a_meta_a_sum_and_a_file_for_each_step(root: Path) -> None:
    meta = await fill(root, "hello")

    assert names(root) == ["lock", "sessions"]
    assert names(home(root)) == ["crabd.json", "meta", *(f"step-{n:06}" for n in range(1, meta.steps + 1))]
    assert crabtalk.read_session(home(root)).meta == crabtalk.Meta(
        "a",
        "b",
        meta.created_at.isoformat(),
        updated_at=meta.updated_at.isoformat(),
        message_count=2,
    )


async def test_crabtalk_reads_what_was_said(root: Path) -> None:
    await fill(root, "hello")

    session = crabtalk.read_session(home(root))

    assert [(message.role, message.content) for message in session.history] == [
        ("user", "hello"),
        ("assistant", "hello yourself"),
    ]


@pytest.mark.parametrize(
    ("record", "archive"), [(Compacted("a_b_1/1", "So far.", 6, 3, 9), "a_b_1/1"), (Cleared(), None)]
)
async def test_crabtalk_goes_on_from_our_last_boundary(
    root: Path, record: Record, archive: str | None
) -> None:
    await fill(root, "one")
    async with opened(root) as store:
        log = (await store.load("a_b_1")).log
        await log.append([record])
        await log.append([said("two")])

    session = crabtalk.read_session(home(root))

    assert [message.content for message in session.history] == ["two"]
    assert session.archive == archive
    assert session.meta.summary == ("So far." if archive else None)


OLD = [
    user("look"),
    assistant(None, ("c1", "read", '{"path":"a"}'), thinking="Hm."),
    tool("c1", "zebra"),
    assistant("A zebra."),
    {"event": "tool_start", "calls": [{"id": "c1", "name": "read"}], "ts": "2026-04-23T10:00:01+00:00"},
    done("2026-04-23T10:00:05+00:00", iterations=2),
]
NEW = [
    blocks("user", {"type": "text", "text": "look"}),
    blocks(
        "assistant",
        {"type": "thinking", "thinking": "Hm."},
        {"type": "tool_use", "id": "c1", "name": "read", "input": {"path": "a"}},
        {"type": "tool_use", "id": "c2", "name": "read", "input": {"path": "b"}},
    ),
    blocks(
        "user",
        {"type": "tool_result", "tool_use_id": "c1", "name": "read", "content": "zebra"},
        {"type": "tool_result", "tool_use_id": "c2", "name": "read", "content": "lion"},
    ),
    blocks("assistant", {"type": "text", "text": "A zebra."}),
]


async def test_a_session_of_crabtalks_is_taken_over_and_its_files_stay(root: Path) -> None:
    place = write_steps(home(root, "crab_tg-12345_7"), V21_META, OLD)
    before = {path.name: path.read_bytes() for path in place.glob("step-*")}

    steps = await read(root, place.name)

    assert steps[0].record == Created(session=place.name, agent="crab", sender="tg:12345", topic="deploy")
    call = ToolCall("c1", "read", '{"path":"a"}')
    messages = [each.record.message for each in steps if isinstance(each.record, MessageAdded)]
    assert [type(message) for message in messages] == [
        UserMessage,
        AssistantMessage,
        ToolMessage,
        AssistantMessage,
    ]
    assert call in messages[1].content if isinstance(messages[1], AssistantMessage) else False
    assert messages[2] == ToolMessage("c1", "read", "zebra", "ok")
    closed = next(each.record for each in steps if isinstance(each.record, RunClosed))
    assert closed == RunClosed("r1", "end_turn", 42, Usage(100, 20, 60))
    assert steps[-1].record == Configured(title="Deploy notes")
    assert {path.name: path.read_bytes() for path in place.glob("step-*")} == before | {
        "step-000007": step(root, 7, place.name).read_bytes()
    }
    assert [message.content for message in crabtalk.read_session(place).history] == [
        "look",
        None,
        "zebra",
        "A zebra.",
    ]


async def test_a_document_with_several_results_becomes_as_many_messages(root: Path) -> None:
    place = write_steps(home(root, "crab_user_1"), V22_META, NEW)

    steps = await read(root, place.name)

    assert texts(steps) == ["look", "", "zebra", "lion", "A zebra."]
    assert steps[0].at.isoformat() == "2026-05-19T08:00:00.500000+00:00"


async def test_a_session_without_steps_is_taken_over_too(root: Path) -> None:
    place = write_steps(home(root, "crab_user_1"), V22_META, [])

    steps = await read(root, place.name)

    assert [type(each.record) for each in steps] == [Created]


async def test_what_was_taken_over_is_not_taken_over_again(root: Path) -> None:
    place = write_steps(home(root, "crab_tg-12345_7"), V21_META, OLD)
    steps = await read(root, place.name)
    files = names(place)
    (place / "crabd.json").unlink()

    again = await read(root, place.name)

    assert again == steps
    assert names(place) == files


async def test_the_two_take_turns(root: Path) -> None:
    place = write_steps(home(root, "crab_tg-12345_7"), V21_META, OLD)
    async with opened(root) as store:
        loaded = await store.load(place.name)
        assert loaded.log.meta.last_run == 1
        ours = await loaded.log.append([RunOpened("r2"), MessageAdded("r2", user_text("ours"))])
        await loaded.log.append([RunClosed("r2", "end_turn", 0.5, Usage())])
    before = await read(root, place.name)
    for document in (user("theirs"), assistant("yes"), done("2026-04-23T11:00:00+00:00")):
        crabtalk.next_step(place).write_bytes(compact(document))
    edit_meta(place, title="Renamed")
    # What could be known is gone with it, and the log is the same.
    shutil.copytree(place, root / "copy")
    (root / "copy" / "crabd.json").unlink()

    steps = await read(root, place.name)

    assert steps[: len(before)] == before
    assert ours[0].n == before[-1].n - 2
    assert texts(steps) == ["look", "", "zebra", "A zebra.", "ours", "theirs", "yes"]
    later = [each.record for each in steps[len(before) :]]
    assert later[0] == RunOpened("r3")
    assert later[-1] == Configured(title="Renamed")
    session = crabtalk.read_session(place)
    assert [message.content for message in session.history][-3:] == ["ours", "theirs", "yes"]
    assert session.meta.title == "Renamed"
    async with opened(root) as store:
        loaded = await store.load(place.name)
        (last,) = await loaded.log.append([said("ours again")])
    assert (await read(root, place.name)) == (*steps, last)


async def test_a_title_that_crabtalk_gives_is_taken_and_ours_is_told_to_it(root: Path) -> None:
    await fill(root, "hello")
    async with opened(root) as store:
        log = (await store.load("a_b_1")).log
        await log.append([Configured(title="ours")])
    told = crabtalk.read_session(home(root)).meta.title
    edit_meta(home(root), title="theirs")

    async with opened(root) as store:
        (meta,) = store.metas()

    assert (told, meta.title) == ("ours", "theirs")
    assert (await read(root))[-1].record == Configured(title="theirs")


async def test_a_title_that_crabtalk_could_not_be_told_is_not_lost_to_an_older_one(root: Path) -> None:
    await fill(root, "hello")
    async with opened(root) as store:
        log = (await store.load("a_b_1")).log
        await log.append([Configured(title="old")])
        await log.checkpoint()
        await log.append([Configured(title="new")])
        copy = killed_copy(root)

    steps = await read(copy)

    assert steps[-1].record == Configured(title="new")
    assert crabtalk.read_session(home(copy)).meta.title == "new"


async def test_while_crabtalk_cannot_be_told_a_title_its_old_one_does_not_come_back(root: Path) -> None:
    await fill(root, "hello")
    async with opened(root) as store:
        log = (await store.load("a_b_1")).log
        await log.append([Configured(title="old")])
        await log.checkpoint()
        await log.append([Configured(title="new")])
        # Whatever would be written there first fails.
        (home(root) / ".tmp-meta").mkdir()
        with pytest.raises(StoreError):
            await log.checkpoint()
        (home(root) / ".tmp-meta").rmdir()
        copy = killed_copy(root)

    assert (await read(copy))[-1].record == Configured(title="new")


@pytest.mark.parametrize("meta", [V21_META, V22_META])
async def test_what_else_is_in_a_meta_survives(root: Path, meta: Json) -> None:
    place = write_steps(home(root, "crab_user_1"), meta | {"color": "blue"}, OLD)

    async with opened(root) as store:
        log = (await store.load(place.name)).log
        await log.append([said("more")])

    after = json.loads((place / "meta").read_bytes())
    kept = ("agent", "created_by", "created_at", "color", "summary")
    assert [after.get(key) for key in kept] == [(meta | {"color": "blue"}).get(key) for key in kept]
    assert after["message_count"] == 5
    assert after["uptime_secs"] == meta.get("uptime_secs", 0)


async def test_a_boundary_of_crabtalks_ends_what_the_model_sees(root: Path) -> None:
    place = write_steps(
        home(root, "crab_user_1"),
        V22_META | {"summary": "So far."},
        [user("one"), boundary("deploy-notes-2"), user("two")],
    )

    async with opened(root) as store:
        loaded = await store.load(place.name)

    cut = next(each for each in loaded.steps if isinstance(each.record, Compacted))
    assert isinstance(cut.record, Compacted)
    assert (cut.record.archive, cut.record.summary) == ("deploy-notes-2", "So far.")
    assert cut.record.upto == cut.n - 1
    assert texts(loaded.steps) == ["two"]


async def test_an_archive_that_is_elsewhere_is_told_and_a_placeholder_stands_for_it(root: Path) -> None:
    place = write_steps(home(root, "crab_user_1"), V22_META, [user("one"), boundary("deploy-notes-2")])

    async with opened(root) as store:
        (damage,) = store.damage()
        steps = await store.read(place.name)

    assert "deploy-notes-2" in damage.problem
    assert "[archived context unavailable: deploy-notes-2]" in repr(steps)


async def test_crabtalks_own_gaps_and_numbers_past_six_digits_are_nothing_special(root: Path) -> None:
    place = write_steps(home(root, "crab_user_1"), V22_META, [])
    for number, text in ((3, "one"), (999_999, "two"), (1_000_000, "three"), (1_000_001, "four")):
        step(root, number, place.name).write_bytes(compact(user(text)))

    async with opened(root) as store:
        loaded = await store.load(place.name)
        await loaded.log.append([said("five")])

    assert texts(await read(root, place.name)) == ["one", "two", "three", "four", "five"]
    assert "five" in step(root, 1_000_003, place.name).read_text()


async def test_what_crabtalk_left_half_written_is_swept_and_odd_names_are_told(root: Path) -> None:
    await fill(root, "hello")
    for name in ("step-000007.tmp.4711.1776938700", "meta.tmp.4711.1776938700", ".tmp-meta"):
        (home(root) / name).write_bytes(compact(user("ghost")))
    for name in ("step-7", "step-0000007", "step-000000", "step-x", "step-000008.bak"):
        (home(root) / name).write_bytes(compact(user("ghost")))

    async with opened(root) as store:
        told = [damage.problem for damage in store.damage()]
        assert texts(await store.read("a_b_1")) == ["hello", "hello yourself"]

    assert [problem.partition(" is ")[0].rpartition("/")[2] for problem in sorted(told)] == [
        "step-000000",
        "step-0000007",
        "step-000008.bak",
        "step-7",
        "step-x",
    ]
    assert not [name for name in names(home(root)) if "tmp" in name]


async def test_slugs_that_are_no_ids_of_ours_are_told_and_left_alone(root: Path) -> None:
    for slug in ("crab__1", "crab_É_1", "crab_user_01"):
        write_steps(home(root, slug), V22_META, [user("hi")])

    async with opened(root) as store:
        told = {damage.session for damage in store.damage()}
        assert store.metas() == ()

    assert told == {"crab__1", "crab_É_1", "crab_user_01"}
    assert names(home(root, "crab_É_1")) == ["meta", "step-000001"]


@pytest.mark.parametrize("meta", [None, b"", b"{}", b'{"agent":"","created_by":"b","created_at":""}'])
async def test_steps_of_nobody_are_damage(root: Path, meta: bytes | None) -> None:
    place = write_steps(home(root), None, [user("hi")])
    if meta is not None:
        (place / "meta").write_bytes(meta)

    async with opened(root) as store:
        assert store.is_damaged("a_b_1")
        assert [listed.id for listed in store.metas()] == ["a_b_1"]
        with pytest.raises(StoreError, match="whose session"):
            await store.load("a_b_1")

    assert step(root, 1).read_bytes() == compact(user("hi"))


async def test_a_damaged_meta_of_a_session_of_ours_is_set_aside_and_made_again(root: Path) -> None:
    meta = await fill(root, "hello")
    (home(root) / "meta").write_bytes(b'{"agent":')

    async with opened(root) as store:
        (damage,) = store.damage()
        assert store.metas() == (meta,)

    assert "torn-meta-1" in damage.problem
    assert (home(root) / "torn-meta-1").read_bytes() == b'{"agent":'
    assert crabtalk.read_session(home(root)).meta.created_by == "b"


async def test_a_document_of_crabtalks_of_no_known_shape_is_told_and_stays(root: Path) -> None:
    place = write_steps(home(root, "crab_user_1"), V22_META, [user("one"), {"dream": 1}, user("two")])

    async with opened(root) as store:
        (damage,) = store.damage()
        assert texts(await store.read(place.name)) == ["one", "two"]

    assert "step-000002 is not in the log" in damage.problem
    assert step(root, 2, place.name).exists()


async def test_a_broken_document_of_crabtalks_with_good_ones_behind_it_is_damage(root: Path) -> None:
    place = write_steps(home(root, "crab_user_1"), V22_META, [user("one"), user("two"), user("three")])
    step(root, 2, place.name).write_bytes(b'{"message":')

    async with opened(root) as store:
        with pytest.raises(StoreError, match="step-000002: it is no document") as caught:
            await store.load(place.name)

    assert caught.value.kind == "damaged"
    assert names(place) == ["meta", "step-000001", "step-000002", "step-000003"]


@pytest.mark.parametrize("tail", [b"", b'{"message":', b"\0" * 400])
async def test_a_last_document_that_crabtalk_did_not_finish_is_set_aside(root: Path, tail: bytes) -> None:
    place = write_steps(home(root, "crab_user_1"), V22_META, [user("one"), user("two")])
    step(root, 2, place.name).write_bytes(tail)

    async with opened(root) as store:
        (damage,) = store.damage()
        assert texts(await store.read(place.name)) == ["one"]

    assert "torn-000002-1" in damage.problem
    assert (place / "torn-000002-1").read_bytes() == tail


@pytest.fixture
async def killed(root: Path) -> Path:
    """A store whose log ends in an append of three records that its sum does not know of."""
    async with opened(root) as store:
        log = (await store.create("a", "b")).log
        await log.append([said("one"), said("two")])
        await log.checkpoint()
        await log.append([said("three"), said("four"), said("five")])
        return killed_copy(root)


# What a power cut makes of each of the three files.
FATES = [fates for fates in product(("there", "gone", "torn", "zeros"), repeat=3) if set(fates) != {"there"}]


@pytest.mark.parametrize("fates", FATES)
async def test_of_an_append_that_was_cut_short_nothing_is_seen(killed: Path, fates: tuple[str, ...]) -> None:
    left: list[bytes] = []
    for number, fate in enumerate(fates, 4):
        data = step(killed, number).read_bytes()
        step(killed, number).unlink()
        if fate != "gone":
            data = {"there": data, "torn": data[:40], "zeros": b"\0" * len(data)}[fate]
            step(killed, number).write_bytes(data)
            left.append(data)

    async with opened(killed) as store:
        damage = store.damage()
        loaded = await store.load("a_b_1")
        (later,) = await loaded.log.append([said("later")])

    assert texts(loaded.steps) == ["one", "two"]
    assert later.n == 4
    assert len(damage) == bool(left)
    assert sorted(path.read_bytes() for path in home(killed).glob("torn-*")) == sorted(left)
    assert texts(await read(killed)) == ["one", "two", "later"]
    assert [message.content for message in crabtalk.read_session(home(killed)).history] == [
        "one",
        "two",
        "later",
    ]


async def test_an_append_that_a_kill_left_whole_is_kept_as_new_files(killed: Path) -> None:
    before = step(killed, 4).stat().st_ino

    steps = await read(killed)

    assert texts(steps) == ["one", "two", "three", "four", "five"]
    assert step(killed, 4).stat().st_ino != before


@pytest.mark.parametrize("number", range(1, 7))
async def test_an_acknowledged_step_that_was_changed_is_damage_with_its_name(root: Path, number: int) -> None:
    await fill(root, "hello")
    data = bytearray(step(root, number).read_bytes())
    data[len(data) // 2] ^= 1
    step(root, number).write_bytes(data)

    async with opened(root) as store:
        with pytest.raises(StoreError, match=f"step-{number:06}: its checksum") as caught:
            await store.load("a_b_1")

    assert caught.value.kind == "damaged"
    assert step(root, number).read_bytes() == data


@pytest.mark.parametrize("number", range(1, 6))
async def test_an_acknowledged_step_that_is_gone_is_damage(root: Path, number: int) -> None:
    await fill(root, "hello")
    step(root, number).unlink()

    async with opened(root) as store:
        assert store.is_damaged("a_b_1")
        with pytest.raises(StoreError, match="its number is"):
            await store.load("a_b_1")


async def test_steps_that_have_changed_places_are_damage(root: Path) -> None:
    await fill(root, "hello")
    one, two = step(root, 3).read_bytes(), step(root, 4).read_bytes()
    step(root, 3).write_bytes(two)
    step(root, 4).write_bytes(one)

    async with opened(root) as store:
        with pytest.raises(StoreError, match="its number is"):
            await store.load("a_b_1")


async def test_steps_that_are_lost_at_the_end_are_told(root: Path) -> None:
    await fill(root, "one", "two")
    for number in range(7, 12):
        step(root, number).unlink()

    async with opened(root) as store:
        (damage,) = store.damage()
        assert texts(await store.read("a_b_1")) == ["one", "one yourself"]

    assert "lost" in damage.problem
    assert "step-000011" in damage.problem


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
async def test_a_step_that_is_no_file_is_refused(root: Path, tmp_path: Path, kind: str) -> None:
    await fill(root, "hello")
    (home(root) / "crabd.json").unlink()
    step(root, 3).rename(tmp_path / "elsewhere")
    match kind:
        case "link":
            step(root, 3).symlink_to(tmp_path / "elsewhere")
        case "fifo":
            os.mkfifo(step(root, 3))
        case _:
            step(root, 3).mkdir()

    async with opened(root) as store:
        assert store.is_damaged("a_b_1")
        with pytest.raises(StoreError):
            await store.load("a_b_1")


@pytest.mark.parametrize("how", ["missing", "empty", "changed", "of another"])
async def test_a_sum_that_cannot_be_believed_is_made_again(root: Path, how: str) -> None:
    meta = await fill(root, "hello")
    path = home(root) / "crabd.json"
    good = path.read_bytes()
    path.unlink()
    bad = {"empty": b"", "changed": good.replace(b'"runs":1', b'"runs":2'), "of another": good}
    if how != "missing":
        path.write_bytes(bad[how])
    if how == "of another":
        async with opened(root) as store:
            other = (await store.create("a", "c")).log.meta
        shutil.copy(home(root, other.id) / "crabd.json", path)

    async with opened(root) as store:
        assert store.meta("a_b_1") == meta
        assert store.damage() == ()

    assert path.read_bytes() == good


async def test_a_step_that_another_program_writes_meanwhile_is_never_replaced(root: Path) -> None:
    await fill(root, "hello")
    async with opened(root) as store:
        log = (await store.load("a_b_1")).log
        theirs = crabtalk.next_step(home(root))
        theirs.write_bytes(compact(user("theirs")))

        with pytest.raises(StoreError, match="another program writes") as caught:
            await log.append([said("ours"), Cleared()])
        await log.aclose()
        loaded = await store.load("a_b_1")
        await loaded.log.append([said("ours")])

    assert caught.value.kind == "io"
    assert theirs.read_bytes() == compact(user("theirs"))
    assert texts(await read(root)) == ["hello", "hello yourself", "theirs", "ours"]


async def test_a_log_is_loaded_from_its_last_boundary_and_the_rest_is_not_looked_into(root: Path) -> None:
    await fill(root, "one", "two")
    async with opened(root) as store:
        log = (await store.load("a_b_1")).log
        await log.append([Compacted("a_b_1/1", "So far.", 9, 3, 9)])
        await log.append([said("three")])
    step(root, 5).write_bytes(b"rubbish")

    async with opened(root) as store:
        loaded = await store.load("a_b_1")
        with pytest.raises(StoreError, match="step-000005"):
            await store.read("a_b_1")

    assert [each.n for each in loaded.steps] == [10, 11, 12, 13]
    assert loaded.goal is not None
    assert texts([loaded.goal]) == ["one"]


async def test_a_sum_that_lags_behind_misleads_nobody(root: Path) -> None:
    place = write_steps(home(root, "crab_user_1"), V22_META, OLD)
    await read(root, place.name)
    stale = (place / "crabd.json").read_bytes()
    for _ in range(3):
        crabtalk.next_step(place).write_bytes(compact(user("more")))
    steps = await read(root, place.name)

    async with opened(root) as store:
        (place / "crabd.json").write_bytes(stale)

        assert await store.read(place.name, after=7) == steps[7:]
        assert await store.read(place.name, after=7, upto=9) == steps[7:9]


async def test_a_directory_of_the_other_store_is_refused_with_what_to_do(root: Path, tmp_path: Path) -> None:
    await fill(root, "hello")
    other = JournalStore(tmp_path / "journals")
    await other.open()
    await other.create("a", "b")
    await other.aclose()

    for store, name in ((JournalStore(root), "stepfiles"), (StepStore(tmp_path / "journals"), "journal")):
        with pytest.raises(StoreError, match=f"set store = '{name}'.*export.*import"):
            await store.open()

    assert names(home(tmp_path / "journals")) == ["journal.jsonl", "meta.json"]
    assert (await fill(tmp_path / "another", "x")).steps == 6


async def test_the_states_of_a_store_can_be_read(root: Path) -> None:
    async with opened(root) as store:
        await store.create("a", "b")
        assert repr(store) == "<StepStore open, 1 sessions, 1 logs open>"
