"""The command ``trust``: which files of directories agents may heed."""

from __future__ import annotations

import os
import sys

from crabctl.commands.target import note, reach
from crabctl.render import as_json, bold, harmless, plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crabctl.arguments import Args
    from crabctl.client import Link


def trust(args: Args) -> int:
    """Trust the files of a directory, or trust them no more; without one, list what is trusted."""
    place = os.path.abspath(args.words[0]) if args.words else None  # noqa: PTH100  # pathlib costs a tenth of the start-up
    with reach(args) as link:
        if place is None:
            return _show(args, link.call("trust/list", {}), "nothing is trusted: crabctl trust DIR")
        if args.has("forget"):
            result = link.call("trust/remove", {"path": place})
            return _show(args, result, "nothing there was trusted")
        return _trust(args, link, place)


def _trust(args: Args, link: Link, place: str) -> int:
    found = link.call("trust/list", {"path": place})
    fresh = [file for file in found["files"] if file["state"] != "trusted"]
    if not fresh or args.has("dry-run"):
        return _show(args, found, "there is nothing to trust: neither AGENTS.md nor CRAB.md nor .crab")
    if sys.stdin.isatty() and not args.has("yes") and not _is_sure(fresh):
        note("nothing is trusted")
        return 1
    # What changed since it was shown is refused.
    return _show(
        args, link.call("trust/add", {"files": {file["path"]: file["digest"] for file in fresh}}), ""
    )


def _is_sure(files: list[dict[str, Any]]) -> bool:
    print("\n".join(map(_told, files)))
    question = f"Read them first. Trust {plural(len(files), 'file')} as they are now? [y/N] "
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _show(args: Args, result: dict[str, Any], nothing: str) -> int:
    if args.has("json"):
        print(as_json(result))
    elif result["files"]:
        print("\n".join(map(_told, result["files"])))
    else:
        note(nothing)
    return 0


def _told(file: dict[str, Any]) -> str:
    """Tell what a file is and would do, in lines."""
    about = "".join(f"\n    {line}" for line in harmless(file["about"]).splitlines())
    return f"{bold(file['state'], sys.stdout)} {file['kind']} {harmless(file['path'])}{about}"
