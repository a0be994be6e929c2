"""Commands that bring sessions out and in: ``export``, ``import``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from crabctl.arguments import UsageError
from crabctl.client import RemoteError
from crabctl.commands.target import find, is_session_id, note, reach, where
from crabctl.conversation import MAX_PAGE
from crabctl.failure import describe
from crabctl.render import as_json, harmless, one_line, plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

    from crabctl.arguments import Args
    from crabctl.client import Link

# How much of what is piped in is read at a time.
CHUNK = 1 << 20
SAID = {"found": "would be imported", "there": "is there already", "skipped": "left out"}


def export(args: Args) -> int:
    """Write sessions as lines of JSON, to a file that is there when it is whole, or to stdout."""
    names = [*args.words, *filter(None, [args.get("session")])]
    for name in names:
        if not is_session_id(name):
            raise UsageError(f"{name!r} is not a session's id, as crab_user_1 is: crabctl ls lists them")
    if args.has("all") and names:
        raise UsageError("--all is all of them: leave out the ID")
    path = args.get("output")
    with reach(args) as link:
        sessions = names or _chosen(link, args)
        if path is None:
            return _write_each(link, sessions, _print_lines)
        # It is seen under its name only when it is whole.
        part = Path(f"{path}.{os.getpid()}.part")
        try:
            with _create(part) as file:
                code = _write_each(link, sessions, lambda text: file.write(text.encode()))
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    note(f"{plural(len(sessions), 'session')} in {path}")
    return code


def import_(args: Args) -> int:
    """Bring sessions in, and tell what became of each."""
    wish: dict[str, Any] = {name: value for name in ("agent", "sender") if (value := args.get(name))}
    wish |= {"dry_run": args.has("dry-run"), "again": args.has("again")}
    if memory := args.get("memory"):
        wish["memory"] = str(Path(memory).absolute())
    refused = 0
    with reach(args) as link:
        for word in args.words:
            done = _import_piped(link, args, wish) if word == "-" else _import(link, Path(word), wish)
            refused += done["refused"]
            print(as_json(done) if args.has("json") else "\n".join(_told(done)))
    return 1 if refused else 0


def _chosen(link: Link, args: Args) -> list[str]:
    if args.has("all"):
        return sorted(_all_ids(link), key=_place)
    return [find(link, args, None)]


def _all_ids(link: Link) -> Iterator[str]:
    cursor: dict[str, str] = {}
    while True:
        page = link.call("session/list", {"limit": MAX_PAGE} | cursor)
        yield from (session["id"] for session in page["sessions"] if not session["ephemeral"])
        if not page["cursor"]:
            return
        cursor = {"cursor": page["cursor"]}


def _place(session: str) -> tuple[str, int]:
    """Sort sessions by their numbers, so that they may keep them where they are brought to."""
    pair, _, number = session.rpartition("_")
    return pair, int(number)


def _write_each(link: Link, sessions: list[str], write: Callable[[str], object]) -> int:
    """Write every session that can be read; returns 1 if one of many could not."""
    code = 0
    for session in sessions:
        try:
            for text in _pages(link, session):
                write(text)
        except RemoteError as exc:
            if len(sessions) == 1:
                raise
            note(f"{session}: {describe(exc)[2]}")
            code = 1
    return code


def _pages(link: Link, session: str) -> Iterator[str]:
    step: int | None = 1
    while step is not None:
        page = link.call("session/export", {"session": session, "from": step})
        yield page["jsonl"]
        step = page["next"]


def _print_lines(text: str) -> None:
    if sys.stdout.isatty():
        print(harmless(text), end="")
    else:
        # As UTF-8 in any locale: the checksums are of these bytes.
        sys.stdout.buffer.write(text.encode())


def _import(link: Link, path: Path, wish: dict[str, Any]) -> Any:
    # The daemon works elsewhere, and may have many files to read.
    return link.call("session/import", wish | {"path": str(path.absolute())}, limit=None)


def _import_piped(link: Link, args: Args, wish: dict[str, Any]) -> Any:
    """Put what is piped in where the daemon can read it: the one directory that both are sure of."""
    path = Path(where(args)).with_name(f"import-{os.getpid()}.jsonl")
    try:
        with _create(path) as file:
            while chunk := sys.stdin.buffer.read(CHUNK):
                file.write(chunk)
        return _import(link, path, wish)
    finally:
        path.unlink(missing_ok=True)


def _create(path: Path) -> BinaryIO:
    """Make a new file for oneself alone."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _told(done: dict[str, Any]) -> Iterator[str]:
    for one in done["sessions"]:
        yield _line(one)
        yield from (f"  {one_line(text)}" for text in (one["problem"], *one["notes"]) if text)
        yield from (f"  {one_line(left['where'])}: {one_line(left['problem'])}" for left in one["skipped"])
    counts = {
        "imported": done["imported"],
        "to import": done["found"],
        "there already": done["there"],
        "refused": done["refused"],
    }
    yield ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "no session was found"


def _line(one: dict[str, Any]) -> str:
    said = SAID.get(one["status"], one["status"])
    if one["messages"] == 0 and one["agent"] is None:
        return f"{one_line(one['place'])}: {said}"
    title = f" “{one_line(one['title'])}”" if one["title"] else ""
    where_to = f" as {one['session']}" if one["session"] else ""
    return f"{one_line(one['place'])}: {said}{where_to}, {plural(one['messages'], 'message')}{title}"
