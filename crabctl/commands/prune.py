"""``prune``: remove the stored sessions that the configuration's limits no longer keep."""

from __future__ import annotations

import sys

from crabctl.commands.target import note, reach
from crabctl.render import ago, as_json, columns, number, one_line, plural, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crabctl.arguments import Args

UNLIMITED = """\
crabd keeps everything. To have old sessions removed, put limits into config.toml, then crabctl reload:

  [retention]
  keep_days = 365
  max_bytes = 10_000_000_000"""


def prune(args: Args) -> int:
    """Show what would go; when the person is sure, remove it."""
    with reach(args) as link:
        told = link.call("daemon/prune", {"dry_run": True}, limit=None)
        is_wanted = told["sessions"] and not args.has("dry-run")
        if is_wanted and not args.has("json"):
            print(_report(told))
        if is_wanted and not _is_sure(args, told):
            note("nothing was removed: crabctl prune -y removes them")
            return 1
        if is_wanted:
            told = link.call("daemon/prune", {}, limit=None)
    if args.has("json"):
        print(as_json(told))
    else:
        print(_summary(told) if is_wanted else _report(told))
    return 0


def _is_sure(args: Args, told: dict[str, Any]) -> bool:
    if args.has("yes") or not sys.stdin.isatty():
        return args.has("yes")
    print(
        f"Remove {plural(len(told['sessions']), 'session')} for good? [y/N] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _report(told: dict[str, Any]) -> str:
    if told["keep_days"] is None and told["max_bytes"] is None:
        return UNLIMITED
    if not told["sessions"]:
        return "no session is over a limit"
    rows = [
        [each["session"], ago(each["updated_at"]), number(each["bytes"]), each["limit"], _name(each)]
        for each in told["sessions"]
    ]
    header = ["SESSION", "USED", "BYTES", "OVER", "TITLE"]
    return table(header, rows, width=columns(sys.stdout), elastic=4) + f"\n\n{_would(told)}"


def _name(each: dict[str, Any]) -> str:
    return one_line(each["title"] or each["topic"] or "")


def _would(told: dict[str, Any]) -> str:
    return f"{plural(len(told['sessions']), 'session')}, {number(told['bytes'])} bytes"


def _summary(told: dict[str, Any]) -> str:
    return f"removed {_would(told)}"
