"""Fakes that keep the contract of what they stand for, and that a test can hold at any point."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import trio

from crabd.errors import ProviderError
from crabd.events import Confirmation, PendingQuestion
from crabd.messages import Usage
from crabd.providers.base import (
    Chunk,
    Finished,
    ModelChoice,
    ModelInfo,
    ModelRequest,
    Models,
    OnRetry,
    Provider,
    TextChunk,
    ToolCallChunk,
    unheard,
)
from crabd.runtime.guards import Artifacts, Guards, Hooks
from crabd.runtime.hooks import HookedCall, HookVerdict
from crabd.tools.base import (
    Intent,
    Preserver,
    Tool,
    Toolbox,
    ToolContext,
    Toolmaker,
    ToolOutcome,
    ToolSpec,
)
from crabd.tools.typed import Call
from tests.tools.context import Bare, Kept

# A reply is a list of these: an event holds the stream until it is set, an error breaks it.
Part: TypeAlias = Chunk | trio.Event | ProviderError


def says(*texts: str, tokens: int = 10) -> list[Part]:
    """Script a reply of plain text."""
    return [*(TextChunk(text) for text in texts), Finished("end", Usage(tokens, tokens))]


def calls(*names: str, arguments: str = "{}") -> list[Part]:
    """Script a reply that asks for tools, one call each, with ids ``c0``, ``c1``, …"""
    parts: list[Part] = [
        ToolCallChunk(i, id=f"c{i}", name=name, arguments=arguments) for i, name in enumerate(names)
    ]
    return [*parts, Finished("tool_calls", Usage(10, 10))]


class ScriptedProvider(Provider):
    """Gives scripted replies in order, and remembers what it was asked."""

    def __init__(self, *replies: Sequence[Part]) -> None:
        self.replies = list(replies)
        self.requests: list[ModelRequest] = []
        self.open_streams = 0

    @property
    def name(self) -> str:
        return "scripted"

    @asynccontextmanager
    async def stream(
        self, request: ModelRequest, on_retry: OnRetry = unheard
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        self.requests.append(request)
        reply = self.replies.pop(0) if self.replies else says("ok")
        self.open_streams += 1
        try:
            await trio.lowlevel.checkpoint()
            yield self._chunks(reply)
        finally:
            self.open_streams -= 1

    async def _chunks(self, parts: Sequence[Part]) -> AsyncIterator[Chunk]:
        for part in parts:
            if isinstance(part, trio.Event):
                await part.wait()
            elif isinstance(part, ProviderError):
                raise part
            else:
                yield part
                await trio.lowlevel.checkpoint()

    async def list_models(self) -> tuple[ModelInfo, ...]:
        return (ModelInfo(id="scripted/one", provider=self.name, context_window=1000),)

    async def aclose(self) -> None:
        """Do nothing: there is nothing open."""


class ScriptedModels(Models):
    """One provider for every name."""

    def __init__(self, provider: ScriptedProvider) -> None:
        self.provider = provider

    def resolve(self, model: str | None, fallbacks: Sequence[str] = ()) -> ModelChoice:
        return ModelChoice(model or "scripted/one", "one", self.provider, "a test wrote it", 1000)

    async def list_models(self) -> tuple[tuple[ModelInfo, ...], tuple[str, ...]]:
        return await self.provider.list_models(), ()


class HeldTool(Tool):
    """A tool that says what it was given, once it is let go."""

    def __init__(self, name: str = "held", *, is_free: bool = True) -> None:
        self._name = name
        self.began = trio.Event()
        self.go = trio.Event()
        self.was_cancelled = False
        if is_free:
            self.go.set()

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(self._name, "a tool of a test", {"type": "object"})

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> Call:
        return Call(Intent(title=f"use {self._name}"), lambda: self.run(arguments, context))

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolOutcome:
        self.began.set()
        context.report("working")
        try:
            await self.go.wait()
        except trio.Cancelled:
            self.was_cancelled = True
            raise
        return ToolOutcome(f"{self._name} got {arguments}")


class FixedBox(Toolbox):
    """A toolbox that has what it is given, and remembers being closed."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = tuple(tools)
        self.has_work = False
        self.is_closed = False

    @property
    def tools(self) -> Sequence[Tool]:
        return self._tools

    @property
    def is_busy(self) -> bool:
        return self.has_work

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.is_closed = True


class FixedTools(Toolmaker):
    """Gives every session the same tools; its boxes are here to be looked at."""

    def __init__(self, *tools: Tool) -> None:
        self._tools = tools
        self.boxes: dict[str, FixedBox] = {}

    def open(self, session: str) -> FixedBox:
        box = self.boxes[session] = FixedBox(self._tools)
        return box


class Shelf(Artifacts):
    """Keeps long outputs in memory, by the path that it gives them."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    async def keep(self, session: str, call: str, text: str) -> str:
        await trio.lowlevel.checkpoint()
        path = f"/artifacts/{session}/{call}.txt"
        self.texts[path] = text
        return path


class Hooked(Hooks):
    """Hooks that say what they are told to say, and remember what they were asked."""

    def __init__(self, verdict: HookVerdict | None = None, after: str = "") -> None:
        self.verdict = verdict or HookVerdict()
        self.after = after
        self.before: list[HookedCall] = []
        self.outcomes: list[ToolOutcome] = []
        self.notified: list[Confirmation | PendingQuestion] = []

    async def before_tool(self, call: HookedCall) -> HookVerdict:
        await trio.lowlevel.checkpoint()
        self.before.append(call)
        return self.verdict

    async def after_tool(self, call: HookedCall, outcome: ToolOutcome) -> str:
        await trio.lowlevel.checkpoint()
        self.outcomes.append(outcome)
        return self.after

    def notify(self, waiting: Confirmation | PendingQuestion) -> None:
        self.notified.append(waiting)


def guards(
    hooks: Hooks | None = None,
    artifacts: Artifacts | None = None,
) -> Guards:
    """Make guards that keep nothing from happening, but for what is given."""
    return Guards(
        confinement=Bare(),
        preserver=_keep_nothing,
        artifacts=artifacts or Shelf(),
        hooks=hooks or Hooked(),
    )


def _keep_nothing(_session: str, _run: str, _call: str) -> Preserver:
    return Kept()
