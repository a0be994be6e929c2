"""VS Code's own JSON-RPC library."""

from __future__ import annotations

from tests.e2e.daemon import Daemon
from tests.e2e.editors.visiting import VISITS, check_visit, needs_module, visit


@needs_module("vscode-jsonrpc")
async def test_vscode_jsonrpc_works_with_a_session_and_loses_nothing(daemon: Daemon) -> None:
    told, events = await visit(daemon, "node", str(VISITS / "vscode.mjs"))

    check_visit(told, events)
