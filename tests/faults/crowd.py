"""A process whose tasks each append to a session of their own, and say what was acknowledged.

Usage: python -m tests.faults.crowd BACKEND ROOT TASKS COUNT LENGTH [die]
       python -m tests.faults.crowd lives

It says on its standard output, in whole lines: ``found SENDER K`` for what there is already, which is the
answer to whoever asks again; ``acked SENDER K``; ``made SESSION``; ``deleted SESSION``; ``failed KIND``. With
``die`` the first failure is its end. With ``lives`` each line of its standard input has the arguments of one
life, which a child lives, and is answered by ``born PID`` and ``died``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from crabd.errors import StoreError
from crabd.messages import UserMessage, text_of, user_text
from crabd.store.base import SessionLog, Store
from crabd.store.record import Cleared, MessageAdded, Record, Step
from tests.faults.backends import BACKENDS


def tell(*words: object) -> None:
    # One write, so that a line is told as a whole, and in the order of what else the process does.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def spell(sender: str, number: int, length: int) -> list[Record]:
    """Make the records of an append. Every third has two, so that half of it would show."""
    text = MessageAdded("r1", user_text(f"{sender}:{number}:".ljust(length, "x")))
    return [text] if number % 3 else [text, Cleared()]


def count_appends(sender: str, steps: Sequence[Step]) -> int:
    """Count the appends in a whole log.

    Raises:
      AssertionError: one is missing, doubled, out of order, or half there.
    """
    number = 0
    records = iter([step.record for step in steps[1:]])
    for record in records:
        number += 1
        assert isinstance(record, MessageAdded), f"{sender}: {record} for append {number}"
        assert isinstance(record.message, UserMessage), f"{sender}: {record} for append {number}"
        head, _, padding = text_of(record.message).rpartition(":")
        assert head == f"{sender}:{number}", f"{head} for append {number} of {sender}"
        assert not padding.strip("x"), f"{sender}: append {number} is not what was written"
        assert number % 3 or next(records, None) == Cleared(), f"{sender}: append {number} is half there"
    return number


class Task:
    """One who appends to a session of its own."""

    def __init__(self, store: Store, sender: str, length: int, *, dies: bool) -> None:
        self._store = store
        self._sender = sender
        self._length = length
        self._dies = dies

    async def work(self, count: int) -> None:
        """Go on where the last life has ended, with so many appends; a failed one is tried again."""
        log, done = await self._open()
        while log.meta.message_count < done + count:
            number = log.meta.message_count + 1
            try:
                await log.append(spell(self._sender, number, self._length))
                tell("acked", self._sender, number)
                if number % 4 == 0:
                    await log.checkpoint()
                    await self._come_and_go()
            except StoreError as exc:
                self._fail(exc)

    async def _open(self) -> tuple[SessionLog, int]:
        while True:
            try:
                mine = [meta for meta in self._store.metas() if meta.sender == self._sender]
                loaded = await (
                    self._store.load(mine[0].id) if mine else self._store.create("a", self._sender)
                )
                done = count_appends(self._sender, await self._store.read(loaded.log.meta.id))
                tell("found", self._sender, done)
                return loaded.log, done
            except StoreError as exc:
                self._fail(exc)

    async def _come_and_go(self) -> None:
        """Make another session and delete it."""
        session = (await self._store.create("a", f"{self._sender}-guest")).log.meta.id
        tell("made", session)
        await self._store.delete(session, request_key="k")
        tell("deleted", session)

    def _fail(self, exc: StoreError) -> None:
        tell("failed", exc.kind)
        if self._dies:
            os.kill(os.getpid(), signal.SIGKILL)


async def live(*args: str) -> None:
    """Open the store and have the tasks work in it."""
    backend, root, tasks, count, length, *options = args
    store = BACKENDS[backend].make(Path(root))
    await store.open()
    async with trio.open_nursery() as nursery:
        for number in range(int(tasks)):
            task = Task(store, f"s{number}", int(length), dies="die" in options)
            nursery.start_soon(task.work, int(count))
    await store.aclose()


def live_many() -> None:
    """Have children live, one after the other, in a process that has imported all they need."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            trio.run(live, *line.split())
            os._exit(0)
        tell("born", child)
        os.waitpid(child, 0)
        tell("died")


if __name__ == "__main__":
    if sys.argv[1:] == ["lives"]:
        live_many()
    else:
        trio.run(live, *sys.argv[1:])
