"""Which editor shows which session: the one that opened it last, as long as it is there.

Editors come and go with their clients; a session may be unloaded and loaded meanwhile. What an editor does is
not known here.
"""

from __future__ import annotations

from crabd.tools.base import Editor


class Editors:
    """The editors of all sessions. Nothing here awaits."""

    def __init__(self) -> None:
        self._by_session: dict[str, list[Editor]] = {}

    def __repr__(self) -> str:
        return f"<Editors of {len(self._by_session)} sessions>"

    def attach(self, session: str, editor: Editor) -> None:
        """Have an editor asked from now on, until ``detach`` or until another one opens the session."""
        self.detach(session, editor)
        self._by_session.setdefault(session, []).append(editor)

    def detach(self, session: str, editor: Editor) -> None:
        """Ask an editor no more; one that was there before it counts again. Idempotent."""
        left = [each for each in self._by_session.pop(session, ()) if each is not editor]
        if left:
            self._by_session[session] = left

    def find(self, session: str) -> Editor | None:
        """Find the editor of a session; null where there is none."""
        found = self._by_session.get(session)
        return found[-1] if found else None
