"""The interface of a provider: a request in, a stream of chunks out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, TypeAlias

from msgspec import Struct

from crabd.messages import Message, Usage
from crabd.providers.facts import Prices

FinishReason: TypeAlias = Literal["end", "tool_calls", "max_tokens", "refused"]

# The name of the provider that is no model: it is asked for replies alone, for it can write nothing else.
NO_MODEL = "offline"


class ToolOffer(Struct, frozen=True):
    """A tool the model may call. ``parameters`` is a JSON Schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]


class ModelRequest(Struct, frozen=True, kw_only=True):
    """One call. ``model`` is the provider's own name for it; the history is complete and valid.

    ``tool_choice`` is ``auto``, ``none``, ``required`` or a tool's name; it means nothing without tools.
    """

    model: str
    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolOffer, ...] = ()
    tool_choice: str = "auto"
    thinking: bool = False
    max_tokens: int | None = None


class TextChunk(Struct, frozen=True, gc=False):
    text: str


class ThinkingChunk(Struct, frozen=True, gc=False):
    text: str


class ThinkingSigned(Struct, frozen=True, gc=False):
    """The thinking so far is a block of its own, which ``signed_by``, a ``provider/model``, wants back."""

    signature: str
    signed_by: str


class ToolCallChunk(Struct, frozen=True, gc=False):
    """A piece of the ``index``-th call: id and name replace when not empty, arguments are appended."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Finished(Struct, frozen=True, gc=False):
    """The last chunk of a good stream. ``usage`` is null when the server did not tell.

    ``model`` is the ``provider/model`` that answered in place of the one that was asked, else empty.
    """

    reason: FinishReason
    usage: Usage | None = None
    model: str = ""


Chunk: TypeAlias = TextChunk | ThinkingChunk | ThinkingSigned | ToolCallChunk | Finished


class Retry(Struct, frozen=True):
    """A model gave no answer; in ``seconds`` it is asked again, or, if that is not empty, ``model`` is."""

    problem: str
    seconds: float
    model: str = ""


# Hears of a retry before it is waited for.
OnRetry: TypeAlias = Callable[[Retry], None]


def unheard(retry: Retry) -> None:
    """Take no note of a retry."""


class ModelInfo(Struct, frozen=True, kw_only=True):
    """``id`` is ``provider/model``; the window and ``max_output`` are in tokens. What is null is unknown."""

    id: str
    provider: str
    context_window: int | None = None
    max_output: int | None = None
    prices: Prices | None = None


class Provider(Protocol):
    """A model server, or something that behaves like one."""

    @property
    def name(self) -> str: ...

    def stream(
        self, request: ModelRequest, on_retry: OnRetry = unheard
    ) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        """Ask, and read the answer chunk by chunk until ``Finished``, which ends the iteration.

        What fails before the first chunk may be asked for again, of which ``on_retry`` is told each time.
        Leaving the context hangs up, wherever the stream is. A stream that ends without ``Finished`` raises
        ``bad_reply``, so that a truncated answer never looks complete.

        Raises:
          ProviderError: on entering or while iterating; every wait inside has a deadline.
        """
        ...

    async def list_models(self) -> tuple[ModelInfo, ...]:
        """Ask the server what it has.

        Raises:
          ProviderError: it cannot say.
        """
        ...

    async def aclose(self) -> None:
        """Hang up all connections. A second call does nothing."""
        ...


class ModelChoice(Struct, frozen=True):
    """A model made ready to ask. ``id`` is ``provider/model``; ``why`` tells a person who chose it.

    ``images`` is whether it takes pictures, null if nobody has told.
    """

    id: str
    model: str
    provider: Provider
    why: str
    context_window: int | None = None
    images: bool | None = None


class Models(Protocol):
    """All the models this daemon can ask, by name."""

    def resolve(self, model: str | None, fallbacks: Sequence[str] = ()) -> ModelChoice:
        """Find a model by ``provider/model``; null is the default, which always exists.

        Its provider asks the ``fallbacks``, in order, when a model's server gives no answer.

        Raises:
          NotFound: no such provider.
        """
        ...

    async def list_models(self) -> tuple[tuple[ModelInfo, ...], tuple[str, ...]]:
        """List what every provider has, and say which could not be asked, a sentence each."""
        ...
