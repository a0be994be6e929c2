"""Commands that say something to an agent: ``send`` and ``steer``."""

from __future__ import annotations

import signal
import sys

from crabctl.arguments import UsageError
from crabctl.commands.target import find, here, identity, named, note, reach, request_key
from crabctl.render import COLUMNS, as_json, columns, fit, one_line
from crabctl.screen import Screen, ending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from crabctl.arguments import Args
    from crabctl.asking import Asker, Deputy
    from crabctl.client import Link

BUSY = ("queue", "steer", "reject")
ASKING = ("confirmation_requested", "question_asked")


def send(args: Args) -> int:
    """Give the agent a message and show its reply; the exit code tells how the run ended."""
    params = _message(args)
    name = args.get("session")
    with reach(args) as link:
        session = name or _get_or_create(link, args)
        params["session"] = session
        if args.has("detach"):
            if args.has("yes"):
                raise UsageError("--yes answers for you, and -d leaves at once: give --allow RULE instead")
            accepted = link.call("session/send", params | {"wait": False})
            told = (
                as_json({"session": session} | accepted)
                if args.has("json")
                else f"{session} {accepted['run']}"
            )
            print(told)
            return 0
        return _Conversation(link, args, session).run(params)


def steer(args: Args) -> int:
    """Say something to the run that is going."""
    name = named(args, has_text=True)
    params = {"content": _content(args)} | request_key(args, name)
    with reach(args) as link:
        session = find(link, args, name)
        queued = link.call("session/steer", params | {"session": session})
    print(as_json(queued) if args.has("json") else f"{session}: joins run {queued['run']} at its next round")
    return 0


class _Conversation:
    """One message and its run, on one link, with Ctrl-C as the way to cancel."""

    def __init__(self, link: Link, args: Args, session: str) -> None:
        self._link = link
        self._session = session
        self._is_json = args.has("json")
        self._is_live = sys.stdout.isatty()
        self._screen = Screen(sys.stdout, sys.stderr, shows_text=self._is_live)
        self._run: str | None = None
        self._is_stopping = False
        self._allows = args.has("yes")
        self._asker: Asker | Deputy | None = None
        self._shown: list[str] = []

    def run(self, params: dict[str, Any]) -> int:
        """Send the message and show events until the run has ended."""
        self._link.wait_forever()
        request = self._link.post("session/send", params)
        previous = signal.signal(signal.SIGINT, self._interrupted)
        try:
            events = self._link.follow(request)
            while True:
                try:
                    self._show(next(events))
                except StopIteration as end:
                    return self._finish(end.value)
        finally:
            signal.signal(signal.SIGINT, previous)

    def _show(self, event: dict[str, Any]) -> None:
        if self._run is None and event.get("run"):
            self._run = event["run"]
            if self._is_stopping:
                self._cancel()
        if self._asker is None and event["type"] in ASKING:
            self._asker = self._find_asker()
        if self._is_json:
            print(as_json(event), flush=True)
        elif self._asker is None or not self._asker.shows(event):
            if event["type"] == "text_delta":
                self._shown.append(event["text"])
            self._screen.draw(event)
        if self._asker is not None:
            self._asker.take(event)

    def _find_asker(self) -> Asker | Deputy:
        """Find who answers for this message: the person at the terminal, or nobody."""
        # Imported here: most messages ask nothing.
        from crabctl.asking import Asker, Deputy, is_somebody_there

        if self._allows or self._is_json or not is_somebody_there():
            return Deputy(self._link, allows=self._allows)
        return Asker(self._link, self._screen)

    def _finish(self, result: dict[str, Any]) -> int:
        self._screen.end_line()
        if self._is_json:
            print(as_json({"session": self._session} | result), flush=True)
        elif not self._is_live:
            text = result["text"]
            print(text, end="\n" if text and not text.endswith("\n") else "", flush=True)
        else:
            self._fill_gaps(result["text"])
        if not result["persisted"]:
            note("the reply is not in the store yet: crabctl status")
        code, problem = ending(result["stop_reason"], result.get("error"))
        if problem and not self._is_json:
            note(problem)
        return code

    def _fill_gaps(self, text: str) -> None:
        """Show the reply again if it did not come whole: the terminal was slow, or we came late."""
        if "".join(self._shown).endswith(text):
            return
        if self._shown:
            note("not all of the reply came through; in full:")
        self._screen.text(text)
        self._screen.end_line()

    def _interrupted(self, _signal: int, _frame: FrameType | None) -> None:
        """Cancel the run at the first Ctrl-C, and leave at the second."""
        if self._is_stopping:
            raise KeyboardInterrupt
        self._is_stopping = True
        if self._run is not None:
            self._cancel()

    def _cancel(self) -> None:
        # Its answer comes when the run has settled, and so does the one that is waited for.
        self._link.post("session/cancel", {"session": self._session, "run": self._run})


def _get_or_create(link: Link, args: Args) -> str:
    # A message that is repeated goes to the same session, whichever is active by then.
    key = {"request_key": f"{args.get('key')} (session)"} if args.get("key") else {}
    got = link.call("session/get_or_create", identity(args) | here(args) | key)
    if got["created"] and sys.stderr.isatty() and not args.has("json"):
        _introduce(link, got)
    return str(got["id"])


def _introduce(link: Link, session: dict[str, Any]) -> None:
    """Say at the first meeting which model answers and why, if neither session nor agent names one."""
    agents = link.call("agent/list", {"cwd": session["cwd"]})["agents"]
    own = [agent["model"] for agent in agents if agent["name"] == session["agent"]]
    if any([session["model"], *own]):
        return
    chosen = link.call("daemon/status", {})["model"]
    said = one_line(f"{chosen['id']} answers ({chosen['why']})")
    note(fit(said, (columns(sys.stderr) or COLUMNS) - len("crabctl: ")))


def _message(args: Args) -> dict[str, Any]:
    params: dict[str, Any] = {"content": _content(args)}
    guest = args.get("guest")
    if guest is not None:
        params["guest"] = guest
    busy = args.get("busy")
    if busy is not None:
        if busy not in BUSY:
            raise UsageError(f"--busy {busy!r}: choose one of {', '.join(BUSY)}")
        params["when_busy"] = busy
    rules = args.all("allow")
    if rules:
        params["allow"] = rules
    key = args.get("key")
    return params | {"request_key": key} if key else params


def _content(args: Args) -> str | list[dict[str, str]]:
    """Gather what is said: the text, behind the pictures if there are some."""
    files = args.all("image")
    if files:
        # Imported here: most messages show none.
        from crabctl.picture import read_pictures

        pictures = read_pictures(files)
        said = _text(args.words)
        return [*pictures, {"type": "text", "text": said}] if said.strip() else pictures
    said = _text(args.words)
    if not said.strip():
        raise UsageError('nothing to say: give a text, as in crabctl send "hello", or pipe one in')
    return said


def _text(words: list[str]) -> str:
    """Join the words, and what is piped in where ``-`` or nothing stands for it."""
    said = " ".join(word for word in words if word != "-")
    if "-" in words or (not words and not sys.stdin.isatty()):
        piped = sys.stdin.buffer.read().decode("utf-8", "replace").rstrip("\n")
        said = f"{said}\n\n{piped}" if said else piped
    # Words that are not in the locale's encoding arrive as lone surrogates, which JSON cannot carry.
    return said.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
