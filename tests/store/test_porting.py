"""What crabtalk has left, read from its own files; and what our own export holds."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd.errors import BadRequest
from crabd.messages import (
    AssistantMessage,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
    user_text,
)
from crabd.store.base import Reading
from crabd.store.meta import add_up
from crabd.store.porting.export import BadExport, read_export, write_page
from crabd.store.porting.sources import read_sources
from crabd.store.record import (
    Cleared,
    Compacted,
    Configured,
    Created,
    MessageAdded,
    ModelCalled,
    Record,
    RunClosed,
    RunOpened,
    Step,
)
from tests.crabtalk import (
    V21_META,
    V22_META,
    Json,
    assistant,
    blocks,
    boundary,
    compact,
    done,
    memory,
    page,
    set_time,
    tool,
    user,
    write_lines,
    write_root,
    write_steps,
)
from tests.store.samples import AT, numbered, records

# In the samples' own days, so that what a file's time says is seen.
WRITTEN = int(datetime(2026, 4, 23, 10, 4, tzinfo=UTC).timestamp())
OLD_META: Json = {"agent": "crab", "created_by": "user", "created_at": "2026-03-23T09:00:00+00:00"}


def read_one(path: Path, mem: Path | None = None) -> Reading:
    (reading,) = read_sources(path, mem)
    return reading


def read_steps(tmp_path: Path, *steps: Json, meta: Json = V21_META) -> Reading:
    place = write_steps(tmp_path / "sessions" / "crab_tg-12345_7", meta, steps)
    set_time(place, WRITTEN)
    return read_one(place)


def contents(reading: Reading) -> list[Record]:
    """List the records behind the first, but for the title."""
    assert reading.problem is None
    return [step.record for step in reading.steps[1:] if not isinstance(step.record, Configured)]


def messages(reading: Reading) -> list[Message]:
    return [record.message for record in contents(reading) if isinstance(record, MessageAdded)]


def left_out(reading: Reading) -> list[str]:
    return [f"{skipped.where}: {skipped.problem}" for skipped in reading.skipped]


def test_a_session_of_steps_becomes_a_log_with_its_names_title_topic_and_time(tmp_path: Path) -> None:
    reading = read_steps(tmp_path, user("hi"), assistant("hello"))

    (first, *_) = reading.steps
    created = first.record
    assert isinstance(created, Created)
    assert (created.session, created.agent, created.sender) == ("crab_tg-12345_7", "crab", "tg:12345")
    assert contents(reading) == [
        RunOpened("r1"),
        MessageAdded("r1", user_text("hi")),
        MessageAdded("r1", AssistantMessage((TextBlock("hello"),))),
        RunClosed("r1", "end_turn", 42, Usage()),
    ]
    meta = add_up(reading.steps)
    assert (meta.title, meta.topic, meta.active_seconds, meta.message_count) == (
        "Deploy notes",
        "deploy",
        42,
        2,
    )
    assert meta.created_at == datetime.fromtimestamp(WRITTEN, UTC)
    assert left_out(reading) == []


def test_thinking_calls_results_and_guests_find_their_places(tmp_path: Path) -> None:
    reading = read_steps(
        tmp_path,
        user("look"),
        assistant(None, ("c1", "read", '{"path":"a"}'), ("c2", "read", "{"), thinking="Hm."),
        tool("c1", "A"),
        tool("c2", "B", name=""),
        assistant("I agree.", agent="reviewer"),
    )

    assert messages(reading) == [
        user_text("look"),
        AssistantMessage(
            (ThinkingBlock("Hm."), ToolCall("c1", "read", '{"path":"a"}'), ToolCall("c2", "read", "{"))
        ),
        ToolMessage("c1", "read", "A", "ok"),
        ToolMessage("c2", "read", "B", "ok"),
        AssistantMessage((TextBlock('<from agent="reviewer">\nI agree.\n</from>'),)),
    ]
    assert any("reviewer" in note for note in reading.notes)


def test_contents_of_blocks_say_the_same(tmp_path: Path) -> None:
    reading = read_steps(
        tmp_path,
        blocks("user", {"type": "text", "text": "look"}),
        blocks(
            "assistant",
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "tool_use", "id": "c1", "name": "read", "input": {"path": "a"}},
        ),
        blocks(
            "user",
            {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "A"}]},
            {"type": "image", "source": {}},
            {"type": "text", "text": "and?"},
        ),
        blocks("assistant", {"type": "text", "text": "That."}),
        meta=V22_META,
    )

    assert messages(reading) == [
        user_text("look"),
        AssistantMessage((ThinkingBlock("Hm."), ToolCall("c1", "read", '{"path":"a"}'))),
        ToolMessage("c1", "read", "A", "ok"),
        user_text("and?"),
        AssistantMessage((TextBlock("That."),)),
    ]
    assert left_out(reading) == [
        "step-000002: the signature of its thinking has no place here",
        "step-000003: its 'image' block has no place here",
    ]


def test_a_trace_tells_how_a_run_ended_what_it_used_and_which_words_were_steering(tmp_path: Path) -> None:
    reading = read_steps(
        tmp_path,
        user("go"),
        assistant(None, ("c1", "read", "{}")),
        tool("c1", "A"),
        user("faster"),
        assistant("Done."),
        {"event": "tool_start", "calls": [{"id": "c1", "name": "read"}], "ts": "2026-04-23T10:00:01Z"},
        {"event": "tool_result", "call_id": "c1", "duration_ms": 1, "ts": "2026-04-23T10:00:02Z"},
        {"event": "user_steered", "content": "faster", "ts": "2026-04-23T10:00:03Z"},
        done("2026-04-23T10:00:04Z", "max_iterations", 2),
        user("again"),
    )

    usage = Usage(100, 20, cache_read_tokens=60)
    assert UserMessage((TextBlock("faster"),), "r1.s1") in messages(reading)
    assert ModelCalled("r1", "m", "reply", usage, 3, None) in contents(reading)
    assert RunClosed("r1", "max_rounds", 0.0, usage) in contents(reading)
    seconds = [step.at.second for step in reading.steps if isinstance(step.record, MessageAdded)]
    assert seconds[:5] == [1, 1, 2, 3, 4]
    assert reading.steps[-2].record == RunClosed("r2", "interrupted", 42, Usage())


def test_an_error_that_ended_a_run_is_kept(tmp_path: Path) -> None:
    reading = read_steps(tmp_path, user("go"), done("2026-04-23T10:00:04Z", "error: HTTP 500"))

    (closed,) = (record for record in contents(reading) if isinstance(record, RunClosed))
    assert closed.stop_reason == "error"
    assert closed.error is not None
    assert closed.error.message == "HTTP 500"


@pytest.mark.parametrize("meta", [V21_META, V22_META])
def test_no_time_goes_back_or_past_the_last_write_though_the_files_were_copied(
    tmp_path: Path, meta: Json
) -> None:
    place = write_steps(tmp_path / "crab_tg-12345_7", meta, [user("hi"), boundary("x"), user("ho")])

    times = [step.at for step in read_one(place).steps]

    assert times == sorted(times)
    assert times[-1] == datetime.fromisoformat(str(meta.get("updated_at", "2026-04-23T10:05:00.123457Z")))


def test_a_boundary_takes_its_summary_from_the_memory_beside_the_sessions(tmp_path: Path) -> None:
    write_root(tmp_path)

    readings = {Path(reading.place).name: reading for reading in read_sources(tmp_path)}

    tg = readings["crab_tg-12345_1"]
    (cut,) = (record for record in contents(tg) if isinstance(record, Compacted))
    assert (cut.archive, cut.summary, cut.goal) == ("deploy-1", "They deployed.", None)
    assert [step.n for step in tg.steps if isinstance(step.record, Compacted)] == [cut.upto + 1]
    old = readings["crab_user_2_fix-the-tests.jsonl"]
    assert [record.summary for record in contents(old) if isinstance(record, Compacted)] == ["They spoke."]
    assert list(readings) == ["crab_tg-12345_1", "crab_user_1", "crab_user_2_fix-the-tests.jsonl"]


def test_a_dump_of_the_memory_has_the_summaries_too(tmp_path: Path) -> None:
    place = write_steps(tmp_path / "s" / "crab_user_1", V22_META, [user("a"), boundary("x-1"), user("b")])
    (tmp_path / "dump" / "archives").mkdir(parents=True)
    (tmp_path / "dump" / "archives" / "x-1.md").write_text(page("They spoke.\n\nA lot."))

    reading = read_one(place, tmp_path / "dump")

    assert [r.summary for r in contents(reading) if isinstance(r, Compacted)] == ["They spoke.\n\nA lot."]


def test_an_archive_that_is_nowhere_is_a_placeholder_that_says_so(tmp_path: Path) -> None:
    reading = read_steps(tmp_path, user("a"), boundary("x-1"), user("b"))

    (cut,) = (record for record in contents(reading) if isinstance(record, Compacted))
    assert cut.summary == "[archived context unavailable: x-1]"
    assert any("'x-1' was not found" in note for note in reading.notes)


def test_the_summary_in_the_meta_stands_for_the_last_archive(tmp_path: Path) -> None:
    reading = read_steps(
        tmp_path, boundary("x-1"), user("b"), boundary("x-2"), meta=V22_META | {"summary": "All of it."}
    )

    summaries = [record.summary for record in contents(reading) if isinstance(record, Compacted)]
    assert summaries == ["[archived context unavailable: x-1]", "All of it."]


def test_a_legacy_boundary_gives_its_own_summary_and_an_empty_one_only_ends_the_view(tmp_path: Path) -> None:
    legacy = {"title": "", "archived_at": ""}

    reading = read_steps(tmp_path, {"compact": "Old."} | legacy, user("b"), {"compact": ""} | legacy)

    kinds = [type(record) for record in contents(reading)]
    assert kinds == [Compacted, RunOpened, MessageAdded, RunClosed, Cleared]


def test_calls_and_results_that_have_lost_each_other_are_mended_and_told(tmp_path: Path) -> None:
    reading = read_steps(
        tmp_path,
        tool("c0", "whose?"),
        user("go"),
        assistant(None, ("c1", "read", "{}"), ("c2", "read", "{}")),
        tool("c2", "B"),
        tool("c2", "B again"),
        user("and?"),
    )

    assert [m for m in messages(reading) if isinstance(m, ToolMessage)] == [
        ToolMessage("c2", "read", "B", "ok"),
        ToolMessage(
            "c1", "read", "[no result: the log that was imported has none for this call]", "interrupted"
        ),
    ]
    assert left_out(reading) == [
        "step-000001: it answers a call 'c0' that nothing before it makes",
        "step-000005: it answers a call 'c2' that nothing before it makes",
    ]
    assert any("without a result, which got one that says so: 1" in note for note in reading.notes)


def test_what_is_composed_anew_or_has_no_place_is_left_out_and_told(tmp_path: Path) -> None:
    reading = read_steps(
        tmp_path,
        {"message": {"role": "system", "content": "Be nice."}},
        user("<recall>") | {"auto_injected": True},
        {"message": {"role": "user", "content": "hi", "mood": 1}, "extra": 2},
        assistant(""),
        meta=V21_META | {"colour": "red"},
    )

    assert messages(reading) == [user_text("hi")]
    assert left_out(reading) == [
        "meta: its key 'colour' has no place here",
        "step-000001: it is a system message, and is composed anew here for each request",
        "step-000002: it was put in for one request, and is composed anew here",
        "step-000003: its key 'mood' has no place here",
        "step-000003: its key 'extra' has no place here",
        "step-000004: it says nothing",
    ]


def test_damaged_steps_are_told_one_by_one_and_the_rest_is_read(tmp_path: Path) -> None:
    place = write_steps(tmp_path / "crab_user_1", V22_META, [user("1"), user("2"), user("3"), user("4")])
    (place / "step-000002").write_bytes(b'{"message":{"role":"us')
    (place / "step-000003").write_bytes(b"")
    (place / "step-000007").write_bytes(compact({"something": "else"}))
    (place / "step-000008").write_bytes(compact({"event": "unheard_of", "ts": ""}))
    (place / "step-000009").write_bytes(b"[" * 100_000)
    (place / "step-000007.tmp.99.12345").write_bytes(compact(user("half")))
    (place / "step-7").write_bytes(compact(user("short")))
    (place / "step-000010").symlink_to(place / "step-000001")

    reading = read_one(place)

    told = {skipped.where: skipped.problem for skipped in reading.skipped}
    assert messages(reading) == [user_text("1"), user_text("4")]
    assert list(told) == [
        "step-000007.tmp.99.12345",
        "step-000010",
        "step-7",
        "step-000002",
        "step-000003",
        "step-000007",
        "step-000008",
        "step-000009",
    ]
    assert told["step-000003"] == "it is empty"
    assert told["step-000007"] == "it is of no kind that crabd knows"
    assert "there is no step 5 to 6" in reading.notes


def test_steps_beyond_a_million_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    place = write_steps(tmp_path / "crab_user_1", V22_META, [user("b"), user("c"), user("d")], first=999_999)
    (place / "step-000001").write_bytes(compact(user("a")))

    reading = read_one(place)

    assert messages(reading) == [user_text(letter) for letter in "abcd"]
    assert left_out(reading) == []


@pytest.mark.parametrize(
    "meta", [None, b"", b"{", b'{"agent":"crab"}', b'{"agent":"","created_by":"","created_at":""}']
)
def test_a_session_without_a_good_meta_is_refused(tmp_path: Path, meta: bytes | None) -> None:
    place = write_steps(tmp_path / "crab_user_1", None, [user("hi")])
    if meta is not None:
        (place / "meta").write_bytes(meta)

    reading = read_one(place)

    assert reading.steps == ()
    assert reading.problem is not None
    assert "meta" in reading.problem


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_a_meta_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    place = write_steps(tmp_path / "crab_user_1", None, [user("hi")])
    if kind == "directory":
        (place / "meta").mkdir()
    elif kind == "link":
        (tmp_path / "elsewhere").write_bytes(compact(V22_META))
        (place / "meta").symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(place / "meta")

    assert read_one(place).problem is not None


def test_a_file_of_the_first_form_has_its_beginning_in_its_name(tmp_path: Path) -> None:
    place = write_lines(
        tmp_path / "crab_1774256400_3.jsonl",
        OLD_META,
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
    )

    reading = read_one(place)

    assert messages(reading) == [user_text("hi"), AssistantMessage((TextBlock("hello"),))]
    assert reading.steps[0].at == datetime.fromtimestamp(1774256400, UTC)
    assert reading.steps[-1].at <= datetime(2026, 3, 23, 9, tzinfo=UTC)


def test_a_file_of_the_second_form_has_its_title_in_its_name_and_keeps_its_id(tmp_path: Path) -> None:
    lines: list[Json] = [
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "c"},
    ]
    names = ["crab_user_4.jsonl", "crab_user_4_fix-the-tests.jsonl"]
    first, second = (read_one(write_lines(tmp_path / name, OLD_META, lines)) for name in names)

    metas = [add_up(reading.steps) for reading in (first, second)]
    assert [meta.title for meta in metas] == ["", "fix the tests"]
    assert [meta.id for meta in metas] == ["crab_user_4"] * 2
    assert metas[0].source == metas[1].source
    assert messages(first) == [
        AssistantMessage((ToolCall("c", "f", ""),)),
        ToolMessage("c", "f", "", "ok"),
    ]


def test_lines_that_are_cut_or_wrong_are_told_by_their_number(tmp_path: Path) -> None:
    place = write_lines(tmp_path / "crab_user_1.jsonl", OLD_META, [user("1")])
    with place.open("ab") as file:
        file.write(b'\nnonsense\n{"role":"user","content":"2"}\n{"role":"user","con')

    reading = read_one(place)

    assert messages(reading) == [user_text("1"), user_text("2")]
    assert [skipped.where for skipped in reading.skipped] == ["line 4", "line 6"]


@pytest.mark.parametrize("data", [b"", b"\n", b"nonsense", b'{"role":"user","content":"no meta"}\n'])
def test_a_file_without_a_meta_line_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(data)

    assert read_one(tmp_path / "x.jsonl").problem is not None


def test_a_tree_is_read_as_deep_as_it_was_ever_kept_and_what_is_no_session_is_told(tmp_path: Path) -> None:
    sessions = tmp_path / "sessions"
    write_lines(sessions / "2026-03-24" / "crab_user_1.jsonl", OLD_META, [user("hi")])
    write_steps(sessions / "crab_user_10", V22_META, [user("ten")])
    write_steps(sessions / "crab_user_9", V22_META, [user("nine")])
    (sessions / "notes.txt").write_text("mine")
    (sessions / "linked").symlink_to(sessions / "crab_user_9")
    (sessions / "empty").mkdir()

    readings = list(read_sources(sessions))

    told = [(Path(reading.place).name, len(reading.steps) > 0, reading.problem) for reading in readings]
    assert [name for name, is_read, _ in told if is_read] == [
        "crab_user_1.jsonl",
        "crab_user_9",
        "crab_user_10",
    ]
    assert [name for name, _, problem in told if problem] == ["linked"]
    assert [left_out(reading) for reading in readings if reading.skipped] == [
        ["empty: it is empty"],
        ["sessions: no session: notes.txt"],
    ]


def test_nothing_at_the_source_is_changed_by_reading_it(tmp_path: Path) -> None:
    write_root(tmp_path)
    (tmp_path / "sessions" / "crab_user_1" / "step-000002").write_bytes(b"{")

    def picture() -> list[tuple[str, int, str]]:
        return [
            (
                str(p),
                p.lstat().st_mtime_ns,
                hashlib.sha256(p.read_bytes() if p.is_file() else b"").hexdigest(),
            )
            for p in sorted(tmp_path.rglob("*"))
        ]

    before = picture()
    list(read_sources(tmp_path))

    assert picture() == before


def test_a_path_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"\$\.path: .*missing"):
        list(read_sources(tmp_path / "missing"))
    with pytest.raises(BadRequest, match=r"\$\.memory"):
        list(read_sources(tmp_path, tmp_path / "missing"))


@pytest.mark.parametrize("length", [0, 5, 16, 20, 30, 60])
def test_a_memory_that_is_cut_or_something_else_is_refused_when_named_and_told_when_found(
    tmp_path: Path, length: int
) -> None:
    write_root(tmp_path)
    (tmp_path / "memory.db").write_bytes(memory((1, "deploy-1", "They deployed."))[:length])

    first, *_ = read_sources(tmp_path)

    assert "crabtalk's memory cannot be used" in first.skipped[0].problem
    with pytest.raises(BadRequest, match=r"\$\.memory"):
        list(read_sources(tmp_path, tmp_path / "memory.db"))


def test_a_session_is_known_again_by_its_key_and_its_change_by_its_digest(tmp_path: Path) -> None:
    place = write_steps(tmp_path / "crab_user_1", V22_META, [user("hi")])
    before = add_up(read_one(place).steps).source
    (place / "step-000002").write_bytes(compact(user("ho")))
    (place / "meta").write_bytes(compact(V22_META | {"title": "New"}))

    after = add_up(read_one(place).steps).source

    assert before is not None
    assert after is not None
    assert before.key == after.key
    assert before.digest != after.digest


def export(steps: list[Step], session: str = "a_b_1") -> str:
    text, rest = write_page(session, steps, is_last=True)
    assert rest is None
    return text


@given(st.lists(records, max_size=12))
def test_any_log_reads_back_from_its_export(log: list[Record]) -> None:
    steps = numbered(*log)

    lines = export(steps).encode().splitlines()

    assert read_export(lines) == tuple(steps)


def test_the_pages_of_an_export_are_the_file(tmp_path: Path) -> None:
    steps = numbered(*(MessageAdded("r1", user_text(str(n))) for n in range(9)))

    pages = [write_page("a_b_1", steps[i : i + 4], is_last=i == 8) for i in (0, 4, 8)]

    assert "".join(text for text, _ in pages) == export(steps)
    assert [following for _, following in pages] == [5, 9, None]


def test_a_page_ends_before_it_gets_too_long_but_never_before_its_first_record() -> None:
    large = MessageAdded("r1", user_text("x" * 3_000_000))
    steps = numbered(large, large, large)

    pages: list[str] = []
    following: int | None = 1
    while following is not None:
        text, following = write_page("a_b_1", steps[following - 1 :], is_last=True)
        pages.append(text)

    assert len(pages) == 3
    assert read_export("".join(pages).encode().splitlines()) == tuple(steps)


def test_every_cut_and_every_changed_line_of_an_export_is_noticed(tmp_path: Path) -> None:
    lines = export(numbered(Cleared(), Cleared())).encode().splitlines()

    for cut in range(1, len(lines)):
        with pytest.raises(BadExport, match="cut short"):
            read_export(lines[:cut])
    for changed in range(1, len(lines)):
        broken = [line.replace(b"1", b"7") if n == changed else line for n, line in enumerate(lines)]
        with pytest.raises(BadExport):
            read_export(broken)
    for missing in range(1, len(lines)):
        with pytest.raises(BadExport):
            read_export([line for n, line in enumerate(lines) if n != missing])
    with pytest.raises(BadExport, match="follow its end"):
        read_export([*lines, lines[1]])


def test_records_under_the_name_of_another_session_are_refused() -> None:
    with pytest.raises(BadExport, match="it is the log of a_b_1"):
        read_export(export(numbered(Cleared()), "a_b_2").encode().splitlines())


def test_an_export_of_a_newer_crabd_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(export(numbered()).replace('"v":1', '"v":2', 1))

    reading = read_one(tmp_path / "x.jsonl")

    assert reading.problem == "a newer crabd wrote it (format 2) and can read it"


def test_one_damaged_session_of_an_export_does_not_hide_the_others(tmp_path: Path) -> None:
    one, two, three = (export(numbered(Cleared(), session=f"a_b_{n}"), f"a_b_{n}") for n in (1, 2, 3))
    (tmp_path / "x.jsonl").write_text(one + two.replace("cleared", "clearer") + three.rstrip("\n"))

    readings = list(read_sources(tmp_path / "x.jsonl"))

    assert [len(reading.steps) for reading in readings] == [2, 0, 2]
    assert readings[1].problem == "record 2: its checksum does not match"
    assert readings[2].steps[0] == Step(1, AT, Created(session="a_b_3", agent="a", sender="b"))
