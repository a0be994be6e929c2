"""The tool that reads a page of the web.

It must not know who allows it, nor how a page comes here.
"""

from __future__ import annotations

import codecs
import ssl
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import trio
from msgspec import Meta

from crabd.tools.base import Intent, PreparedCall, Tool, ToolContext, ToolOutcome, ToolSpec
from crabd.tools.typed import Arguments, Call, read_arguments, schema_of
from crabd.tools.web.fetching import (
    MAX_BYTES,
    MAX_URL,
    PAGES,
    Fetcher,
    Found,
    Resolve,
    Unfetched,
    read_url,
    resolve,
)

if TYPE_CHECKING:
    import httpx

# The program has a limit on processor time itself; this is for a machine that is busy with others.
PAGE_SECONDS = 20.0
# How much of a server's refusal a model reads.
REFUSAL_CHARACTERS = 2000
# What Python can decode and no page is written in; some of them take it hours.
NO_CHARSETS = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"})
PAGE = Path(__file__).with_name("page.py")


class WebFetchArguments(Arguments, frozen=True, kw_only=True):
    url: Annotated[
        str,
        Meta(description="The page's address, with http:// or https://.", min_length=1, max_length=MAX_URL),
    ]


WEB_FETCH = ToolSpec(
    "web_fetch",
    "Read a page of the web: HTML as text with its links, or any other text, such as JSON. Up to 2 MiB are "
    "read. A redirect to another host is told, not followed: fetch the address it names if it is of use.",
    schema_of(WebFetchArguments),
    is_read_only=True,
    is_idempotent=True,
)


class WebFetch(Tool):
    """Reads pages. Those of this machine and of private networks only if ``allow_private``."""

    def __init__(
        self, *, allow_private: bool = False, resolve: Resolve = resolve, tls: ssl.SSLContext | None = None
    ) -> None:
        """Take who looks up names, and whom to believe about certificates if not whom the system does."""
        self._fetcher = Fetcher(allow_private=allow_private, resolve=resolve, tls=tls)

    @property
    def spec(self) -> ToolSpec:
        return WEB_FETCH

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        url = read_url(read_arguments(WebFetchArguments, arguments).url)
        return Call(Intent(title=f"fetch {url}", url=str(url)), partial(self._run, url))

    async def _run(self, url: httpx.URL) -> ToolOutcome:
        try:
            return await tell(await self._fetcher.fetch(url))
        except Unfetched as exc:
            return ToolOutcome(str(exc), is_error=True)


async def tell(found: Found) -> ToolOutcome:
    """Put an answer in words."""
    head = f"{found.url}: {found.status}, {found.media}"
    if found.body is None:
        return ToolOutcome(
            f"{head}, which is no text: download it with a command if it is needed", is_error=True
        )
    text = decode(found.body, found.charset)
    if found.media in PAGES:
        text = await read_page(text, found.url) or "There is nothing to read on this page without a browser."
    if found.is_refusal:
        return ToolOutcome(f"{head}\n\n{text[:REFUSAL_CHARACTERS]}", is_error=True)
    cut = f"\n\n[only the first {MAX_BYTES} bytes were read]" if found.is_cut else ""
    return ToolOutcome(f"{head}\n\n{text}{cut}")


def decode(body: bytes, charset: str | None) -> str:
    """Decode text by what its server says, or else as UTF-8."""
    try:
        name = codecs.lookup(charset or "utf-8-sig").name
        return body.decode("utf-8" if name in NO_CHARSETS else name, "replace")
    except (LookupError, UnicodeError):
        return body.decode("utf-8", "replace")


async def read_page(page: str, url: str) -> str:
    """Turn a page into text, in a process of its own.

    Raises:
      Unfetched: that took too long.
    """
    with trio.move_on_after(PAGE_SECONDS):
        done = await trio.run_process(
            [sys.executable, "-I", "-S", str(PAGE), url],
            stdin=page.encode("utf-8", "replace"),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={},
        )
        if done.returncode == 0:
            return done.stdout.decode("utf-8", "replace")
    raise Unfetched(f"{url} is made so that it takes too long to read: try another source")
