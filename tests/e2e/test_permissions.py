"""Rules and modes, as a person at a terminal sets them, over restarts and reloads of the real daemon."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.daemon import Client, Daemon, Home, WireError, start_daemon
from tests.e2e.test_search import crabctl


async def rules_of(client: Client, session: str | None = None) -> list[tuple[str, str]]:
    found: dict[str, Any] = await client.call("permission/get", **({"session": session} if session else {}))
    return [(rule["decision"], rule["rule"]) for rule in found["rules"]]


async def test_a_rule_is_set_shown_kept_and_removed(home: Home) -> None:
    home.configure('[permissions]\nmode = "accept-edits"\ndeny = ["read(~/notes/**)"]\n')
    async with start_daemon(home):
        allowed = await crabctl(home, "permissions", "allow", "bash(git commit *)")
        wrong = await crabctl(home, "permissions", "allow", "Bash(git commit *)")
        half = await crabctl(home, "permissions", "allow")
    async with start_daemon(home):
        listed = await crabctl(home, "permissions")
        removed = await crabctl(home, "permissions", "remove", "bash(git commit *)")
        nothing = await crabctl(home, "permissions", "remove", "bash(git commit *)")

    file, config = home.config / "permissions.toml", home.config / "config.toml"
    shown = [line.split() for line in listed.stdout.decode().splitlines()]
    assert shown[1:] == [
        ["deny", "read(~/notes/**)", str(config)],
        ["allow", "bash(git", "commit", "*)", str(file)],
    ]
    assert allowed.returncode == 0
    assert b"mode accept-edits" in listed.stderr
    assert (wrong.returncode, half.returncode) == (2, 2)
    assert b"is no rule" in wrong.stderr
    assert b"git commit" not in removed.stdout
    assert (nothing.returncode, b"has no rule" in nothing.stderr) == (2, True)
    assert "bash" not in file.read_text()


async def test_a_mode_is_set_for_a_session_and_outlives_the_daemon(home: Home) -> None:
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        info = await client.call("session/get_or_create", agent="crab")
        await client.call("session/send", session=info["id"], content="echo hi")
        first = (await client.call("session/get", session=info["id"]))["mode"]
        changed = await crabctl(home, "set", info["id"], "mode=read-only")
        wrong = await crabctl(home, "set", info["id"], "mode=reckless")
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        second = await client.call("session/get", session=info["id"])
        shown = await crabctl(home, "show", info["id"])
        await crabctl(home, "set", info["id"], "mode=")
        third = await client.call("session/get", session=info["id"])

    assert (info["mode"], first) == (None, "ask")
    assert (second["mode"], second["info"]["mode"]) == ("read-only", "read-only")
    assert (third["mode"], third["info"]["mode"]) == ("ask", None)
    assert (changed.returncode, wrong.returncode) == (0, 2)
    assert b"read-only" in shown.stdout


async def test_a_session_has_rules_of_its_own_that_are_checked(home: Home, daemon: Daemon) -> None:
    client = await daemon.connect()
    session = (await client.call("session/get_or_create", agent="crab"))["id"]

    await client.call("session/configure", session=session, permissions={"allow": ["bash(make *)"]})
    with pytest.raises(WireError) as caught:
        await client.call("session/configure", session=session, permissions={"deny": ["bsh"]})

    assert await rules_of(client, session) == [("allow", "bash(make *)")]
    assert await rules_of(client) == []
    assert (caught.value.code, caught.value.data["path"]) == (-32602, "$.permissions.deny[0]")
    await client.call("session/configure", session=session, permissions=None)
    assert await rules_of(client, session) == []


async def test_a_wrong_rule_in_a_file_is_told_on_reload_and_the_old_ones_hold(
    home: Home, daemon: Daemon
) -> None:
    client = await daemon.connect()
    await client.call("permission/set", rule="bash(rm *)", decision="deny")
    (home.config / "permissions.toml").write_text('deny = ["bash(rm *"]\n')

    reloaded = await client.call("daemon/reload")

    assert [problem for problem in reloaded["problems"] if "rule 1 of deny" in problem]
    assert await rules_of(client) == [("deny", "bash(rm *)")]


async def test_how_long_a_question_waits_is_as_the_last_reload_found_it(home: Home, daemon: Daemon) -> None:
    client = await daemon.connect()
    session = (await client.call("session/get_or_create", agent="crab"))["id"]
    await client.call("session/configure", session=session, cwd=str(home.directory))
    home.configure("[permissions]\nanswer_within = 0.1\n")

    await client.call("daemon/reload")
    await client.call("session/subscribe", session=session)
    sent = await client.call("session/send", session=session, content='call bash {"command": "make"}')

    assert "nobody answered within 0.1 seconds" in sent["text"]


async def test_rules_a_person_writes_hold_after_a_reload(home: Home, daemon: Daemon) -> None:
    client = await daemon.connect()
    home.configure('[permissions]\nask = ["bash(git push *)"]\n')

    await client.call("daemon/reload")

    assert await rules_of(client) == [("ask", "bash(git push *)")]
