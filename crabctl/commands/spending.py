"""The command ``usage``, and how what was used is told wherever it is."""

from __future__ import annotations

import sys

from crabctl.arguments import UsageError
from crabctl.commands.target import find, named, note, reach
from crabctl.render import as_json, columns, duration, facts, number, plural, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crabctl.arguments import Args

SHARES = ("agent", "day", "model")


def usage(args: Args) -> int:
    """Tell what a session has used, or all have together."""
    by, name = args.get("by"), named(args)
    if by not in (None, *SHARES):
        raise UsageError(f"--by {by!r}: choose one of {', '.join(SHARES)}")
    of_all = name is None and (args.has("all") or by is not None)
    who = {key: value for key in ("agent", "sender", "topic") if (value := args.get(key))}
    with reach(args) as link:
        params = who if of_all else {"session": find(link, args, name)}
        used = link.call("session/usage", params | ({"by": by} if by else {}))
    if args.has("json"):
        print(as_json(used))
    elif by:
        _show_shares(by, used)
    else:
        which = ("session", used["session"]) if used["session"] else ("sessions", used["sessions"])
        print(facts([which, *spent(used), *limits(used.get("budget"))]))
    return 0


def spent(used: dict[str, Any]) -> list[tuple[str, object]]:
    """Tell what was used, as facts."""
    usage, total = used["usage"], used["usage"]["total"]
    return [
        ("runs", used["runs"]),
        ("context", used["session"] and _context(usage)),
        ("model calls", number(usage["calls"])),
        ("tokens in", number(total["input_tokens"]) + _cached(total)),
        ("tokens out", number(total["output_tokens"]) + _beside(total["reasoning_tokens"], "of reasoning")),
        ("estimated", _estimated(usage)),
        ("cost", cost(total["cost"], usage.get("unpriced", 0)) if usage["calls"] else None),
        ("worked for", duration(used["active_seconds"])),
    ]


def limits(budget: dict[str, Any] | None) -> list[tuple[str, object]]:
    """Tell the limits of a budget, as facts, each with what there is of it already."""
    if budget is None:
        return []
    units = {"tokens": number, "cost": _dollars, "rounds": number, "seconds": duration}
    told = [
        f"{name}: {'unknown' if budget[name] is None else show(budget[name])} of {show(limit)}"
        for name, show in units.items()
        if (limit := budget["limits"].get(name)) is not None
    ]
    if "cost" in budget["limits"] and budget["unpriced"]:
        told.append(
            f"(no limit on the cost holds for the {plural(budget['unpriced'], 'call')} of unknown price)"
        )
    return [("budget", "\n".join(told))]


def cost(known: float | None, unpriced: int) -> str:
    """Tell a cost, and of how many calls it is not known."""
    if known is None:
        return "unknown: no prices for these models"
    more = f", and {plural(unpriced, 'call')} of unknown price" if unpriced else ""
    return _dollars(known) + more


def _show_shares(by: str, used: dict[str, Any]) -> None:
    if not used["shares"]:
        note("nothing was used yet")
        return
    total = {"key": "all", "usage": used["usage"]["total"]} | {
        name: used["usage"].get(name, 0) for name in ("calls", "unpriced", "estimated")
    }
    header = [by.upper(), "SESSIONS", "CALLS", "TOKENS IN", "CACHED", "TOKENS OUT", "COST"]
    rows = [_row(share) for share in (*used["shares"], total | {"sessions": used["sessions"]})]
    print(table(header, rows, width=columns(sys.stdout), elastic=0))
    if used["usage"].get("estimated"):
        note(f"of {plural(used['usage']['estimated'], 'call')} (~) the tokens are estimated")


def _row(share: dict[str, Any]) -> list[str]:
    usage = share["usage"]
    about = "~" * bool(share["estimated"])
    # What some calls cost is not known, so it is more than what is known.
    paid = "unknown" if usage["cost"] is None else "> " * bool(share["unpriced"]) + _dollars(usage["cost"])
    return [
        share["key"],
        number(share["sessions"]),
        number(share["calls"]),
        about + number(usage["input_tokens"]),
        number(usage["cache_read_tokens"]),
        about + number(usage["output_tokens"]),
        paid,
    ]


def _context(usage: dict[str, Any]) -> str:
    window = usage["context_window"]
    return number(usage["context_tokens"]) + (f" of {number(window)} tokens" if window else " tokens")


def _cached(total: dict[str, Any]) -> str:
    read, written = total["cache_read_tokens"], total["cache_write_tokens"]
    return _beside(read, "from the cache") + _beside(written, "into it")


def _beside(count: int, what: str) -> str:
    return f", {number(count)} {what}" if count else ""


def _estimated(usage: dict[str, Any]) -> str | None:
    count = usage.get("estimated", 0)
    return f"the tokens of {plural(count, 'call')}: nobody told them" if count else None


def _dollars(amount: float) -> str:
    return f"{amount:.4f} USD"
