"""The ways in which servers are spoken to, a class each: where to post, how to spell, how to read. Pure.

A dialect belongs to one server, and remembers what that server has refused, to leave it out afterwards. When
something goes over the wire is not its business.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from msgspec import structs

from crabd.messages import Message, UserMessage, has_pictures, without_pictures
from crabd.providers import (
    anthropic_answer,
    anthropic_wire,
    openai_answer,
    openai_wire,
    responses_answer,
    responses_wire,
)
from crabd.providers.answer import Decoder
from crabd.providers.base import ModelInfo, ModelRequest
from crabd.providers.facts import ModelFacts
from crabd.providers.presets import Kind

# A version of the API, not of the models; it has everything that is asked for here, at every server.
_ANTHROPIC_VERSION = "2023-06-01"

# An extra of every dialect: a history may show pictures to a model of which nobody knew that it takes none.
# What is wrong with one picture is said in other words, and costs no model its sight.
_PICTURES = "pictures"
_NO_PICTURES = (
    r"(image|vision).*\b(not|only) (supported|enabled)|not (support|a)\b.*(image|vision|multimodal)"
    r"|unknown variant .?image|at most 0 image|content must be a string"
)


class Dialect(ABC):
    """How one kind of server is spoken to, and whether it is asked for streams.

    Paths are below the server's ``base_url``.
    """

    path: ClassVar[str]
    models_path: ClassVar[str] = "/models"
    # What can be done without, and the words of a refusal that tell it must be: the first that fits goes.
    extras: ClassVar[dict[str, str]]

    def __init__(self, provider: str, *, is_streamed: bool = True) -> None:
        self.provider = provider
        self.is_streamed = is_streamed
        self._refused: set[tuple[str, str]] = set()

    def headers(self, key: str | None) -> dict[str, str]:
        """Make the headers that every request has."""
        return {"authorization": f"Bearer {key}"} if key else {}

    def to_wire(self, request: ModelRequest, facts: ModelFacts) -> bytes:
        """Encode a request, with words in the place of pictures where the model takes none."""
        if facts.images is False or not self._has(_PICTURES, request.model):
            request = structs.replace(request, messages=_in_words(request.messages))
        return self._spell(request, facts)

    @abstractmethod
    def _spell(self, request: ModelRequest, facts: ModelFacts) -> bytes:
        """Encode a request as it is."""

    @abstractmethod
    def decoder(self, model: str, hide: Callable[[bytes], bytes]) -> Decoder:
        """Make what decodes one answer of ``model``, the provider's own name."""

    def read_models(self, body: bytes) -> list[ModelInfo]:
        """Read the answer to ``GET models_path``.

        Raises:
          ProviderError: ``bad_reply``.
        """
        return openai_answer.read_models(self.provider, body)

    def give_up(self, request: ModelRequest, facts: ModelFacts, sent: bytes, problem: str) -> bool:
        """Leave out from now on what the refusal of ``sent`` names.

        Returns whether the request is another one now; if not, the refusal stands.
        """
        if self.to_wire(request, facts) != sent:
            # Another request's refusal has taught it meanwhile.
            return True
        for extra, words in {**self.extras, _PICTURES: _NO_PICTURES}.items():
            if self._has(extra, request.model) and re.search(words, problem, re.IGNORECASE):
                self._refused.add((extra, request.model))
                if self.to_wire(request, facts) != sent:
                    return True
                self._refused.discard((extra, request.model))
        return False

    def _has(self, extra: str, model: str) -> bool:
        return (extra, model) not in self._refused


def _in_words(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return tuple(
        structs.replace(message, content=without_pictures(message.content))
        if isinstance(message, UserMessage) and has_pictures(message.content)
        else message
        for message in messages
    )


class ChatCompletions(Dialect):
    """OpenAI's first API, which the most servers speak."""

    path = "/chat/completions"
    extras: ClassVar = {
        "usage": "stream_options",
        "effort": "reasoning_effort",
        # Some models want to be shown what they thought, and refuse a history without.
        "silence": "reasoning_content",
    }

    def __init__(self, provider: str, *, is_streamed: bool = True) -> None:
        super().__init__(provider, is_streamed=is_streamed)
        self._spelling = openai_wire.Spelling()
        self._with_thinking = openai_wire.Spelling(openai_wire.spell_thinking)

    def _spell(self, request: ModelRequest, facts: ModelFacts) -> bytes:
        model = request.model
        return openai_wire.to_wire(
            request,
            is_streamed=self.is_streamed,
            with_usage=self._has("usage", model),
            with_effort=self._has("effort", model),
            spell=self._speller(model),
        )

    def decoder(self, model: str, hide: Callable[[bytes], bytes]) -> Decoder:
        return openai_answer.AnswerDecoder(self.provider, hide)

    def _speller(self, model: str) -> Callable[[tuple[Message, ...]], bytes]:
        return (self._spelling if self._has("silence", model) else self._with_thinking).spell


class Responses(Dialect):
    """OpenAI's second API, which keeps a model's reasoning from one call to the next."""

    path = "/responses"
    extras: ClassVar = {
        "signatures": r"could not be (verified|decrypted)|invalid_encrypted_content|item .*'?rs_",
        "encrypted": r"include|encrypted",
        "summary": r"summar",
        "effort": r"effort|reasoning",
    }

    def _spell(self, request: ModelRequest, facts: ModelFacts) -> bytes:
        taken = {extra: self._has(extra, request.model) for extra in self.extras}
        return responses_wire.to_wire(
            request,
            provider=self.provider,
            is_streamed=self.is_streamed,
            variant=responses_wire.Variant(**taken),
        )

    def decoder(self, model: str, hide: Callable[[bytes], bytes]) -> Decoder:
        return responses_answer.AnswerDecoder(self.provider, model, hide)


class Messages(Dialect):
    """Anthropic's API."""

    path = "/messages"
    models_path = "/models?limit=1000"
    extras: ClassVar = {
        "signatures": r"signature",
        "adaptive": r"adaptive|thinking|reasoning",
        "budget": r"budget|thinking|reasoning",
        "caching": r"cache_control",
    }

    def headers(self, key: str | None) -> dict[str, str]:
        return {"anthropic-version": _ANTHROPIC_VERSION, **({"x-api-key": key} if key else {})}

    def _spell(self, request: ModelRequest, facts: ModelFacts) -> bytes:
        taken = {extra: self._has(extra, request.model) for extra in self.extras}
        variant = anthropic_wire.Variant(**taken)
        return anthropic_wire.to_wire(
            request,
            provider=self.provider,
            is_streamed=self.is_streamed,
            max_output=facts.max_output,
            variant=variant,
        )

    def decoder(self, model: str, hide: Callable[[bytes], bytes]) -> Decoder:
        return anthropic_answer.AnswerDecoder(self.provider, model, hide)

    def read_models(self, body: bytes) -> list[ModelInfo]:
        return anthropic_answer.read_models(self.provider, body)


DIALECTS: dict[Kind, type[Dialect]] = {
    "openai": ChatCompletions,
    "openai-responses": Responses,
    "anthropic": Messages,
}
