"""Our three dialects against a server that is not ours: LiteLLM's proxy, which translates between them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from crabd.messages import AssistantMessage, Message, ToolCall, ToolMessage, text_of, tool_calls_of, user_text
from crabd.providers.base import ModelRequest, Provider
from crabd.providers.presets import Kind
from crabd.runtime.reply import Reply
from tests.model_server import Call, Think, open_model_server, says
from tests.providers.asking import READ
from tests.providers.conftest import provider_at

# The proxy takes half a minute to load.
STARTS_WITHIN = 120
ANSWERS_WITHIN = 60
KEY = "sk-0123456789abcdefghijklmnopqrstuvwxyzABCDEF"
KINDS: tuple[Kind, ...] = ("openai", "openai-responses", "anthropic")

pytestmark = pytest.mark.skipif(
    shutil.which("litellm") is None, reason="LiteLLM's proxy (litellm[proxy], 740 MB) is not on the PATH"
)


@asynccontextmanager
async def start_proxy(folder: Path, upstream: str) -> AsyncGenerator[str]:
    """Run a proxy before a model server, and give its base_url. It ends with the context."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    config = folder / "litellm.yaml"
    # A provider of which it knows chat completions alone, so that it has to translate.
    config.write_text(
        "model_list:\n"
        f'  - {{model_name: m, litellm_params: {{model: groq/m, api_base: "{upstream}", api_key: unused}}}}\n'
        f"general_settings: {{master_key: {KEY}}}\n"
    )
    command = ["litellm", "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "HOME": str(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    quietly = partial(
        trio.run_process, command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(quietly)
        with trio.fail_after(STARTS_WITHIN):
            await wait_for(port)
        yield f"http://127.0.0.1:{port}/v1"
        nursery.cancel_scope.cancel()


async def wait_for(port: int) -> None:
    """Knock until somebody opens."""
    while True:
        try:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
        except OSError:
            await trio.sleep(0.2)
        else:
            return


async def answer(provider: Provider, *history: Message) -> AssistantMessage:
    request = ModelRequest(model="m", system="Be brief.", messages=history, tools=(READ,), thinking=True)
    reply = Reply()
    with trio.fail_after(ANSWERS_WITHIN):
        async with provider.stream(request) as chunks:
            async for chunk in chunks:
                reply.receive(chunk)
    return reply.message("test/m", with_calls=True)


async def test_a_round_with_tools_goes_through_a_proxy_in_every_dialect(tmp_path: Path) -> None:
    call = ToolCall("a", "read", '{"path":"x"}')
    question = user_text("What is in x?")

    async with open_model_server() as server, start_proxy(tmp_path, server.base_url) as url:
        for kind in KINDS:
            await server.script(
                says(Think("hm"), "I look.", Call(call.name, call.arguments, call.id)), says("found it")
            )
            provider = provider_at(url, key=KEY, kind=kind)

            first = await answer(provider, question)
            second = await answer(provider, question, first, ToolMessage("a", "read", "it", "ok"))

            upstream = (await server.requests())[-1].body["messages"]
            assert (kind, text_of(first), tool_calls_of(first)) == (kind, "I look.", (call,))
            assert (kind, text_of(second)) == (kind, "found it")
            assert [turn["role"] for turn in upstream] == ["system", "user", "assistant", "tool"]
            await provider.aclose()
