"""What a server's answer is for a model: text. Pure.

What is no text is told: what it is and how large. A model reads of a long answer both ends, and where the
rest is, as of any tool: that is not done here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import msgspec

from crabd.tools.base import ToolOutcome

if TYPE_CHECKING:
    from mcp_types import CallToolResult, ContentBlock

# How base64 swells: four characters for three bytes.
_CHARACTERS, _BYTES = 4, 3


def tell_result(result: CallToolResult) -> ToolOutcome:
    """Tell an answer. What is structured comes as text, too, and is told only if there is none."""
    parts = [tell_block(block) for block in result.content]
    if result.structured_content is not None and not any(block.type == "text" for block in result.content):
        parts.append(msgspec.json.encode(result.structured_content).decode())
    output = "\n".join(part for part in parts if part)
    return ToolOutcome(output or "(no output)", is_error=result.is_error)


def tell_block(block: ContentBlock) -> str:
    """Tell a part of an answer."""
    match block.type:
        case "text":
            return block.text
        case "image" | "audio":
            return _tell_bytes(block.type, block.mime_type, block.data)
        case "resource_link":
            about = f": {block.description}" if block.description else ""
            return f"[resource {block.name} at {block.uri}{about}]"
        case "resource":
            held = block.resource
            # Two types of the SDK's, which is not to be loaded here: one has a text, the other a blob.
            text = getattr(held, "text", None)
            if isinstance(text, str):
                return f"[resource {held.uri}]\n{text}"
            return _tell_bytes(f"resource {held.uri}", held.mime_type, getattr(held, "blob", ""))
        case _:
            assert_never(block.type)


def _tell_bytes(what: str, kind: str | None, data: str) -> str:
    size = len(data) * _BYTES // _CHARACTERS - data[-2:].count("=")
    return f"[{what}, {kind or 'of no known type'}, {size} bytes, not shown here]"
