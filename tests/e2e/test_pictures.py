"""Pictures the whole way: from a client through the daemon to a model server, or not."""

from __future__ import annotations

import pytest

from tests.e2e.daemon import Client, Daemon, Home, WireError, start_daemon
from tests.model_server import Gate, ModelServer, says

BASE64 = "iVBORw0KGgo="
SHOWN = [
    {"type": "text", "text": "what is this?"},
    {"type": "image", "media_type": "image/png", "data": BASE64},
]
BLIND = '[models."test/m"]\nimages = false\n'


async def begin(daemon: Daemon) -> tuple[Client, str]:
    client = await daemon.connect()
    session = (await client.call("session/get_or_create", agent="crab"))["id"]
    await client.call("session/subscribe", session=session)
    return client, session


async def test_a_picture_reaches_the_model_as_the_client_has_sent_it(home: Home, models: ModelServer) -> None:
    home.use_model_server(models.base_url)
    await models.script(says("a crab"))
    async with start_daemon(home) as daemon:
        client, session = await begin(daemon)

        result = await client.call("session/send", session=session, content=SHOWN)

        (request,) = await models.requests()
        assert result["text"] == "a crab"
        assert request.body["messages"][-1]["content"] == [
            {"type": "text", "text": "what is this?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BASE64}"}},
        ]


async def test_a_model_that_is_said_to_take_no_pictures_is_neither_asked_nor_steered_with_one(
    home: Home, models: ModelServer
) -> None:
    home.use_model_server(models.base_url)
    home.configure((home.config / "config.toml").read_text() + BLIND)
    await models.script(says("thinking", Gate("a")))
    async with start_daemon(home) as daemon:
        client, session = await begin(daemon)

        with pytest.raises(WireError) as unsent:
            await client.call("session/send", session=session, content=SHOWN)
        running = await client.ask("session/send", session=session, content="go")
        await client.event("text_delta")
        with pytest.raises(WireError) as unsteered:
            await client.call("session/steer", session=session, content=SHOWN)
        await models.open_gate("a")
        await client.answer(running)

        for error in (unsent.value, unsteered.value):
            assert (error.code, error.data["path"]) == (-32602, "$.content")
            assert "test/m takes no pictures" in error.message
        assert len(await models.requests()) == 1
