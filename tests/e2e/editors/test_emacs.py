"""Emacs' own JSON-RPC library."""

from __future__ import annotations

from tests.e2e.daemon import Daemon
from tests.e2e.editors.visiting import VISITS, check_visit, needs, visit


@needs("emacs")
async def test_emacs_works_with_a_session_and_loses_nothing(daemon: Daemon) -> None:
    told, events = await visit(daemon, "emacs", "--batch", "-Q", "-l", str(VISITS / "emacs.el"))

    check_visit(told, events)
