"""A client's files as its editor has them: its ``fs/read_text_file`` and ``fs/write_text_file``.

Its terminals are not used: a command there would have the editor's environment, with its keys, and outlive a
daemon that is killed; what our own commands print is told to the client while they run.
"""

from __future__ import annotations

import msgspec
import structlog
import trio
from structlog.typing import FilteringBoundLogger

from crabd.rpc.envelope import RpcError
from crabd.rpc.peer import Peer
from crabd.server.acp.schema import ClientCapabilities, Wire
from crabd.tools.base import Editor, EditorFailed

# In seconds. An editor answers from memory; one that is busy for so long, with a dialogue or with saving, is
# not to hold up a session.
PATIENCE = 10.0

log: FilteringBoundLogger = structlog.get_logger()


class ReadFile(Wire, frozen=True):
    session_id: str
    path: str


class WriteFile(Wire, frozen=True):
    session_id: str
    path: str
    content: str


class FileText(Wire, frozen=True):
    content: str


def shows_files(capabilities: ClientCapabilities) -> bool:
    """Tell whether a client gives and takes files; what it gives and does not take could not be edited."""
    files = capabilities.fs
    return files is not None and files.read_text_file and files.write_text_file


class ClientEditor(Editor):
    """The editor of one client, for one session. One that once kept silent is asked no more."""

    def __init__(self, peer: Peer, session: str) -> None:
        self._peer = peer
        self._session = session
        self.patience = PATIENCE
        self._is_silent = False

    def __repr__(self) -> str:
        return f"<ClientEditor of {self._session}{', silent' if self._is_silent else ''}>"

    async def read(self, path: str) -> str | None:
        if self._is_silent:
            return None
        wanted = ReadFile(session_id=self._session, path=path)
        with trio.move_on_after(self.patience) as limit:
            try:
                answer = await self._peer.request("fs/read_text_file", wanted)
                return msgspec.json.decode(answer, type=FileText).content
            except (RpcError, trio.BrokenResourceError, msgspec.DecodeError) as exc:
                # Nothing to worry about: it says so of every file that is not there.
                log.debug("editor_did_not_read", session=self._session, problem=str(exc))
        self._note_silence(limit)
        return None

    async def write(self, path: str, text: str) -> None:
        if self._is_silent:
            raise EditorFailed("it does not answer")
        wanted = WriteFile(session_id=self._session, path=path, content=text)
        with trio.move_on_after(self.patience) as limit:
            try:
                await self._peer.request("fs/write_text_file", wanted)
            except RpcError as exc:
                raise EditorFailed(f"it says {exc.message!r}") from exc
            except trio.BrokenResourceError as exc:
                raise EditorFailed("it went away") from exc
            return
        self._note_silence(limit)
        raise EditorFailed(f"it did not answer within {self.patience:g} seconds, and may yet do it")

    def _note_silence(self, limit: trio.CancelScope) -> None:
        if limit.cancelled_caught:
            self._is_silent = True
            log.warning("editor_kept_silent", session=self._session)
