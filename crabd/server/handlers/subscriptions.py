"""Handlers of what is subscribed to, a session or all at a glance: picture and subscription are one step."""

from __future__ import annotations

from typing import Literal

from crabd.api import daemon
from crabd.api import sessions as api
from crabd.errors import BadRequest
from crabd.rpc.peer import FollowedBy
from crabd.server.caller import Caller


def subscribe(caller: Caller, params: api.Subscribe) -> object:
    session = _one_of(params.session, params.all)
    broker = caller.runtime.broker
    if session is None:
        broker.watch(caller.subscriber)
        live = tuple(map(caller.runtime.sessions.info, caller.runtime.sessions.live()))
        return _followed(api.Subscribed(None, live, broker.epoch, 0, "complete"), broker.standing())
    snapshot = caller.runtime.snapshot(session)
    topic = broker.topic(session)
    topic.subscribe(caller.subscriber)
    upto, missed = topic.seq, None
    replay: Literal["complete", "partial"] = "complete"
    if params.after is not None:
        missed = topic.missed(params.after) if params.epoch in (None, broker.epoch) else None
        upto, replay = (topic.seq, "partial") if missed is None else (params.after, "complete")
    # What waits for a person is told again to whoever comes: he may have lost it, or look at events only.
    events = (*topic.standing(upto), *(missed or ()))
    return _followed(api.Subscribed(snapshot, (), broker.epoch, topic.seq, replay), events)


def unsubscribe(caller: Caller, params: api.Unsubscribe) -> api.Unsubscribed:
    session = _one_of(params.session, params.all)
    broker = caller.runtime.broker
    if session is None:
        return api.Unsubscribed(broker.unwatch(caller.subscriber))
    caller.runtime.sessions.meta(session)
    return api.Unsubscribed(broker.topic(session).unsubscribe(caller.subscriber))


def watch(caller: Caller, params: daemon.Watch) -> daemon.Watched:
    runtime = caller.runtime
    runtime.overview.subscribe(caller.subscriber)
    return daemon.Watched(runtime.broker.epoch, runtime.sessions.glances(params.limit), runtime.count())


def unwatch(caller: Caller, params: daemon.NoParams) -> api.Unsubscribed:
    return api.Unsubscribed(caller.runtime.overview.unsubscribe(caller.subscriber))


def _followed(answer: api.Subscribed, events: tuple[bytes, ...]) -> object:
    return FollowedBy(answer, events) if events else answer


def _one_of(session: str | None, is_all: bool) -> str | None:
    if is_all == (session is not None):
        raise BadRequest("$.session", "name one session, or say all: true")
    return session
