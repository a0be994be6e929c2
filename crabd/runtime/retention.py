"""Retention: which stored sessions are too old, or too many, to be kept. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct

from crabd.store.meta import SessionMeta


class Limits(Struct, frozen=True):
    """How long sessions are kept after their last use, and how many bytes all may take; null for no limit."""

    keep_days: float | None = None
    max_bytes: int | None = None

    @property
    def is_set(self) -> bool:
        return self != Limits()


class Stale(Struct, frozen=True):
    """A session that goes, what it takes on the disk, and which limit it is over."""

    meta: SessionMeta
    size: int
    limit: Literal["keep_days", "max_bytes"]


def choose_stale(
    metas: Iterable[SessionMeta], sizes: Mapping[str, int], limits: Limits, now: datetime
) -> tuple[Stale, ...]:
    """Choose what goes of the sessions that may go, the longest unused first.

    ``sizes`` are those of all sessions in bytes, also of those that may not go: others make room for them.
    """
    total = sum(sizes.values())
    stale: list[Stale] = []
    for meta in sorted(metas, key=lambda meta: (meta.updated_at, meta.id)):
        size = sizes.get(meta.id, 0)
        if limits.keep_days is not None and now - meta.updated_at > timedelta(days=limits.keep_days):
            stale.append(Stale(meta, size, "keep_days"))
        elif limits.max_bytes is not None and total > limits.max_bytes:
            stale.append(Stale(meta, size, "max_bytes"))
        else:
            continue
        total -= size
    return tuple(stale)


def may_go(meta: SessionMeta) -> bool:
    """Tell whether a session that is not live may be removed by a rule: nothing in it waits for anybody."""
    return not meta.paused and meta.open_run is None and not meta.queued
