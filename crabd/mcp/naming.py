"""What a server's tool is called for a model: ``mcp__SERVER__TOOL``, as every provider takes it. Pure."""

from __future__ import annotations

import re
from hashlib import sha256

# What the providers' APIs take as the name of a function.
MAX_NAME = 64
# So that enough is left for the tool, however long a server's name is.
MAX_SERVER = 24
_ODD = re.compile(r"[^a-zA-Z0-9-]+")
_MARK = 6


def name_tool(server: str, tool: str) -> str:
    """Make the name; what is too long ends in a digest of the whole, so that it stays one of its own."""
    prefix = f"mcp__{name_server(server)}__"
    return prefix + _shorten(re.sub(r"[^a-zA-Z0-9_-]", "_", tool) or "_", tool, MAX_NAME - len(prefix))


def name_server(server: str) -> str:
    """Make a server's part of it, which has no two underscores, so that no rule takes it for another's."""
    return _shorten(_ODD.sub("_", server).strip("_") or "server", server, MAX_SERVER)


def _shorten(made: str, whole: str, limit: int) -> str:
    if len(made) <= limit:
        return made
    mark = sha256(whole.encode("utf-8", "replace")).hexdigest()[:_MARK]
    return f"{made[: limit - _MARK - 1].rstrip('_')}_{mark}"
