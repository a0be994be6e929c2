"""What all who ask one server share: its troubles, and the deadlines of whoever asks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing

from crabd.errors import ProviderError, ServerLeftAlone
from crabd.providers.circuit import FAILURES, FIRST_PAUSE
from crabd.providers.http import Body, Call, Http
from crabd.providers.settings import Deadlines
from tests.faults.model_server import GOOD, PATIENCE, Bytes, FaultServer, Script, head, open_fault_server

DOWN: Script = (Bytes(head(503, "application/json") + b"{}"), "close")


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with open_fault_server() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    http = Http()
    yield http
    await http.aclose()


async def ask(http: Http, server: FaultServer, *, provider: str = "test") -> int:
    """Ask and read the answer; returns its status."""
    call = Call(provider, "POST", f"{server.url}/v1/x", {}, ("text/event-stream",), b"{}")
    async with http.open(call) as body:
        await body.read_all()
        return body.status


async def break_down(http: Http, server: FaultServer) -> None:
    """Have the server fail as often as it may."""
    server.break_down(DOWN)
    for _ in range(FAILURES):
        await ask(http, server)


async def left_alone(http: Http, server: FaultServer, *, provider: str = "test") -> ServerLeftAlone:
    with pytest.raises(ServerLeftAlone) as caught:
        await ask(http, server, provider=provider)
    return caught.value


async def test_a_server_that_keeps_failing_is_left_alone_until_a_time(
    http: Http, server: FaultServer
) -> None:
    await break_down(http, server)

    error = await left_alone(http, server)

    assert (error.kind, error.failures, error.last) == ("left_alone", FAILURES, "status 503")
    assert error.retry_after is not None
    assert 0 < error.retry_after <= FIRST_PAUSE
    assert error.until is not None
    assert error.until.endswith(" UTC")
    assert len(server.asked) == FAILURES
    assert [(one.server, one.state) for one in http.troubles()] == [(server.url, "open")]


async def test_all_providers_at_one_server_share_its_troubles_and_other_servers_do_not(
    http: Http, server: FaultServer
) -> None:
    await break_down(http, server)

    async with open_fault_server() as other:
        status = await ask(http, other)
        error = await left_alone(http, server, provider="second")

    assert (status, error.provider) == (200, "second")


async def test_after_the_pause_one_of_fifty_tries_and_its_answer_lets_all_through(
    http: Http, server: FaultServer, mock_clock: trio.testing.MockClock
) -> None:
    await break_down(http, server)
    mock_clock.jump(FIRST_PAUSE)
    server.break_down(("hold", *GOOD))
    told: list[int | str] = []

    async def try_it() -> None:
        try:
            told.append(await ask(http, server))
        except ServerLeftAlone as error:
            told.append(str(error))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(try_it)
        await server.until_holding()
        half_open = http.troubles()[0].state
        server.let_go()
    statuses = [await ask(http, server) for _ in range(3)]

    assert half_open == "half_open"
    assert told.count(200) == 1
    assert sum("is being tried by another request" in str(one) for one in told) == 49
    assert len(server.asked) == 1 + len(statuses)
    assert http.troubles() == ()


async def test_one_that_tries_and_fails_makes_the_pause_longer(
    http: Http, server: FaultServer, mock_clock: trio.testing.MockClock
) -> None:
    await break_down(http, server)
    mock_clock.jump(FIRST_PAUSE)

    await ask(http, server)

    error = await left_alone(http, server)
    assert (error.retry_after, error.failures) == (2 * FIRST_PAUSE, FAILURES + 1)


async def test_one_that_tries_and_is_cancelled_leaves_it_to_the_next(
    http: Http, server: FaultServer, mock_clock: trio.testing.MockClock
) -> None:
    await break_down(http, server)
    mock_clock.jump(FIRST_PAUSE)
    server.break_down(("hold", *GOOD))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, http, server)
        await server.until_holding()
        nursery.cancel_scope.cancel()
    server.mend()

    assert await ask(http, server) == 200


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
async def test_a_refusal_is_an_answer(http: Http, server: FaultServer, status: int) -> None:
    server.break_down((Bytes(head(status, "application/json") + b"{}"), "close"))

    statuses = [await ask(http, server) for _ in range(2 * FAILURES)]

    assert statuses == [status] * 2 * FAILURES
    assert http.troubles() == ()


async def test_a_server_that_answers_nonsense_lives(
    http: Http, server: FaultServer, mock_clock: trio.testing.MockClock
) -> None:
    await break_down(http, server)
    mock_clock.jump(FIRST_PAUSE)
    server.break_down((Bytes(head(200, "text/html") + b"<html>"), "close"))

    with pytest.raises(ProviderError, match="text/html"):
        await ask(http, server)

    assert http.troubles() == ()


async def test_whoever_configures_anew_may_ask_at_once(http: Http, server: FaultServer) -> None:
    await break_down(http, server)
    server.mend()

    http.configure({})

    assert await ask(http, server) == 200


async def test_each_provider_has_deadlines_of_its_own(http: Http, server: FaultServer) -> None:
    server.break_down(("hold", *GOOD))
    http.configure({"hasty": Deadlines(first_byte=0.1)})

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, http, server)
            with pytest.raises(ProviderError, match=r"silent for 0\.1 s"):
                await ask(http, server, provider="hasty")
            server.let_go()

    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ((Bytes(head(407, "text/html")), "close"), "the request failed: 407"),
        (("close",), "cut off"),
        (("hold",), "silent for 0.2 s"),
    ],
)
async def test_a_proxy_that_fails_is_told_like_a_server(
    monkeypatch: pytest.MonkeyPatch, server: FaultServer, script: Script, words: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", server.url.replace("//", "//me:secret-canary@"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    http = Http(Deadlines(first_byte=0.2))
    server.break_down(script)
    call = Call("test", "GET", "https://nowhere.invalid/v1/x", {}, ("text/event-stream",))

    with trio.fail_after(PATIENCE), pytest.raises(ProviderError) as caught:
        async with http.open(call):
            pass

    assert words in str(caught.value)
    assert "secret-canary" not in repr(vars(caught.value))
    await server.until_alone()
    await http.aclose()


def test_a_call_does_not_show_its_key_or_its_words() -> None:
    call = Call("test", "POST", "https://a/v1", {"authorization": "Bearer sk-1"}, ("text/html",), b"secret")

    assert repr(call) == "<Call POST https://a/v1>"


async def open_streamed(http: Http, server: FaultServer, stack: AsyncExitStack) -> Body:
    """Ask, and enter the block in which the answer is read piece by piece."""
    call = Call("test", "POST", f"{server.url}/v1/x", {}, ("text/event-stream",), b"{}")
    body = await stack.enter_async_context(http.open(call))
    stack.enter_context(body.streamed())
    return body


@pytest.mark.parametrize(
    ("deadlines", "words"),
    [
        (Deadlines(first_byte=0.3), "it was silent for 0.3 s"),
        (Deadlines(idle=0.3), "it was silent for 0.3 s"),
        (Deadlines(total=0.3), "it took too long as a whole"),
    ],
)
async def test_silence_ends_the_block_in_which_an_answer_is_streamed(
    http: Http, server: FaultServer, deadlines: Deadlines, words: str
) -> None:
    http.configure({"test": deadlines})
    server.break_down((Bytes(head() + (b"" if deadlines.first_byte < 1 else b"piece")), "hold"))

    async def read_on() -> None:
        async with AsyncExitStack() as stack:
            body = await open_streamed(http, server, stack)
            while await body.read():
                pass

    with trio.fail_after(PATIENCE), pytest.raises(ProviderError, match=words):
        await read_on()


async def test_a_streamed_answer_may_take_longer_than_it_may_be_silent(
    http: Http, server: FaultServer, mock_clock: trio.testing.MockClock
) -> None:
    http.configure({"test": Deadlines(first_byte=1, idle=1)})
    server.break_down((Bytes(head() + b"a"), "hold", Bytes(b"b"), "close"))

    async with AsyncExitStack() as stack:
        body = await open_streamed(http, server, stack)
        pieces = [await body.read()]
        mock_clock.jump(0.9)
        server.let_go()
        pieces.append(await body.read())
        mock_clock.jump(0.9)
        pieces.append(await body.read())

    assert pieces == [b"a", b"b", b""]


async def test_a_piece_with_a_deadline_of_its_own_is_waited_for_as_long_as_that(
    http: Http, server: FaultServer, mock_clock: trio.testing.MockClock
) -> None:
    http.configure({"test": Deadlines(first_byte=1)})
    server.break_down((Bytes(head() + b"a"), "hold", Bytes(b"b"), "close"))

    async def go_on() -> None:
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(2)
        server.let_go()

    async with AsyncExitStack() as stack:
        body = await open_streamed(http, server, stack)
        pieces = [await body.read()]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on)
            pieces.append(await body.read(seconds=3))

    assert pieces == [b"a", b"b"]
