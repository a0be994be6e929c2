"""Measures one model call, from its request to the record of what it took. Pure: the caller has the clock."""

from __future__ import annotations

from crabd.events import SessionUsage, UsageReported
from crabd.messages import Usage
from crabd.providers.base import (
    Chunk,
    Finished,
    ModelChoice,
    ModelRequest,
    TextChunk,
    ThinkingChunk,
    ToolCallChunk,
)
from crabd.runtime.prompt import BYTES_PER_TOKEN, estimate_overhead, estimate_tokens
from crabd.store.record import ModelCalled, Purpose


class Meter:
    """One model call for ``run``, asked at ``began``, in seconds of a clock that never goes back."""

    def __init__(
        self, choice: ModelChoice, request: ModelRequest, *, run: str, purpose: Purpose, began: float
    ) -> None:
        self._choice = choice
        self._request = request
        self._run = run
        self._purpose: Purpose = purpose
        self._began = began
        self._first: float | None = None
        self._heard = 0
        self._finish: Finished | None = None

    def __repr__(self) -> str:
        return f"<Meter {self._choice.id}, {'answering' if self.has_begun else 'waiting'}>"

    @property
    def has_begun(self) -> bool:
        """Something has come, so somebody will ask for money."""
        return self._first is not None

    def hear(self, chunk: Chunk, now: float) -> None:
        """Note that a piece of the answer has come."""
        if self._first is None:
            self._first = now
        match chunk:
            case TextChunk(text=text) | ThinkingChunk(text=text):
                self._heard += len(text) if text.isascii() else len(text.encode(errors="replace"))
            case ToolCallChunk(arguments=arguments):
                self._heard += len(arguments)
            case Finished():
                self._finish = chunk
            case _:
                pass

    def record(self, now: float, *, weight: int | None = None) -> ModelCalled:
        """Make the record of the call, whole or cut off; ``weight`` is the history's after no reply.

        Usage that was not told is estimated. That has no cost, so the call's counts as unknown.
        """
        finish = self._finish
        told = finish.usage if finish is not None else None
        known = told or self._estimate()
        answered = finish.model if finish is not None else ""
        return ModelCalled(
            self._run,
            answered or self._choice.id,
            self._purpose,
            known,
            known.input_tokens + known.output_tokens if weight is None else weight,
            self._choice.context_window,
            duration_ms=round((now - self._began) * 1000),
            first_token_ms=None if self._first is None else round((self._first - self._began) * 1000),
            estimated=told is None,
        )

    def _estimate(self) -> Usage:
        """Guess what a call has taken by its request and by what was heard of its answer."""
        asked = estimate_tokens(self._request.messages) + estimate_overhead(self._request)
        return Usage(asked, -(-self._heard // BYTES_PER_TOKEN))


def tell_usage(call: ModelCalled, total: SessionUsage) -> UsageReported:
    """Put a call into an event, with what the session has used in ``total``."""
    return UsageReported(call.model, call.usage, total, call.duration_ms, call.first_token_ms, call.estimated)
