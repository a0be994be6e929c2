"""Several models asked in order, until one answers: an agent's fallbacks.

It changes over before the first word alone. What a server does to an answer that has begun, and how often one
server is tried, is not decided here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from msgspec import structs

from crabd.errors import ProviderError
from crabd.providers.base import (
    Chunk,
    Finished,
    ModelChoice,
    ModelInfo,
    ModelRequest,
    OnRetry,
    Provider,
    Retry,
    unheard,
)

# With these the request itself is wrong; another model would be asked the same.
_NOT_THE_SERVERS_FAULT = frozenset({400, 413, 422})


class Cascade(Provider):
    """Asks the first model, and the next one where it gives no answer."""

    def __init__(self, choices: Sequence[ModelChoice]) -> None:
        self._choices = tuple(choices)

    def __repr__(self) -> str:
        return f"<Cascade {', then '.join(choice.id for choice in self._choices)}>"

    @property
    def name(self) -> str:
        return self._choices[0].provider.name

    @asynccontextmanager
    async def stream(
        self, request: ModelRequest, on_retry: OnRetry = unheard
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        failures: list[tuple[ModelChoice, ProviderError]] = []
        for choice in self._choices:
            if failures:
                on_retry(Retry(failures[-1][1].problem, 0.0, choice.id))
            async with AsyncExitStack() as stack:
                ask = structs.replace(request, model=choice.model)
                try:
                    answer = await stack.enter_async_context(choice.provider.stream(ask, on_retry))
                except ProviderError as error:
                    failures.append((choice, error))
                    if _is_final(error):
                        break
                else:
                    yield _Named(answer, choice.id) if failures else answer
                    return
        raise _told_together(failures)

    async def list_models(self) -> tuple[ModelInfo, ...]:
        return await self._choices[0].provider.list_models()

    async def aclose(self) -> None:
        for choice in self._choices:
            await choice.provider.aclose()


class _Named(AsyncIterator[Chunk]):
    """An answer whose end says who gave it."""

    def __init__(self, answer: AsyncIterator[Chunk], model: str) -> None:
        self._answer = answer
        self._model = model

    async def __anext__(self) -> Chunk:
        chunk = await anext(self._answer)
        return structs.replace(chunk, model=self._model) if isinstance(chunk, Finished) else chunk


def _is_final(error: ProviderError) -> bool:
    return error.kind == "context_too_long" or error.status in _NOT_THE_SERVERS_FAULT


def _told_together(failures: Sequence[tuple[ModelChoice, ProviderError]]) -> ProviderError:
    """Make one error of several: the last, for it decided, with everybody's words."""
    *_, (_, last) = failures
    if len(failures) > 1:
        words = "; ".join(f"{choice.id}: {error.problem}" for choice, error in failures)
        last.problem = f"no model answered: {words}"
    return last
