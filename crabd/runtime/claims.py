"""The request keys that count across sessions: what they were made, found and deleted for. Decides only.

Each key is in the meta of the session it led to, or in the note of that session's deletion.
"""

from __future__ import annotations

from crabd.errors import NotFound, RequestKeyReused
from crabd.messages import utc_now
from crabd.runtime.router import Identity
from crabd.store.base import Store
from crabd.store.meta import Claim, Deletion, SessionMeta, still_known


class Claims:
    """The keys in a store, and in ``scratch``, whose sessions are ephemeral."""

    def __init__(self, store: Store, scratch: Store) -> None:
        self._store = store
        self._scratch = scratch

    def recall(self, identity: Identity, topic: str | None, request_key: str) -> tuple[str, bool] | None:
        """Find the session that this request was given before, and whether it was made for it.

        Raises:
          NotFound: that session is gone.
          RequestKeyReused: the key came with another request.
        """
        known = self._recall(request_key)
        if known is None:
            return None
        meta, claim = known
        owner = Identity(meta.agent, meta.sender, self._scratch.meta(meta.id) is not None)
        if (owner, claim.topic) != (identity, topic) or _is_fork(meta, claim):
            raise RequestKeyReused(request_key, _method_of(meta, claim))
        return meta.id, claim.created

    def recall_fork(self, session: str, request_key: str) -> SessionMeta | None:
        """Find the fork of a session that was made for this request before.

        Raises:
          NotFound: that fork is gone.
          RequestKeyReused: the key came with another request.
        """
        known = self._recall(request_key)
        if known is None:
            return None
        meta, claim = known
        if not _is_fork(meta, claim) or meta.forked_from != session:
            raise RequestKeyReused(request_key, _method_of(meta, claim))
        return meta

    def was_deleted(self, session: str, request_key: str) -> bool:
        """Tell whether a request of this key has deleted the session."""
        wanted = (session, request_key)
        return any((deletion.session, deletion.request_key) == wanted for deletion in self._deletions())

    def refuse_reused(self, request_key: str) -> None:
        """Refuse a key for a request that has not come before.

        Raises:
          RequestKeyReused: it came with another one.
        """
        if any(deletion.request_key == request_key for deletion in self._deletions()):
            raise RequestKeyReused(request_key, "session/delete")
        found = self._find(request_key)
        if found is not None:
            raise RequestKeyReused(request_key, _method_of(*found))

    def _recall(self, request_key: str) -> tuple[SessionMeta, Claim] | None:
        """Find the session that a request was given which had this key; null if none had it."""
        for deletion in self._deletions():
            if request_key in deletion.claims:
                hint = "this request was given it, and it is gone since; take a new key for a new one"
                raise NotFound("session", deletion.session, hint=hint)
        found = self._find(request_key)
        if found is None:
            self.refuse_reused(request_key)
        return found

    def _find(self, request_key: str) -> tuple[SessionMeta, Claim] | None:
        now = utc_now()
        for meta in (*self._store.metas(), *self._scratch.metas()):
            for claim in still_known(meta.claims, now):
                if claim.key == request_key:
                    return meta, claim
        return None

    def _deletions(self) -> tuple[Deletion, ...]:
        return (*self._store.deletions(), *self._scratch.deletions())


def _is_fork(meta: SessionMeta, claim: Claim) -> bool:
    """Tell whether the session was made for that request, as the copy of another."""
    return claim.created and meta.forked_from is not None


def _method_of(meta: SessionMeta, claim: Claim) -> str:
    return "session/fork" if _is_fork(meta, claim) else "session/get_or_create"
