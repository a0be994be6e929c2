"""The documents of step files: what crabtalk makes of them, and that we read back what we wrote."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd.errors import INTERNAL_ERROR
from crabd.events import ErrorInfo
from crabd.messages import (
    AssistantMessage,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
    tool_calls_of,
    user_text,
)
from crabd.store.journal.line import BadLine
from crabd.store.record import (
    Cleared,
    Compacted,
    MessageAdded,
    MessageQueued,
    ModelCalled,
    Record,
    RunClosed,
    RunOpened,
    Step,
)
from crabd.store.seal import seal
from crabd.store.stepfiles.line import (
    Document,
    Trace,
    encode_append,
    encode_taken_over,
    follow,
    read_document,
)
from tests import crabtalk_reader as crabtalk
from tests.store.samples import AT, numbered, records

NO_TRACE = Trace()


def spell(record: Record, n: int = 3) -> bytes:
    (document,) = encode_append([Step(n, AT, record)], NO_TRACE)
    return document


def spoken(record: Record) -> dict[str, Any]:
    """Tell a document without what only we read."""
    told: dict[str, Any] = json.loads(spell(record))
    return {key: value for key, value in told.items() if key not in ("crabd", "crc")}


@given(record=records)
def test_any_record_reads_back_as_it_was_written(record: Record) -> None:
    step = Step(7, AT, record)

    (document,) = encode_append([step], NO_TRACE)

    assert read_document(document) == Document((step,))


@given(records=st.lists(records, min_size=2, max_size=4))
def test_records_of_one_append_say_so(records: list[Record]) -> None:
    steps = [Step(n, AT, record) for n, record in enumerate(records, 5)]

    documents = encode_append(steps, NO_TRACE)

    append = (5, 4 + len(steps))
    assert [read_document(each) for each in documents] == [Document((step,), append) for step in steps]


def test_what_is_taken_over_reads_back_as_it_was_written() -> None:
    steps = tuple(numbered(RunOpened("r1"), MessageAdded("r1", user_text("hi")), Cleared()))

    document = encode_taken_over(steps)

    assert read_document(document) == Document(steps, None, takes_over=True)
    assert crabtalk.read_document(document) is None


@given(record=records)
def test_crabtalk_takes_every_record_for_what_it_is(record: Record) -> None:
    found = crabtalk.read_document(spell(record))

    match record:
        case MessageAdded():
            assert isinstance(found, crabtalk.Entry)
        case Compacted(archive=archive):
            assert isinstance(found, crabtalk.Current)
            assert found.archive_name == archive
        case Cleared():
            assert isinstance(found, crabtalk.Legacy)
        case RunClosed():
            assert isinstance(found, crabtalk.Done)
        case _:
            assert found is None


@given(blocks=st.lists(st.builds(ToolCall, st.text("ab"), st.text("ab"), st.text("ab{}")), max_size=3))
def test_crabtalk_reads_the_calls_in_their_order(blocks: list[ToolCall]) -> None:
    message = AssistantMessage((TextBlock("I look."), *blocks))

    found = crabtalk.read_document(spell(MessageAdded("r1", message)))

    assert isinstance(found, crabtalk.Entry)
    assert found.message.content == "I look."
    calls = [(call.id, call.function.name, call.function.arguments) for call in found.message.tool_calls]
    assert calls == [(call.id, call.name, call.arguments) for call in tool_calls_of(message)]
    assert [call.index for call in found.message.tool_calls] == list(range(len(blocks)))


def test_messages_are_spelled_as_crabtalk_spells_them() -> None:
    call = ToolCall("c1", "read", '{"path":"a"}')

    told = [
        spoken(MessageAdded("r1", message))
        for message in (
            user_text("hi"),
            AssistantMessage((ThinkingBlock("Hm."), TextBlock("Look:"), call), "m"),
            AssistantMessage((call,)),
            ToolMessage("c1", "read", "text", "error"),
        )
    ]

    function = {"name": "read", "arguments": '{"path":"a"}'}
    calls = [{"index": 0, "id": "c1", "type": "function", "function": function}]
    assert told == [
        {"message": {"role": "user", "content": "hi"}},
        {
            "message": {
                "role": "assistant",
                "content": "Look:",
                "reasoning_content": "Hm.",
                "tool_calls": calls,
            }
        },
        {"message": {"role": "assistant", "content": None, "tool_calls": calls}},
        {"message": {"role": "tool", "content": "text", "tool_call_id": "c1", "name": "read"}},
    ]


def test_crabtalk_is_told_in_words_that_there_is_a_picture() -> None:
    shown = UserMessage((TextBlock("What is this?"), ImageBlock("image/png", b"\x89PNG")))

    told = spoken(MessageAdded("r1", shown))

    assert told == {"message": {"role": "user", "content": "What is this?\n[picture: image/png, 1 kB]"}}


def test_a_message_is_told_once_unless_its_blocks_are_in_an_unusual_order() -> None:
    usual = AssistantMessage((ThinkingBlock("Hm."), TextBlock("Yes.")))
    unusual = AssistantMessage((TextBlock("Yes."), ThinkingBlock("Hm.")))

    counts = [spell(MessageAdded("r1", message)).count(b"Yes.") for message in (usual, unusual)]

    assert counts == [1, 2]


def test_boundaries_events_and_ends_are_spelled_as_crabtalk_spells_them() -> None:
    at = AT.isoformat()

    told = [
        spoken(record)
        for record in (
            Compacted("a_b_1/2", "So far.", 9, None, 40),
            Cleared(),
            RunOpened("r1"),
            MessageQueued("r1", (TextBlock("wait"),)),
        )
    ]

    assert told == [
        {"archive_name": "a_b_1/2", "archived_at": at},
        {"compact": "", "title": "", "archived_at": at},
        {"event": "run_opened", "ts": at},
        {"event": "queued", "ts": at},
    ]


@pytest.mark.parametrize(
    ("closed", "reason"),
    [
        (RunClosed("r1", "end_turn", 1.5, Usage(30, 4, 20)), "text_response"),
        (RunClosed("r1", "max_rounds", 1.5, Usage(30, 4, 20)), "max_iterations"),
        (RunClosed("r1", "cancelled", 1.5, Usage(30, 4, 20)), "cancelled"),
        (
            RunClosed("r1", "error", 1.5, Usage(30, 4, 20), ErrorInfo(INTERNAL_ERROR, "x", "no luck")),
            "error: no luck",
        ),
    ],
)
def test_the_end_of_a_run_tells_its_model_its_calls_and_its_usage(closed: RunClosed, reason: str) -> None:
    call = ModelCalled("r1", "p/m", "reply", Usage(15, 2), 17, None)
    summary = ModelCalled("r1", "p/other", "summary", Usage(9, 9), 17, None)
    run: list[Record] = [RunOpened("r1"), call, summary, call, closed]
    steps = [Step(n, AT, record) for n, record in enumerate(run, 4)]

    document = encode_append(steps, Trace("p/old", 7))[-1]

    found = crabtalk.read_document(document)
    usage = crabtalk.Tokens(30, 4, 34, 20)
    assert found == crabtalk.Done("p/m", 2, reason, usage, AT.isoformat())


def test_the_trace_of_a_run_goes_on_from_one_append_to_the_next() -> None:
    trace = follow(follow(NO_TRACE, RunOpened("r1")), ModelCalled("r1", "m", "reply", Usage(), 0, None))

    found = crabtalk.read_document(
        encode_append([Step(9, AT, RunClosed("r1", "end_turn", 0.0, Usage()))], trace)[0]
    )

    assert isinstance(found, crabtalk.Done)
    assert (found.model, found.iterations) == ("m", 1)


@pytest.mark.parametrize(
    "record",
    [
        MessageAdded("r1", user_text("hello"), "k", 2),
        Compacted("a_b_1/1", "So far.", 2, None, 4),
        RunClosed("r1", "end_turn", 0.5, Usage()),
    ],
)
def test_no_document_with_a_changed_byte_is_believed_or_taken_for_crabtalks(record: Record) -> None:
    good = spell(record)

    for place in range(len(good)):
        for bit in (1, 4, 0x20):
            changed = bytearray(good)
            changed[place] ^= bit
            with pytest.raises(BadLine):
                read_document(bytes(changed))


def test_no_document_that_is_cut_is_believed_or_taken_for_crabtalks() -> None:
    good = spell(MessageAdded("r1", user_text("hello")))

    for length in range(len(good)):
        with pytest.raises(BadLine):
            read_document(good[:length])


@pytest.mark.parametrize(
    "data",
    [
        b'{"message":{"role":"user","content":"hi"}}',
        b'{"archive_name":"x","archived_at":""}',
        b'{"event":"done","ts":""}',
        b'{"something":"else"}',
    ],
)
def test_a_document_without_our_key_is_crabtalks(data: bytes) -> None:
    assert read_document(data) is None


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (seal(b'{"event":"x","ts":"","crabd":{"v":2,"n":3}}'), "format 2"),
        (
            seal(
                b'{"event":"dream","crabd":{"v":1,"n":3,"at":"2026-01-31T08:00:00Z","record":{"type":"dream"}}}'
            ),
            "record type 'dream'",
        ),
    ],
)
def test_what_a_newer_crabd_wrote_is_named(data: bytes, problem: str) -> None:
    with pytest.raises(BadLine, match=f"newer crabd .*{problem}") as caught:
        read_document(data)

    assert caught.value.is_sealed


@pytest.mark.parametrize(
    "record",
    [
        MessageAdded("r1", user_text("\ud800")),
        RunOpened(7),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        MessageAdded("r1", UserMessage((ThinkingBlock("?"),))),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        ModelCalled("r1", "m", "reply", Usage(cost=float("nan")), 0, None),
    ],
)
def test_a_record_that_could_not_be_read_back_is_refused(record: Record) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  it is one of several, and told as it comes
        spell(record)


def test_times_are_told_to_crabtalk_with_an_offset_and_their_fraction() -> None:
    at = datetime(2026, 4, 23, 10, 4, 5, 678, tzinfo=UTC)

    told = json.loads(encode_append([Step(1, at, Cleared())], NO_TRACE)[0])

    assert told["archived_at"] == "2026-04-23T10:04:05.000678+00:00"
