"""How links end, on real sockets: gone, stalled, deaf, flooded, half-closed, closed twice."""

from __future__ import annotations

import socket

import pytest
import trio
from msgspec import Raw
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from crabd.rpc.connection import Limits
from crabd.rpc.peer import HIGH_WATER, LOW_WATER, Peer
from crabd.rpc.reactor import Reactor
from tests.rpc.cases import Brief, answer, assert_same, brief
from tests.rpc.links import PATIENCE, LineClient, serving
from tests.rpc.test_peer import Gate

PING = b'{"jsonrpc":"2.0","id":%d,"method":"daemon/ping"}\n'


async def test_in_flight_requests_are_answered_after_the_other_end_has_half_closed(reactor: Reactor) -> None:
    gate = Gate()
    here, there = socket.socketpair()
    peer = Peer(here, gate, reactor)

    async with serving(peer, there) as client:
        await client.call(1, "wait")
        await client.stream.send_eof()
        await wait_all_tasks_blocked()
        assert repr(peer) == "<Peer half-closed, 0 pending, 1 in flight>"
        gate.opened.set()

        assert brief(await client.receive_rest()) == (1, {"waited": True})


async def test_a_peer_that_is_gone_has_its_requests_cancelled_without_a_word(reactor: Reactor) -> None:
    gate = Gate()
    here, there = socket.socketpair()
    peer = Peer(here, gate, reactor)

    with capture_logs() as logs:
        async with serving(peer, there) as client:
            await client.call(1, "wait")
            await wait_all_tasks_blocked()
            await client.stream.aclose()
            peer.post(b"{}")

    assert gate.cancelled == 1
    assert logs == []
    assert repr(peer) == "<Peer closed, 0 pending, 0 in flight>"


async def test_a_peer_that_goes_with_unread_answers_resets_the_link_quietly(reactor: Reactor) -> None:
    here, there = socket.socketpair()

    with capture_logs() as logs:
        async with serving(Peer(here, answer, reactor), there) as client:
            await client.call(1, "daemon/ping")
            await client.call(2, "daemon/ping")
            await wait_all_tasks_blocked()

    assert logs == []


async def test_a_peer_that_goes_while_a_large_answer_is_half_written_ends_the_link(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    peer = Peer(here, lambda _method, _params: {"text": "x" * 8_000_000}, reactor)

    async with serving(peer, there) as client:
        await client.call(1, "any")
        assert await client.stream.receive_some(1000)
        await wait_all_tasks_blocked()
        assert peer.backlog > HIGH_WATER

    assert repr(peer) == "<Peer closed, 0 pending, 0 in flight>"


async def test_our_requests_fail_when_the_link_ends(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    peer = Peer(here, answer, reactor)

    async with serving(peer, there) as client, trio.open_nursery() as asking:

        async def ask() -> None:
            with pytest.raises(trio.BrokenResourceError, match="before ask was answered"):
                await peer.request("ask", {})

        asking.start_soon(ask)
        await client.receive_text()
        await client.stream.send_eof()

    with pytest.raises(trio.BrokenResourceError, match="cannot be asked"):
        await peer.request("ask", {})


async def test_a_method_that_asks_a_peer_who_writes_no_more_is_not_left_waiting(reactor: Reactor) -> None:
    async def ask_back() -> object:
        with pytest.raises(trio.BrokenResourceError):
            await peer.request("ask", {})
        return {"asked": False}

    here, there = socket.socketpair()
    peer = Peer(here, lambda _method, _params: ask_back(), reactor)
    async with serving(peer, there) as client:
        await client.call(1, "any")
        await client.receive_text()
        await client.stream.send_eof()

        assert brief(await client.receive_rest()) == (1, {"asked": False})


async def test_sixty_thousand_unread_pings_take_bounded_memory_and_lose_no_answer(reactor: Reactor) -> None:
    count = 60_000
    backlogs: list[int] = []

    def watch(method: str, params: Raw) -> object:
        backlogs.append(peer.backlog)
        return answer(method, params)

    here, there = socket.socketpair()
    peer = Peer(here, watch, reactor)
    async with serving(peer, there) as client, trio.open_nursery() as writing:

        async def write() -> None:
            await client.stream.send_all(b"".join(PING % i for i in range(count)))
            await client.stream.send_eof()

        writing.start_soon(write)
        await wait_all_tasks_blocked()
        assert HIGH_WATER < peer.backlog < HIGH_WATER + 1000
        answers = (await client.receive_rest()).splitlines()

    assert [brief(text) for text in answers] == [(i, {}) for i in range(count)]
    assert max(backlogs) <= HIGH_WATER


async def test_large_answers_are_not_made_while_the_earlier_ones_are_unread(reactor: Reactor) -> None:
    made = 0

    def make(_method: str, _params: Raw) -> object:
        nonlocal made
        made += 1
        return {"text": "x" * 1_000_000}

    here, there = socket.socketpair()
    async with serving(Peer(here, make, reactor), there) as client:
        await client.stream.send_all(b"".join(PING % i for i in range(50)))
        await client.stream.send_eof()
        await wait_all_tasks_blocked()
        assert made < 5
        answers = (await client.receive_rest()).splitlines()

    assert len(answers) == made == 50


async def test_it_says_when_the_backlog_has_drained(reactor: Reactor) -> None:
    drained: list[int] = []
    here, there = socket.socketpair()
    peer = Peer(here, answer, reactor, on_drained=lambda: drained.append(peer.backlog))
    text = b'{"jsonrpc":"2.0","method":"event","params":{"text":"%b"}}' % (b"x" * 1000)

    async with serving(peer, there) as client:
        for _ in range(2000):
            peer.post(text)
        await wait_all_tasks_blocked()
        assert peer.backlog > LOW_WATER
        drained.clear()
        for _ in range(2000):
            assert await client.receive_text() == text
        await wait_all_tasks_blocked()

        assert peer.backlog == 0
        assert len(drained) == 1
        assert drained[0] <= LOW_WATER


async def test_it_says_so_too_when_the_backlog_grew_while_the_kernel_was_full(reactor: Reactor) -> None:
    drained: list[int] = []
    here, there = socket.socketpair()
    peer = Peer(here, answer, reactor, on_drained=lambda: drained.append(peer.backlog))
    text = b'{"jsonrpc":"2.0","method":"event","params":{"text":"%b"}}' % (b"x" * 50_000)

    async with serving(peer, there) as client:
        while peer.backlog + len(text) < LOW_WATER:
            peer.post(text)
            await wait_all_tasks_blocked()
        # From here on all that is unsent is the kernel's to take, and what comes is behind that.
        await client.receive_text()
        await wait_all_tasks_blocked()
        while peer.backlog <= LOW_WATER:
            peer.post(text)
        await client.stream.send_eof()
        await client.receive_rest()

    assert len(drained) == 1


async def test_a_cancelled_caller_never_leaves_half_a_message(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    peer = Peer(here, answer, reactor)

    async with serving(peer, there) as client:
        async with trio.open_nursery() as asking:
            asking.start_soon(peer.request, "ask", {"text": "x" * 4_000_000})
            await wait_all_tasks_blocked()
            asking.cancel_scope.cancel()
        peer.post(b'{"last":1}')
        texts = [await client.receive_text() for _ in range(3)]

    assert len(texts[0]) > 4_000_000
    assert texts[1].startswith(b'{"jsonrpc":"2.0","method":"$/cancelRequest"')
    assert texts[2] == b'{"last":1}'


async def test_a_line_of_seventeen_mebibytes_is_answered_and_ends_the_link(reactor: Reactor) -> None:
    gate = Gate()
    here, there = socket.socketpair()

    async with serving(Peer(here, gate, reactor), there) as client:
        await client.call(1, "wait")
        await client.stream.send_all(b'{"jsonrpc":"2.0","text":"' + b"x" * 17 * 1024 * 1024)
        rest = await client.receive_rest()

    assert brief(rest) == (None, -32600)
    assert gate.cancelled == 1


async def test_a_message_that_stalls_half_way_ends_the_link(reactor: Reactor) -> None:
    here, there = socket.socketpair()

    async with serving(Peer(here, answer, reactor, limits=Limits(stall_seconds=0.01)), there) as client:
        await client.stream.send_all(b'{"jsonrpc"')

        assert await client.receive_rest() == b""


async def test_an_idle_link_never_stalls(autojump_clock: trio.testing.MockClock, reactor: Reactor) -> None:
    here, there = socket.socketpair()
    peer = Peer(here, answer, reactor)

    client = LineClient(there)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.serve)
        await trio.sleep(1_000_000)

        assert repr(peer) == "<Peer open, 0 pending, 0 in flight>"
        await client.stream.aclose()


async def test_a_half_closed_peer_that_never_reads_is_closed_in_the_end(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    peer = Peer(
        here, lambda _method, _params: {"text": "x" * 900_000}, reactor, limits=Limits(stall_seconds=0.01)
    )
    client = LineClient(there)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.serve)
            await client.call(1, "any")
            await client.stream.send_eof()

    assert repr(peer) == "<Peer closed, 0 pending, 0 in flight>"
    await client.stream.aclose()


async def test_it_can_be_closed_at_any_time_and_any_number_of_times(reactor: Reactor) -> None:
    gate = Gate()
    here, there = socket.socketpair()
    peer = Peer(here, gate, reactor)

    async with serving(peer, there) as client:
        await client.call(1, "wait")
        await wait_all_tasks_blocked()
        peer.close()
        peer.close()
        peer.post(b"{}")
        assert await client.receive_rest() == b""
    peer.close()
    await peer.aclose(flush_seconds=1)

    assert gate.cancelled == 1
    assert here.fileno() == -1


async def test_it_can_be_closed_before_it_is_served(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    with there:
        peer = Peer(here, answer, reactor)

        await peer.aclose(flush_seconds=1)

        assert here.fileno() == -1
        await peer.serve()


async def test_closing_with_a_flush_answers_what_is_in_flight_and_reads_nothing_new(reactor: Reactor) -> None:
    gate = Gate()
    here, there = socket.socketpair()
    peer = Peer(here, gate, reactor)
    answers: list[Brief] = []

    async with serving(peer, there) as client, trio.open_nursery() as closing:
        await client.call(1, "wait")
        await wait_all_tasks_blocked()
        closing.start_soon(lambda: peer.aclose(flush_seconds=PATIENCE))
        await wait_all_tasks_blocked()
        await client.call(2, "ping")
        gate.opened.set()
        answers.append(await client.receive())

    assert_same(answers, [(1, {"waited": True})])


async def test_closing_with_a_flush_is_done_even_by_a_cancelled_caller(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    peer = Peer(here, answer, reactor)

    async with serving(peer, there) as client, trio.open_nursery() as closing:

        async def close_when_cancelled() -> None:
            with trio.CancelScope() as scope:
                scope.cancel()
                await peer.aclose(flush_seconds=PATIENCE)
            assert repr(peer) == "<Peer closed, 0 pending, 0 in flight>"

        await wait_all_tasks_blocked()
        peer.post(b'"%b"' % (b"x" * 8_000_000))
        closing.start_soon(close_when_cancelled)
        await wait_all_tasks_blocked()
        text = await client.receive_rest()

    assert len(text) == 8_000_003


async def test_closing_with_a_flush_is_bounded_when_nobody_reads(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    peer = Peer(here, answer, reactor)

    async with serving(peer, there):
        peer.post(b'"%b"' % (b"x" * 8_000_000))
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await peer.aclose(flush_seconds=0.01)

    assert repr(peer) == "<Peer closed, 0 pending, 0 in flight>"


async def test_cancelling_the_server_cancels_what_is_in_flight_and_closes_the_socket(
    reactor: Reactor,
) -> None:
    gate = Gate()
    here, there = socket.socketpair()
    client = LineClient(there)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Peer(here, gate, reactor).serve)
            await client.call(1, "wait")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert await client.receive_rest() == b""

    assert gate.cancelled == 1
    assert here.fileno() == -1
    await client.stream.aclose()
