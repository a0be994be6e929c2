"""The command that finds text: ``search``."""

from __future__ import annotations

import sys

from crabctl.commands.target import note, reach
from crabctl.render import ago, as_json, bold, cells, columns, dim, fit, harmless, one_line, plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crabctl.arguments import Args
    from crabctl.client import Link

# What is shown unless more is asked for, and what the daemon gives at a time.
SHOWN, PAGE = 20, 100


def search(args: Args) -> int:
    """Look for text in all that was said, and show where it is."""
    wanted = {key: value for key in ("agent", "sender", "topic", "session") if (value := args.get(key))}
    query = wanted | {"query": " ".join(args.words)}
    with reach(args) as link:
        found = _gather(link, query, args.number("limit") or SHOWN)
    if args.has("json"):
        print(as_json(found))
        return 0
    for hit in found["hits"]:
        print(_head(hit))
        print(_line(hit))
    if not found["hits"]:
        note("nothing found" + (" yet" if found["indexing"] else ""))
    elif found["cursor"]:
        note("there are more: crabctl search -n N shows so many")
    if found["indexing"]:
        note(f"{plural(found['waiting'], 'session')} not indexed yet: search again in a moment")
    return 0


def _gather(link: Link, query: dict[str, Any], wanted: int) -> dict[str, Any]:
    """Put pages together until there are ``wanted`` hits, or no more."""
    hits: list[Any] = []
    cursor: str | None = None
    while True:
        params = query | {"limit": min(wanted - len(hits), PAGE)}
        page: dict[str, Any] = link.call("session/search", params | ({"cursor": cursor} if cursor else {}))
        hits += page["hits"]
        cursor = page["cursor"]
        if cursor is None or len(hits) >= wanted:
            return page | {"hits": hits}


def _head(hit: dict[str, Any]) -> str:
    title = one_line(hit["title"])
    return "  ".join(filter(None, (hit["session"], bold(title, sys.stdout), dim(ago(hit["at"]), sys.stdout))))


def _line(hit: dict[str, Any]) -> str:
    """Show where the text is and what is around it, cut to the terminal's width."""
    place = f"    {hit['role']}, step {hit['step']}: "
    more = f"  (and {hit['matches'] - 1} more)" if hit["matches"] > 1 else ""
    width = columns(sys.stdout)
    left = None if width is None else width - cells(place) - cells(more)
    shown = ""
    for number, piece in enumerate(hit["snippet"]):
        text = harmless(piece).replace("\n", " ").replace("\t", " ")
        cut = fit(text, left)
        shown += bold(cut, sys.stdout) if number % 2 else cut
        if left is not None:
            left -= cells(cut)
        if cut != text:
            break
    return dim(place, sys.stdout) + shown + dim(more, sys.stdout)
