"""A new user for each test, and a model server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, Home, start_daemon
from tests.model_server import ModelServer, start_model_server


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
async def daemon(home: Home) -> AsyncIterator[Daemon]:
    async with start_daemon(home) as running:
        yield running


@pytest.fixture
async def models() -> AsyncIterator[ModelServer]:
    async with start_model_server() as server:
        yield server
