"""Fetches one text of the web for somebody who has allowed that address, and nothing else with it.

It connects to the very address that it has checked, so that a name cannot mean one thing to the check and
another to the connection. It therefore takes no proxy, for that would resolve the name anew; it sends no
cookie and no key, and it follows no redirect to another host, since what was allowed is this one.
"""

from __future__ import annotations

import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from email.message import Message
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import trio
from msgspec import Struct

from crabd.tools.base import BadArguments
from crabd.tools.web.addresses import objection

if TYPE_CHECKING:
    import httpx

# Of pages that people read hardly one is longer; the rest of it is most likely data.
MAX_BYTES = 2 * 1024 * 1024
# From the look-up of the name to the last byte.
FETCH_SECONDS = 30.0
MAX_REDIRECTS = 5
# A host has a few addresses, of which one may be down.
MAX_ADDRESSES = 3
MAX_URL = 2048
HEADERS = {
    "user-agent": "crabd",
    "accept": "text/html, text/*;q=0.9, application/json;q=0.9, */*;q=0.5",
    "accept-encoding": "gzip",
}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Text by other names; what ends in +json, +xml or +yaml is text too.
TEXTS = frozenset(
    f"application/{name}"
    for name in (
        "javascript",
        "json",
        "sql",
        "toml",
        "x-javascript",
        "x-ndjson",
        "x-sh",
        "x-yaml",
        "xml",
        "yaml",
    )
)
PAGES = frozenset({"text/html", "application/xhtml+xml"})

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]


class Unfetched(Exception):
    """The page cannot be had; the text tells the model why, and what to do."""


class Found(Struct, frozen=True):
    """What a server has answered. ``body`` ends early if ``is_cut``; null stands for one that is not text."""

    url: str
    status: str
    media: str
    charset: str | None
    location: str | None
    body: bytes | None
    is_cut: bool = False

    @property
    def is_refusal(self) -> bool:
        return not self.status.startswith("2")


async def resolve(host: str, port: int) -> Sequence[str]:
    """Look up a host's addresses.

    Raises:
      OSError: it has none.
    """
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


class Fetcher:
    """Fetches texts. From this machine and private networks only if ``allow_private``."""

    def __init__(self, *, allow_private: bool, resolve: Resolve, tls: ssl.SSLContext | None) -> None:
        """Take who looks up names, and whom to believe about certificates if not whom the system does."""
        self._allow_private = allow_private
        self._resolve = resolve
        self._tls = tls

    async def fetch(self, url: httpx.URL) -> Found:
        """Fetch a text, over redirects within its host.

        Raises:
          Unfetched: also when that takes longer than the limit.
        """
        try:
            with trio.fail_after(FETCH_SECONDS):
                return await self._follow(url)
        except trio.TooSlowError:
            advice = "try another source"
            raise Unfetched(f"{url.host} has not sent all of it in {FETCH_SECONDS:.0f} s: {advice}") from None

    async def _follow(self, url: httpx.URL) -> Found:
        for _ in range(MAX_REDIRECTS + 1):
            found = await self._fetch_once(url)
            if found.location is None:
                return found
            url = _next_of(url, found.location)
        raise Unfetched(f"{url.host} redirects more than {MAX_REDIRECTS} times: give the page's own address")

    async def _fetch_once(self, url: httpx.URL) -> Found:
        """Ask one of the host's addresses, once, the first that answers.

        Raises:
          Unfetched.
        """
        import httpx

        problem = ""
        trusted = await trio.to_thread.run_sync(_trusted)
        for address in await self._addresses(url):
            try:
                return await _ask(url, address, self._tls or trusted)
            except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
                problem = _sentence(exc)
            except httpx.HTTPError as exc:
                raise Unfetched(f"{url.host} has not answered properly: {_sentence(exc)}") from exc
        raise Unfetched(f"cannot connect to {url.host}: {problem or 'it has no address'}")

    async def _addresses(self, url: httpx.URL) -> Sequence[str]:
        """Find out where to connect to.

        Raises:
          Unfetched: nowhere, or it is a place that is not to be fetched from.
        """
        try:
            found = await self._resolve(url.host, url.port or 0)
        except (OSError, UnicodeError) as exc:
            raise Unfetched(f"there is no host {url.host!r}: {exc}") from exc
        if not self._allow_private:
            for address in found:
                if problem := objection(address):
                    raise Unfetched(
                        f"{url.host} is {problem} ({address}), which web_fetch does not read: "
                        "a person can allow it with web.allow_private = true in config.toml"
                    )
        return found[:MAX_ADDRESSES]


def read_url(text: str) -> httpx.URL:
    """Read the address of a page.

    Raises:
      BadArguments: it is none, or one that would give a secret away.
    """
    import httpx

    try:
        url = httpx.URL(text.strip())
    except (httpx.InvalidURL, ValueError) as exc:
        raise BadArguments(f"`url`: {exc}") from exc
    if url.scheme not in ("http", "https") or not url.host:
        raise BadArguments("`url`: write the whole address, with http:// or https:// and a host")
    if url.userinfo:
        raise BadArguments("`url`: leave out the user and the password; web_fetch sends none")
    return url.copy_with(fragment=None)


def _next_of(url: httpx.URL, location: str) -> httpx.URL:
    """Find where a redirect leads to.

    Raises:
      Unfetched: to another host, or nowhere.
    """
    try:
        found = read_url(str(url.join(location)))
    except (BadArguments, ValueError) as exc:
        raise Unfetched(f"{url} redirects to what is no page's address: {location[:MAX_URL]!r}") from exc
    if found.host != url.host or (url.scheme, found.scheme) == ("https", "http"):
        raise Unfetched(f"{url} redirects to {found}, which is not followed: fetch that if it is of use")
    return found


async def _ask(url: httpx.URL, address: str, tls: ssl.SSLContext) -> Found:
    """Ask an address for a page in the name of its host, and read the answer.

    Raises:
      httpx.HTTPError: there is none.
    """
    import httpx

    # The host stands in the request and in the certificate, the address in the connection.
    headers = {**HEADERS, "host": url.netloc.decode("ascii")}
    extensions = {"sni_hostname": url.host} if url.scheme == "https" else {}
    async with (
        httpx.AsyncClient(verify=tls, trust_env=False, timeout=FETCH_SECONDS) as client,
        client.stream("GET", url.copy_with(host=address), headers=headers, extensions=extensions) as response,
    ):
        return await _read(url, response)


async def _read(url: httpx.URL, response: httpx.Response) -> Found:
    """Read an answer as far as it is of use."""
    content = Message()
    content["content-type"] = response.headers.get("content-type", "")
    media = content.get_content_type() if response.headers.get("content-type") else "text/plain"
    is_redirect = response.status_code in REDIRECTS and "location" in response.headers
    body, is_cut = None, False
    if not is_redirect and is_text(media):
        body, is_cut = await _read_body(response)
    return Found(
        url=str(url),
        status=f"{response.status_code} {response.reason_phrase}".strip(),
        media=media,
        charset=content.get_content_charset(),
        location=response.headers["location"] if is_redirect else None,
        body=body,
        is_cut=is_cut,
    )


def is_text(media: str) -> bool:
    """Tell whether a type of content is something to read."""
    return media.startswith("text/") or media in TEXTS | PAGES or media.endswith(("+json", "+xml", "+yaml"))


async def _read_body(response: httpx.Response) -> tuple[bytes, bool]:
    """Read up to the limit, unpacked piece by piece: a small answer may be packed from a huge one.

    Raises:
      httpx.DecodingError: it is packed in a way that was not asked for.
    """
    import httpx

    packing = response.headers.get("content-encoding", "identity").lower()
    if packing not in ("identity", "gzip", "x-gzip", "deflate"):
        raise httpx.DecodingError(f"it is packed as {packing!r}, which was not asked for")
    # It finds out for itself whether the head is gzip's or zlib's.
    unpacker = None if packing == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
    body = bytearray()
    pieces = response.aiter_raw()
    try:
        while len(body) <= MAX_BYTES and (piece := await anext(pieces, b"")):
            left = MAX_BYTES + 1 - len(body)
            body += unpacker.decompress(piece, left) if unpacker else piece[:left]
    except zlib.error as exc:
        raise httpx.DecodingError(f"it cannot be unpacked ({exc})") from exc
    finally:
        await _hang_up(response, pieces)
    if len(body) > MAX_BYTES:
        return bytes(body[:MAX_BYTES]), True
    if unpacker and not unpacker.eof:
        raise httpx.DecodingError("it cannot be unpacked (it ends too early)")
    return bytes(body), False


async def _hang_up(response: httpx.Response, pieces: AsyncIterator[bytes]) -> None:
    """End an answer, read to its end or not."""
    import httpx

    await response.aclose()
    # The pieces come through five generators of httpx. Reading on after the close ends them all, at once;
    # left in the middle, the garbage collector would have to, and trio warns of that.
    with suppress(httpx.HTTPError, httpx.StreamError):
        while await anext(pieces, b""):
            pass


@cache
def _trusted() -> ssl.SSLContext:
    """Read the certificates that are to be believed, once; it takes some time."""
    import httpx

    return httpx.create_ssl_context()


def _sentence(exc: BaseException) -> str:
    """Find what went wrong: what the library raises often has no words of its own, but its cause has."""
    cause: BaseException | None = exc
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return str(cause or type(exc).__name__)
