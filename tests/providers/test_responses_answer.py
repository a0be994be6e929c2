"""The Responses API as servers other than OpenAI's spell it, from what they have sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from crabd.messages import Usage
from crabd.providers.responses_answer import AnswerDecoder
from tests.providers.oracles import Said, heard_by_us

RECORDINGS = Path(__file__).parent / "recordings"


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_items_without_a_place_are_told_apart_by_their_ids(size: int) -> None:
    data = (RECORDINGS / "llama_cpp_responses.sse").read_bytes()
    pieces = [data[start : start + size] for start in range(0, len(data), size)]

    said = heard_by_us(AnswerDecoder("test", "m", lambda payload: payload), pieces)

    assert said == Said(
        thinking=(("Hm.\n", ""),),
        text="I look.",
        calls=(("call_NCehck7iaNdWUdFWyHjwl50t1i2sL46p", "read", {"path": "x"}),),
        reason="tool_calls",
        usage=Usage(323, 16),
    )
