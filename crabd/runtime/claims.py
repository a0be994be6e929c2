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
        for deletion in self._deletions():
            if request_key in deletion.claims:
                hint = "this request was given it, and it is gone since; take a new key for a new one"
                raise NotFound("session", deletion.session, hint=hint)
        found = self._find(request_key)
        if found is None:
            self.refuse_reused(request_key)
            return None
        meta, claim = found
        owner = Identity(meta.agent, meta.sender, self._scratch.meta(meta.id) is not None)
        if (owner, claim.topic) != (identity, topic):
            raise RequestKeyReused(request_key, "session/get_or_create")
        return meta.id, claim.created

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
        if self._find(request_key) is not None:
            raise RequestKeyReused(request_key, "session/get_or_create")

    def _find(self, request_key: str) -> tuple[SessionMeta, Claim] | None:
        now = utc_now()
        for meta in (*self._store.metas(), *self._scratch.metas()):
            for claim in still_known(meta.claims, now):
                if claim.key == request_key:
                    return meta, claim
        return None

    def _deletions(self) -> tuple[Deletion, ...]:
        return (*self._store.deletions(), *self._scratch.deletions())
