"""The command ``trust``: which instructions files in directories a model may be told."""

from __future__ import annotations

import os

from crabctl.commands.target import note, reach
from crabctl.render import as_json, harmless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from crabctl.arguments import Args


def trust(args: Args) -> int:
    """Trust the instructions of a directory, or trust them no more; without one, list what is trusted."""
    place = os.path.abspath(args.words[0]) if args.words else None  # noqa: PTH100  # pathlib costs a tenth of the start-up
    with reach(args) as link:
        if place is None:
            result = link.call("trust/list", {})
        else:
            result = link.call("trust/remove" if args.has("forget") else "trust/add", {"path": place})
    if args.has("json"):
        print(as_json(result))
    elif result["files"]:
        print("\n".join(map(harmless, result["files"])))
    elif place is None:
        note("nothing is trusted: crabctl trust DIR")
    elif args.has("forget"):
        note("nothing there was trusted")
    else:
        note("there is nothing to trust: neither AGENTS.md nor CRAB.md")
    return 0
