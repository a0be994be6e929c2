"""Deeds: what goes on once it is begun, whoever leaves that asked for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
import trio
from structlog.typing import FilteringBoundLogger

from crabd.errors import CrabdError, RequestCancelled, ShuttingDown
from crabd.runtime.loop import INTERNAL
from crabd.runtime.ticket import Deed

log: FilteringBoundLogger = structlog.get_logger()

T = TypeVar("T")


class Deeds:
    """Does things in ``runs``, a nursery that outlasts whoever asks for them."""

    def __init__(self, runs: trio.Nursery) -> None:
        self.runs = runs
        self.is_stopping = False

    def refuse_when_stopping(self) -> None:
        """Make sure that something new may begin.

        Raises:
          ShuttingDown.
        """
        if self.is_stopping:
            raise ShuttingDown

    async def do(self, work: Callable[[], Awaitable[T]], what: str) -> T:
        """Do something, and wait for how it ends. Cancelled, it goes on.

        Raises:
          CrabdError: what ``work`` raised; RequestCancelled: the daemon stopped before it was done.
        """
        deed: Deed[T] = Deed()
        self.runs.start_soon(carry_out, deed, work, what)
        return await deed.wait()

    def begin(self, work: Callable[[], Awaitable[object]], what: str) -> None:
        """Do something that nobody waits for."""
        self.runs.start_soon(carry_out, Deed[object](), work, what)


async def carry_out(deed: Deed[T], work: Callable[[], Awaitable[T]], what: str) -> None:
    """Do something and tell how it ended. Never raises but ``Cancelled``."""
    try:
        deed.settle(await work())
    except CrabdError as exc:
        deed.settle(exc)
    except Exception:
        log.exception("deed_failed", deed=what)
        deed.settle(CrabdError(INTERNAL.message))
    finally:
        deed.settle(RequestCancelled(what))
