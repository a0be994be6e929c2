"""Handlers of what a person trusts."""

from __future__ import annotations

from crabd.api import trust as api
from crabd.api.daemon import NoParams
from crabd.server.caller import Caller


async def list_trusted(caller: Caller, _params: NoParams) -> api.TrustedFiles:
    return api.TrustedFiles(await caller.runtime.trust.trusted())


async def add(caller: Caller, params: api.Directory) -> api.TrustedFiles:
    return api.TrustedFiles(await caller.runtime.trust.add(params.path))


async def remove(caller: Caller, params: api.Directory) -> api.TrustedFiles:
    return api.TrustedFiles(await caller.runtime.trust.remove(params.path))
