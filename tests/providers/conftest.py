"""A model server on loopback, and the provider that asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from crabd.providers.http import Deadlines, Http
from crabd.providers.keys import ApiKey
from crabd.providers.openai import OpenAI
from tests.model_server import ModelServer, open_model_server

KEY = "sk-canary-0123456789"


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with open_model_server() as server:
        yield server


@pytest.fixture
async def openai(server: ModelServer) -> AsyncIterator[OpenAI]:
    provider = provider_at(server.base_url)
    yield provider
    await provider.aclose()


def provider_at(base_url: str, *, key: str = KEY, deadlines: Deadlines | None = None) -> OpenAI:
    """Make a provider named ``test`` that takes its key from ``TEST_KEY``."""
    source = ApiKey("test", variable="TEST_KEY", env={"TEST_KEY": key})
    return OpenAI("test", base_url, source, Http(deadlines or Deadlines()))
