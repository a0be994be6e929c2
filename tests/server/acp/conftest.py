"""What every link needs."""

from __future__ import annotations

from tests.rpc.conftest import reactor

__all__ = ["reactor"]
