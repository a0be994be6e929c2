"""Vim's channels."""

from __future__ import annotations

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.editors.visiting import VISITS, check_visit, needs, visit

COMMAND = ("-N", "-u", "NONE", "-i", "NONE", "-n", "-e", "-s", "-S", str(VISITS / "vim.vim"))


@needs("vim")
@pytest.mark.parametrize("way", ["lsp", "nl"])
async def test_vim_works_with_a_session_and_loses_nothing(daemon: Daemon, way: str) -> None:
    told, events = await visit(daemon, "vim", *COMMAND, way=way)

    check_visit(told, events)
