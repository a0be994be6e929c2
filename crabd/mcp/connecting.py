"""How a server is started or reached: confined, with its environment, through the SDK once that is loaded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Protocol

import trio

from crabd.masking import Masker, secrets_of
from crabd.mcp.base import Connection, Wanted
from crabd.mcp.witness import Witness
from crabd.tools.base import Confinement


class OpenCommand(Protocol):
    """Starts a process with its three streams, and leaves nothing of it behind the block."""

    def __call__(
        self, argv: Sequence[str], *, cwd: str, env: Mapping[str, str]
    ) -> AbstractAsyncContextManager[trio.Process]: ...


class Connector:
    """Connects to servers. Those of a session without a directory run in ``directory``.

    What is secret of their settings is hidden by the ``masker`` from then on.
    """

    def __init__(
        self,
        open_command: OpenCommand,
        confinement: Confinement,
        directory: Path,
        masker: Masker,
    ) -> None:
        self._open_command = open_command
        self._confinement = confinement
        self._directory = directory
        self._masker = masker
        self._loading = trio.Lock()

    def __repr__(self) -> str:
        return f"<Connector, {self._confinement.describe()}>"

    @asynccontextmanager
    async def connect(self, wanted: Wanted, witness: Witness) -> AsyncGenerator[Connection]:
        """Start a server, or connect to it, and greet it; the caller has a deadline for that.

        Raises:
          OSError: it cannot be started.
          Exception: what the SDK has to say.
        """
        server = wanted.server
        for secret in (*secrets_of(server.env), *server.headers.values()):
            self._masker.learn(secret.removeprefix("Bearer "))
        # One at a time, so that two do not import it from two threads.
        async with self._loading:
            sdk = await trio.to_thread.run_sync(_load)
        cwd = wanted.cwd
        if cwd is None:
            cwd = await trio.to_thread.run_sync(self._make_directory)
        if server.url is not None:
            async with sdk.open_http_link(server.url, server.headers, witness, cwd) as link:
                yield link
            return
        assert server.command is not None, "a server has a command or a URL"
        argv: Sequence[str] = (server.command, *server.args)
        if wanted.is_confined:
            argv = await trio.to_thread.run_sync(self._confinement.wrap, argv, cwd)
            witness.confinement = self._confinement.describe()
        environment = self._confinement.environment() | server.env
        async with (
            self._open_command(argv, cwd=cwd, env=environment) as process,
            sdk.open_process_link(process, witness, cwd) as link,
        ):
            yield link

    def mask(self, text: str) -> str:
        """Hide the secrets in what a server said."""
        return self._masker.mask(text)

    def _make_directory(self) -> str:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return str(self._directory)


def _load() -> ModuleType:
    from crabd.mcp import link

    return link
