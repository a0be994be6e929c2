"""Handlers of what changes a session's course."""

from __future__ import annotations

from msgspec import structs

from crabd.api import editing as api
from crabd.api.sessions import OfSession
from crabd.server.caller import Caller


def list_queue(caller: Caller, params: OfSession) -> api.Queue:
    return api.Queue(params.session, caller.runtime.sessions.snapshot(params.session).queue)


async def remove_queued(caller: Caller, params: api.Remove) -> api.Removed:
    session = await caller.runtime.sessions.load(params.session)
    await caller.runtime.remove_queued(session, params.run)
    return api.Removed(params.run)


async def fork(caller: Caller, params: api.Fork) -> api.Forked:
    info, at = await caller.runtime.fork(params.session, params.at)
    return api.Forked(**structs.asdict(info), at=at)


async def rewind(caller: Caller, params: api.Rewind) -> api.Rewound:
    session = await caller.runtime.sessions.load(params.session)
    done = await caller.runtime.rewind(session, params.step)
    return api.Rewound(done.step, done.messages, done.text)
