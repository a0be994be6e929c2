"""Asking a model for one piece of text: what a summary and a title have in common."""

from __future__ import annotations

import trio

from crabd.messages import clean_text
from crabd.providers.base import ModelChoice, ModelRequest, TextChunk
from crabd.runtime.metering import Meter
from crabd.store.record import ModelCalled, Purpose


async def ask_for_text(
    choice: ModelChoice, request: ModelRequest, *, run: str, purpose: Purpose, weight: int
) -> tuple[str, ModelCalled]:
    """Read a whole reply; returns its text, which may be empty, and the record of what it took.

    ``weight`` is the history's, in tokens. Cancelled, it hangs up.

    Raises:
      ProviderError.
    """
    meter = Meter(choice, request, run=run, purpose=purpose, began=trio.current_time())
    parts: list[str] = []
    async with choice.provider.stream(request) as chunks:
        async for chunk in chunks:
            meter.hear(chunk, trio.current_time())
            if isinstance(chunk, TextChunk):
                parts.append(chunk.text)
    return clean_text("".join(parts)).strip(), meter.record(trio.current_time(), weight=weight)
