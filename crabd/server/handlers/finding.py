"""Handlers that find sessions: ``session/list`` and ``session/search``."""

from __future__ import annotations

from datetime import datetime

from msgspec import structs

from crabd.api import sessions as api
from crabd.errors import BadRequest
from crabd.runtime.listing import Filter, Place
from crabd.server.caller import Caller


def list_sessions(caller: Caller, params: api.List) -> api.SessionPage:
    wanted = Filter(
        agent=params.agent, sender=params.sender, topic=params.topic, state=params.state, text=params.text
    )
    before = read_cursor(params.cursor) if params.cursor is not None else None
    page, rest = caller.runtime.sessions.newest(wanted, before=before, limit=params.limit)
    return api.SessionPage(page, write_cursor(rest) if rest is not None else None)


async def search(caller: Caller, params: api.Search) -> api.Hits:
    wanted = Filter(agent=params.agent, sender=params.sender, topic=params.topic)
    found = await caller.runtime.sessions.search(
        params.query, wanted, session=params.session, limit=params.limit, cursor=params.cursor
    )
    hits = tuple(api.Hit(**structs.asdict(hit)) for hit in found.hits)
    return api.Hits(hits, found.cursor, found.indexing, found.waiting)


def write_cursor(place: Place) -> str:
    """Write down where a list goes on."""
    at, session = place
    return f"{at.isoformat()}~{session}"


def read_cursor(cursor: str) -> Place:
    """Read where a list goes on.

    Raises:
      BadRequest: it is none that was given.
    """
    at, _, session = cursor.partition("~")
    try:
        # One without a time zone would compare with no time of ours.
        return datetime.fromisoformat(at).astimezone(), session
    except (ValueError, OverflowError):
        problem = f"{cursor!r} is none that was given: leave it out to begin with the first page"
        raise BadRequest("$.cursor", problem) from None
