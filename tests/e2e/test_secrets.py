"""A key in the daemon's environment, in a hook and in an error: never in a log, an event or the store."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.daemon import Home, start_daemon

CANARY = "canary-0123456789-in-a-coal-mine"


def files_with(text: str, *places: Path) -> list[Path]:
    found = [file for place in places for file in place.rglob("*") if file.is_file()]
    return [file for file in found if text.encode() in file.read_bytes()]


async def test_a_key_that_a_hook_prints_is_in_no_log_event_or_store(home: Home) -> None:
    home.env["DEPLOY_TOKEN"] = CANARY
    key = home.directory / "key"
    key.write_text(CANARY)
    home.configure(f'[[hooks]]\non = "before_prompt"\nrun = "env; cat {key}; cat {key} >&2; exit 2"\n')
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        session = (await client.call("session/get_or_create", agent="crab"))["id"]
        await client.call("session/subscribe", session=session)

        blocked = await client.call("session/send", session=session, content="go")
        home.configure(f'[[hooks]]\non = "before_prompt"\nrun = "cat {key} >&2; exit 1"\n')
        await client.call("daemon/reload")
        failed = await client.call("session/send", session=session, content="go")
        told = json.dumps([blocked, failed, client.notifications])
        await daemon.stop()

        assert blocked["error"]["message"].count("[secret]") == 1
        assert "exit code 1: [secret]" in failed["error"]["message"]
        assert CANARY not in told
        assert files_with(CANARY, home.state, home.config) == []
        assert CANARY not in (home.directory / "crabd.log").read_text()
        assert "hook_failed" in (home.directory / "crabd.log").read_text()


async def test_a_key_in_an_output_that_is_too_long_is_in_no_file_and_the_file_ends_with_its_session(
    home: Home,
) -> None:
    home.env["DEPLOY_TOKEN"] = CANARY
    home.configure('sandbox = "off"\n[permissions]\nmode = "full"\n')
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        session = (await client.call("session/get_or_create", agent="crab", cwd=str(home.directory)))["id"]
        await client.call("session/subscribe", session=session)

        command = {"command": f"yes {CANARY[:8]}''{CANARY[8:]} | head -n 3000"}
        await client.call("session/send", session=session, content=f"call bash {json.dumps(command)}")
        (kept,) = (home.state / "artifacts" / session).iterdir()
        output, told = kept.read_text(), json.dumps(client.notifications)
        found = files_with(CANARY, home.state)
        await client.call("session/delete", session=session)

        assert output == "[secret]\n" * 3000
        assert (str(kept) in told, CANARY in told.replace(json.dumps(command), ""), found) == (
            True,
            False,
            [],
        )
        assert list((home.state / "artifacts").iterdir()) == []
