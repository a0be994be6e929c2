"""Which model is asked when nobody says, and what can be asked by name."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeAlias

import pytest
import trio

from crabd.errors import ConfigError, NotFound
from crabd.messages import user_text
from crabd.providers.base import Finished, ModelInfo, ModelRequest
from crabd.providers.facts import ModelFacts, Prices
from crabd.providers.presets import PRESETS
from crabd.providers.registry import Registry
from crabd.providers.settings import ProviderSettings
from tests.model_server import ModelServer
from tests.providers.asking import SECONDS, ask, joined, request_of

# A port of this machine where nobody listens, so that no test meets a real Ollama.
NOBODY = {"OLLAMA_HOST": "127.0.0.1:9"}
GROQ = {"GROQ_API_KEY": "k"}
LOCAL = ProviderSettings(base_url="http://127.0.0.1:8000/v1", model="llama")

Make: TypeAlias = Callable[..., Registry]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Registry] = []

    def make_one(
        providers: Mapping[str, ProviderSettings] | None = None,
        default: str | None = None,
        env: Mapping[str, str] | None = None,
        models: Mapping[str, ModelFacts] | None = None,
    ) -> Registry:
        made.append(Registry(providers or {}, default, {**NOBODY, **(env or {})}, models))
        return made[-1]

    yield make_one
    for registry in made:
        await registry.aclose()


async def detect(registry: Registry) -> None:
    with trio.fail_after(SECONDS):
        await registry.detect()


def ollama_at(server: ModelServer) -> dict[str, str]:
    return {"OLLAMA_HOST": server.url}


@pytest.mark.parametrize(
    ("providers", "default", "env", "chosen", "why"),
    [
        ({"local": LOCAL}, "groq/x", {"OPENAI_API_KEY": "k"}, "groq/x", "`model` in config.toml"),
        ({"local": LOCAL}, "local", {}, "local/llama", "`model` in config.toml"),
        ({"local": LOCAL}, None, {"OPENAI_API_KEY": "k"}, "local/llama", "[providers.local] in config.toml"),
        (
            {"openai": ProviderSettings(api_key_file="k")},
            None,
            {},
            "openai/gpt-5.4-mini",
            "[providers.openai] in",
        ),
        (
            {},
            None,
            {"OPENAI_API_KEY": "k", **GROQ},
            "openai/gpt-5.4-mini",
            "OPENAI_API_KEY is set",
        ),
        ({}, None, {"OPENAI_API_KEY": "k", "OPENAI_MODEL": "m"}, "openai/m", "OPENAI_API_KEY is set"),
        (
            {},
            None,
            {"OPENAI_API_KEY": " ", **GROQ},
            "groq/openai/gpt-oss-20b",
            "GROQ_API_KEY is set",
        ),
        (
            {},
            None,
            {"ANTHROPIC_API_KEY": "k", **GROQ},
            "anthropic/claude-haiku-5-5",
            "ANTHROPIC_API_KEY is set",
        ),
        ({}, None, {"HF_TOKEN": "k"}, "offline/echo", "nothing was found"),
        ({}, None, {"DEEPSEEK_API_KEY": "k"}, "deepseek/deepseek-v4-flash", "DEEPSEEK_API_KEY is set"),
        ({}, None, {}, "offline/echo", "nothing was found"),
    ],
)
async def test_the_default_is_the_first_that_somebody_chose(
    make: Make,
    providers: dict[str, ProviderSettings],
    default: str | None,
    env: dict[str, str],
    chosen: str,
    why: str,
) -> None:
    registry = make(providers, default, env)
    await detect(registry)

    choice = registry.resolve(None)

    assert choice.id == chosen
    assert why in choice.why


async def test_without_anything_the_reason_names_every_place_that_was_looked_at(
    make: Make,
) -> None:
    why = make().resolve(None).why

    assert all(place in why for place in ("config.toml", "OPENAI_API_KEY", "MISTRAL_API_KEY", "127.0.0.1:9"))


async def test_a_local_ollama_is_found_with_its_first_model_that_talks(
    make: Make, server: ModelServer
) -> None:
    await server.set_models({"id": "nomic-embed-text"}, {"id": "llama3.2"})
    registry = make(env=ollama_at(server))
    await detect(registry)

    choice = registry.resolve(None)

    assert choice.id == "ollama/llama3.2"
    assert "Ollama answers" in choice.why
    assert joined(await ask(choice.provider, request_of("are you there"))) == "are you there"


async def test_an_ollama_without_models_is_no_model(make: Make, server: ModelServer) -> None:
    await server.set_models()
    registry = make(env=ollama_at(server))

    await detect(registry)

    assert registry.resolve(None).id == "offline/echo"


async def test_somebody_else_at_ollamas_port_is_no_ollama(make: Make) -> None:
    async def say_nonsense(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"SSH-2.0-crab\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, say_nonsense, 0)
        registry = make(env={"OLLAMA_HOST": f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"})

        await detect(registry)
        nursery.cancel_scope.cancel()

    assert registry.resolve(None).id == "offline/echo"


async def test_a_model_is_found_by_provider_and_name(make: Make) -> None:
    choice = make({"local": LOCAL}).resolve("openrouter/anthropic/claude-x")

    assert (choice.id, choice.model, choice.provider.name) == (
        "openrouter/anthropic/claude-x",
        "anthropic/claude-x",
        "openrouter",
    )
    assert (choice.context_window, choice.why) == (200_000, "asked for by name")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("acme/x", "add [providers.acme] to config.toml"),
        ("gpt-5", "write provider/model"),
        ("ollama", "write ollama/MODEL"),
        ("openrouter/", ""),
    ],
)
async def test_a_model_that_cannot_be_found_is_explained(make: Make, model: str, words: str) -> None:
    registry = make()

    if not words:
        assert registry.resolve(model).id == "openrouter/openrouter/auto"
        return
    with pytest.raises(NotFound, match="there is no") as caught:
        registry.resolve(model)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "base_url",
    [
        "http://example.com/v1",
        "http://192.168.1.5:8000/v1",
        "ftp://127.0.0.1/v1",
        "https://user:secret@example.com/v1",
        "https://example.com/v1?key=secret",
        "https://",
        "http://127.0.0.1:99999/v1",
        "http://[::1/v1",
        "http://127.0.0.1.example.com/v1",
        "127.0.0.1:8000",
    ],
)
async def test_an_unsafe_address_is_refused(make: Make, base_url: str) -> None:
    with pytest.raises(ConfigError, match="is no address for a conversation") as caught:
        make({"x": ProviderSettings(base_url=base_url)})

    assert "user:secret" not in str(caught.value)


@pytest.mark.parametrize(
    "base_url",
    ["https://example.com/v1/", "http://localhost:1/v1", "http://[::1]:8000", "http://127.0.0.9/v1"],
)
async def test_a_safe_address_is_taken(make: Make, base_url: str) -> None:
    registry = make({"x": ProviderSettings(base_url=base_url)})

    assert repr(registry.resolve("x/y").provider) == f"<ChatCompletions x at {base_url.rstrip('/')}>"


@pytest.mark.parametrize(
    ("providers", "default", "words"),
    [
        ({"acme": ProviderSettings()}, None, "[providers.acme] needs base_url"),
        ({"offline": LOCAL}, None, "this name is taken"),
        ({"a/b": LOCAL}, None, "has no slash"),
        ({}, "acme/x", "there is no provider 'acme'"),
        ({}, "ollama", "there is no model 'ollama'"),
    ],
)
async def test_a_configuration_that_cannot_be_meant_is_refused(
    make: Make, providers: dict[str, ProviderSettings], default: str | None, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(providers, default)

    assert words in str(caught.value)


async def test_a_bad_configuration_leaves_the_old_one(make: Make) -> None:
    registry = make({"local": LOCAL}, "local")

    with pytest.raises(ConfigError):
        registry.configure({}, "acme/x")

    assert registry.resolve(None).id == "local/llama"


async def test_a_new_configuration_leaves_what_streams(make: Make, server: ModelServer) -> None:
    registry = make({"local": ProviderSettings(base_url=server.base_url, model="m")})

    with trio.fail_after(SECONDS):
        async with registry.resolve(None).provider.stream(request_of("one two")) as answer:
            first = await anext(answer)
            registry.configure({}, None)
            rest = [chunk async for chunk in answer]

    assert joined([first, *rest]) == "one two"
    assert registry.resolve(None).id == "offline/echo"


async def test_a_key_of_the_environment_goes_to_its_own_server_only(make: Make, server: ModelServer) -> None:
    elsewhere = ProviderSettings(base_url=server.base_url, model="m")
    registry = make({"openai": elsewhere}, env={"OPENAI_API_KEY": "sk-canary"})

    await ask(registry.resolve(None).provider, request_of("hi"))

    seen = await server.requests(wait=1)
    assert "authorization" not in seen[0].headers


async def test_openai_base_url_moves_openai(make: Make, server: ModelServer) -> None:
    registry = make(env={"OPENAI_API_KEY": "sk-canary", "OPENAI_BASE_URL": f"{server.base_url}/"})

    await ask(registry.resolve(None).provider, request_of("hi"))

    seen = await server.requests(wait=1)
    assert seen[0].headers["authorization"] == "Bearer sk-canary"


async def test_models_of_all_are_listed_and_problems_told(make: Make, server: ModelServer) -> None:
    here = ProviderSettings(base_url=server.base_url, context_window=1000)
    gone = ProviderSettings(base_url="http://127.0.0.1:9/v1")
    registry = make({"gone": gone, "here": here})

    with trio.fail_after(SECONDS):
        models, problems = await registry.list_models()

    assert models == (
        ModelInfo(id="here/test-model", provider="here", context_window=1000),
        ModelInfo(id="offline/echo", provider="offline", context_window=8192),
    )
    assert [problem.split(":")[0] for problem in problems] == ["gone"]


async def test_a_list_is_asked_for_once_a_minute_and_again_after_a_reload(
    make: Make, server: ModelServer
) -> None:
    here = {"here": ProviderSettings(base_url=server.base_url)}
    registry = make(here)

    async def names() -> list[str]:
        with trio.fail_after(SECONDS):
            models, _ = await registry.list_models()
        return [model.id for model in models if model.provider == "here"]

    first = await names()
    await server.set_models({"id": "new"})
    second = await names()
    registry.configure(here, None)
    third = await names()

    assert (first, second, third) == (["here/test-model"], ["here/test-model"], ["here/new"])


async def test_what_a_server_told_is_not_taken_for_another_of_its_name(
    make: Make, server: ModelServer
) -> None:
    registry = make({"here": ProviderSettings(base_url=server.base_url)})
    with trio.fail_after(SECONDS):
        await registry.list_models()

    registry.configure({"here": ProviderSettings(base_url="http://127.0.0.1:9/v1")}, None)

    assert registry.resolve("here/test-model").context_window is None


async def test_a_list_that_has_no_end_is_cut_and_that_is_told(make: Make, server: ModelServer) -> None:
    await server.set_models(*({"id": f"m{number}"} for number in range(2001)))
    registry = make({"here": ProviderSettings(base_url=server.base_url)})

    with trio.fail_after(SECONDS):
        models, problems = await registry.list_models()

    assert sum(model.provider == "here" for model in models) == 2000
    assert problems == ("here: of its 2001 models only 2000 are listed",)


async def test_what_a_server_and_a_person_tell_of_a_model_is_told(make: Make, server: ModelServer) -> None:
    pricing = {"prompt": "0.000001", "completion": "0.000002", "input_cache_read": "0.0000001"}
    router = {"prompt": "-1", "completion": "-1"}
    await server.set_models(
        {"id": "a", "pricing": pricing, "context_length": 9, "top_provider": {"max_completion_tokens": 5}},
        {"id": "b", "pricing": router},
    )
    mine = ModelFacts(context_window=7, prices=Prices(input=0, output=0))
    registry = make({"here": ProviderSettings(base_url=server.base_url)}, models={"here/b": mine})

    with trio.fail_after(SECONDS):
        models, _ = await registry.list_models()

    prices = Prices(input=1, output=2, cache_read=0.1)
    assert models[:2] == (
        ModelInfo(id="here/a", provider="here", context_window=9, max_output=5, prices=prices),
        ModelInfo(id="here/b", provider="here", context_window=7, prices=mine.prices),
    )


async def test_a_call_is_priced_only_at_the_service_that_has_the_price(
    make: Make, server: ModelServer
) -> None:
    model = "openai/gpt-5.4-mini"
    mine = ModelFacts(prices=Prices(input=1, output=1))
    env = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": server.base_url}
    elsewhere, told = make(env=env), make(env=env, models={model: mine})

    costs = [await cost_of(registry, model) for registry in (elsewhere, told)]

    assert costs == [None, 12 / 1e6]


async def cost_of(registry: Registry, model: str) -> float | None:
    choice = registry.resolve(model)
    *_, end = await ask(
        choice.provider, ModelRequest(model=choice.model, system="", messages=(user_text("hi"),))
    )
    assert isinstance(end, Finished)
    return end.usage.cost if end.usage else None


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        ("openai", "Responses"),
        ("anthropic", "Messages"),
        ("groq", "ChatCompletions"),
        ("vllm", "ChatCompletions"),
    ],
)
async def test_a_well_known_server_is_spoken_to_as_it_likes(make: Make, name: str, dialect: str) -> None:
    preset = PRESETS[name]

    provider = make().resolve(f"{name}/x").provider

    assert repr(provider) == f"<{dialect} {name} at {preset.base_url}>"


async def test_a_kind_is_what_the_configuration_says(make: Make) -> None:
    ours = ProviderSettings(kind="anthropic", base_url="http://127.0.0.1:1/v1")
    registry = make({"ours": ours, "openai": ProviderSettings(kind="openai")})

    assert repr(registry.resolve("ours/x").provider) == "<Messages ours at http://127.0.0.1:1/v1>"
    assert (
        repr(registry.resolve("openai/x").provider) == "<ChatCompletions openai at https://api.openai.com/v1>"
    )


@pytest.mark.parametrize("url", ["{}", "{}/", "{}/v1"])
async def test_anthropic_base_url_moves_anthropic(make: Make, server: ModelServer, url: str) -> None:
    registry = make(env={"ANTHROPIC_API_KEY": "sk-canary", "ANTHROPIC_BASE_URL": url.format(server.url)})

    chunks = await ask(registry.resolve(None).provider, request_of("hi"))

    seen = await server.requests(wait=1)
    assert (joined(chunks), seen[0].path, seen[0].headers["x-api-key"]) == ("hi", "/v1/messages", "sk-canary")


async def test_a_model_of_nobody_is_no_model_to_describe(make: Make) -> None:
    with pytest.raises(ConfigError, match="write provider/model"):
        make(models={"gpt-5": ModelFacts()})


async def test_a_window_that_a_server_told_is_remembered(make: Make, server: ModelServer) -> None:
    registry = make({"here": ProviderSettings(base_url=server.base_url)})

    before = registry.resolve("here/test-model").context_window
    with trio.fail_after(SECONDS):
        await registry.list_models()

    assert before is None
    assert registry.resolve("here/test-model").context_window == 32768


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("localhost:1234", "http://localhost:1234/v1"),
        ("[::1]:5", "http://[::1]:5/v1"),
        ("https://ollama.example.com", "https://ollama.example.com:11434/v1"),
    ],
)
async def test_ollama_is_where_its_own_variable_says(make: Make, host: str, url: str) -> None:
    registry = make(env={"OLLAMA_HOST": host})

    assert repr(registry.resolve("ollama/x").provider) == f"<ChatCompletions ollama at {url}>"


@pytest.mark.parametrize("host", ["192.168.1.5", "a:b:c", "http://x:99999"])
async def test_an_ollama_elsewhere_in_clear_text_is_left_alone(make: Make, host: str) -> None:
    registry = make(env={"OLLAMA_HOST": host})
    await detect(registry)

    with pytest.raises(NotFound):
        registry.resolve("ollama/x")
    assert registry.resolve(None).id == "offline/echo"


async def test_the_http_client_is_not_loaded_before_it_is_needed() -> None:
    code = "import sys, crabd.providers.registry; sys.exit('httpx' in sys.modules)"

    with trio.fail_after(SECONDS):
        done = await trio.run_process([sys.executable, "-c", code], check=False)

    assert done.returncode == 0
