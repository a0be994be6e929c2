"""The errors of the OpenRPC document, as the real daemon gives them to each method that is said to."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.daemon import Client, Daemon, WireError

SESSION = "crab_user_1"
FILE = "/nowhere/AGENTS.md"
# What is asked, in this order, and the error of the document that answers it; with null it is no error.
ASKED: list[tuple[str, dict[str, Any], str | None]] = [
    ("session/get", {"session": SESSION}, "NotFound"),
    ("session/get_or_create", {"agent": "nobody"}, "NotFound"),
    ("session/get_or_create", {"agent": "crab"}, None),
    ("session/send", {"session": SESSION, "content": "echo hi", "sesion": 1}, "InvalidParams"),
    ("session/subscribe", {}, "InvalidParams"),
    ("session/steer", {"session": SESSION, "content": "hi"}, "NoRun"),
    ("session/cancel", {"session": SESSION}, "NoRun"),
    ("session/compact", {"session": SESSION}, "NothingToCompact"),
    ("session/send", {"session": SESSION, "content": "echo a", "request_key": "k"}, None),
    ("session/send", {"session": SESSION, "content": "echo b", "request_key": "k"}, "RequestKeyReused"),
    ("session/delete", {"session": SESSION, "request_key": "k"}, "RequestKeyReused"),
    ("session/pause", {"session": SESSION}, None),
    ("session/send", {"session": SESSION, "content": "echo hi"}, "SessionPaused"),
    ("session/resume", {"session": SESSION}, None),
    ("trust/add", {"files": {FILE: "0"}}, "TrustStale"),
    ("session/configure", {"session": SESSION, "budget": {"rounds": 1}}, None),
    ("session/send", {"session": SESSION, "content": "echo hi"}, "BudgetSpent"),
    ("session/configure", {"session": SESSION, "budget": None}, None),
    ("session/send", {"session": SESSION, "content": "slow 1000 50", "wait": False}, None),
    ("session/send", {"session": SESSION, "content": "echo hi", "when_busy": "reject"}, "SessionBusy"),
    ("session/compact", {"session": SESSION}, "SessionBusy"),
    ("session/close", {"session": SESSION}, "SessionBusy"),
    ("session/rewind", {"session": SESSION}, "SessionBusy"),
    ("session/clear", {"session": SESSION}, "SessionBusy"),
    ("session/steer", {"session": SESSION, "content": "go on", "request_key": "k"}, "RequestKeyReused"),
    *[("session/steer", {"session": SESSION, "content": "go on"}, None)] * 16,
    ("session/steer", {"session": SESSION, "content": "go on"}, "QueueFull"),
    ("session/cancel", {"session": SESSION}, None),
]


async def fail(client: Client, method: str, params: dict[str, Any]) -> WireError | None:
    try:
        await client.call(method, **params)
    except WireError as exc:
        return exc
    return None


async def test_a_method_gives_the_errors_that_the_document_says_it_does(daemon: Daemon) -> None:
    client = await daemon.connect()
    document = await client.call("rpc.discover")
    errors = document["components"]["errors"]
    said = {
        method["name"]: {error["$ref"].rpartition("/")[2] for error in method["errors"]}
        for method in document["methods"]
    }

    for method, params, name in ASKED:
        failed = await fail(client, method, params)

        if name is None or failed is None:
            assert (name, failed) == (None, None), (method, params)
            continue
        assert name in said[method]
        assert failed.code == errors[name]["code"], (method, failed.message)
        assert failed.data["kind"] == errors[name]["data"]["kind"]
        assert failed.data.keys() == errors[name]["data"].keys() | failed.data.keys() & {"hint", "run"}


async def test_who_answers_too_late_is_told_what_the_document_says(daemon: Daemon) -> None:
    client = await daemon.connect()
    document = await client.call("rpc.discover")
    await client.call("session/get_or_create", agent="crab", cwd=str(daemon.home.directory))
    await client.call("session/subscribe", session=SESSION)
    await client.ask("session/send", session=SESSION, content='call bash {"command": "touch it"}')
    asked = (await client.event("confirmation_requested"))["confirmation"]
    reply = {"session": SESSION, "call": asked["call"], "id": asked["id"], "decision": "deny"}
    await client.call("confirmation/reply", **reply)

    with pytest.raises(WireError) as late:
        await client.call("confirmation/reply", **reply)

    example = document["components"]["errors"]["AlreadyAnswered"]
    assert (late.value.code, late.value.data.keys()) == (example["code"], example["data"].keys())
    assert late.value.data["kind"] == example["data"]["kind"]
