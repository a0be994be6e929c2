"""Measures one model call, from its request to the record of what it took. Pure: the caller has the clock."""

from __future__ import annotations

from crabd.events import SessionUsage, UsageReported
from crabd.messages import AssistantMessage, ToolCall, Usage
from crabd.providers.base import Finished, ModelChoice, ModelRequest
from crabd.runtime.prompt import BYTES_PER_TOKEN, estimate_tokens
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

    def __repr__(self) -> str:
        return f"<Meter {self._choice.id}, {'answering' if self.has_begun else 'waiting'}>"

    @property
    def has_begun(self) -> bool:
        """Something has come, so somebody will ask for money."""
        return self._first is not None

    def hear(self, now: float) -> None:
        """Note that a piece of the answer has come."""
        if self._first is None:
            self._first = now

    def record(
        self, now: float, reply: AssistantMessage, finish: Finished | None, *, weight: int | None = None
    ) -> ModelCalled:
        """Make the record of the call, whole or cut off; ``weight`` is the history's after no reply.

        Usage that was not told is estimated. That has no cost, so the call's counts as unknown.
        """
        told = finish.usage if finish is not None else None
        known = told or Usage(estimate_tokens(self._request.messages), _weigh(reply))
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


def tell_usage(call: ModelCalled, total: SessionUsage) -> UsageReported:
    """Put a call into an event, with what the session has used in ``total``."""
    return UsageReported(call.model, call.usage, total, call.duration_ms, call.first_token_ms, call.estimated)


def _weigh(reply: AssistantMessage) -> int:
    """Guess what a reply took, thinking and calls included, in tokens."""
    sizes = (
        len(block.arguments if isinstance(block, ToolCall) else block.text.encode())
        for block in reply.content
    )
    return -(-sum(sizes) // BYTES_PER_TOKEN)
