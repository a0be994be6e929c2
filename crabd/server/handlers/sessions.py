"""Handlers of the session core and of session management."""

from __future__ import annotations

from collections.abc import Awaitable

import trio
from msgspec import UNSET, UnsetType, structs

from crabd.api import sessions as api
from crabd.errors import NoRun, RequestCancelled, StoreError
from crabd.events import Budget, RuleLists, SessionInfo, Snapshot
from crabd.messages import TextBlock, UserBlock
from crabd.runtime.history import Page, StoredMessage, Wanted, find_page
from crabd.runtime.intake import admit_steer, confirm, confirm_steer
from crabd.runtime.permissions.rulebook import checked
from crabd.runtime.router import Identity
from crabd.runtime.session import Session
from crabd.runtime.ticket import Admission, Outcome, Steering, Ticket
from crabd.server.caller import Caller
from crabd.server.line import Place

# Far longer than any log takes to read: whoever waits longer has a disk in trouble.
LOADING_SECONDS = 30.0


def get_or_create(caller: Caller, params: api.GetOrCreate) -> api.GotOrCreated | Awaitable[api.GotOrCreated]:
    identity = Identity(params.agent, params.sender, params.ephemeral)
    active = caller.runtime.sessions.find_active(identity, params.topic)
    if active is not None and params.request_key is None:
        return _got(caller, active, False)
    return _get_or_create(caller, identity, params)


async def _get_or_create(caller: Caller, identity: Identity, params: api.GetOrCreate) -> api.GotOrCreated:
    session, is_new = await caller.runtime.get_or_create(
        identity,
        topic=params.topic,
        description=params.description,
        cwd=params.cwd,
        request_key=params.request_key,
    )
    return _got(caller, session, is_new)


def _got(caller: Caller, session: Session, is_new: bool) -> api.GotOrCreated:
    return api.GotOrCreated(**structs.asdict(caller.runtime.sessions.info(session)), created=is_new)


async def load(caller: Caller, params: api.OfSession) -> SessionInfo:
    return caller.runtime.sessions.info(await caller.runtime.sessions.load(params.session))


def send(caller: Caller, params: api.Send) -> Awaitable[api.RunResult | api.Accepted]:
    live = caller.runtime.sessions.find_live(params.session)
    if live is not None and live.knows(params.request_key) and caller.line.is_empty(params.session):
        return _send(caller, live, params)
    return _load_and_send(caller, params, caller.line.take_place(params.session))


async def _load_and_send(caller: Caller, params: api.Send, place: Place) -> api.RunResult | api.Accepted:
    try:
        # Whoever sent it may be gone before the session is there. It counts all the same, as it would if the
        # session had been live: which ones are is not for clients to notice.
        with trio.fail_after(LOADING_SECONDS, shield=True):
            async with place.turn():
                session = await caller.runtime.sessions.load(params.session, params.request_key)
                sending = _send(caller, session, params)
    except trio.TooSlowError:
        problem = f"it was not loaded within {LOADING_SECONDS:g} s: check the disk, then send again"
        raise StoreError("io", problem, session=params.session) from None
    return await sending


def _send(caller: Caller, session: Session, params: api.Send) -> Awaitable[api.RunResult | api.Accepted]:
    """Admit at once, so that what a client sends in one go keeps its order; wait in the returned task."""

    def follow(ticket: Ticket) -> None:
        if params.wait and params.events:
            session.topic.follow(caller.subscriber, ticket.run)

    admission = caller.runtime.admit(
        session,
        _blocks(params.content),
        request_key=params.request_key,
        when_busy=params.when_busy,
        tool_choice=params.tool_choice,
        guest=params.guest or "",
        allow=params.allow,
        on_ticket=follow,
    )
    return _finish_send(caller, session, admission, params)


async def _finish_send(
    caller: Caller, session: Session, admission: Admission, params: api.Send
) -> api.RunResult | api.Accepted:
    ticket = admission.ticket
    try:
        await confirm(session, admission)
        if not params.wait:
            return api.Accepted(ticket.run, ticket.first_seq, admission.disposition)
        await ticket.settled.wait()
    finally:
        # One that did not follow must not end it for another request of the same client.
        if params.wait and params.events:
            session.topic.unfollow(caller.subscriber, ticket.run)
    assert ticket.outcome is not None, "a ticket settles with its outcome"
    return _result(ticket.outcome)


def _result(outcome: Outcome) -> api.RunResult:
    return api.RunResult(**structs.asdict(outcome))


def steer(caller: Caller, params: api.Steer) -> Awaitable[api.SteerQueued]:
    live = caller.runtime.sessions.find_live(params.session)
    is_next = caller.line.is_empty(params.session)
    if live is not None and live.knows(params.request_key) and is_next:
        return _steer(caller, live, params)
    caller.runtime.sessions.meta(params.session)
    if is_next and params.request_key is None:
        raise NoRun(params.session)
    return _load_and_steer(caller, params, caller.line.take_place(params.session))


async def _load_and_steer(caller: Caller, params: api.Steer, place: Place) -> api.SteerQueued:
    """Look whether the session knows the key, or whether what stands in front has a run going by then."""
    async with place.turn():
        session = await caller.runtime.sessions.load(params.session, params.request_key)
        steering = _steer(caller, session, params)
    return await steering


def _steer(caller: Caller, session: Session, params: api.Steer) -> Awaitable[api.SteerQueued]:
    content = _blocks(params.content)
    if session.run is not None and (params.request_key is None or params.request_key not in session.keys):
        caller.runtime.equipper.refuse_unseen(session, content)
    steering = admit_steer(session, content, params.request_key)
    return _finish_steer(caller, session, steering)


async def _finish_steer(caller: Caller, session: Session, steering: Steering) -> api.SteerQueued:
    await confirm_steer(session, steering)
    return api.SteerQueued(steering.record.steer, steering.record.run, "queued", steering.position)


async def cancel(caller: Caller, params: api.Cancel) -> api.Cancelled:
    session = await caller.runtime.sessions.load(params.session)
    return api.Cancelled(*await caller.runtime.cancel(session, params.run))


async def compact(caller: Caller, params: api.Compact) -> api.CompactResult:
    session = await caller.runtime.sessions.load(params.session, params.request_key)
    try:
        done = await caller.runtime.edits.compact(session, params.instructions, params.request_key)
    except RequestCancelled:
        # A result, for the error would say that the client itself waits no more: Neovim tells nobody of that.
        used = session.meta.usage.context_tokens
        return api.CompactResult("", "", used, used, "cancelled")
    return api.CompactResult(done.archive, done.summary, done.usage_before, done.usage_after)


async def close(caller: Caller, params: api.Close) -> api.Closed:
    return api.Closed(await caller.runtime.close(params.session, cancel=params.cancel))


async def delete(caller: Caller, params: api.Delete) -> api.Deleted:
    await caller.runtime.delete(params.session, params.request_key)
    return api.Deleted(True)


def get(caller: Caller, params: api.OfSession) -> Snapshot:
    return caller.runtime.snapshot(params.session)


def history(caller: Caller, params: api.History) -> api.HistoryPage | Awaitable[api.HistoryPage]:
    wanted = Wanted(params.from_, params.limit, params.roles)
    live = caller.runtime.sessions.find_live(params.session)
    page = find_page(live.steps, wanted) if live is not None else None
    return _page(page) if page is not None else _read_history(caller, params.session, wanted)


async def _read_history(caller: Caller, session: str, wanted: Wanted) -> api.HistoryPage:
    found = await caller.runtime.sessions.load(session)
    return _page(await caller.runtime.sessions.read_page(found, wanted))


def _page(page: Page) -> api.HistoryPage:
    return api.HistoryPage(tuple(map(_entry, page.messages)), page.next)


def _entry(stored: StoredMessage) -> api.HistoryEntry:
    return api.HistoryEntry(stored.step, stored.run, stored.at, stored.message, stored.rewound)


async def pause(caller: Caller, params: api.OfSession) -> SessionInfo:
    return await _set_paused(caller, params.session, True)


async def resume(caller: Caller, params: api.OfSession) -> SessionInfo:
    return await _set_paused(caller, params.session, False)


async def _set_paused(caller: Caller, session_id: str, is_paused: bool) -> SessionInfo:
    session = await caller.runtime.sessions.load(session_id)
    if session.meta.paused is not is_paused:
        await caller.runtime.configure(session, paused=is_paused)
    return caller.runtime.sessions.info(session)


async def configure(caller: Caller, params: api.Configure) -> SessionInfo:
    session = await caller.runtime.sessions.load(params.session)
    await caller.runtime.configure(
        session,
        title=params.title,
        model=params.model,
        thinking=params.thinking,
        system_prompt=params.system_prompt,
        cwd=params.cwd,
        budget=_change(session.meta.budget, params.budget),
        auto_compact=params.auto_compact,
        mode=params.mode,
        permissions=UNSET if params.permissions is UNSET else checked(params.permissions or RuleLists()),
    )
    return caller.runtime.sessions.info(session)


def _change(budget: Budget, change: api.BudgetChange | None | UnsetType) -> Budget | UnsetType:
    if change is None or change is UNSET:
        return Budget() if change is None else UNSET
    limits = structs.asdict(change).items()
    return structs.replace(budget, **{name: limit for name, limit in limits if limit is not UNSET})


async def clear(caller: Caller, params: api.OfSession) -> SessionInfo:
    session = await caller.runtime.sessions.load(params.session)
    await caller.runtime.edits.clear(session)
    return caller.runtime.sessions.info(session)


def _blocks(content: str | tuple[UserBlock, ...]) -> tuple[UserBlock, ...]:
    return (TextBlock(content),) if isinstance(content, str) else content
