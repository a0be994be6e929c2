"""crabd behind LiteLLM's proxy: our three dialects, translated by somebody else to one and back."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import trio
from msgspec import structs

from crabd.errors import ProviderError
from crabd.messages import (
    AssistantMessage,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolMessage,
    text_of,
    user_text,
)
from crabd.providers.base import ModelRequest, Provider
from crabd.providers.presets import Kind
from crabd.runtime.reply import Reply
from tests.e2e.daemon import Home, start_daemon
from tests.e2e.foreign import free_port, run_server
from tests.model_server import Call, Gate, ModelServer, Raw, Think, refuses, says
from tests.model_server import Reply as Answer
from tests.providers.asking import READ
from tests.providers.conftest import provider_at

ANSWERS_WITHIN = 60
KEY = "sk-0123456789abcdefghijklmnopqrstuvwxyzABCDEF"

pytestmark = pytest.mark.skipif(
    shutil.which("litellm") is None, reason="LiteLLM's proxy (litellm[proxy], 700 MB) is not on the PATH"
)
KINDS: list[Kind] = ["openai", "openai-responses", "anthropic"]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """Run the scripted model server, of which one serves all tests, as of the proxy."""
    port = free_port()
    command = [sys.executable, "-m", "tests.model_server", "--port", str(port)]
    with run_server(command, port, tmp_path_factory.mktemp("upstream"), health="/requests") as url:
        yield ModelServer(url)


@pytest.fixture(scope="module")
def proxy(upstream: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run LiteLLM's proxy before the model server, and give its base_url: it takes half a minute to load."""
    folder, port = tmp_path_factory.mktemp("litellm"), free_port()
    config = folder / "litellm.yaml"
    # A provider of which it knows chat completions alone, so that it has to translate.
    model = f'model: groq/m, api_base: "{upstream.base_url}", api_key: unused'
    config.write_text(
        f"model_list: [{{model_name: m, litellm_params: {{{model}}}}}]\n"
        f"general_settings: {{master_key: {KEY}}}\n"
        "litellm_settings: {num_retries: 0}\n"
        "router_settings: {num_retries: 0, disable_cooldowns: true}\n"
    )
    command = ["litellm", "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    # Else it looks for a list of prices on the network.
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with run_server(command, port, folder, health="/health/liveliness", **offline) as url:
        yield f"{url}/v1"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    dialect: Kind = request.param
    return dialect


@pytest.fixture
async def provider(proxy: str, kind: Kind) -> AsyncIterator[Provider]:
    provider = provider_at(proxy, key=KEY, kind=kind)
    yield provider
    await provider.aclose()


async def answer(provider: Provider, *history: Message, reply: Reply | None = None) -> Reply:
    """Ask, and put what comes together in ``reply``, also when the answer fails."""
    request = ModelRequest(model="m", system="Be brief.", messages=history, tools=(READ,), thinking=True)
    reply = reply or Reply()
    with trio.fail_after(ANSWERS_WITHIN):
        async with provider.stream(request) as chunks:
            async for chunk in chunks:
                reply.receive(chunk)
    return reply


def message_of(reply: Reply) -> AssistantMessage:
    return reply.message("test/m", with_calls=True)


async def test_a_round_with_calls_goes_through_and_back(upstream: ModelServer, provider: Provider) -> None:
    question = user_text("What is in x and y?")
    calls = tuple(ToolCall(path, "read", f'{{"path":"{path}"}}') for path in "xy")
    said = [Call(call.name, call.arguments, call.id, index) for index, call in enumerate(calls)]
    await upstream.script(structs.replace(says(Think("hm"), "I look.", *said), usage=(70, 50)), says("it"))

    first = await answer(provider, question)
    results = ToolMessage("x", "read", "it", "ok"), ToolMessage("y", "read", "there is none", "error")
    second = await answer(provider, question, message_of(first), *results)

    asked = (await upstream.requests())[-1].body["messages"]
    assert message_of(first).content == (ThinkingBlock("hm"), TextBlock("I look."), *calls)
    assert first.finish
    assert first.finish.reason == "tool_calls"
    assert first.finish.usage
    assert (first.finish.usage.input_tokens, first.finish.usage.output_tokens) == (70, 50)
    assert text_of(message_of(second)) == "it"
    assert [turn["role"] for turn in asked] == ["system", "user", "assistant", "tool", "tool"]
    assert [turn["content"] for turn in asked[3:]] == ["it", "[error] there is none"]


async def test_an_answer_may_be_asked_for_whole(upstream: ModelServer, proxy: str, kind: Kind) -> None:
    provider = provider_at(proxy, key=KEY, kind=kind, is_streamed=False)
    await upstream.script(structs.replace(says("I look.", Call("read", '{"path":"x"}', "a")), usage=(70, 50)))

    reply = await answer(provider, user_text("What is in x?"))

    await provider.aclose()
    assert message_of(reply).content == (TextBlock("I look."), ToolCall("a", "read", '{"path":"x"}'))
    assert reply.finish
    assert reply.finish.usage
    assert (reply.finish.usage.input_tokens, reply.finish.usage.output_tokens) == (70, 50)


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (refuses(400, "This model's maximum context length is 8192 tokens."), ("context_too_long", 400)),
        (refuses(401, "Who are you?"), ("auth", 401)),
        (refuses(404, "There is no m."), ("bad_reply", 404)),
    ],
    ids=["too long", "unknown", "not there"],
)
async def test_a_refusal_from_behind_it_is_typed(
    upstream: ModelServer, provider: Provider, refusal: Answer, expected: tuple[str, int]
) -> None:
    await upstream.script(refusal)

    with pytest.raises(ProviderError) as refused:
        await answer(provider, user_text("hi"))

    assert (refused.value.kind, refused.value.status) == expected


async def test_an_error_in_mid_stream_leaves_what_was_said(upstream: ModelServer, provider: Provider) -> None:
    fault = b'data: {"error":{"message":"Overloaded","type":"server_error","code":503}}\n\n'
    await upstream.script(says("half", Raw(fault)))
    reply = Reply()

    with pytest.raises(ProviderError) as failed:
        await answer(provider, user_text("hi"), reply=reply)

    assert (text_of(message_of(reply)), failed.value.kind) == ("half", "unavailable")
    assert "Overloaded" in str(failed.value)


async def test_a_key_that_it_does_not_know_is_told_as_such(proxy: str, kind: Kind) -> None:
    provider = provider_at(proxy, key="sk-another", kind=kind)

    with pytest.raises(ProviderError) as refused:
        await answer(provider, user_text("hi"))

    await provider.aclose()
    assert refused.value.kind == "auth"
    assert str(refused.value).endswith("(the API key is from TEST_KEY)")


async def test_a_daemon_is_answered_and_told_the_usage(
    home: Home, upstream: ModelServer, proxy: str, kind: Kind
) -> None:
    configure(home, proxy, kind)
    await upstream.script(structs.replace(says("Hel", "lo"), usage=(70, 50)))
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        session = (await client.call("session/get_or_create", agent="crab"))["id"]

        models = (await client.call("model/list"))["models"]
        result = await client.call("session/send", session=session, content="Hi")

        usage = (await client.call("session/usage", session=session))["usage"]["total"]
        assert "proxy/m" in [model["id"] for model in models]
        assert (result["text"], result["stop_reason"]) == ("Hello", "end_turn")
        assert (usage["input_tokens"], usage["output_tokens"]) == (70, 50)


async def test_a_cancel_in_mid_stream_hangs_up_on_the_model_behind_it(
    home: Home, upstream: ModelServer, proxy: str, kind: Kind
) -> None:
    configure(home, proxy, kind)
    before = len(await upstream.requests())
    # Of the latest words it keeps some back.
    await upstream.script(says("half", " an", " answer", Gate("never")))
    async with start_daemon(home) as daemon:
        client = await daemon.connect()
        session = (await client.call("session/get_or_create", agent="crab"))["id"]
        await client.call("session/subscribe", session=session)
        running = await client.ask("session/send", session=session, content="go")
        await client.event("text_delta")

        await client.call("session/cancel", session=session)
        result = await client.answer(running)

        requests = await upstream.requests(settled=before + 1)
        assert result["stop_reason"] == "cancelled"
        assert result["text"].startswith("half")
        assert requests[-1].hung_up


def configure(home: Home, proxy: str, kind: Kind) -> None:
    """Have the daemon ask the proxy, with a key from a file."""
    key = home.directory / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    home.configure(
        f'model = "proxy/m"\ntitles = false\n[providers.proxy]\nkind = "{kind}"\nbase_url = "{proxy}"\n'
        f'api_key_file = "{key}"\n'
    )
