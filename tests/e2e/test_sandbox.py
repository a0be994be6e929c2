"""What confines commands, and what they may fetch, as a person sees it from outside."""

from __future__ import annotations

import json

from tests.e2e.daemon import Home, start_daemon
from tests.e2e.test_search import crabctl


async def test_what_is_in_force_is_told_and_a_change_of_it_is_for_the_next_start(home: Home) -> None:
    home.configure('sandbox = "off"\n')
    async with start_daemon(home) as daemon:
        client = await daemon.connect()

        status = await client.call("daemon/status")
        shown = await crabctl(home, "status")
        home.configure('sandbox = "auto"\n')
        reloaded = await client.call("daemon/reload")

        assert (status["sandbox"]["kind"], status["sandbox"]["problems"]) == ("none", [])
        assert status["sandbox"]["told"].startswith("no sandbox: it can do what you can")
        assert status["sandbox"]["told"].encode() in shown.stdout
        assert reloaded["problems"] == ["the new sandbox takes effect at the next start: crabctl restart"]


async def test_what_is_not_there_is_told_with_what_to_do_about_it(home: Home) -> None:
    async with start_daemon(home) as daemon:
        client = await daemon.connect()

        told = (await client.call("daemon/status"))["sandbox"]
        shown = await crabctl(home, "status")

        assert (told["kind"] == "bubblewrap") == (told["problems"] == [])
        assert all(line.encode() in shown.stdout for line in (told["told"], *told["problems"]))


async def test_a_page_of_this_machine_is_fetched_only_where_the_configuration_says_so(home: Home) -> None:
    call = f"call web_fetch {json.dumps({'url': 'http://127.0.0.1:9/'})}"
    outputs: list[str] = []
    for settings in ("", "[web]\nallow_private = true\n"):
        home.configure('[permissions]\nmode = "full"\n' + settings)
        async with start_daemon(home) as daemon:
            client = await daemon.connect()
            session = (await client.call("session/get_or_create", agent="crab"))["id"]
            await client.call("session/subscribe", session=session)
            await client.call("session/send", session=session, content=call)
            outputs += [each["output"] for each in client.events("tool_result")]

    refused, tried = outputs
    assert "allow_private" in refused
    assert "allow_private" not in tried
