"""Neovim without any plugin."""

from __future__ import annotations

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.editors.visiting import VISITS, check_visit, needs, visit

COMMAND = ("--clean", "--headless", "-c", f"luafile {VISITS / 'neovim.lua'}")


# socat is for Neovims that reach no Unix socket as they do a language server.
@needs("nvim", "socat")
@pytest.mark.parametrize("way", ["rpc", "pipe"])
async def test_neovim_works_with_a_session_and_loses_nothing(daemon: Daemon, way: str) -> None:
    told, events = await visit(daemon, "nvim", *COMMAND, way=way)

    # Its layer for language servers swallows the error that answers an abandoned request.
    check_visit(told, events, abandoned=None if way == "rpc" else -32800)
