"""A model server on loopback, and the provider that asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from crabd.providers.dialects import DIALECTS
from crabd.providers.facts import UNKNOWN, ModelFacts
from crabd.providers.http import Http
from crabd.providers.keys import ApiKey
from crabd.providers.presets import Kind
from crabd.providers.server import Server
from crabd.providers.settings import Deadlines
from tests.model_server import ModelServer, open_model_server

KEY = "sk-canary-0123456789"


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with open_model_server() as server:
        yield server


@pytest.fixture
async def openai(server: ModelServer) -> AsyncIterator[Server]:
    provider = provider_at(server.base_url)
    yield provider
    await provider.aclose()


def provider_at(
    base_url: str,
    *,
    key: str = KEY,
    deadlines: Deadlines | None = None,
    kind: Kind = "openai",
    facts: ModelFacts = UNKNOWN,
    is_streamed: bool = True,
) -> Server:
    """Make a provider named ``test`` that takes its key from ``TEST_KEY``."""
    source = ApiKey("test", variable="TEST_KEY", env={"TEST_KEY": key})
    http = Http(deadlines or Deadlines())
    return Server(
        DIALECTS[kind]("test", is_streamed=is_streamed), base_url, source, http, facts=lambda model: facts
    )
