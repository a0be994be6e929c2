"""The documents of a session in crabtalk's layout: steps of ours in its shapes, and back. Pure.

crabtalk tells what a document is by its keys: a boundary, an event of a run's trace, or an entry of the
history. A step of ours takes the shape that means the same there. What has no place in that is under the key
``crabd``, which crabtalk passes over; what has no shape at all is an event that it does not know and skips::

    {"message":{"role":"user","content":"hi"},"crabd":{"v":1,"n":3,"at":"…","said":{"run":"r1"}},"crc":"…"}
    {"archive_name":"a_b_1/1","archived_at":"…","crabd":{"v":1,"n":9,"at":"…","record":{…}},"crc":"…"}
    {"event":"run_opened","ts":"…","crabd":{"v":1,"n":2,"at":"…","record":{…}},"crc":"…"}

What crabtalk has written meanwhile is taken over by one document, an event again, that holds it as steps of
ours; its own documents stay. Records that were appended together carry ``append``, as in a journal.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from crabd.messages import (
    AssistantMessage,
    ImageBlock,
    Message,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
    text_of,
    tool_calls_of,
    words_of,
)
from crabd.store.journal.line import KNOWN_TYPES, BadLine
from crabd.store.record import (
    Cleared,
    Compacted,
    MessageAdded,
    ModelCalled,
    Record,
    RunClosed,
    RunOpened,
    Step,
)
from crabd.store.seal import has_seal, is_sealed, newer, seal
from crabd.store.stepfiles.shapes import (
    Blocks,
    Boundary,
    Call,
    Done,
    Entry,
    Event,
    Function,
    OldBoundary,
    Ours,
    Said,
    Spoken,
    Tokens,
)

VERSION = 1
STOP_REASONS: dict[StopReason, str] = {"end_turn": "text_response", "max_rounds": "max_iterations"}


class Trace(Struct, frozen=True):
    """What crabtalk tells at the end of a run, and no record of ours does by itself."""

    model: str = ""
    calls: int = 0


class Document(Struct, frozen=True):
    """Steps of ours as one document holds them; ``append`` is null when it was appended alone.

    Only one that takes over what is crabtalk's before it holds several.
    """

    steps: tuple[Step, ...]
    append: tuple[int, int] | None = None
    takes_over: bool = False


class _Any(Struct, frozen=True):
    """What tells whether a document is ours."""

    crabd: Raw | UnsetType = UNSET


class _Read(Struct, frozen=True):
    """What is read of a document of ours."""

    crabd: Ours
    message: Spoken | None = None


class _Tag(Struct, frozen=True):
    type: str


class _Core(Struct, frozen=True):
    v: int
    record: _Tag | None = None


class _Outline(Struct, frozen=True):
    """What every document of ours has, whatever crabd wrote it."""

    crabd: _Core


_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder(_Any).decode
_decode = msgspec.json.Decoder(_Read).decode
_decode_outline = msgspec.json.Decoder(_Outline).decode


def follow(trace: Trace, record: Record) -> Trace:
    """Let the trace of a run go on with a record."""
    match record:
        case RunOpened():
            return Trace()
        case ModelCalled(model=model, purpose="reply"):
            return Trace(model, trace.calls + 1)
        case _:
            return trace


def encode_append(steps: Sequence[Step], trace: Trace) -> tuple[bytes, ...]:
    """Spell the steps of one append, a document each, and make sure that they can be read back.

    ``trace`` is that of the run that was going before them.

    Raises:
      ValueError: a record holds what its type does not allow, or text that is no Unicode.
    """
    append = (steps[0].n, steps[-1].n) if len(steps) > 1 else None
    documents: list[bytes] = []
    for step in steps:
        trace = follow(trace, step.record)
        documents.append(_check(_shape(step, append, trace), (step,)))
    return tuple(documents)


def encode_taken_over(steps: tuple[Step, ...]) -> bytes:
    """Spell steps that stand for what crabtalk has written as one document.

    Raises:
      ValueError: as ``encode_append``.
    """
    first = steps[0]
    ours = Ours(VERSION, first.n, first.at, steps=steps)
    return _check(Event("taken_over", first.at.isoformat(), ours), steps)


def read_document(data: bytes) -> Document | None:
    """Read a document of ours; null if it is one of crabtalk's.

    Raises:
      BadLine: it is no document, not as it was written, or of a newer crabd.
    """
    if not is_sealed(data):
        try:
            is_ours = has_seal(data) or _decode_any(data).crabd is not UNSET
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise BadLine(f"it is no document: {exc}", is_sealed=False) from exc
        if is_ours:
            raise BadLine("its checksum does not match", is_sealed=False)
        return None
    try:
        read = _decode(data)
    except msgspec.DecodeError as exc:
        raise BadLine(_explain(data, exc), is_sealed=True) from exc
    if read.crabd.v != VERSION:
        raise BadLine(newer(f"format {read.crabd.v}"), is_sealed=True)
    return Document(_steps_of(read), read.crabd.append, bool(read.crabd.steps))


def _check(shape: Struct, steps: tuple[Step, ...]) -> bytes:
    data = seal(_encode(shape))
    try:
        is_same = (document := read_document(data)) is not None and document.steps == steps
    except BadLine as bad:
        raise ValueError(f"record {steps[0].n} cannot be kept: {bad.problem}") from bad
    if not is_same:
        raise ValueError(f"record {steps[0].n} cannot be kept: it would be read differently")
    return data


def _shape(step: Step, append: tuple[int, int] | None, trace: Trace) -> Struct:
    record, at = step.record, step.at.isoformat()
    if isinstance(record, MessageAdded):
        return _shape_message(step, record, append)
    ours = Ours(VERSION, step.n, step.at, append, record=record)
    match record:
        case Compacted(archive=archive):
            return Boundary(archive, at, ours)
        case Cleared():
            return OldBoundary("", "", at, ours)
        case RunClosed(stop_reason=reason, usage=usage):
            told = f"error: {record.error.message}" if record.error else STOP_REASONS.get(reason, reason)
            return Done("done", trace.model, trace.calls, told, _tokens(usage), at, ours)
        case _:
            return Event(str(type(record).__struct_config__.tag), at, ours)


def _tokens(usage: Usage) -> Tokens:
    prompt, completion = usage.input_tokens, usage.output_tokens
    return Tokens(prompt, completion, prompt + completion, usage.cache_read_tokens)


def _shape_message(step: Step, record: MessageAdded, append: tuple[int, int] | None) -> Entry:
    message = record.message
    spoken = _speak(message)
    said = Said(
        record.run,
        record.request_key,
        record.position,
        steer=message.steer if isinstance(message, UserMessage) else "",
        model=message.model if isinstance(message, AssistantMessage) else "",
        partial=isinstance(message, AssistantMessage) and message.partial,
        agent=message.agent if isinstance(message, AssistantMessage) else "",
        status=message.status if isinstance(message, ToolMessage) else None,
        content=None if isinstance(message, ToolMessage) else _untold(message.content, spoken),
    )
    return Entry(spoken, Ours(VERSION, step.n, step.at, append, said), said.agent)


def _speak(message: Message) -> Spoken:
    match message:
        case UserMessage():
            return Spoken("user", words_of(message))
        case ToolMessage(call=call, name=name, output=output):
            return Spoken("tool", output, tool_call_id=call, name=name)
        case AssistantMessage(content=content):
            text = text_of(message)
            thinking = [block.text for block in content if isinstance(block, ThinkingBlock)]
            calls = tuple(
                Call(index, call.id, "function", Function(call.name, call.arguments))
                for index, call in enumerate(tool_calls_of(message))
            )
            return Spoken("assistant", None if calls and not text else text, "".join(thinking) or None, calls)


def _untold(content: Blocks, spoken: Spoken) -> Blocks | None:
    return None if _blocks(spoken) == content else content


def _blocks(spoken: Spoken) -> Blocks:
    """Read a message as if it had been spoken in the usual order: thinking, text, calls."""
    thinking = (ThinkingBlock(spoken.reasoning_content),) if spoken.reasoning_content else ()
    text = () if spoken.content is None else (TextBlock(spoken.content),)
    calls = (ToolCall(call.id, call.function.name, call.function.arguments) for call in spoken.tool_calls)
    return (*thinking, *text, *calls)


def _steps_of(read: _Read) -> tuple[Step, ...]:
    ours = read.crabd
    if ours.steps:
        return ours.steps
    record = ours.record
    if ours.said is not None and read.message is not None:
        message = _hear(read.message, ours.said)
        record = MessageAdded(ours.said.run, message, ours.said.request_key, ours.said.position)
    if record is None:
        raise BadLine("it holds no record", is_sealed=True)
    return (Step(ours.n, ours.at, record),)


def _hear(spoken: Spoken, said: Said) -> Message:
    content = _blocks(spoken) if said.content is None else said.content
    match spoken.role:
        case "user":
            shown = tuple(block for block in content if isinstance(block, TextBlock | ImageBlock))
            return UserMessage(shown, said.steer)
        case "assistant":
            replied = tuple(block for block in content if not isinstance(block, ImageBlock))
            return AssistantMessage(replied, said.model, said.partial, said.agent)
        case "tool":
            status = said.status or "ok"
            return ToolMessage(spoken.tool_call_id, spoken.name, spoken.content or "", status)


def _explain(data: bytes, exc: msgspec.DecodeError) -> str:
    try:
        outline = _decode_outline(data).crabd
    except msgspec.DecodeError:
        return f"it is no record: {exc}"
    if outline.v != VERSION:
        return newer(f"format {outline.v}")
    if outline.record is not None and outline.record.type not in KNOWN_TYPES:
        return newer(f"record type {outline.record.type!r}")
    return f"it is no valid record: {exc}"
