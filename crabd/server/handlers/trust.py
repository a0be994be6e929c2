"""Handlers of what a person trusts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from msgspec import structs

from crabd.api import trust as api
from crabd.events import ProjectFile
from crabd.runtime.agents import Agent
from crabd.server.caller import Caller


async def list_files(caller: Caller, params: api.TrustList) -> api.TrustFiles:
    trust, own = caller.runtime.trust, caller.runtime.agents.by_name
    files = await (trust.trusted() if params.path is None else trust.look(params.path))
    return api.TrustFiles(tuple(_warn(file, own) for file in files))


async def add(caller: Caller, params: api.TrustAdd) -> api.TrustFiles:
    added = await caller.runtime.trust.add(params.files)
    await caller.runtime.sessions.refresh_projects()
    return api.TrustFiles(added)


async def remove(caller: Caller, params: api.TrustRemove) -> api.TrustFiles:
    removed = await caller.runtime.trust.remove(params.path)
    await caller.runtime.sessions.refresh_projects()
    return api.TrustFiles(removed)


def _warn(file: ProjectFile, own: Mapping[str, Agent]) -> ProjectFile:
    """Say of an agent that the person has one of that name, which is the one that is used."""
    name = PurePosixPath(file.path).stem
    if file.kind != "agent" or name not in own:
        return file
    return structs.replace(file, about=f"not used, for you have an agent {name}. {file.about}")
