"""What a daemon's sessions have used, asked on the wire, also after a restart."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec import structs

from tests.e2e.daemon import Home, WireError, start_daemon
from tests.model_server import ModelServer, says


async def test_what_was_used_is_the_same_after_a_restart(home: Home, models: ModelServer) -> None:
    home.use_model_server(models.base_url)
    await models.script(*[structs.replace(says("hi"), usage=(100, 20))] * 3)
    before = datetime.now(UTC).date().isoformat()
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        for sender in ("user", "user", "nvim:7"):
            session = (await client.call("session/get_or_create", agent="crab", sender=sender))["id"]
            await client.call("session/send", session=session, content="go")
        ways = [{}, {"by": "agent"}, {"by": "day"}, {"by": "model", "sender": "user"}]
        first = [await client.call("session/usage", **way) for way in ways]
        # A kill, so that nothing is written down on the way out.
        daemon.process.kill()
    after = datetime.now(UTC).date().isoformat()

    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        again = [await client.call("session/usage", **way) for way in ways]

    assert again == first
    whole, by_agent, by_day, by_model = first
    assert (whole["session"], whole["sessions"], whole["runs"]) == (None, 2, 3)
    assert whole["usage"]["total"]["input_tokens"] == 300
    assert [(share["key"], share["calls"], share["sessions"]) for share in by_agent["shares"]] == [
        ("crab", 3, 2)
    ]
    assert sum(share["usage"]["output_tokens"] for share in by_day["shares"]) == 60
    assert {share["key"] for share in by_day["shares"]} <= {before, after}
    assert [(share["key"], share["calls"], share["usage"]["cost"]) for share in by_model["shares"]] == [
        ("test/m", 2, None)
    ]


async def test_a_budget_is_set_told_and_kept_to_also_after_a_restart(home: Home, models: ModelServer) -> None:
    home.use_model_server(models.base_url)
    await models.script(*[structs.replace(says("hi"), usage=(100, 20))] * 2)
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        session = (await client.call("session/get_or_create", agent="crab"))["id"]
        await client.call("session/configure", session=session, budget={"tokens": 120, "rounds": 9})
        await client.call("session/configure", session=session, budget={"rounds": None})
        await client.call("session/send", session=session, content="go")
        await daemon.stop()

    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        told = (await client.call("session/get", session=session))["budget"]
        with pytest.raises(WireError) as refused:
            await client.call("session/send", session=session, content="more")
        await client.call("session/configure", session=session, budget=None)
        result = await client.call("session/send", session=session, content="more")

    assert (told["limits"], told["tokens"]) == ({"tokens": 120}, 120)
    assert refused.value.code == -32003
    assert refused.value.data["kind"] == "budget"
    assert refused.value.data["limit"] == "tokens"
    assert result["stop_reason"] == "end_turn"
