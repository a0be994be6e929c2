"""The peer on a real socket: answers, tasks, cancellation, our own requests."""

from __future__ import annotations

import socket

import msgspec
import pytest
import trio
from msgspec import Raw
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from crabd.rpc.connection import FIRST_REQUEST_ID, Limits, Manners
from crabd.rpc.envelope import RpcError
from crabd.rpc.framing import Bundle
from crabd.rpc.methods import InvalidParamsError
from crabd.rpc.peer import Answer, FollowedBy, Peer, Withdrawable
from crabd.rpc.reactor import Reactor
from tests.rpc.cases import (
    BUGS,
    FRAMINGS,
    GENERAL,
    TABLE,
    Case,
    Framing,
    answer,
    assert_same,
    brief,
    read_texts,
)
from tests.rpc.links import PATIENCE, serving


async def answer_later(method: str, params: Raw) -> object:
    await trio.lowlevel.checkpoint()
    return answer(method, params)


def answer_as_task(method: str, params: Raw) -> object:
    return answer_later(method, params)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("case", [*GENERAL, *TABLE], ids=lambda case: case.name)
async def test_it_answers_as_the_specification_says(case: Case, framing: Framing, reactor: Reactor) -> None:
    here, there = socket.socketpair()

    async with serving(Peer(here, answer, reactor), there) as client:
        await client.stream.send_all(case.stream(framing))
        if not case.is_fatal:
            await client.stream.send_eof()
        answers = await client.receive_rest()

    assert_same(map(brief, read_texts(answers, framing)), case.expect)


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
async def test_methods_that_run_as_tasks_give_the_same_answers(case: Case, reactor: Reactor) -> None:
    here, there = socket.socketpair()

    async with serving(Peer(here, answer_as_task, reactor), there) as client:
        await client.stream.send_all(case.stream("lines"))
        await client.stream.send_eof()
        answers = await client.receive_rest()

    assert_same(map(brief, read_texts(answers, "lines")), case.expect)


@pytest.mark.parametrize("method_table", [answer, answer_as_task])
@pytest.mark.parametrize("case", BUGS, ids=lambda case: case.name)
async def test_a_bug_is_logged_with_its_traceback_and_told_without_details(
    case: Case, method_table: Answer, reactor: Reactor
) -> None:
    here, there = socket.socketpair()

    with capture_logs() as logs:
        async with serving(Peer(here, method_table, reactor), there) as client:
            await client.send(*case.texts)
            text = await client.receive_text()

    assert brief(text) == case.expect[0]
    assert msgspec.json.decode(text)["error"] == {"code": -32603, "message": "internal error"}
    (log,) = logs
    assert (log["event"], log["log_level"]) == ("request_failed", "error")
    assert isinstance(log["exc_info"], ZeroDivisionError | TypeError)


async def test_an_error_travels_with_its_facts(reactor: Reactor) -> None:
    def refuse(method: str, _: Raw) -> object:
        if method == "params":
            raise InvalidParamsError("$.name", "is missing")
        raise RpcError(-32002, "there is none", {"kind": "not_found"})

    here, there = socket.socketpair()
    async with serving(Peer(here, refuse, reactor), there) as client:
        await client.call(1, "other")
        await client.call(2, "params")
        errors = [msgspec.json.decode(await client.receive_text())["error"] for _ in range(2)]

    assert errors == [
        {"code": -32002, "message": "there is none", "data": {"kind": "not_found"}},
        {
            "code": -32602,
            "message": "invalid params at $.name: is missing",
            "data": {"kind": "invalid_params", "path": "$.name", "problem": "is missing"},
        },
    ]


class Gate:
    """A method that waits until the test lets it go, one event per call."""

    def __init__(self) -> None:
        self.opened = trio.Event()
        self.started = 0
        self.cancelled = 0

    def __call__(self, method: str, _: Raw) -> object:
        return self._wait() if method == "wait" else {}

    async def _wait(self) -> object:
        self.started += 1
        try:
            await self.opened.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        return {"waited": True}


async def test_a_task_delays_nobody(reactor: Reactor) -> None:
    gate = Gate()
    here, there = socket.socketpair()
    peer = Peer(here, gate, reactor)

    async with serving(peer, there) as client:
        await client.call(1, "wait")
        await client.call(2, "ping")

        assert await client.receive() == (2, {})
        assert repr(peer) == "<Peer open, 0 pending, 1 in flight>"
        gate.opened.set()
        assert await client.receive() == (1, {"waited": True})
        assert repr(peer) == "<Peer open, 0 pending, 0 in flight>"
    assert repr(peer) == "<Peer closed, 0 pending, 0 in flight>"


async def test_a_request_is_cancelled_by_the_other_end_and_says_so(reactor: Reactor) -> None:
    gate = Gate()
    here, there = socket.socketpair()

    async with serving(Peer(here, gate, reactor), there) as client:
        await client.call(1, "wait")
        await client.call(2, "wait")
        await client.notify("$/cancelRequest", {"id": 1})
        assert await client.receive() == (1, -32800)
        await client.notify("$/cancelRequest", {"id": 1})
        await client.notify("$/cancel_request", {"requestId": 2})
        assert await client.receive() == (2, -32800)

    assert (gate.started, gate.cancelled) == (2, 2)


async def test_a_method_that_finishes_in_spite_of_a_cancellation_is_answered_with_its_result(
    reactor: Reactor,
) -> None:
    async def stubborn() -> object:
        with trio.CancelScope(shield=True):
            await release.wait()
        return {"done": True}

    release = trio.Event()
    here, there = socket.socketpair()
    async with serving(
        Peer(here, lambda method, _: stubborn() if method == "wait" else {}, reactor), there
    ) as client:
        await client.call(1, "wait")
        await client.notify("$/cancelRequest", {"id": 1})
        await client.call(2, "ping")
        assert await client.receive() == (2, {})
        release.set()

        assert await client.receive() == (1, {"done": True})


async def test_more_tasks_than_the_limit_are_refused_and_told_to_come_again(reactor: Reactor) -> None:
    gate = Gate()
    asked: list[str] = []
    here, there = socket.socketpair()

    def count(method: str, params: Raw) -> object:
        asked.append(method)
        return gate(method, params)

    async with serving(Peer(here, count, reactor, limits=Limits(in_flight=2)), there) as client:
        for message_id in (1, 2, 3):
            await client.call(message_id, "wait")
        refusal = msgspec.json.decode(await client.receive_text())
        gate.opened.set()
        answers = sorted([await client.receive() for _ in range(2)], key=str)
        await client.call(4, "wait")
        answers.append(await client.receive())

    # What was refused was not even begun, so that it can be sent again.
    assert len(asked) == 3
    assert (refusal["id"], refusal["error"]["code"]) == (3, -32001)
    assert refusal["error"]["data"] == {"kind": "overloaded", "limit": 2}
    assert answers == [(1, {"waited": True}), (2, {"waited": True}), (4, {"waited": True})]


async def test_posted_texts_keep_their_place_among_the_answers(reactor: Reactor) -> None:
    def subscribe(_method: str, _params: Raw) -> object:
        peer.post(b'{"jsonrpc":"2.0","method":"event","params":{"seq":1}}')
        return {}

    here, there = socket.socketpair()
    peer = Peer(here, subscribe, reactor)
    async with serving(peer, there) as client:
        await client.call(1, "subscribe")
        texts = [await client.receive_text(), await client.receive_text()]
        peer.post(b'{"jsonrpc":"2.0","method":"event","params":{"seq":2}}')
        texts.append(await client.receive_text())

    assert [msgspec.json.decode(text).get("params") for text in texts] == [{"seq": 1}, None, {"seq": 2}]
    assert peer.backlog == 0


async def test_a_bundle_goes_at_once_unless_something_has_to_go_before_it(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    peer = Peer(here, answer, reactor)
    async with serving(peer, there) as client:
        await wait_all_tasks_blocked()

        is_first_taken = peer.post_at_once(Bundle([b'{"seq":1}', b'{"seq":2}']))
        assert peer.backlog == 0
        peer.post(b'{"seq":3}')
        is_second_taken = peer.post_at_once(Bundle([b'{"seq":4}']))
        texts = [await client.receive_text() for _ in range(3)]

    assert (is_first_taken, is_second_taken) == (True, False)
    assert texts == [b'{"seq":1}', b'{"seq":2}', b'{"seq":3}']


async def test_what_was_to_be_flushed_before_an_answer_arrives_before_it(reactor: Reactor) -> None:
    class Outbox:
        def flush(self) -> None:
            peer.post(b'{"published":1}')

    def publish(_method: str, _params: Raw) -> object:
        reactor.flush_soon(Outbox())
        return {}

    here, there = socket.socketpair()
    peer = Peer(here, publish, reactor)
    async with serving(peer, there) as client:
        await client.call(1, "publish")
        texts = [await client.receive_text() for _ in range(2)]

    assert texts[0] == b'{"published":1}'
    assert brief(texts[1]) == (1, {})


async def test_what_follows_a_result_goes_out_right_behind_it(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    followed = FollowedBy({"seq": 2}, (b'{"seq":1}', b'{"seq":2}'))

    async with serving(Peer(here, lambda _method, _params: followed, reactor), there) as client:
        await client.call(1, "subscribe")
        await client.call(2, "subscribe")
        texts = [await client.receive_text() for _ in range(6)]

    assert [brief(texts[0]), brief(texts[3])] == [(1, {"seq": 2}), (2, {"seq": 2})]
    assert texts[1:3] == texts[4:6] == [b'{"seq":1}', b'{"seq":2}']


async def test_notifications_are_handed_on_and_a_failing_listener_harms_nothing(reactor: Reactor) -> None:
    heard: list[tuple[str, bytes]] = []

    def listen(method: str, params: Raw) -> None:
        heard.append((method, bytes(params)))
        raise ZeroDivisionError

    here, there = socket.socketpair()
    with capture_logs() as logs:
        async with serving(Peer(here, answer, reactor, on_notification=listen), there) as client:
            await client.notify("hello", {"a": 1})
            await client.call(1, "daemon/ping")
            assert await client.receive() == (1, {})

    assert heard == [("hello", b'{"a":1}')]
    assert [log["event"] for log in logs] == ["notification_failed"]


async def test_two_peers_ask_each_other(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    one, other = Peer(here, answer, reactor), Peer(there, answer_as_task, reactor)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.serve)
            nursery.start_soon(other.serve)
            results = [
                bytes(await one.request("subtract", [5, 3])),
                bytes(await other.request("subtract", {"minuend": 3, "subtrahend": 5})),
            ]
            with pytest.raises(RpcError, match="there is no method nobody") as info:
                await one.request("nobody", {})
            one.close()

    assert results == [b"2", b"-2"]
    assert info.value.code == -32601


async def test_a_cancelled_request_of_ours_is_cancelled_there_and_the_link_goes_on(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    peer = Peer(here, answer, reactor)

    async with serving(peer, there) as client:
        async with trio.open_nursery() as asking:
            asking.start_soon(peer.request, "ask", None)
            assert msgspec.json.decode(await client.receive_text())["id"] == FIRST_REQUEST_ID
            assert repr(peer) == "<Peer open, 1 pending, 0 in flight>"
            asking.cancel_scope.cancel()
        cancellation = msgspec.json.decode(await client.receive_text())
        await client.send(b'{"jsonrpc":"2.0","id":%d,"result":{}}' % FIRST_REQUEST_ID)
        await client.call(1, "daemon/ping")

        assert await client.receive() == (1, {})
    assert (cancellation["method"], cancellation["params"]) == ("$/cancelRequest", {"id": FIRST_REQUEST_ID})


@pytest.mark.parametrize(
    "notice", ['"$/cancelRequest","params":{"id":1}', '"$/cancel_request","params":{"requestId":1}']
)
async def test_an_answer_that_is_withdrawn_ends_by_itself(notice: str, reactor: Reactor) -> None:
    withdrawn = trio.Event()

    async def wait() -> str:
        await withdrawn.wait()
        return "withdrawn"

    here, there = socket.socketpair()
    peer = Peer(here, lambda _method, _params: Withdrawable(wait(), withdrawn.set), reactor)

    async with serving(peer, there) as client:
        await client.call(1, "wait")
        await client.send(b'{"jsonrpc":"2.0","method":%b}' % notice.encode())
        text = await client.receive_text()

    assert msgspec.json.decode(text) == {"jsonrpc": "2.0", "id": 1, "result": "withdrawn"}


async def test_a_request_that_is_given_up_is_told_in_the_words_of_the_dialect(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    peer = Peer(here, answer, reactor)
    peer.adopt(Manners(cancel_method="$/cancel_request"))

    async with serving(peer, there) as client:
        with trio.move_on_after(0):
            await peer.request("ask", {})
        asked, given_up = [msgspec.json.decode(await client.receive_text()) for _ in range(2)]

    assert given_up["method"] == "$/cancel_request"
    assert given_up["params"] == {"requestId": asked["id"]}


async def test_a_batch_is_refused_once_where_the_dialect_has_none(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    peer = Peer(here, answer, reactor)
    peer.adopt(Manners(batches=False))

    async with serving(peer, there) as client:
        await client.send(b'[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","id":2,"method":"b"}]')
        await client.stream.send_eof()
        (text,) = (await client.receive_rest()).splitlines()

    refusal = msgspec.json.decode(text)
    assert (refusal["id"], refusal["error"]["code"]) == (None, -32600)


async def test_a_task_of_the_link_ends_with_it(reactor: Reactor) -> None:
    ended = trio.Event()

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    here, there = socket.socketpair()
    peer = Peer(here, answer, reactor)

    async with serving(peer, there):
        await wait_all_tasks_blocked()
        peer.start_soon(wait)
        await wait_all_tasks_blocked()
        peer.close()

    assert ended.is_set()


async def test_nothing_is_started_on_a_link_that_is_over(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    peer = Peer(here, answer, reactor)
    was_started = False

    async def work() -> None:
        nonlocal was_started
        was_started = True

    async with serving(peer, there) as client:
        await client.stream.send_eof()
        await client.receive_rest()
    peer.start_soon(work)
    await wait_all_tasks_blocked()

    assert not was_started
