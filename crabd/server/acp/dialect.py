"""The methods of the dialect: parameters in, a call to the runtime, results out, in an ACP client's words."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, cast

import msgspec
from msgspec import Raw, Struct

from crabd import __version__
from crabd.errors import METHOD_NOT_FOUND, CrabdError
from crabd.rpc.connection import Manners
from crabd.rpc.envelope import RpcError
from crabd.rpc.peer import Withdrawable
from crabd.server.acp import prompting, sessions
from crabd.server.acp import schema as acp
from crabd.server.acp.link import DEFAULT_NAME, AcpLink
from crabd.server.acp.params import read_params
from crabd.server.dispatch import to_rpc_error

# No such client takes batches, and it has a name of its own for a request that nobody waits for any more.
MANNERS = Manners(batches=False, cancel_method="$/cancel_request")


CAPABILITIES = acp.AgentCapabilities(
    load_session=True,
    prompt_capabilities=acp.PromptCapabilities(image=True, embedded_context=True),
    mcp_capabilities=acp.McpCapabilities(http=True),
    session_capabilities=acp.SessionCapabilities(
        list=acp.NOTHING,
        resume=acp.NOTHING,
        close=acp.NOTHING,
        delete=acp.NOTHING,
        fork=acp.NOTHING,
    ),
)
MAX_NAME = 64


class _Opening(Struct, rename="camel"):
    protocol_version: int


_opening = msgspec.json.Decoder(_Opening)


def speaks_acp(params: Raw) -> bool:
    """Tell whether an ``initialize`` opens a link of this dialect, which has a name of its own for it."""
    try:
        _opening.decode(params)
    except msgspec.DecodeError:
        return False
    return True


def initialize(link: AcpLink, params: acp.Initialize) -> acp.Initialized:
    link.capabilities = params.client_capabilities or link.capabilities
    info = params.client_info or link.capabilities.client_info
    link.name = " ".join(info.name.split())[:MAX_NAME] if info else ""
    link.name = link.name or DEFAULT_NAME
    return acp.Initialized(
        protocol_version=acp.PROTOCOL_VERSION,
        agent_capabilities=CAPABILITIES,
        auth_methods=(),
        agent_info=acp.Implementation(name="crabd", title="crabd", version=__version__),
        meta={"steering": {"supported": True}},
    )


def authenticate(link: AcpLink, params: acp.Authenticate) -> acp.Nothing:
    """Let it be: whoever is on the socket is who he should be."""
    return acp.NOTHING


Handler = Callable[[AcpLink, Any], object]
METHODS: dict[str, tuple[type[acp.Wire], Handler]] = {
    "initialize": (acp.Initialize, initialize),
    "authenticate": (acp.Authenticate, authenticate),
    "session/new": (acp.NewSession, sessions.new),
    "session/load": (acp.OpenSession, sessions.load),
    "session/resume": (acp.OpenSession, sessions.resume),
    "session/fork": (acp.OpenSession, sessions.fork),
    "session/list": (acp.ListSessions, sessions.list_sessions),
    "session/close": (acp.OfSession, sessions.close),
    "session/delete": (acp.OfSession, sessions.delete),
    "session/set_mode": (acp.SetMode, sessions.set_mode),
    "session/set_config_option": (acp.SetOption, sessions.set_option),
    "session/prompt": (acp.Prompt, prompting.prompt),
    "session/cancel": (acp.OfSession, prompting.cancel),
    "_session/steering": (acp.Prompt, prompting.steer),
}


def answer(link: AcpLink, method: str, params: Raw) -> object:
    """Answer a request: a result, or an awaitable of one where it takes time.

    Raises:
      RpcError: no such method, or the handler's own refusal.
      InvalidParamsError: the parameters do not fit.
    """
    found = METHODS.get(method)
    if found is None:
        raise RpcError(METHOD_NOT_FOUND, f"there is no method {method!r} here", {"method": method})
    params_type, handle = found
    try:
        result = handle(link, read_params(params, params_type))
    except CrabdError as exc:
        raise to_rpc_error(exc) from exc
    if isinstance(result, Withdrawable):
        return Withdrawable(_await(result.answer), result.withdraw)
    if type(result) is CoroutineType:
        return _await(cast("Coroutine[object, object, object]", result))
    return result


def take_notification(link: AcpLink, method: str, params: Raw) -> object:
    """Do what a notification asks for. What is not one is ignored."""
    return answer(link, method, params) if method == "session/cancel" else None


async def _await(result: Coroutine[object, object, object]) -> object:
    try:
        return await result
    except CrabdError as exc:
        raise to_rpc_error(exc) from exc
