"""A session's conversation: read page by page, and written for people."""

from __future__ import annotations

import sys

from crabctl.picture import words_for
from crabctl.render import dim, harmless, local_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from crabctl.client import Link

# The most the daemon gives in one answer.
MAX_PAGE = 1000
# What a screenful of conversation is.
LOG_LENGTH = 50


def history(link: Link, session: str, *, first: int | None, count: int | None) -> Iterator[dict[str, Any]]:
    """Read the last ``count`` messages, or from step ``first`` on to the end or ``count``."""
    if first is None:
        page = link.call("session/history", {"session": session, "limit": count or LOG_LENGTH})
        yield from page["messages"]
        return
    step: int | None = first
    left = count
    while step is not None and left != 0:
        limit = MAX_PAGE if left is None else min(left, MAX_PAGE)
        page = link.call("session/history", {"session": session, "from": step, "limit": limit})
        yield from page["messages"]
        step = page["next"]
        left = None if left is None else left - len(page["messages"])


def written(entry: dict[str, Any]) -> str:
    """Write a message as the log shows it: who and when, then what."""
    message = entry["message"]
    at = local_time(entry["at"])
    gone = " (taken back)" if entry.get("rewound") else ""
    if message["role"] == "tool":
        body = _indented(f"← {message['name']}: {message['status']}{gone}\n{message['output']}")
        return dim(body, sys.stdout) + "\n"
    who = (
        (message.get("agent") or message["role"]) + (" (cut short)" if message.get("partial") else "") + gone
    )
    parts = [dim(f"── {who}  {at}  #{entry['step']}", sys.stdout)]
    for block in message["content"]:
        match block["type"]:
            case "text":
                parts.append(harmless(block["text"]))
            case "thinking":
                parts.append(dim(_indented(block["text"]), sys.stdout))
            case "image":
                parts.append(dim(words_for(block), sys.stdout))
            case _:
                parts.append(dim(_indented(f"→ {block['name']} {block['arguments']}"), sys.stdout))
    return "\n".join(parts) + "\n"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in harmless(text).rstrip("\n").split("\n"))
