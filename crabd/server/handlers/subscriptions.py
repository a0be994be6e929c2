"""Handlers of ``session/subscribe`` and ``session/unsubscribe``: picture and subscription are one step."""

from __future__ import annotations

from crabd.api import sessions as api
from crabd.errors import BadRequest
from crabd.rpc.peer import FollowedBy
from crabd.server.caller import Caller


def subscribe(caller: Caller, params: api.Subscribe) -> object:
    session = _one_of(params.session, params.all)
    broker = caller.runtime.broker
    if session is None:
        broker.watch(caller.subscriber)
        return api.Subscribed(
            None,
            tuple(map(caller.runtime.sessions.info, caller.runtime.sessions.live())),
            broker.epoch,
            0,
            "complete",
        )
    snapshot = caller.runtime.snapshot(session)
    topic = broker.topic(session)
    topic.subscribe(caller.subscriber)
    if params.after is None:
        return api.Subscribed(snapshot, (), broker.epoch, topic.seq, "complete")
    missed = topic.missed(params.after) if params.epoch in (None, broker.epoch) else None
    if missed is None:
        return api.Subscribed(snapshot, (), broker.epoch, topic.seq, "partial")
    return FollowedBy(api.Subscribed(snapshot, (), broker.epoch, topic.seq, "complete"), missed)


def unsubscribe(caller: Caller, params: api.Unsubscribe) -> api.Unsubscribed:
    session = _one_of(params.session, params.all)
    broker = caller.runtime.broker
    if session is None:
        return api.Unsubscribed(broker.unwatch(caller.subscriber))
    caller.runtime.sessions.meta(session)
    return api.Unsubscribed(broker.topic(session).unsubscribe(caller.subscriber))


def _one_of(session: str | None, is_all: bool) -> str | None:
    if is_all == (session is not None):
        raise BadRequest("$.session", "name one session, or say all: true")
    return session
