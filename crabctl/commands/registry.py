"""Commands about what there is: agents, models and tools; and ``call`` for what has no command."""

from __future__ import annotations

import json
import sys

from crabctl.arguments import UsageError
from crabctl.commands.target import here, named, note, reach
from crabctl.render import as_json, columns, harmless, number, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crabctl.arguments import Args


def agents(args: Args) -> int:
    """List the agents, with those of this directory that are trusted."""
    with reach(args) as link:
        found = link.call("agent/list", here(args))
    if args.has("json"):
        print(as_json(found))
        return 0
    header = ["NAME", "MODEL", "TOOLS", "DESCRIPTION"]
    rows = [
        [agent["name"], agent["model"] or "the default", _count(agent["tools"]), agent["description"]]
        for agent in found["agents"]
    ]
    print(table(header, rows, width=columns(sys.stdout), elastic=3))
    _tell_problems(found)
    return 0


def models(args: Args) -> int:
    """List the models, and say which is the default and why."""
    with reach(args) as link:
        found = link.call("model/list", {})
    if args.has("json"):
        print(as_json(found))
        return 0
    header = ["MODEL", "CONTEXT", "$/M IN", "$/M OUT", ""]
    rows = [
        [model["id"], *_size_and_prices(model), "default" if model["default"] else ""]
        for model in found["models"]
    ]
    print(table(header, rows, width=columns(sys.stdout), elastic=0))
    note(harmless(f"the default is {found['default']['id']}: {found['default']['why']}"))
    _tell_problems(found)
    return 0


def tools(args: Args) -> int:
    """List the tools that there are, or those of a session, and which its model is told of."""
    session = named(args)
    with reach(args) as link:
        found = link.call("tool/list", {"session": session} if session else {}, limit=None)
    if args.has("json"):
        print(as_json(found))
        return 0
    header = ["NAME", "CHANGES", "OFFERED", "DESCRIPTION"]
    rows = [
        [
            tool["name"],
            "nothing" if tool["read_only"] else "yes",
            "yes" if tool["offered"] else "no",
            tool["description"],
        ]
        for tool in found["tools"]
    ]
    print(table(header, rows, width=columns(sys.stdout), elastic=3))
    return 0


def mcp(args: Args) -> int:
    """List the servers of tools, or start one of a session anew."""
    session, server = named(args), args.get("reconnect")
    if server and not session:
        raise UsageError("--reconnect needs the session's ID: crabctl mcp tells it")
    with reach(args) as link:
        if server:
            found = link.call("mcp/reconnect", {"session": session, "server": server}, limit=None)
        else:
            found = link.call("mcp/list", {"session": session} if session else {})
    if args.has("json"):
        print(as_json(found))
        return 0
    header = ["NAME", "SESSION", "STATE", "TOOLS", "SERVER"]
    rows = [
        [each["name"], each["session"] or "all", each["state"], _tools_of(each), each["place"]]
        for each in found["servers"]
    ]
    print(table(header, rows, width=columns(sys.stdout), elastic=4))
    for each in found["servers"]:
        if each["problem"]:
            note(harmless(f"{each['name']}: {each['problem']}"))
    return 0


def _tools_of(server: dict[str, Any]) -> str:
    return str(len(server["tools"])) if server["state"] == "ready" else ""


def _size_and_prices(model: dict[str, Any]) -> list[str]:
    """Write what is known, and say of the rest that it is not."""
    window, prices = model["context_window"], model["prices"]
    told = [f"{prices[which]:g}" for which in ("input", "output")] if prices else ["unknown", "unknown"]
    return [number(window) if window else "unknown", *told]


def call(args: Args) -> int:
    """Call any method and print its result."""
    method, *rest = args.words
    params = _params(rest[0] if rest else "{}")
    with reach(args) as link:
        result = link.call(method, params, limit=None)
    is_read = sys.stdout.isatty() and not args.has("json")
    print(json.dumps(result, indent=2) if is_read else as_json(result))
    return 0


def _params(text: str) -> Any:
    try:
        return json.loads(sys.stdin.read() if text == "-" else text)
    except ValueError as exc:
        raise UsageError(f"the parameters are not JSON: {exc}") from exc


def _count(tools: list[str] | None) -> str:
    return "all" if tools is None else str(len(tools))


def _tell_problems(found: dict[str, Any]) -> None:
    for problem in found["problems"]:
        note(harmless(problem))
