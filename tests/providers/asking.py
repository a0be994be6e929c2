"""Ways to ask a provider that many tests share."""

from __future__ import annotations

import pytest
import trio

from crabd.errors import ProviderError
from crabd.messages import user_text
from crabd.providers.base import Chunk, ModelRequest, OnRetry, Provider, TextChunk, ToolOffer, unheard

# Generous: the machine is slow, and a test that hangs must still end.
SECONDS = 10

READ = ToolOffer("read", "Read a file.", {"type": "object", "properties": {"path": {"type": "string"}}})


def request_of(text: str, *tools: ToolOffer) -> ModelRequest:
    return ModelRequest(model="test-model", system="Be brief.", messages=(user_text(text),), tools=tools)


async def ask(provider: Provider, request: ModelRequest, on_retry: OnRetry = unheard) -> list[Chunk]:
    """Get a whole answer."""
    with trio.fail_after(SECONDS):
        async with provider.stream(request, on_retry) as answer:
            return [chunk async for chunk in answer]


async def fail(provider: Provider, request: ModelRequest) -> tuple[ProviderError, list[Chunk]]:
    """Ask and get the error, with the chunks that came before it."""
    chunks: list[Chunk] = []
    with trio.fail_after(SECONDS):
        try:
            async with provider.stream(request) as answer:
                async for chunk in answer:
                    chunks.append(chunk)  # noqa: PERF401  a comprehension would lose them
        except ProviderError as error:
            return error, chunks
    pytest.fail(f"there was no error, but {chunks}")


def joined(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks if isinstance(chunk, TextChunk))
