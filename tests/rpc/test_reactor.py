"""The reactor on real sockets: who is called back, and when what has gathered is flushed."""

from __future__ import annotations

import socket

import trio
from trio.testing import wait_all_tasks_blocked

from crabd.rpc.reactor import HUNG_UP, READABLE, WRITABLE, Reactor
from tests.rpc.links import PATIENCE


class Ends:
    """Both ends of a link, ours watched; what it was ready for is noted."""

    def __init__(self, reactor: Reactor, interest: int) -> None:
        self.here, self.there = socket.socketpair()
        self.seen: list[int] = []
        self.called = trio.Event()
        self._reactor = reactor
        reactor.add(self.here.fileno(), self._note, interest)

    def _note(self, readiness: int) -> None:
        self.seen.append(readiness)
        self.called.set()
        self._reactor.change(self.here.fileno(), 0)

    def close(self) -> None:
        self._reactor.remove(self.here.fileno())
        self.here.close()
        self.there.close()


async def test_a_socket_that_is_ready_is_called_back_and_one_of_no_interest_is_not(reactor: Reactor) -> None:
    ready, quiet = Ends(reactor, READABLE), Ends(reactor, 0)

    ready.there.send(b"x")
    quiet.there.send(b"x")
    with trio.fail_after(PATIENCE):
        await ready.called.wait()
    await wait_all_tasks_blocked()

    assert (ready.seen, quiet.seen) == ([READABLE], [])
    reactor.change(quiet.here.fileno(), READABLE | WRITABLE)
    with trio.fail_after(PATIENCE):
        await quiet.called.wait()
    assert quiet.seen == [READABLE | WRITABLE]
    ready.close()
    quiet.close()


async def test_one_that_is_gone_is_told_even_where_there_is_no_interest(reactor: Reactor) -> None:
    ends = Ends(reactor, 0)

    ends.there.close()
    with trio.fail_after(PATIENCE):
        await ends.called.wait()

    assert ends.seen[0] & HUNG_UP
    ends.close()


async def test_one_that_another_has_removed_in_the_same_pass_is_not_called(reactor: Reactor) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def remove_both(_readiness: int) -> None:
        called.append(len(called))
        for here, _ in pairs:
            reactor.remove(here.fileno())

    for here, there in pairs:
        there.send(b"x")
        reactor.add(here.fileno(), remove_both, READABLE)
    await wait_all_tasks_blocked()

    assert called == [0]
    for pair in pairs:
        for end in pair:
            end.close()


class Box:
    """An outbox that notes what it held when it was flushed."""

    def __init__(self, name: str, sent: list[str]) -> None:
        self._name = name
        self._sent = sent
        self.held = 0

    def flush(self) -> None:
        self._sent.append(f"{self._name}{self.held}")
        self.held = 0


async def test_what_gathers_in_one_pass_is_flushed_together_and_in_order(reactor: Reactor) -> None:
    sent: list[str] = []
    one, other = Box("one", sent), Box("other", sent)

    reactor.flush_soon(other)
    reactor.flush_soon(one)
    other.held, one.held = 2, 3
    assert sent == []
    await wait_all_tasks_blocked()

    assert sent == ["other2", "one3"]


async def test_a_flush_at_once_leaves_nothing_for_later(reactor: Reactor) -> None:
    sent: list[str] = []
    reactor.flush_soon(Box("one", sent))

    reactor.flush()
    await wait_all_tasks_blocked()

    assert sent == ["one0"]
    assert not reactor.outboxes


async def test_what_gathers_for_many_waits_while_each_pass_adds_to_it_but_not_for_ever(
    reactor: Reactor,
) -> None:
    sent: list[str] = []
    box = Box("box", sent)

    for _ in range(100):
        box.held += 1
        reactor.gather(box)
        await trio.lowlevel.checkpoint()
    await wait_all_tasks_blocked()

    amounts = [int(each.removeprefix("box")) for each in sent]
    assert sum(amounts) == 100
    assert 10 < len(amounts) <= 50


async def test_what_gathers_for_many_goes_with_the_first_that_may_not_wait(reactor: Reactor) -> None:
    sent: list[str] = []
    box, prompt = Box("box", sent), Box("prompt", sent)

    for _ in range(2):
        box.held += 1
        reactor.gather(box)
        await trio.lowlevel.checkpoint()
    reactor.flush_soon(prompt)
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()

    assert sent[-1] == "prompt0"
    assert "box2" in sent[0]
