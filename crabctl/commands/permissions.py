"""The command ``permissions``: the rules of what agents may do, and changes of the user's own."""

from __future__ import annotations

import sys

from crabctl.arguments import UsageError
from crabctl.commands.target import note, reach
from crabctl.render import as_json, columns, harmless, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crabctl.arguments import Args

CHANGES = {"allow": "allow", "deny": "deny", "ask": "ask", "remove": None}


def permissions(args: Args) -> int:
    """List the rules, or allow, deny, ask about or forget what one says."""
    method, params = _request(args)
    with reach(args) as link:
        found = link.call(method, params)
    if args.has("json"):
        print(as_json(found))
        return 0
    rules = sorted(found["rules"], key=lambda rule: ("deny", "allow", "ask").index(rule["decision"]))
    if rules:
        rows = [[rule["decision"], rule["rule"], rule["source"]] for rule in rules]
        print(table(["", "RULE", "SOURCE"], rows, width=columns(sys.stdout), elastic=1))
    default = "" if found["default"] == "ask" else f", and where it would ask: {found['default']}"
    note(harmless(f"what no rule speaks of: mode {found['mode']}{default}"))
    return 0


def _request(args: Args) -> tuple[str, dict[str, Any]]:
    if not args.words:
        session = args.get("session")
        return "permission/get", {"session": session} if session else {}
    change, *rules = args.words
    if change not in CHANGES or len(rules) != 1:
        raise UsageError(
            f"{' '.join(args.words)!r}: give one of {', '.join(CHANGES)} and one RULE, in quotes"
        )
    if args.get("session"):
        raise UsageError("the rules of a session are set by session/configure: leave out -S")
    return "permission/set", {"rule": rules[0], "decision": CHANGES[change]}
