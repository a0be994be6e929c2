"""A process that deletes the one session of a store by a request key, and says so on its standard output.

Usage: python -m tests.faults.deleter BACKEND ROOT
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from tests.faults.backends import BACKENDS


async def main(backend: str, root: str) -> None:
    store = BACKENDS[backend].make(Path(root))
    await store.open()
    (meta,) = store.metas()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await store.delete(meta.id, request_key="k")
    sys.stdout.write("deleted\n")
    sys.stdout.flush()
    await store.aclose()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
