"""A shell, which has no JSON-RPC library at all."""

from __future__ import annotations

from tests.e2e.daemon import Daemon
from tests.e2e.editors.visiting import VISITS, check_visit, needs, visit


@needs("bash", "socat")
async def test_a_shell_with_socat_works_with_a_session_and_loses_nothing(daemon: Daemon) -> None:
    told, events = await visit(daemon, "bash", str(VISITS / "socat.sh"))

    check_visit(told, events)
