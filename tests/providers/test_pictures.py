"""Pictures on their way to a model: how each dialect spells them, and what a model gets that takes none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import ImageBlockParam
from msgspec import structs
from openai.types.chat import ChatCompletionContentPartImageParam
from openai.types.responses import ResponseInputImageParam
from pydantic import TypeAdapter

from crabd.messages import ImageBlock, TextBlock, UserMessage, user_text, words_for
from crabd.providers import anthropic_wire, openai_wire, responses_wire
from crabd.providers.base import ModelRequest
from crabd.providers.facts import UNKNOWN, ModelFacts
from crabd.providers.offline import NOTICE, Offline
from crabd.providers.presets import Kind
from crabd.providers.registry import Registry
from crabd.providers.settings import ProviderSettings
from tests.model_server import ModelServer, refuses, says
from tests.providers.asking import ask, fail, joined, request_of
from tests.providers.conftest import provider_at

PICTURE = ImageBlock("image/png", b"\x89PNG\r\n\x1a\n")
BASE64 = "iVBORw0KGgo="
URL = f"data:image/png;base64,{BASE64}"
SHOWN = UserMessage((TextBlock("what is"), PICTURE, TextBlock("this?")))
REQUEST = ModelRequest(model="test-model", system="", messages=(SHOWN,))


def test_chat_completions_have_a_picture_as_a_part() -> None:
    (message,) = json.loads(openai_wire.to_wire(REQUEST))["messages"]

    picture = {"type": "image_url", "image_url": {"url": URL}}
    assert message == {
        "role": "user",
        "content": [{"type": "text", "text": "what is"}, picture, {"type": "text", "text": "this?"}],
    }
    TypeAdapter(ChatCompletionContentPartImageParam).validate_python(picture)


def test_responses_have_a_picture_as_an_input() -> None:
    (message,) = json.loads(responses_wire.to_wire(REQUEST))["input"]

    picture = {"type": "input_image", "detail": "auto", "image_url": URL}
    assert message == {
        "type": "message",
        "role": "user",
        "content": [
            {"type": "input_text", "text": "what is"},
            picture,
            {"type": "input_text", "text": "this?"},
        ],
    }
    TypeAdapter(ResponseInputImageParam).validate_python(picture)


def test_messages_have_a_picture_as_a_block_and_no_blank_text() -> None:
    shown = UserMessage((TextBlock(" "), PICTURE))
    request = structs.replace(REQUEST, messages=(SHOWN, shown))

    (turn,) = json.loads(anthropic_wire.to_wire(request, variant=anthropic_wire.Variant(caching=False)))[
        "messages"
    ]

    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BASE64}}
    text = [{"type": "text", "text": words} for words in ("what is", "this?")]
    assert turn == {"role": "user", "content": [text[0], picture, text[1], picture]}
    TypeAdapter(ImageBlockParam).validate_python(picture)


def test_a_picture_at_the_end_of_a_turn_is_marked_for_the_cache() -> None:
    request = structs.replace(REQUEST, messages=(UserMessage((PICTURE,)),))

    (turn,) = json.loads(anthropic_wire.to_wire(request))["messages"]

    assert turn["content"][-1]["cache_control"] == {"type": "ephemeral"}


async def sent(server: ModelServer, kind: Kind, facts: ModelFacts) -> str:
    """Show a model a picture and ask something more; returns the body of the request."""
    await server.script(says("fine"))
    provider = provider_at(server.base_url, kind=kind, facts=facts)
    try:
        await ask(provider, structs.replace(REQUEST, messages=(SHOWN, user_text("well?"))))
    finally:
        await provider.aclose()
    body: dict[str, Any] = (await server.requests())[-1].body
    return json.dumps(body)


@pytest.mark.parametrize("kind", ["openai", "openai-responses", "anthropic"])
async def test_a_model_that_takes_no_pictures_gets_words_in_their_place(
    kind: Kind, server: ModelServer
) -> None:
    body = await sent(server, kind, ModelFacts(images=False))

    assert BASE64 not in body
    assert words_for(PICTURE) in body


@pytest.mark.parametrize("facts", [UNKNOWN, ModelFacts(images=True)])
async def test_a_model_of_which_nothing_else_is_known_gets_the_picture(
    facts: ModelFacts, server: ModelServer
) -> None:
    body = await sent(server, "openai", facts)

    assert BASE64 in body
    assert words_for(PICTURE) not in body


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("openai", "Invalid content type. image_url is only supported by certain models."),
        ("openai", "Failed to deserialize: messages[0]: unknown variant `image_url`, expected `text`"),
        ("openai", "test-model is not a multimodal model"),
        ("openai", "messages.0.content must be a string"),
        ("openai-responses", "This model does not support image inputs."),
        ("anthropic", "Image input is not supported by this model"),
    ],
)
async def test_a_picture_that_a_model_refuses_does_not_end_a_session(
    kind: Kind, words: str, server: ModelServer
) -> None:
    provider = provider_at(server.base_url, kind=kind)
    await server.script(refuses(400, words))

    await ask(provider, REQUEST)
    await ask(provider, REQUEST)

    assert [BASE64 in str(seen.body) for seen in await server.requests()] == [True, False, False]
    await provider.aclose()


async def test_a_picture_that_is_too_large_is_told_and_others_are_shown(server: ModelServer) -> None:
    provider = provider_at(server.base_url, kind="anthropic")
    await server.script(refuses(400, "image exceeds 5 MB maximum: 5242884 bytes > 5242880 bytes"))

    error, _ = await fail(provider, REQUEST)
    await ask(provider, REQUEST)

    assert error.status == 400
    assert [BASE64 in str(seen.body) for seen in await server.requests()] == [True, True]
    await provider.aclose()


async def test_a_person_tells_whether_a_model_takes_pictures() -> None:
    registry = Registry(
        {"here": ProviderSettings(base_url="http://127.0.0.1:8000/v1")},
        None,
        {},
        {"here/claude-blind": ModelFacts(images=False), "here/mystery": ModelFacts(images=True)},
    )

    models = ("here/claude-blind", "here/mystery", "here/claude-other", "here/other")
    assert [registry.resolve(model).images for model in models] == [False, True, True, None]
    await registry.aclose()


async def test_the_echo_tells_what_it_was_shown() -> None:
    chunks = await ask(Offline(), structs.replace(request_of(""), messages=(SHOWN,)))

    assert joined(chunks) == f"{NOTICE}\n\nYou showed {words_for(PICTURE)}\nYou said: what isthis?"
