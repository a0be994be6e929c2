"""Sessions as an editor has them: new, loaded, resumed, listed, forked, closed, deleted; their settings."""

from __future__ import annotations

from contextlib import suppress
from pathlib import PurePosixPath

from crabd.errors import BadRequest, NotFound
from crabd.rpc.peer import FollowedBy
from crabd.runtime.agents import DEFAULT_AGENT
from crabd.runtime.listing import Filter
from crabd.runtime.router import Identity
from crabd.server.acp import schema as acp
from crabd.server.acp.link import AcpLink
from crabd.server.acp.opened import Opened
from crabd.server.acp.options import read_mode, read_model, read_thinking
from crabd.server.acp.servers import read_servers
from crabd.server.handlers.finding import read_cursor, write_cursor
from crabd.tools.servers import ToolServer

PAGE = 50
# What a session without a directory is said to work in: the protocol wants one.
NOWHERE = "/"


async def new(link: AcpLink, params: acp.NewSession) -> FollowedBy:
    agent = _read_agent(params.meta)
    if not PurePosixPath(params.cwd).is_absolute():
        raise BadRequest("$.cwd", f"{params.cwd!r} is not absolute: begin it with a slash")
    servers = read_servers(params.mcp_servers or ())
    session, _ = await link.runtime.get_or_create(
        Identity(agent, link.name), topic=None, description=None, cwd=params.cwd, is_fresh=True
    )
    return await _made(link, await link.open(session.id), servers)


async def load(link: AcpLink, params: acp.OpenSession) -> FollowedBy:
    servers = read_servers(params.mcp_servers or ())
    return await _opened(link, await link.open(params.session_id, is_replayed=True), servers)


async def resume(link: AcpLink, params: acp.OpenSession) -> FollowedBy:
    servers = read_servers(params.mcp_servers or ())
    return await _opened(link, await link.open(params.session_id), servers)


async def fork(link: AcpLink, params: acp.OpenSession) -> FollowedBy:
    servers = read_servers(params.mcp_servers or ())
    info, _ = await link.runtime.edits.fork(params.session_id, None)
    return await _made(link, await link.open(info.id), servers)


def list_sessions(link: AcpLink, params: acp.ListSessions) -> acp.SessionPage:
    before = read_cursor(params.cursor) if params.cursor is not None else None
    page, rest = link.runtime.sessions.newest(Filter(cwd=params.cwd), before=before, limit=PAGE)
    entries = tuple(
        acp.SessionEntry(
            session_id=info.id,
            cwd=info.cwd or NOWHERE,
            title=info.title or info.topic,
            updated_at=info.updated_at.isoformat(),
        )
        for info in page
    )
    return acp.SessionPage(sessions=entries, next_cursor=write_cursor(rest) if rest is not None else None)


async def close(link: AcpLink, params: acp.OfSession) -> acp.Nothing:
    await link.runtime.close(params.session_id, cancel=True)
    link.forget(params.session_id)
    return acp.NOTHING


async def delete(link: AcpLink, params: acp.OfSession) -> acp.Nothing:
    link.forget(params.session_id)
    # Whoever asks again is told the same: it is gone.
    with suppress(NotFound):
        await link.runtime.delete(params.session_id)
    return acp.NOTHING


async def set_mode(link: AcpLink, params: acp.SetMode) -> acp.Nothing:
    await _set(link, params.session_id, "mode", params.mode_id, "$.modeId")
    return acp.NOTHING


async def set_option(link: AcpLink, params: acp.SetOption) -> acp.OptionSet:
    opened = await _set(link, params.session_id, params.config_id, params.value, "$.value")
    return acp.OptionSet(config_options=opened.options)


async def _set(link: AcpLink, id_: str, option: str, value: object, path: str) -> Opened:
    runtime, opened = link.runtime, await link.require(id_)
    session = await runtime.sessions.load(id_)
    match option:
        case "mode":
            await runtime.configure(session, mode=read_mode(value, path))
        case "model":
            await runtime.configure(session, model=read_model(value, path))
        case "thinking":
            await runtime.configure(session, thinking=read_thinking(value, path))
        case _:
            raise BadRequest("$.configId", f"there is no {option!r}: there are mode, model and thinking")
    # What has changed is told before the answer, which has it too.
    runtime.broker.flush()
    return opened


async def _made(link: AcpLink, opened: Opened, servers: dict[str, ToolServer]) -> FollowedBy:
    await _attach(link, opened, servers)
    made = acp.SessionMade(session_id=opened.session, modes=opened.modes, config_options=opened.options)
    return FollowedBy(made, link.write(opened, link.introduce(opened)))


async def _opened(link: AcpLink, opened: Opened, servers: dict[str, ToolServer]) -> FollowedBy:
    await _attach(link, opened, servers)
    answer = acp.SessionOpened(modes=opened.modes, config_options=opened.options)
    return FollowedBy(answer, link.write(opened, link.introduce(opened)))


async def _attach(link: AcpLink, opened: Opened, servers: dict[str, ToolServer]) -> None:
    """Give a session the client's servers. A client that has none leaves it those that another gave."""
    if servers:
        link.runtime.attachments.give(await link.runtime.sessions.load(opened.session), servers)


def _read_agent(meta: acp.Meta | None) -> str:
    match meta:
        case {"crabd": {"agent": str(agent)}}:
            return agent
        case _:
            return DEFAULT_AGENT.name
