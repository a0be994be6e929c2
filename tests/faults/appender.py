"""A process that appends to one session and says on its standard output what was acknowledged.

Usage: python -m tests.faults.appender BACKEND ROOT COUNT TEXT_LENGTH

A line is ``ready STEPS``, ``acked FIRST LAST``, ``failed KIND`` or ``locked PROBLEM``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from crabd.errors import StoreError
from crabd.store.base import Loaded, Store
from crabd.store.record import Cleared, Record
from tests.faults.backends import BACKENDS
from tests.store.samples import said


def tell(*words: object) -> None:
    # One write, so that a line is told as a whole.
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def open_session(store: Store) -> Loaded:
    metas = store.metas()
    return await store.load(metas[0].id) if metas else await store.create("a", "b")


async def main(backend: str, root: str, count: int, length: int) -> None:
    store = BACKENDS[backend].make(Path(root))
    try:
        await store.open()
        log = (await open_session(store)).log
    except StoreError as exc:
        tell(exc.kind, exc)
        return
    tell("ready", log.meta.steps)
    for _ in range(count):
        # Appends of one and of two records in turn, so that a half append would show.
        text = said(f"{log.meta.steps + 1}:".ljust(length, "x"))
        records: list[Record] = [text] if log.meta.steps % 3 else [text, Cleared()]
        try:
            steps = await log.append(records)
        except StoreError as exc:
            tell("failed", exc.kind)
        else:
            tell("acked", steps[0].n, steps[-1].n)
    await store.aclose()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
