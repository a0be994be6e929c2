"""From a method's name to its handler, and from our errors to those of the wire."""

from __future__ import annotations

from collections.abc import Coroutine
from types import CoroutineType
from typing import Any, cast

from msgspec import Raw

from crabd.api.table import METHODS
from crabd.errors import METHOD_NOT_FOUND, CrabdError
from crabd.rpc.envelope import RpcError
from crabd.server.caller import Caller
from crabd.server.handlers import (
    daemon,
    deciding,
    editing,
    finding,
    mcp,
    permissions,
    porting,
    sessions,
    subscriptions,
    trust,
    usage,
)

HANDLERS: dict[str, Any] = {
    "initialize": daemon.initialize,
    "rpc.discover": daemon.discover,
    "session/get_or_create": sessions.get_or_create,
    "session/load": sessions.load,
    "session/send": sessions.send,
    "session/steer": sessions.steer,
    "session/cancel": sessions.cancel,
    "session/compact": sessions.compact,
    "session/close": sessions.close,
    "session/delete": sessions.delete,
    "session/list": finding.list_sessions,
    "session/search": finding.search,
    "session/get": sessions.get,
    "session/history": sessions.history,
    "session/subscribe": subscriptions.subscribe,
    "session/unsubscribe": subscriptions.unsubscribe,
    "session/pause": sessions.pause,
    "session/resume": sessions.resume,
    "session/configure": sessions.configure,
    "session/usage": usage.usage,
    "session/clear": sessions.clear,
    "session/fork": editing.fork,
    "session/rewind": editing.rewind,
    "session/diff": editing.diff,
    "queue/list": editing.list_queue,
    "queue/remove": editing.remove_queued,
    "session/export": porting.export,
    "session/import": porting.import_,
    "confirmation/list": deciding.list_confirmations,
    "confirmation/reply": deciding.reply,
    "question/list": deciding.list_questions,
    "question/reply": deciding.answer,
    "tool/list": deciding.list_tools,
    "mcp/list": mcp.list_servers,
    "mcp/reconnect": mcp.reconnect,
    "trust/list": trust.list_files,
    "trust/add": trust.add,
    "trust/remove": trust.remove,
    "permission/get": permissions.get_rules,
    "permission/set": permissions.set_rule,
    "agent/list": daemon.list_agents,
    "model/list": daemon.list_models,
    "daemon/ping": daemon.ping,
    "daemon/status": daemon.status,
    "daemon/subscribe": subscriptions.watch,
    "daemon/unsubscribe": subscriptions.unwatch,
    "daemon/reload": daemon.reload,
    "daemon/doctor": daemon.doctor,
    "daemon/prune": daemon.prune,
    "daemon/shutdown": daemon.shutdown,
}
# Looked up with every request: how to read the parameters, and who answers.
_ROUTES = {method.name: (method.decode_params, HANDLERS[method.name]) for method in METHODS}


def answer(caller: Caller, method: str, params: Raw) -> object:
    """Answer a request: a result, or an awaitable of one where it takes time.

    Raises:
      RpcError: no such method, or the handler's own refusal.
      InvalidParamsError: the parameters do not fit.
    """
    route = _ROUTES.get(method)
    if route is None:
        raise RpcError(
            METHOD_NOT_FOUND,
            f"there is no method {method!r}: rpc.discover tells which there are",
            {"kind": "method_not_found", "method": method},
        )
    decode_params, handle = route
    decoded = decode_params(params)
    try:
        result = handle(caller, decoded)
    except CrabdError as exc:
        raise to_rpc_error(exc) from exc
    if type(result) is CoroutineType:
        return _await(cast("Coroutine[object, object, object]", result))
    return result


async def _await(result: Coroutine[object, object, object]) -> object:
    try:
        return await result
    except CrabdError as exc:
        raise to_rpc_error(exc) from exc


def to_rpc_error(exc: CrabdError) -> RpcError:
    """Put one of our errors on the wire: its code, its sentence, its facts."""
    return RpcError(exc.code, str(exc), exc.data)
