"""Which session an agent and a sender mean: each identity has at most one active session.

Identities are compared exactly, as they spell themselves, never by slug. The active session of an identity is
a matter of this life of the daemon; after a restart the one used last is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakValueDictionary

import trio
from msgspec import Struct

from crabd.store.meta import SessionMeta


class Identity(Struct, frozen=True):
    """Who talks to whom. Ephemeral sessions are a world of their own."""

    agent: str
    sender: str
    is_ephemeral: bool = False


class Router:
    """The active session of each identity, and a lock for those who look for one."""

    def __init__(self) -> None:
        self._active: dict[Identity, str] = {}
        self._locks: WeakValueDictionary[object, trio.Lock] = WeakValueDictionary()

    def active(self, identity: Identity) -> str | None:
        """Tell the identity's active session."""
        return self._active.get(identity)

    def is_active(self, session: str, identity: Identity) -> bool:
        return self._active.get(identity) == session

    def activate(self, identity: Identity, session: str) -> None:
        self._active[identity] = session

    def deactivate(self, session: str) -> None:
        """Make no session active where this one was."""
        self._active = {identity: id_ for identity, id_ in self._active.items() if id_ != session}

    def lock(self, key: Identity | str) -> trio.Lock:
        """Get the lock of an identity or of a session id: one for all who hold it at the same time."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = trio.Lock()
        return lock


def choose_stored(metas: Iterable[SessionMeta], identity: Identity, topic: str | None) -> SessionMeta | None:
    """Choose the session that was used last, among the identity's, or its of one topic."""
    own = (
        meta
        for meta in metas
        if meta.agent == identity.agent and meta.sender == identity.sender and topic in (None, meta.topic)
    )
    return max(own, key=lambda meta: (meta.updated_at, meta.created_at, meta.id), default=None)
