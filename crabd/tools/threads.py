"""Blocking calls of tools in threads of their own, so that the event loop never waits for a disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import trio

from crabd.tools.base import ToolOutcome
from crabd.tools.files.paths import Refusal, explain

# Enough for the calls of several sessions to overlap; more than these wait their turn.
THREADS = 8
_limiter = trio.CapacityLimiter(THREADS)
# What hangs, such as a disk that is gone, holds its thread after everyone left: these hold up no change.
_looking = trio.CapacityLimiter(THREADS)

T = TypeVar("T")
Args = TypeVarTuple("Args")


async def look(work: Callable[[*Args], T], *args: *Args) -> T:
    """Make a call that changes nothing. When cancelled it is left to itself, and its answer to nobody."""
    return await trio.to_thread.run_sync(work, *args, limiter=_looking, abandon_on_cancel=True)


async def change(work: Callable[[*Args], T], *args: *Args) -> T:
    """Make a call that changes something. What has begun is waited for, cancelled or not."""
    return await trio.to_thread.run_sync(work, *args, limiter=_limiter)


async def attempt(work: Callable[[], Awaitable[ToolOutcome]]) -> ToolOutcome:
    """Do a call's work, and have the model read what is in its way."""
    try:
        return await work()
    except Refusal as exc:
        return ToolOutcome(str(exc), is_error=True)
    except OSError as exc:
        return ToolOutcome(explain(exc), is_error=True)
