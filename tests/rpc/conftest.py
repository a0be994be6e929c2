"""What every link needs."""

from __future__ import annotations

import pytest
import trio

from crabd.rpc.reactor import Reactor


@pytest.fixture
async def reactor(nursery: trio.Nursery) -> Reactor:
    """Watch sockets until the test is over."""
    reactor = Reactor()
    nursery.start_soon(reactor.run)
    return reactor
