"""A provider for every model server: asks, retries, and drives the decoder.

How requests and answers are spelled is for ``dialects``, what a failure means for ``retry``, sockets are for
``http``.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio
from msgspec import structs

from crabd.errors import ProviderError
from crabd.messages import utc_now
from crabd.providers.answer import Decoder, read_refusal
from crabd.providers.base import Chunk, Finished, ModelInfo, ModelRequest, OnRetry, Provider, Retry, unheard
from crabd.providers.dialects import Dialect
from crabd.providers.facts import ModelFacts
from crabd.providers.http import Body, Call, Http
from crabd.providers.keys import ApiKey
from crabd.providers.retry import wait_before_retry

_STREAM, _JSON = "text/event-stream", "application/json"
# Usage comes right after the finish_reason, or not at all: some servers then leave the stream open.
_LINGER_SECONDS = 5.0
# Enough for any sentence a server explains its refusal with.
_MAX_REFUSAL_BYTES = 64 * 1024
# Ten times what the largest list of models takes.
_MAX_LIST_BYTES = 8 * 1024 * 1024


class Server(Provider):
    """One server, by the URL at which its API begins. ``facts`` tells what is known of a model of its.

    Several may share an ``Http``; whoever closes one of them closes it for all.
    """

    def __init__(
        self,
        dialect: Dialect,
        base_url: str,
        key: ApiKey,
        http: Http,
        *,
        facts: Callable[[str], ModelFacts],
    ) -> None:
        self._dialect = dialect
        self._name = dialect.provider
        self._base_url = base_url
        self._key = key
        self._http = http
        self._facts = facts

    def __repr__(self) -> str:
        return f"<{type(self._dialect).__name__} {self._name} at {self._base_url}>"

    @property
    def name(self) -> str:
        return self._name

    @asynccontextmanager
    async def stream(
        self, request: ModelRequest, on_retry: OnRetry = unheard
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        tries = 0
        while True:
            tries += 1
            content = self._dialect.to_wire(request, self._facts(request.model))
            async with AsyncExitStack() as stack:
                try:
                    answer = await stack.enter_async_context(self._ask(request, content))
                    await answer.begin()
                except ProviderError as error:
                    wait = self._wait_before_retry(request, content, error, tries)
                    if wait is None:
                        raise
                    if wait:
                        on_retry(Retry(error.problem, wait))
                else:
                    yield answer
                    return
            await trio.sleep(wait)

    async def list_models(self) -> tuple[ModelInfo, ...]:
        call = await self._call("GET", self._dialect.models_path, accept=(_JSON,))
        async with self._http.open(call) as body:
            await self._raise_refusal(body)
            return tuple(self._dialect.read_models(await body.read_all(_MAX_LIST_BYTES)))

    async def aclose(self) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def _ask(self, request: ModelRequest, content: bytes) -> AsyncGenerator[_Answer]:
        call = await self._call("POST", self._dialect.path, accept=(_STREAM, _JSON), content=content)
        async with self._http.open(call) as body:
            await self._raise_refusal(body)
            answer = _Answer(
                self._dialect.decoder(request.model, self._key.hide), body, self._facts(request.model)
            )
            with body.streamed():
                yield answer
            if answer.is_finished:
                await body.drain()

    async def _call(
        self, method: str, path: str, *, accept: tuple[str, ...], content: bytes | None = None
    ) -> Call:
        headers = self._dialect.headers(await self._key.read())
        if content:
            headers["content-type"] = "application/json"
        return Call(self._name, method, self._base_url + path, headers, accept, content)

    async def _raise_refusal(self, body: Body) -> None:
        if body.status == 200:
            return
        words = self._key.hide(await body.read_all(_MAX_REFUSAL_BYTES))
        origin = self._key.origin
        error = read_refusal(self._name, body.status, body.headers, words, now=utc_now(), key_origin=origin)
        if error.kind == "auth":
            self._key.forget()
        raise error

    def _wait_before_retry(
        self, request: ModelRequest, sent: bytes, error: ProviderError, tries: int
    ) -> float | None:
        if self._has_given_up(request, sent, error):
            return 0
        # Jitter is no secret.
        return wait_before_retry(error, tries, random.random())  # noqa: S311

    def _has_given_up(self, request: ModelRequest, sent: bytes, error: ProviderError) -> bool:
        """Learn from a server that is strict about what it does not know: it is asked without from now on."""
        if error.status not in (400, 422) or error.kind == "context_too_long":
            return False
        return self._dialect.give_up(request, self._facts(request.model), sent, error.problem)


class _Answer(AsyncIterator[Chunk]):
    """A streamed answer. A class, because a generator that is left in the middle would need closing."""

    def __init__(self, decoder: Decoder, body: Body, facts: ModelFacts) -> None:
        self._decoder = decoder
        self._body = body
        self._facts = facts
        self._ready: deque[Chunk] = deque()
        self._failure: ProviderError | None = None

    @property
    def is_finished(self) -> bool:
        return self._decoder.is_finished

    async def begin(self) -> None:
        """Wait for the first chunk: until it is here, the request may be made again.

        Raises:
          ProviderError: there will be none.
        """
        while not self._ready:
            await self._receive()

    async def __anext__(self) -> Chunk:
        while not self._ready:
            if self._decoder.is_finished:
                raise StopAsyncIteration
            await self._receive()
        return self._ready.popleft()

    async def _receive(self) -> None:
        if self._failure:
            raise self._failure
        if self._body.media_type == _JSON:
            for chunk in self._decoder.whole(await self._body.read_all()):
                self._take(chunk)
            return
        data = await (self._linger() if self._decoder.is_complete else self._body.read())
        if not data:
            self._take(self._decoder.end())
            return
        try:
            for chunk in self._decoder.feed(data):
                self._take(chunk)
        except ProviderError as error:
            # What came in the same packet before it is still part of the answer.
            self._failure = error

    def _take(self, chunk: Chunk) -> None:
        if isinstance(chunk, Finished) and chunk.usage:
            usage = structs.replace(chunk.usage, cost=self._facts.cost_of(chunk.usage))
            chunk = structs.replace(chunk, usage=usage)
        self._ready.append(chunk)

    async def _linger(self) -> bytes:
        """Read on for the usage; the answer itself is whole, so nothing that happens now can harm it."""
        try:
            return await self._body.read(seconds=_LINGER_SECONDS)
        except ProviderError:
            return b""
