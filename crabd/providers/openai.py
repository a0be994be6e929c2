"""A provider for every OpenAI-compatible server: asks, retries, and drives the decoder.

How requests and answers are spelled is ``openai_wire``'s and ``openai_answer``'s, what a failure means is
``retry``'s, sockets are ``http``'s.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from crabd.errors import ProviderError
from crabd.messages import utc_now
from crabd.providers.base import Chunk, ModelInfo, ModelRequest, Provider
from crabd.providers.http import Body, Call, Http
from crabd.providers.keys import ApiKey
from crabd.providers.openai_answer import AnswerDecoder, read_models, read_refusal
from crabd.providers.openai_wire import Spelling, to_wire
from crabd.providers.retry import wait_before_retry

# Usage comes right after the finish_reason, or not at all: some servers then leave the stream open.
_LINGER_SECONDS = 5.0
# Enough for any sentence a server explains its refusal with.
_MAX_REFUSAL_BYTES = 64 * 1024


class OpenAI(Provider):
    """One server, by the URL under which its ``/chat/completions`` is.

    Several may share an ``Http``; whoever closes one of them closes it for all.
    """

    def __init__(self, name: str, base_url: str, key: ApiKey, http: Http) -> None:
        self._name = name
        self._base_url = base_url
        self._key = key
        self._http = http
        self._wants_usage = True
        self._spelling = Spelling()

    def __repr__(self) -> str:
        return f"<OpenAI {self._name} at {self._base_url}>"

    @property
    def name(self) -> str:
        return self._name

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[Chunk]]:
        tries = 0
        while True:
            tries += 1
            async with AsyncExitStack() as stack:
                try:
                    answer = await stack.enter_async_context(self._ask(request))
                    await answer.begin()
                except ProviderError as error:
                    wait = self._wait_before_retry(error, tries)
                    if wait is None:
                        raise
                else:
                    yield answer
                    return
            await trio.sleep(wait)

    async def list_models(self) -> tuple[ModelInfo, ...]:
        call = await self._call("GET", "/models", accept="application/json")
        async with self._http.open(call) as body:
            await self._raise_refusal(body)
            return tuple(read_models(self._name, await body.read_all()))

    async def aclose(self) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def _ask(self, request: ModelRequest) -> AsyncGenerator[_Answer]:
        content = to_wire(request, with_usage=self._wants_usage, spell=self._spelling.spell)
        call = await self._call("POST", "/chat/completions", accept="text/event-stream", content=content)
        async with self._http.open(call) as body:
            await self._raise_refusal(body)
            answer = _Answer(AnswerDecoder(self._name, self._key.hide), body)
            yield answer
            if answer.is_finished:
                await body.drain()

    async def _call(self, method: str, path: str, *, accept: str, content: bytes | None = None) -> Call:
        headers = {"content-type": "application/json"} if content else {}
        key = await self._key.read()
        if key:
            headers["authorization"] = f"Bearer {key}"
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

    def _wait_before_retry(self, error: ProviderError, tries: int) -> float | None:
        if error.status in (400, 422) and "stream_options" in error.problem and self._wants_usage:
            # A server that is strict about what it does not know: do without usage from now on.
            self._wants_usage = False
            return 0
        # Jitter is no secret.
        return wait_before_retry(error, tries, random.random())  # noqa: S311


class _Answer(AsyncIterator[Chunk]):
    """A streamed answer. A class, because a generator that is left in the middle would need closing."""

    def __init__(self, decoder: AnswerDecoder, body: Body) -> None:
        self._decoder = decoder
        self._body = body
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
        data = await (self._linger() if self._decoder.is_complete else self._body.read())
        if not data:
            self._ready.append(self._decoder.end())
            return
        try:
            self._ready.extend(self._decoder.feed(data))
        except ProviderError as error:
            # What came in the same packet before it is still part of the answer.
            self._failure = error

    async def _linger(self) -> bytes:
        """Read on for the usage; the answer itself is whole, so nothing that happens now can harm it."""
        try:
            return await self._body.read(seconds=_LINGER_SECONDS)
        except ProviderError:
            return b""
