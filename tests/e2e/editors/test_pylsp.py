"""The JSON-RPC library of the Python language servers, whose other end we are."""

from __future__ import annotations

import sys

from tests.e2e.daemon import Daemon
from tests.e2e.editors.visiting import VISITS, check_visit, visit


async def test_python_lsp_jsonrpc_works_with_a_session_and_loses_nothing(daemon: Daemon) -> None:
    told, events = await visit(daemon, sys.executable, str(VISITS / "pylsp.py"))

    check_visit(told, events)
