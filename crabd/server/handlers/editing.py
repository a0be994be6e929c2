"""Handlers of what changes a session's course."""

from __future__ import annotations

from typing import Literal

from msgspec import structs

from crabd.api import editing as api
from crabd.api.sessions import OfSession
from crabd.runtime.files import Diff
from crabd.server.caller import Caller


def list_queue(caller: Caller, params: OfSession) -> api.Queue:
    return api.Queue(params.session, caller.runtime.sessions.snapshot(params.session).queue)


async def remove_queued(caller: Caller, params: api.Remove) -> api.Removed:
    session = await caller.runtime.sessions.load(params.session)
    await caller.runtime.remove_queued(session, params.run)
    return api.Removed(params.run)


async def fork(caller: Caller, params: api.Fork) -> api.Forked:
    info, at = await caller.runtime.edits.fork(params.session, params.at, params.request_key)
    return api.Forked(**structs.asdict(info), at=at)


async def rewind(caller: Caller, params: api.Rewind) -> api.Rewound:
    session = await caller.runtime.sessions.load(params.session)
    done, files = await caller.runtime.edits.rewind(
        session, params.step, restore_files=params.restore_files, force=params.force
    )
    told = tuple(api.RewoundFile(f.plan.path, f.plan.action, f.is_done, f.plan.problem) for f in files)
    return api.Rewound(done.step, done.messages, done.text, told)


async def diff(caller: Caller, params: OfSession) -> api.Diffs:
    diffs, is_cut = await caller.runtime.edits.diff(params.session)
    return api.Diffs(params.session, tuple(map(_describe, diffs)), is_cut)


def _describe(diff: Diff) -> api.DiffFile:
    change: Literal["added", "changed", "removed"] = (
        "added" if diff.before is None else "changed" if diff.now is not None or diff.problem else "removed"
    )
    return api.DiffFile(diff.path, change, diff.text, diff.problem)
