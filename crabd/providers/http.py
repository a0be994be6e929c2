"""HTTP for providers: one client for the process, deadlines, bounds, and the one seam for foreign errors.

It knows statuses, headers and bytes, and nothing of what they say.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

import trio
from msgspec import Struct

from crabd.errors import ProviderError
from crabd.providers.retry import ConnectionLost

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


class Deadlines(Struct, frozen=True):
    """In seconds. ``first_byte`` is for the head, and again for what follows it: a local server may load its
    model in the one and read a long history in the other.

    ``total`` bounds what the others cannot: a server that sends a comment now and then, and never an answer.
    """

    connect: float = 10
    first_byte: float = 300
    between: float = 90
    total: float = 3600


DEADLINES = Deadlines()


class Call(Struct, frozen=True):
    """One request. ``accept`` is the only media type the answer may have."""

    provider: str
    method: str
    url: str
    headers: dict[str, str]
    accept: str
    body: bytes | None = None


class Http:
    """The process's one HTTP client. It is made at the first call, for it costs 100 ms and megabytes.

    Whoever made it closes it; calls that are going then end with ``ProviderError``.
    """

    def __init__(self, deadlines: Deadlines = DEADLINES) -> None:
        self._deadlines = deadlines
        self._client: httpx.AsyncClient | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open" if self._client else "unused"
        return f"<Http {state}>"

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncGenerator[Body]:
        """Ask, and give the answer for reading. Leaving the context hangs up.

        Raises:
          ProviderError: on entering, when there is no answer or its head is wrong. A refusal is an answer.
        """
        until = trio.current_time() + self._deadlines.total
        response = await self._send(call)
        body = Body(call.provider, response, self._deadlines, until)
        try:
            _refuse_bad_head(call, response)
            yield body
        finally:
            await body.aclose()

    async def aclose(self) -> None:
        """Hang up all connections. A second call does nothing."""
        self._is_closed = True
        if self._client:
            await self._client.aclose()

    async def _send(self, call: Call) -> httpx.Response:
        client = self._ready_client(call.provider)
        headers = {**call.headers, "accept": call.accept, "accept-encoding": "identity"}
        request = client.build_request(call.method, call.url, headers=headers, content=call.body)
        seconds = self._deadlines.first_byte
        with _translated(call.provider, f"it was silent for {seconds:g} s"), trio.fail_after(seconds):
            return await client.send(request, stream=True)

    def _ready_client(self, provider: str) -> httpx.AsyncClient:
        if self._is_closed:
            problem = "the daemon is stopping: ask again when it is back"
            raise ProviderError("unavailable", problem, provider=provider)
        if self._client is None:
            try:
                self._client = _make_client(self._deadlines.connect)
            except (ImportError, OSError, ValueError) as exc:
                problem = f"no HTTP with this environment's proxy or certificates: {exc}"
                raise ProviderError("unavailable", problem, provider=provider) from exc
        return self._client


def _make_client(connect: float) -> httpx.AsyncClient:
    import httpx

    return httpx.AsyncClient(
        # Only connecting is timed here: our own scopes know the first byte from the others.
        timeout=httpx.Timeout(None, connect=connect, pool=connect),
        limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_KEPT_CONNECTIONS),
        # A redirect would carry the key and the conversation to wherever it points.
        follow_redirects=False,
        # Plain http is for this machine only, where a proxy of the environment has no business.
        mounts={"http://": None},
        headers={"user-agent": "crabd"},
    )


class Body:
    """An answer: its status and headers, and the bytes as they come, with a deadline and a bound."""

    def __init__(self, provider: str, response: httpx.Response, deadlines: Deadlines, until: float) -> None:
        self._provider = provider
        self._response = response
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._deadlines = deadlines
        self._until = until
        self._pieces: AsyncIterator[bytes] = response.aiter_raw()
        self._size = 0
        self._has_ended = False

    async def read(self, *, seconds: float | None = None) -> bytes:
        """Wait for the next piece; empty is the end. ``seconds`` replaces the usual deadline.

        Raises:
          ProviderError: ``unavailable`` on a deadline or a reset, ``bad_reply`` past the bound or a torn end.
        """
        if seconds is None:
            seconds = self._deadlines.between if self._size else self._deadlines.first_byte
        until = min(trio.current_time() + seconds, self._until)
        late = "it took too long as a whole" if until == self._until else f"it was silent for {seconds:g} s"
        with _translated(self._provider, late), trio.fail_at(until):
            piece = await anext(self._pieces, b"")
        self._has_ended = not piece
        self._size += len(piece)
        if self._size > MAX_BODY_BYTES:
            problem = f"the answer is longer than {MAX_BODY_BYTES} bytes"
            raise ProviderError("bad_reply", problem, provider=self._provider)
        return piece

    async def read_all(self, limit: int = MAX_BODY_BYTES) -> bytes:
        """Read to the end, or to ``limit`` bytes, where it is cut."""
        pieces: list[bytes] = []
        size = 0
        while size < limit and (piece := await self.read()):
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)[:limit]

    async def drain(self) -> None:
        """Read the little that follows a complete answer, so that the connection can be used again."""
        with trio.move_on_after(_DRAIN_SECONDS), suppress(ProviderError):
            while not self._has_ended:
                await self.read()

    async def aclose(self) -> None:
        """Hang up, unless the answer was read to its end. A second call does nothing."""
        import httpx

        await self._response.aclose()
        # The pieces come through five generators of httpx. Reading on after the close ends them all, at once;
        # left in the middle, the garbage collector would have to, and trio warns of that.
        with suppress(httpx.HTTPError, httpx.StreamError):
            while await anext(self._pieces, b""):
                pass


def _refuse_bad_head(call: Call, response: httpx.Response) -> None:
    """Refuse a head that no body can mend. A status of refusal passes: its body says why."""
    status = response.status_code
    media_type = response.headers.get("content-type", "nothing").partition(";")[0].strip().lower()
    if 300 <= status < 400:
        where = response.headers.get("location", "?").partition("?")[0]
        problem = f"{status}: redirects are not followed; if {where} is right, set base_url to it"
    elif response.headers.get("content-encoding", "identity").lower() != "identity":
        problem = "the answer is compressed, which was not asked for"
    elif status == 200 and media_type != call.accept:
        problem = (
            f"the answer is {media_type}, not {call.accept}: base_url should end as the API's does, often /v1"
        )
    else:
        return
    raise ProviderError("bad_reply", problem, provider=call.provider, status=status)


@contextmanager
def _translated(provider: str, late: str) -> Generator[None]:
    """Turn what httpx and the clock raise into our errors; ``late`` says what a deadline means."""
    import httpx

    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
        reason = str(exc) or str(exc.__cause__) or "no answer in time"
        raise ProviderError("unavailable", f"cannot connect: {reason}", provider=provider) from exc
    except (trio.TooSlowError, httpx.TimeoutException) as exc:
        raise ProviderError("unavailable", f"the server is too slow: {late}", provider=provider) from exc
    except httpx.RemoteProtocolError as exc:
        raise ConnectionLost("bad_reply", f"the answer was cut off: {exc}", provider=provider) from exc
    except httpx.NetworkError as exc:
        raise ConnectionLost("unavailable", "the connection was reset", provider=provider) from exc
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise ProviderError("unavailable", f"the request failed: {exc}", provider=provider) from exc
