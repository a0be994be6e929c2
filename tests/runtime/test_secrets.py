"""A canary among the secrets: whatever prints it, no model, client, log or store ever has it."""

from __future__ import annotations

import json
from typing import Any

from msgspec import structs

from crabd.masking import HIDDEN, Masker
from crabd.runtime.gate import MAX_OUTPUT
from crabd.tools.base import Intent, Tool, ToolContext, ToolOutcome, ToolSpec
from crabd.tools.typed import Call
from tests.fakes import Shelf, calls, guards, says
from tests.runtime.test_runtime import open_bench

CANARY = "canary-in-a-coal-mine"
# Of a known form, and nobody's.
KEY = "sk-" + "0123456789abcdef" * 2


class Leaky(Tool):
    """Prints what it should not, in pieces that part it."""

    def __init__(self, length: int = 0) -> None:
        self._length = length

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec("leaky", "a tool of a test", {"type": "object"})

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> Call:
        return Call(Intent(title="leak"), lambda: self._run(context))

    async def _run(self, context: ToolContext) -> ToolOutcome:
        text = f"TOKEN={CANARY} and {KEY}."
        for place in range(0, len(text), 5):
            context.report(text[place : place + 5])
        return ToolOutcome(f"{text}{'x' * self._length}{text}")


async def test_what_a_tool_prints_is_hidden_before_model_client_and_store_have_it() -> None:
    guarded = structs.replace(guards(), masker=Masker([CANARY]))
    async with open_bench(calls("leaky"), says("ok"), tools=[Leaky()], guarded=guarded) as bench:
        session = await bench.session()
        await bench.ask(session, "go")

        live = "".join(str(event["text"]) for event in bench.events if event["type"] == "tool_output")
        everything = repr(bench.provider.requests) + json.dumps(bench.events) + repr(session.steps)
        assert live == f"TOKEN={HIDDEN} and {HIDDEN}."
        assert f"TOKEN={HIDDEN} and {HIDDEN}." in repr(bench.provider.requests[-1].messages)
        assert CANARY not in everything
        assert KEY not in everything


async def test_a_long_output_is_hidden_before_it_is_kept_and_cut() -> None:
    shelf = Shelf()
    guarded = structs.replace(guards(artifacts=shelf), masker=Masker([CANARY]))
    leaky = Leaky(2 * MAX_OUTPUT)
    async with open_bench(calls("leaky"), says("ok"), tools=[leaky], guarded=guarded) as bench:
        await bench.ask(await bench.session(), "go")

        (kept,) = shelf.texts.values()
        assert (kept.count(HIDDEN), CANARY in kept, KEY in kept) == (4, False, False)
        assert CANARY not in repr(bench.provider.requests)
