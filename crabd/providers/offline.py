"""The provider of last resort: no network, no key, no surprise. It says that it is not a model.

It is also what demos and tests talk to: a message that begins with a directive gets exactly that answer.

    echo TEXT             says TEXT                       count N            counts to N
    slow N [MILLISECONDS] counts, with a pause each       think TEXT         thinks TEXT, then says so
    call TOOL {json}      calls a tool (one call a line), then tells what it answered
    fail KIND             fails as a model server would
    script                plays a whole task, line by line, as ``script`` tells

It must not know who asks, nor whether anything else could have answered.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
from msgspec import Struct

from crabd.errors import ProviderError
from crabd.messages import (
    AssistantMessage,
    ImageBlock,
    Message,
    ThinkingBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
    text_of,
    tool_calls_of,
    words_for,
)
from crabd.providers.base import (
    NO_MODEL,
    Chunk,
    Finished,
    ModelInfo,
    ModelRequest,
    OnRetry,
    Provider,
    TextChunk,
    ThinkingChunk,
    ThinkingSigned,
    ToolCallChunk,
    unheard,
)
from crabd.providers.script import USAGE, Script, find_script

if TYPE_CHECKING:
    from crabd.errors import ProviderErrorKind

NAME = NO_MODEL
MODEL = "echo"
CONTEXT_WINDOW = 8192

NOTICE = (
    "No model is configured, so this is only crabd's offline echo. For a real answer write model = "
    '"openai/gpt-5.4-mini" into config.toml (a server that is not well known needs a [providers.NAME] table '
    "there too), or set OPENAI_API_KEY in the daemon's environment, or start Ollama on this machine; "
    "then run `crabctl reload`."
)

NO_TOOLS = "I have no tools to call here."
# An echo shows that the text arrived; a long one would only fill the history.
_ECHO_LENGTH = 200
# Enough for any demo; a directive in a pasted text must not occupy the daemon for hours.
_MAX_COUNT = 10_000
_MAX_PAUSE_MS = 60_000
_DEFAULT_PAUSE_MS = 200
# A token of English is about four bytes. Good enough to exercise usage and compaction.
_BYTES_PER_TOKEN = 4

_FAILURES: dict[ProviderErrorKind, str] = {
    "rate_limited": "too many requests",
    "auth": "the API key is not valid",
    "context_too_long": "the conversation is longer than the context window",
    "unavailable": "the server cannot be reached",
    "bad_reply": "the answer makes no sense",
}
_DIRECTIVE = re.compile(r"(echo|count|slow|call|think|fail)\s+(\S.*)", re.DOTALL)
_CALL = re.compile(r"call\s+(\S+)(?:\s+(\S.*))?", re.DOTALL)
_CALL_ID = re.compile(r"call_(\d{1,9})")


class _Reply(Struct, frozen=True):
    """What will be said, and the pause before each chunk in seconds."""

    chunks: tuple[Chunk, ...]
    pause: float = 0.0


class Offline(Provider):
    """Answer from the request alone; the same request always gets the same answer."""

    @property
    def name(self) -> str:
        return NAME

    def __repr__(self) -> str:
        return "<Offline>"

    @asynccontextmanager
    async def stream(
        self, request: ModelRequest, on_retry: OnRetry = unheard
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        yield _Speech(_finish(request, _answer(request)))

    async def list_models(self) -> tuple[ModelInfo, ...]:
        await trio.lowlevel.checkpoint()
        return (ModelInfo(id=f"{NAME}/{MODEL}", provider=NAME, context_window=CONTEXT_WINDOW),)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class _Speech(AsyncIterator[Chunk]):
    """A reply being said. A class, because a generator that is left in the middle would need closing."""

    def __init__(self, reply: _Reply) -> None:
        self._chunks = iter(reply.chunks)
        self._pause = reply.pause

    async def __anext__(self) -> Chunk:
        # With no pause this is a checkpoint, so that the longest reply can be cancelled anywhere.
        await trio.sleep(self._pause)
        chunk = next(self._chunks, None)
        if chunk is None:
            raise StopAsyncIteration
        return chunk


def _answer(request: ModelRequest) -> _Reply:
    script = find_script(request.messages)
    if script is not None:
        return _play(script, request)
    message, results = _last_turn(request.messages)
    text = text_of(message)
    if results:
        return _say("\n".join(_tell_result(result) for result in results))
    directive = _DIRECTIVE.match(text.lstrip())
    if directive is None:
        return _say(f"{NOTICE}\n\n{_echo(message)}")
    verb, rest = directive.groups()
    match verb:
        case "echo":
            return _say(rest)
        case "count" | "slow":
            return _count(rest, slowly=verb == "slow")
        case "think":
            return _Reply(
                (*map(ThinkingChunk, _words(rest)), *map(TextChunk, _words("I have thought about it.")))
            )
        case "fail":
            return _fail(rest.strip())
        case _:
            return _call(directive.group(), request)


def _echo(message: UserMessage) -> str:
    shown = [words_for(block) for block in message.content if isinstance(block, ImageBlock)]
    said = f"You said: {_cut(text_of(message))}"
    return f"You showed {', '.join(shown)}\n{said}" if shown else said


def _last_turn(messages: tuple[Message, ...]) -> tuple[UserMessage, list[ToolMessage]]:
    """Find the last user message, and the tool results that came after it."""
    results: list[ToolMessage] = []
    for message in reversed(messages):
        if isinstance(message, UserMessage):
            return message, results[::-1]
        if isinstance(message, ToolMessage):
            results.append(message)
    return UserMessage(()), results[::-1]


def _play(script: Script, request: ModelRequest) -> _Reply:
    now = script.next_round()
    if now is None:
        return _say(USAGE)
    if now.calls and (not request.tools or request.tool_choice == "none"):
        return _say(NO_TOOLS)
    return _Reply((*_say(now.text).chunks, *_ask_for(now.calls, request)))


def _say(text: str) -> _Reply:
    return _Reply(tuple(map(TextChunk, _words(text))))


def _words(text: str) -> list[str]:
    """Split text so that joining gives it back, one word and the space after it at a time."""
    return re.findall(r"\s*\S+\s*|\s+", text)


def _cut(text: str) -> str:
    return text if len(text) <= _ECHO_LENGTH else f"{text[:_ECHO_LENGTH]}…"


def _tell_result(result: ToolMessage) -> str:
    status = "" if result.status == "ok" else f" ({result.status})"
    return f"{result.name} answered{status}: {result.output}"


def _count(rest: str, *, slowly: bool) -> _Reply:
    figures = re.fullmatch(r"(\d{1,9})(?:\s+(\d{1,9}))?\s*", rest)
    if figures is None:
        return _say("Say `count N` or `slow N [MILLISECONDS]`, with whole numbers.")
    number = min(int(figures[1]), _MAX_COUNT)
    pause_ms = min(int(figures[2] or _DEFAULT_PAUSE_MS), _MAX_PAUSE_MS) if slowly else 0
    return _Reply(_say(" ".join(map(str, range(1, number + 1)))).chunks, pause_ms / 1000)


def _fail(kind: str) -> _Reply:
    for known, problem in _FAILURES.items():
        if kind == known:
            raise ProviderError(known, f"{problem} (as asked for)", provider=NAME)
    return _say(f"Say `fail KIND`, where KIND is one of {', '.join(_FAILURES)}.")


def _call(text: str, request: ModelRequest) -> _Reply:
    if not request.tools or request.tool_choice == "none":
        return _say(NO_TOOLS)
    calls = [_CALL.fullmatch(line.strip()) for line in text.splitlines() if line.strip()]
    if None in calls:
        # Some line is no call: then it is one call whose arguments run over several lines.
        calls = [_CALL.fullmatch(text.strip())]
    return _Reply(_ask_for([(call[1], call[2] or "{}") for call in filter(None, calls)], request))


def _ask_for(calls: Sequence[tuple[str, str]], request: ModelRequest) -> tuple[Chunk, ...]:
    first = _next_call_number(request.messages)
    return tuple(
        ToolCallChunk(index, f"call_{first + index}", name, arguments)
        for index, (name, arguments) in enumerate(calls)
    )


def _next_call_number(messages: tuple[Message, ...]) -> int:
    """Number calls on from the history's highest, so that no id is in it twice, also after a compaction."""
    ids = [call.id for message in messages for call in tool_calls_of(message)]
    return 1 + max((int(found[1]) for found in map(_CALL_ID.fullmatch, ids) if found), default=0)


def _finish(request: ModelRequest, reply: _Reply) -> _Reply:
    is_call = any(isinstance(chunk, ToolCallChunk) for chunk in reply.chunks)
    usage = Usage(
        input_tokens=_tokens(request.system, *map(_weighed, request.messages)),
        output_tokens=_tokens(*map(_weighed_chunk, reply.chunks)),
        reasoning_tokens=_tokens(*(c.text for c in reply.chunks if isinstance(c, ThinkingChunk))),
    )
    return _Reply((*reply.chunks, Finished("tool_calls" if is_call else "end", usage)), reply.pause)


def _weighed(message: Message) -> str:
    if isinstance(message, AssistantMessage):
        return "".join(
            block.name + block.arguments if isinstance(block, ToolCall) else block.text
            for block in message.content
            if not isinstance(block, ThinkingBlock)
        )
    return text_of(message)


def _weighed_chunk(chunk: Chunk) -> str:
    match chunk:
        case TextChunk(text=text) | ThinkingChunk(text=text):
            return text
        case ToolCallChunk():
            return chunk.name + chunk.arguments
        case Finished() | ThinkingSigned():
            return ""


def _tokens(*texts: str) -> int:
    size = sum(len(text.encode(errors="replace")) for text in texts)
    return -(-size // _BYTES_PER_TOKEN)
