"""What a server's answer is for a model."""

from __future__ import annotations

import pytest
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from crabd.mcp.telling import tell_block, tell_result
from crabd.tools.base import ToolOutcome

TEXT = TextContent(text="hello")


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (TEXT, "hello"),
        (ImageContent(data="aGVsbG8=", mime_type="image/png"), "[image, image/png, 5 bytes, not shown here]"),
        (AudioContent(data="", mime_type="audio/wav"), "[audio, audio/wav, 0 bytes, not shown here]"),
        (ResourceLink(uri="file:///a", name="a"), "[resource a at file:///a]"),
        (
            ResourceLink(uri="file:///a", name="a", description="the first"),
            "[resource a at file:///a: the first]",
        ),
        (
            EmbeddedResource(resource=TextResourceContents(uri="file:///a", text="")),
            "[resource file:///a]\n",
        ),
        (
            EmbeddedResource(resource=BlobResourceContents(uri="file:///a", blob="aGk=")),
            "[resource file:///a, of no known type, 2 bytes, not shown here]",
        ),
    ],
)
def test_each_part_is_told_as_text(block: ContentBlock, told: str) -> None:
    assert tell_block(block) == told


def test_what_is_structured_is_told_only_if_there_is_no_text() -> None:
    structured = {"degrees": 20}

    with_text = tell_result(CallToolResult(content=[TEXT], structured_content=structured))
    without = tell_result(CallToolResult(content=[], structured_content=structured))

    assert with_text == ToolOutcome("hello")
    assert without == ToolOutcome('{"degrees":20}')


def test_nothing_is_told_as_nothing_and_an_error_as_one() -> None:
    assert tell_result(CallToolResult(content=[])) == ToolOutcome("(no output)")
    assert tell_result(CallToolResult(content=[TEXT], is_error=True)) == ToolOutcome("hello", is_error=True)
