"""Puts what waits for a person to whoever sits at the terminal, while events go on; or answers for nobody.

Others may answer as well, and what they have answered is asked no more.
"""

from __future__ import annotations

import os
import sys

from crabctl.render import harmless, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crabctl.client import Link
    from crabctl.screen import Screen

# More is read with crabctl confirm.
SHOWN_LINES = 60
# Which of these it was that asks, where no rule does.
MODES = ("read-only", "plan", "ask", "accept-edits", "full")
CHOICES = {"y": "allow", "s": "allow_session", "a": "allow_always", "n": "deny"}
NOBODY = "nobody is at a terminal to ask: crabctl send with --yes, --allow RULE, or -d and crabctl confirm"


def is_somebody_there() -> bool:
    """Tell whether a person can be asked something, and answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


class Asker:
    """Asks one thing after the other, as they came. Give it every event, after it was drawn."""

    def __init__(self, link: Link, screen: Screen) -> None:
        self._link = link
        self._screen = screen
        self._waiting: list[dict[str, Any]] = []
        self._answers: list[str] = []
        introduce(link)

    def shows(self, event: dict[str, Any]) -> bool:
        """Tell whether it shows an event itself."""
        return event["type"] in ("confirmation_requested", "question_asked")

    def take(self, event: dict[str, Any]) -> None:
        """Take notice of what is asked and what is answered, and of what has broken into the line."""
        match event["type"]:
            case "confirmation_requested":
                self.add(event["confirmation"])
            case "question_asked":
                self.add(event["question"])
            case "confirmation_resolved" | "question_answered":
                self._drop(event["id"])
            case _:
                pass
        if self._waiting and not self._screen.is_mid_line:
            self._screen.ask(self._prompt())

    def add(self, asked: dict[str, Any]) -> None:
        """Ask something, once all that was asked before is answered."""
        self._waiting.append(asked)
        if len(self._waiting) == 1:
            self._begin()

    def _begin(self) -> None:
        """Ask what waits longest. What was typed before it was shown is no answer to it."""
        self._answers = []
        if not self._waiting:
            self._link.attend(None, self._read)
            return
        asked = self._waiting[0]
        if "questions" not in asked:
            self._screen.tell(shown(asked, most=SHOWN_LINES))
        _forget_typed()
        self._link.attend(sys.stdin.fileno(), self._read)
        self._screen.ask(self._prompt())

    def _prompt(self) -> str:
        asked = self._waiting[0]
        if "questions" in asked:
            question = asked["questions"][len(self._answers)]
            return f"{shown_question(question)}\n{_how_to_answer(question)}"
        lasting = ", s for this session, a always" if asked["suggestions"] else ""
        return f"  y to allow it{lasting}, n REASON to deny it: "

    def _read(self) -> None:
        line = os.read(sys.stdin.fileno(), 1 << 16).decode("utf-8", "replace")
        self._screen.was_answered()
        if not line:
            self._link.attend(None, self._read)
            self._screen.note("nobody answers here any more; what waits is in crabctl confirm")
            self._waiting.clear()
            return
        self._take_answer(line.strip())

    def _take_answer(self, line: str) -> None:
        asked = self._waiting[0]
        if "questions" in asked:
            self._answers.append(chosen(asked["questions"][len(self._answers)], line))
            is_over = not line or len(self._answers) == len(asked["questions"])
            if is_over:
                answer(self._link, asked, self._answers if line else None)
                self._drop(asked["id"])
                return
        else:
            word, _, reason = line.partition(" ")
            decision = CHOICES.get(word.lower())
            if decision is not None and (asked["suggestions"] or not decision.startswith("allow_")):
                decide(self._link, asked, decision, reason.strip())
                self._drop(asked["id"])
                return
        self._screen.ask(self._prompt())

    def _drop(self, id_: str) -> None:
        is_asked = bool(self._waiting) and self._waiting[0]["id"] == id_
        self._waiting = [asked for asked in self._waiting if asked["id"] != id_]
        if is_asked:
            self._begin()


class Deputy:
    """Answers at once in the place of a person: yes to everything, or no."""

    def __init__(self, link: Link, *, allows: bool) -> None:
        self._link = link
        self._allows = allows
        introduce(link)

    def shows(self, event: dict[str, Any]) -> bool:
        """Tell that it shows nothing."""
        return False

    def take(self, event: dict[str, Any]) -> None:
        """Answer what is asked."""
        if event["type"] == "question_asked":
            answer(self._link, event["question"], None)
        elif event["type"] == "confirmation_requested":
            asked = event["confirmation"]
            decide(
                self._link,
                asked,
                "allow" if self._allows else "deny",
                "" if self._allows else NOBODY,
            )


def introduce(link: Link) -> None:
    """Tell the daemon who answers, for those who come too late."""
    link.post("initialize", {"client": {"name": "crabctl"}})


def decide(link: Link, asked: dict[str, Any], decision: str, reason: str) -> None:
    """Reply to a confirmation; what comes of it is told by an event."""
    link.post("confirmation/reply", addressed(asked) | {"decision": decision, "reason": reason})


def answer(link: Link, asked: dict[str, Any], answers: list[str] | None) -> None:
    """Answer questions, or, with null, decline to."""
    link.post("question/reply", addressed(asked) | ({"answers": answers} if answers is not None else {}))


def addressed(asked: dict[str, Any]) -> dict[str, Any]:
    """Name what a reply is to."""
    return {"session": asked["session"], "call": asked["call"], "id": asked["id"]}


def chosen(question: dict[str, Any], text: str) -> str:
    """Read an answer: the number of an option, or several where that is asked for, or words."""
    options = question["options"]
    numbers = [number.strip() for number in text.split(",")] if question["multiple"] else [text.strip()]
    if options and all(each.isdecimal() and 1 <= int(each) <= len(options) for each in numbers):
        return "\n".join(options[int(each) - 1] for each in numbers)
    return text


def shown(asked: dict[str, Any], *, most: int) -> str:
    """Write what a call would do; what a model wrote stands behind a bar, at most so many lines of it."""
    where = f" in {one_line(asked['cwd'])}" if asked["cwd"] else ""
    lines = [f"? {one_line(asked['title'])} ({asked['tool']}{where})"]
    if asked["command"] is not None:
        lines += _barred(asked["command"], most)
    if asked["diff"]:
        lines += _barred(asked["diff"], most)
    if asked["command"] is None and not asked["diff"]:
        lines += _barred(asked["arguments"], most)
    lines += [f"  {verb} {one_line(path)}" for verb in ("reads", "writes") for path in asked[verb]]
    if asked["url"]:
        lines.append(f"  fetches {one_line(asked['url'])}")
    mode = f" (mode {asked['rule']})" if asked["rule"] in MODES else ""
    lines.append(f"  why: {one_line(asked['reason'])}{mode}")
    if asked["command"] is not None:
        lines.append(f"  sandbox: {one_line(asked['sandbox'])}")
    if asked["suggestions"]:
        lines.append(f"  for more than this time: {one_line(', '.join(asked['suggestions']))}")
    return "\n".join(lines)


def shown_question(question: dict[str, Any]) -> str:
    """Write a question with its options."""
    lines = ["?", *_barred(question["text"], SHOWN_LINES)]
    lines += [f"  {number}  {one_line(option)}" for number, option in enumerate(question["options"], 1)]
    return "\n".join(lines)


def _how_to_answer(question: dict[str, Any]) -> str:
    how = "numbers with commas, or words" if question["multiple"] else "a number, or words"
    return f"  {how if question['options'] else 'an answer'}; nothing to decline: "


def _barred(text: str, most: int) -> list[str]:
    lines = harmless(text).rstrip("\n").split("\n")
    more = [f"  … {len(lines) - most} more lines: crabctl confirm"] if len(lines) > most else []
    return [f"  │ {line}" for line in lines[:most]] + more


def _forget_typed() -> None:
    """Throw away what was typed and not read."""
    # Imported here: only who sits at a terminal and is asked something needs it.
    import termios

    termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
