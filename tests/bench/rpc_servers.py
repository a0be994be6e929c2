"""Servers to measure by, as a process: ``python -m tests.bench.rpc_servers echo|links DIRECTORY``.

``echo`` is bare epoll at ``echo.sock``, for a machine without a C compiler. ``links`` is trio without JSON
at ``floor.sock``, and at ``peer.sock`` a ``Peer`` that answers ``inline`` at once and ``task`` from a task.
READY on stdout says that it listens; it ends with its standard input.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import trio
from msgspec import Raw

from crabd.rpc.peer import Peer
from crabd.rpc.reactor import Reactor

READ_BYTES = 64 * 1024
PONG = {"pong": True}


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(128)
    return listener


def echo(listener: socket.socket) -> None:
    """Serve without trio, until standard input ends."""
    poll = select.epoll()
    links: dict[int, socket.socket] = {}
    poll.register(0, select.EPOLLIN | select.EPOLLHUP)
    poll.register(listener, select.EPOLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == 0:
                return
            if fd == listener.fileno():
                link, _ = listener.accept()
                links[link.fileno()] = link
                poll.register(link, select.EPOLLIN)
            elif data := links[fd].recv(READ_BYTES):
                links[fd].sendall(data)
            else:
                links.pop(fd).close()


async def serve_floor(link: socket.socket) -> None:
    """Do what a link does besides understanding: wait, read, write."""
    link.setblocking(False)
    with link:
        while True:
            await trio.lowlevel.wait_readable(link)
            data = link.recv(READ_BYTES)
            if not data:
                return
            link.send(data)


def answer(method: str, params: Raw) -> object:
    return PONG if method == "inline" else pong()


async def pong() -> object:
    return PONG


async def serve_peer(reactor: Reactor, link: socket.socket) -> None:
    await Peer(link, answer, reactor).serve()


async def accept(
    listener: socket.socket, serve: Callable[[socket.socket], Coroutine[Any, Any, None]]
) -> None:
    async with trio.open_nursery() as nursery:
        while True:
            await trio.lowlevel.wait_readable(listener)
            nursery.start_soon(serve, listener.accept()[0])


async def serve_links(directory: Path) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept, listen(directory / "floor.sock"), serve_floor)
        reactor = Reactor()
        nursery.start_soon(reactor.run)
        nursery.start_soon(accept, listen(directory / "peer.sock"), partial(serve_peer, reactor))
        print("READY", flush=True)
        async with trio.lowlevel.FdStream(os.dup(0)) as parent:
            async for _ in parent:
                pass
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    _place = Path(sys.argv[2])
    if sys.argv[1] == "echo":
        _listener = listen(_place / "echo.sock")
        print("READY", flush=True)
        echo(_listener)
    else:
        trio.run(serve_links, _place)
