"""``crabctl schema``: what can be asked of the daemon, as a document, or as types for a plugin."""

from __future__ import annotations

import json

from crabctl.arguments import UsageError
from crabctl.commands.target import reach
from crabctl.contract import Contract

TYPE_CHECKING = False
if TYPE_CHECKING:
    from crabctl.arguments import Args


def schema(args: Args) -> int:
    """Print the OpenRPC document of the daemon that runs, or types made of it."""
    language = args.get("types")
    if language is not None and args.has("json"):
        raise UsageError("types are no JSON: give --types or --json")
    if language not in (None, "typescript", "lua"):
        raise UsageError(f"--types {language!r}: there are typescript and lua")
    with reach(args) as link:
        document = link.call("rpc.discover", {})
    # Imported here: whoever wants the document, or the other language, needs none of it.
    if language == "typescript":
        from crabctl.typescript import write_typescript

        print(write_typescript(Contract(document)), end="")
    elif language == "lua":
        from crabctl.luacats import write_lua

        print(write_lua(Contract(document)), end="")
    else:
        print(json.dumps(document, indent=2))
    return 0
