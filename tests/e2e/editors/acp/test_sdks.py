"""The protocol's own SDKs as clients."""

from __future__ import annotations

import sys

from tests.e2e.daemon import Daemon
from tests.e2e.editors.acp.validity import PACKAGE
from tests.e2e.editors.acp.visiting import VISITS, check_visit, visit
from tests.e2e.editors.visiting import needs_module


@needs_module(PACKAGE)
async def test_the_typescript_sdk_works_with_a_session_and_loses_nothing(daemon: Daemon) -> None:
    told, links = await visit(daemon.home, "node", str(VISITS / "typescript.mjs"))

    check_visit(daemon.home, told, links)


# The schema that its transcripts are held to comes with the other one.
@needs_module(PACKAGE)
async def test_the_python_sdk_works_with_a_session_and_loses_nothing(daemon: Daemon) -> None:
    told, links = await visit(daemon.home, sys.executable, str(VISITS / "python_sdk.py"))

    check_visit(daemon.home, told, links)
