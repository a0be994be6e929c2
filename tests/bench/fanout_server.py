"""Fan-out by the daemon's own parts, as a process: ``python -m tests.bench.fanout_server PATH N``.

It does what ``fanout send`` does in C: N links are subscribed to one topic, and a line ``BURSTS BURST SIZE``
on standard input has it publish so many bursts of events, each in one wake-up. An event has the size it has,
whatever was asked for; READY tells it. With a fourth figure there is a pause of so many microseconds behind
each burst, nobody is waited for, and in the end ``SENT`` tells the largest backlog and the memory, in bytes.
Ends with its standard input.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio
from msgspec import Raw

from crabd.app import wrap_event
from crabd.events import ToolOutput
from crabd.rpc.framing import Bundle
from crabd.rpc.peer import Peer
from crabd.rpc.reactor import Reactor
from crabd.runtime.broker import Broker, Topic
from tests.bench.rpc_servers import listen

# None of those that a burst puts together.
EVENT = ToolOutput("call_1", "word ")
# Looking for the slowest reader costs about as much as giving each an event, so it is done only now and then.
# What is published meanwhile is far less than what a link may hold before it counts as slow.
LOOK_EVERY_BYTES = 32 * 1024
MOST_BACKLOG = 64 * 1024


def ignore(method: str, params: Raw) -> object:
    return None


async def publish(topic: Topic, peers: list[Peer], bursts: int, burst: int, look_every: int) -> None:
    """Publish as fast as the slowest subscriber reads."""
    for number in range(bursts):
        for _ in range(burst):
            topic.publish(EVENT)
        await trio.lowlevel.checkpoint()
        if number % look_every == 0:
            while max(peer.backlog for peer in peers) > MOST_BACKLOG:
                await trio.lowlevel.checkpoint()


async def publish_steadily(topic: Topic, bursts: int, burst: int, pause: float) -> None:
    """Publish, whoever reads."""
    for _ in range(bursts):
        for _ in range(burst):
            topic.publish(EVENT)
        await trio.sleep(pause)


def tell_burden(peers: list[Peer]) -> None:
    resident = int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    print(f"SENT {max(peer.backlog for peer in peers)} {resident}", flush=True)


def event_size() -> int:
    """Measure an event on the wire, in the middle of many."""
    topic = Broker("bench", wrap_event).topic("a_b_1")
    for _ in range(10_001):
        topic.publish(EVENT)
    payloads = topic.missed(10_000)
    assert payloads is not None
    return len(payloads[0]) + len(b"\n")


async def main(path: Path, count: int) -> None:
    reactor = Reactor()
    topic = Broker("bench", wrap_event, Bundle, reactor.gather).topic("a_b_1")
    peers: list[Peer] = []
    size = event_size()
    listener = listen(path)
    print(f"READY {size}", flush=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        for _ in range(count):
            peer = Peer(listener.accept()[0], ignore, reactor)
            topic.subscribe(peer)
            peers.append(peer)
            nursery.start_soon(peer.serve)
        async with trio.lowlevel.FdStream(os.dup(0)) as parent:
            async for command in parent:
                bursts, burst, _, *pause = map(int, command.split())
                if pause:
                    await publish_steadily(topic, bursts, burst, pause[0] / 1e6)
                    tell_burden(peers)
                else:
                    await publish(topic, peers, bursts, burst, max(1, LOOK_EVERY_BYTES // (burst * size)))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
