"""Pages fetched from real servers on this machine, by names that only the test can look up."""

from __future__ import annotations

import gzip
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from crabd.tools.base import BadArguments, ToolOutcome
from crabd.tools.web.fetching import MAX_BYTES, MAX_REDIRECTS
from crabd.tools.web.web_fetch import WebFetch
from tests.crabctl.program import PATIENCE
from tests.faults.certificates import make_certificate, make_context
from tests.tools.context import Surroundings

HTML = "text/html; charset=iso-8859-1"
# Without the time, which would name the test otherwise in each process that collects it.
PACKED = gzip.compress(b"packed", mtime=0)


def reply(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """Write an answer; a header's name has underscores for its dashes."""
    fields = {"content_length": str(len(body)), "connection": "close"} | headers
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body


class Server:
    """A web server with one answer for each path, and the heads of the requests that it got."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.replies: dict[str, bytes] = {}
        self.asked: list[str] = []
        # A server that holds on sends its answer and waits for the other end to hang up.
        self.holds = False
        self.sent = trio.Event()
        self.hung_up = trio.Event()

    async def serve(self, stream: trio.abc.Stream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some()
            self.asked.append(head.decode())
            try:
                await stream.send_all(self.replies[head.split()[1].decode()])
                self.sent.set()
                if self.holds:
                    await stream.receive_some()
                    self.hung_up.set()
            except trio.BrokenResourceError:
                # It has read enough.
                return

    def fetched(self) -> list[str]:
        return [head.split()[1] for head in self.asked]


@asynccontextmanager
async def web_server(tls: ssl.SSLContext | None = None) -> AsyncGenerator[Server]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = Server(listener.socket.getsockname()[1])

    async def serve(stream: trio.SocketStream) -> None:
        try:
            await server.serve(trio.SSLStream(stream, tls, server_side=True) if tls else stream)
        except trio.BrokenResourceError:
            # It did not like the certificate.
            return

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            yield server
            nursery.cancel_scope.cancel()


class Names:
    """Looks up every name as this machine; it notes how often it was asked."""

    def __init__(self, *addresses: str) -> None:
        self.asked: list[str] = []
        self._addresses = addresses or ("127.0.0.1",)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self._addresses


async def fetch(url: str, tool: WebFetch | None = None) -> ToolOutcome:
    tool = tool or WebFetch(allow_private=True, resolve=Names())
    return await Surroundings(None).call(tool, url=url)


async def test_a_page_is_read_by_its_host_in_one_look_up_without_cookies() -> None:
    names = Names()
    async with web_server() as server:
        url = f"http://page.test:{server.port}/a?b=c"
        server.replies["/a?b=c"] = reply("<h1>Caf\u00e9</h1>".encode("latin-1"), content_type=HTML)

        outcome = await fetch(f"{url}#part", WebFetch(allow_private=True, resolve=names))

    assert outcome == ToolOutcome(f"{url}: 200 OK, text/html\n\n# Caf\u00e9")
    assert names.asked == ["page.test"]
    (head,) = server.asked
    assert f"host: page.test:{server.port}\r\n" in head.lower()
    assert "cookie" not in head.lower()
    assert "authorization" not in head.lower()


@pytest.mark.parametrize(
    ("headers", "body", "text"),
    [
        ({"content_type": "application/json"}, b'{"a": 1}', '{"a": 1}'),
        ({"content_type": "application/ld+json"}, b"{}", "{}"),
        ({"content_type": "text/plain; charset=klingon"}, "ñ".encode(), "ñ"),
        ({"content_type": "text/plain; charset=punycode"}, b"a-b-", "a-b-"),
        ({"content_type": "text/plain; charset=base64"}, b"YQ==", "YQ=="),
        ({}, b"no type", "no type"),
        ({"content_type": "text/plain", "content_encoding": "gzip"}, PACKED, "packed"),
    ],
)
async def test_any_text_is_read(headers: dict[str, str], body: bytes, text: str) -> None:
    async with web_server() as server:
        server.replies["/"] = reply(body, **headers)

        outcome = await fetch(f"http://page.test:{server.port}/")

    assert (outcome.output.partition("\n\n")[2], outcome.is_error) == (text, False)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (reply(b"\x89PNG", content_type="image/png"), "image/png, which is no text"),
        (
            reply(b"gone fishing", "404 Not Found", content_type="text/plain"),
            "404 Not Found, text/plain\n\ngone",
        ),
        (reply(b"?", content_type="text/plain", content_encoding="br"), "packed as 'br'"),
        (reply(b"?", content_type="text/plain", content_encoding="gzip"), "cannot be unpacked"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "has not answered properly"),
        (reply(b"half", content_length="99", content_type="text/plain"), "has not answered properly"),
    ],
)
async def test_what_is_no_text_to_read_is_told(answer: bytes, told: str) -> None:
    async with web_server() as server:
        server.replies["/"] = answer

        outcome = await fetch(f"http://page.test:{server.port}/")

    assert outcome.is_error
    assert told in outcome.output


@pytest.mark.parametrize("is_packed", [False, True])
async def test_only_so_much_of_a_page_is_read(is_packed: bool) -> None:
    body = b"z" * (40 * MAX_BYTES)
    async with web_server() as server:
        packing = {"content_encoding": "gzip"} if is_packed else {}
        server.replies["/"] = reply(
            gzip.compress(body, mtime=0) if is_packed else body, content_type="text/plain", **packing
        )

        outcome = await fetch(f"http://page.test:{server.port}/")

    assert outcome.output.count("z") == MAX_BYTES
    assert outcome.output.endswith("[only the first 2097152 bytes were read]")


async def test_a_redirect_is_followed_within_its_host_where_each_step_is_looked_up() -> None:
    names = Names()
    async with web_server() as server:
        server.replies["/a"] = reply(status="302 Found", location="/b", set_cookie="id=1")
        server.replies["/b"] = reply(status="301 Moved", location=f"http://page.test:{server.port}/c")
        server.replies["/c"] = reply(b"here", content_type="text/plain")

        outcome = await fetch(
            f"http://page.test:{server.port}/a", WebFetch(allow_private=True, resolve=names)
        )

    assert outcome.output.startswith(f"http://page.test:{server.port}/c: 200 OK")
    assert names.asked == ["page.test"] * 3
    assert "cookie" not in "".join(server.asked).lower()


@pytest.mark.parametrize(
    "location",
    ["http://localhost:{port}/b", "http://169.254.169.254/", "//other.test:{port}/b", "file:///etc/passwd"],
)
async def test_a_redirect_to_elsewhere_is_told_and_not_followed(location: str) -> None:
    async with web_server() as server:
        place = location.format(port=server.port)
        server.replies["/a"] = reply(status="307 Temporary Redirect", location=place)

        outcome = await fetch(f"http://page.test:{server.port}/a")

    assert outcome.is_error
    assert place.removeprefix("//") in outcome.output
    assert server.fetched() == ["/a"]


async def test_redirects_in_a_circle_come_to_an_end() -> None:
    async with web_server() as server:
        server.replies["/"] = reply(status="302 Found", location="/")

        outcome = await fetch(f"http://page.test:{server.port}/")

    assert outcome.is_error
    assert server.fetched() == ["/"] * (MAX_REDIRECTS + 1)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0177.1", "[::ffff:127.0.0.1]", "0"]
)
async def test_this_machine_is_not_fetched_from_however_it_is_spelled(host: str) -> None:
    async with web_server() as server:
        outcome = await fetch(f"http://{host}:{server.port}/", WebFetch())

    assert outcome.is_error
    assert "web.allow_private = true" in outcome.output
    assert server.asked == []


async def test_a_name_with_one_private_address_among_public_ones_is_not_fetched_from() -> None:
    async with web_server() as server:
        tool = WebFetch(resolve=Names("1.1.1.1", "127.0.0.1"))

        outcome = await fetch(f"http://page.test:{server.port}/", tool)

    assert "page.test is this machine itself (127.0.0.1)" in outcome.output
    assert server.asked == []


async def test_the_next_address_is_tried_when_nobody_is_at_the_first() -> None:
    async with web_server() as server:
        server.replies["/"] = reply(b"here", content_type="text/plain")
        tool = WebFetch(allow_private=True, resolve=Names("127.0.0.2", "127.0.0.1"))

        outcome = await fetch(f"http://page.test:{server.port}/", tool)

    assert not outcome.is_error


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://page.test/", "http:// or https://"),
        ("page.test/a", "http:// or https://"),
        ("http://", "a host"),
        ("https://me:secret@page.test/", "leave out the user and the password"),
        ("http://page.test/\r\nX: y", "`url`"),
        ("http://0177.0.0.1/", "Invalid IPv4 address"),
        ("", "url"),
        ("http://page.test/" + "x" * 3000, "url"),
    ],
)
async def test_what_is_no_address_of_a_page_is_refused(url: str, told: str) -> None:
    with pytest.raises(BadArguments) as refused:
        await WebFetch().prepare({"url": url}, Surroundings(None).context())

    assert told in str(refused.value)
    assert "secret" not in str(refused.value)


async def test_the_intent_is_the_address_as_it_will_be_asked_for() -> None:
    prepared = await WebFetch().prepare({"url": " HTTPS://Page.Test/a b#c "}, Surroundings(None).context())

    assert prepared.intent.url == "https://page.test/a%20b"


async def test_a_certificate_is_checked_for_the_host_and_not_for_the_address(tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path)
    believing = ssl.create_default_context(cafile=str(certificate))
    async with web_server(make_context(tmp_path)) as server:
        server.replies["/"] = reply(b"here", content_type="text/plain")
        tool = WebFetch(allow_private=True, resolve=Names(), tls=believing)

        right = await fetch(f"https://127.0.0.1:{server.port}/", tool)
        # It is the same machine, which has no certificate for this name.
        wrong = await fetch(f"https://page.test:{server.port}/", tool)

    assert (right.is_error, wrong.is_error) == (False, True)
    assert "certificate" in wrong.output


async def test_a_cancelled_call_hangs_up() -> None:
    async with web_server() as server:
        server.replies["/"] = reply(b"a little", content_length="99", content_type="text/plain")
        server.holds = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch, f"http://page.test:{server.port}/")
            await server.sent.wait()
            nursery.cancel_scope.cancel()

        await server.hung_up.wait()
