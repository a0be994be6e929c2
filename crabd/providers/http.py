"""HTTP for providers: one client for the process, deadlines and bounds.

It knows statuses, headers and bytes, and nothing of what they say. What its failures mean is ``exchange``'s;
whether to ask again, ``retry``'s; whether a server that keeps failing is asked at all, ``circuit``'s.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio
from msgspec import Struct

from crabd.errors import ProviderError, ServerLeftAlone
from crabd.messages import utc_now
from crabd.providers.circuit import Attempt, Circuit, Trouble
from crabd.providers.exchange import Exchange
from crabd.providers.settings import DEADLINES, Deadlines

if TYPE_CHECKING:
    import httpx

# Some hundred times the longest answer that any model gives.
MAX_BODY_BYTES = 64 * 1024 * 1024
# As many sockets as one user's runs can need; a call beyond it waits for ``Deadlines.connect``, then fails.
_MAX_CONNECTIONS = 256
# Connections above which one that falls idle is closed. These keep a person's sessions warm; of many, httpx
# compares each idle one with all the others at every request, which costs more than connecting again.
_KEPT_CONNECTIONS = 16
# How long the end of an answered request is waited for, so that its connection can serve the next.
_DRAIN_SECONDS = 0.5
# How late the deadline of a streamed piece may strike, as a factor.
_LATENESS = 1.05
# A server that has refused has its words ready.
_REFUSAL_SECONDS = 10.0


class Call(Struct, frozen=True):
    """One request. ``accept`` are the media types the answer may have; the first is asked for."""

    provider: str
    method: str
    url: str
    headers: dict[str, str]
    accept: tuple[str, ...]
    body: bytes | None = None

    def __repr__(self) -> str:
        # The headers hold a key, the body a conversation.
        return f"<Call {self.method} {self.url}>"


class Http:
    """The process's one HTTP client. It is made at the first call, for it costs 100 ms and megabytes.

    Whoever made it closes it; calls that are going then end with ``ProviderError``.
    """

    def __init__(self, deadlines: Deadlines = DEADLINES) -> None:
        """Take the deadlines of providers that have none of their own."""
        self._deadlines = deadlines
        self._deadlines_of: Mapping[str, Deadlines] = {}
        self._circuits: dict[str, Circuit] = {}
        self._client: httpx.AsyncClient | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open" if self._client else "unused"
        return f"<Http {state}>"

    def configure(self, deadlines_of: Mapping[str, Deadlines]) -> None:
        """Set the deadlines of providers, by name, and forget what servers have failed with.

        Whoever configures anew may have mended them. Calls that are going keep what they began with.
        """
        self._deadlines_of = deadlines_of
        self._circuits = {}

    def troubles(self) -> tuple[Trouble, ...]:
        """List the servers that have failed since they answered last."""
        now = trio.current_time()
        found = (circuit.trouble(now) for circuit in self._circuits.values())
        return tuple(trouble for trouble in found if trouble)

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncGenerator[Body]:
        """Ask, and give the answer for reading. Leaving the context hangs up.

        Raises:
          ServerLeftAlone: on entering; nothing was asked.
          ProviderError: on entering, when there is no answer or its head is wrong. A refusal is an answer.
        """
        client = self._ready_client(call.provider)
        deadlines = self._deadlines_of.get(call.provider, self._deadlines)
        exchange = Exchange(call.provider, call.headers, self._begin(call))
        until = trio.current_time() + deadlines.total
        try:
            response = await _send(client, call, exchange, deadlines)
            body = Body(exchange, response, deadlines, until)
            try:
                _refuse_bad_head(call, response, exchange)
                yield body
            finally:
                await body.aclose()
        finally:
            exchange.end()

    async def aclose(self) -> None:
        """Hang up all connections. A second call does nothing."""
        self._is_closed = True
        if self._client:
            await self._client.aclose()

    def _begin(self, call: Call) -> Attempt:
        """Take part in what is known of a call's server.

        Raises:
          ServerLeftAlone.
        """
        parts = urlsplit(call.url)
        server = f"{parts.scheme}://{parts.netloc}"
        circuit = self._circuits.setdefault(server, Circuit(server))
        now = trio.current_time()
        attempt = circuit.begin(now)
        if attempt is None:
            trouble = circuit.trouble(now)
            assert trouble is not None, "a server is not left alone without a reason"
            until = utc_now() + timedelta(seconds=trouble.seconds)
            raise ServerLeftAlone(
                trouble.problem,
                provider=call.provider,
                failures=trouble.failures,
                retry_after=trouble.seconds or None,
                until=f"{until:%H:%M:%S} UTC" if trouble.seconds else None,
            )
        return attempt

    def _ready_client(self, provider: str) -> httpx.AsyncClient:
        if self._is_closed:
            problem = "the daemon is stopping: ask again when it is back"
            raise ProviderError("unavailable", problem, provider=provider)
        if self._client is None:
            try:
                self._client = _make_client()
            except (ImportError, OSError, ValueError) as exc:
                problem = f"no HTTP with this environment's proxy or certificates: {exc}"
                raise ProviderError("unavailable", problem, provider=provider) from exc
        return self._client


def _make_client() -> httpx.AsyncClient:
    import httpx

    return httpx.AsyncClient(
        limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_KEPT_CONNECTIONS),
        # A redirect would carry the key and the conversation to wherever it points.
        follow_redirects=False,
        # Plain http is for this machine only, where a proxy of the environment has no business.
        mounts={"http://": None},
        headers={"user-agent": "crabd"},
    )


async def _send(
    client: httpx.AsyncClient, call: Call, exchange: Exchange, deadlines: Deadlines
) -> httpx.Response:
    """Ask, and wait for the head of the answer.

    Raises:
      ProviderError.
    """
    import httpx

    from crabd.providers.tidy import Handshake, Upload

    # Only connecting is timed by httpx: our own scopes know the first byte from the others.
    timeout = httpx.Timeout(None, connect=deadlines.connect, pool=deadlines.connect)
    headers = {**call.headers, "accept": call.accept[0], "accept-encoding": "identity"}
    seconds = min(deadlines.first_byte, deadlines.total)
    try:
        request = client.build_request(
            call.method, call.url, headers=headers, content=call.body, timeout=timeout
        )
        if request.url.scheme == "https":
            request.extensions["trace"] = Handshake()
        request.stream = Upload(call.body or b"")
        with trio.move_on_after(seconds):
            return await client.send(request, stream=True)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        exchange.raise_translated(exc)
    raise exchange.too_slow(f"it was silent for {seconds:g} s")


class Body:
    """An answer: its status and headers, and the bytes as they come, with a deadline and a bound."""

    def __init__(
        self, exchange: Exchange, response: httpx.Response, deadlines: Deadlines, until: float
    ) -> None:
        self._exchange = exchange
        self._response = response
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.media_type = _media_type(response)
        self._deadlines = deadlines
        self._until = until
        self._pieces: AsyncIterator[bytes] = response.aiter_raw()
        self._size = 0
        self._has_ended = False
        self._scope: trio.CancelScope | None = None

    async def read(self, *, seconds: float | None = None) -> bytes:
        """Wait for the next piece; empty is the end. ``seconds`` replaces the usual deadline.

        Raises:
          ProviderError: ``unavailable`` on a deadline or a reset, ``bad_reply`` past the bound or a torn end.
        """
        scope = self._scope
        if scope is None or seconds is not None:
            piece = await self._read_within(self._patience() if seconds is None else seconds)
        else:
            self._move(scope, self._patience())
            piece = await self._next_piece()
        if not self._size:
            self._exchange.heard(self.status)
        self._has_ended = not piece
        self._size += len(piece)
        if self._size > MAX_BODY_BYTES:
            raise self._exchange.error("bad_reply", f"the answer is longer than {MAX_BODY_BYTES} bytes")
        return piece

    @contextmanager
    def streamed(self) -> Generator[None]:
        """Read many pieces at less cost: inside, the usual deadline ends the block, not ``read`` alone.

        One scope whose deadline is moved does for all; one for each piece takes longer than decoding it.
        Whoever reads must not be long about other things, for these count as the server's silence.

        Raises:
          ProviderError: on leaving, when a deadline has passed.
        """
        with trio.CancelScope() as self._scope:
            yield
        scope, self._scope = self._scope, None
        if scope.cancelled_caught:
            raise self._too_late(scope.deadline, self._patience())

    async def read_all(self, limit: int = MAX_BODY_BYTES) -> bytes:
        """Read to the end, or to ``limit`` bytes, where it is cut. What is compressed counts as empty.

        A refusal is one without its words, too: of them, what comes in time is given.
        """
        pieces: list[bytes] = []
        try:
            while limit > 0 and (piece := await self.read()):
                pieces.append(piece[:limit])
                limit -= len(piece)
        except ProviderError:
            if self.status < 400:
                raise
        return b"" if _is_compressed(self._response) else b"".join(pieces)

    async def drain(self) -> None:
        """Read the little that follows a complete answer, so that the connection can be used again."""
        with trio.move_on_after(_DRAIN_SECONDS), suppress(ProviderError):
            while not self._has_ended:
                await self.read()

    async def _read_within(self, seconds: float) -> bytes:
        if self._scope:
            self._scope.deadline = inf
        until = min(trio.current_time() + seconds, self._until)
        with trio.move_on_at(until):
            return await self._next_piece()
        raise self._too_late(until, seconds)

    def _move(self, scope: trio.CancelScope, seconds: float) -> None:
        now = trio.current_time()
        # Moved a little further than it has to be, so that most pieces find it where it may stay.
        if not seconds <= scope.deadline - now <= seconds * _LATENESS:
            scope.deadline = min(now + seconds * _LATENESS, self._until)

    async def _next_piece(self) -> bytes:
        import httpx

        try:
            return await anext(self._pieces, b"")
        except httpx.HTTPError as exc:
            self._exchange.raise_translated(exc)

    def _too_late(self, until: float, seconds: float) -> ProviderError:
        is_whole = until == self._until
        late = "it took too long as a whole" if is_whole else f"it was silent for {seconds:g} s"
        return self._exchange.too_slow(late)

    def _patience(self) -> float:
        """Say how long the next piece may take, in seconds."""
        usual = self._deadlines.idle if self._size else self._deadlines.first_byte
        return usual if self.status < 400 else min(usual, _REFUSAL_SECONDS)

    async def aclose(self) -> None:
        """Hang up, unless the answer was read to its end. A second call does nothing."""
        import httpx

        await self._response.aclose()
        # The pieces come through five generators of httpx. Reading on after the close ends them all, at once;
        # left in the middle, the garbage collector would have to, and trio warns of that.
        with suppress(httpx.HTTPError, httpx.StreamError):
            while await anext(self._pieces, b""):
                pass


def _refuse_bad_head(call: Call, response: httpx.Response, exchange: Exchange) -> None:
    """Refuse a head that no body can mend. A status of refusal passes: its body says why."""
    status = response.status_code
    media_type = _media_type(response)
    if 300 <= status < 400:
        where = response.headers.get("location", "?").partition("?")[0]
        problem = f"{status}: redirects are not followed; if {where} is right, set base_url to it"
    elif status == 200 and _is_compressed(response):
        problem = "the answer is compressed, which nobody asked for: is there a proxy before the server?"
    elif status == 200 and media_type not in call.accept:
        advice = "base_url should end as the API's does, often /v1"
        problem = f"the answer is {media_type}, not {call.accept[0]}: {advice}"
    else:
        return
    exchange.heard(status)
    raise exchange.error("bad_reply", problem, status)


def _media_type(response: httpx.Response) -> str:
    told: str = response.headers.get("content-type", "nothing")
    return told.partition(";")[0].strip().lower()


def _is_compressed(response: httpx.Response) -> bool:
    return bool(response.headers.get("content-encoding", "identity").lower() != "identity")
