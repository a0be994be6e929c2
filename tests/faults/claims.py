"""What a crowd has said that a store has, and whether it has."""

from __future__ import annotations

from pathlib import Path

from tests.faults.backends import BACKENDS, record_bytes
from tests.faults.crowd import count_appends


class Claims:
    """What a crowd has told, and so must be true whatever happens."""

    def __init__(self) -> None:
        self.appends: dict[str, int] = {}
        self.deleted: list[str] = []

    def take(self, told: str) -> None:
        """Believe what was told, in whole lines.

        Raises:
          AssertionError: it takes back what was told before.
        """
        for line in told.splitlines():
            match line.split():
                case ["acked" | "found", sender, number]:
                    assert int(number) >= self.appends.get(sender, 0), f"{line}, after {self.appends}"
                    self.appends[sender] = int(number)
                case ["deleted", session]:
                    self.deleted.append(session)
                case _:
                    pass


async def hold(backend: str, root: Path, claims: Claims) -> None:
    """Open a store as the next start would, and hold it against what was claimed.

    Raises:
      AssertionError: something that was claimed is not so, or was cut in silence.
    """
    sessions = [path.name for path in (root / "sessions").glob("a_*")] if root.exists() else []
    before = {session: record_bytes(backend, root, session) for session in sessions}
    store = BACKENDS[backend].make(root)
    told = {damage.session for damage in await store.open()}
    assert not any(store.is_damaged(meta.id) for meta in store.metas()), store.damage()
    for sender, number in claims.appends.items():
        (session,) = [meta.id for meta in store.metas() if meta.sender == sender]
        assert count_appends(sender, await store.read(session)) >= number, f"{sender} has lost a record"
    for meta in store.metas():
        assert (await store.load(meta.id)).log.meta == meta
    deletions = {deletion.session for deletion in store.deletions()}
    for session in claims.deleted[-100:]:
        assert store.meta(session) is None, f"{session} has come back"
        assert session in deletions, f"{session} is not remembered"
    for session, records in before.items():
        now = record_bytes(backend, root, session) if store.meta(session) else records
        assert now == records or session in told, f"{session} was cut, and nobody was told"
    await store.aclose()
