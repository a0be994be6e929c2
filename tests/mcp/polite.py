"""A server of tools as its authors are meant to write one, with the official SDK; over stdio, or HTTP.

python polite.py [PORT]
"""

from __future__ import annotations

import os
import sys

from mcp.server import MCPServer
from mcp_types import ImageContent, TextContent, ToolAnnotations

server = MCPServer("polite")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def variable(name: str) -> str:
    """Tell a variable of the environment."""
    return os.environ.get(name, "(not set)")


@server.tool()
def draw() -> list[TextContent | ImageContent]:
    """Draw something."""
    return [
        TextContent(type="text", text="a drawing:"),
        ImageContent(type="image", data="aGVsbG8=", mime_type="image/png"),
    ]


@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("this never works")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run(transport="streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run()
