"""Draws the events of runs as they come: the reply on one stream, everything else on another.

Knows what events look like, not where they come from.
"""

from __future__ import annotations

from crabctl.render import COLUMNS, columns, dim, duration, fit, harmless, one_line, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

# Wide enough for most of a call where no terminal sets a limit.
LINE_WITHOUT_TERMINAL = 2 * COLUMNS

# Why a run that did not finish by itself has ended, and what goes on from there.
ENDINGS = {
    "max_tokens": 'the reply was cut at the model\'s length limit: crabctl send "go on"',
    "budget": "the run was stopped",
    "max_rounds": 'the agent used up its rounds before it was done: crabctl send "go on"',
    "cancelled": "the run was cancelled",
    "refused": "the run was refused",
    "error": "the run failed",
    "interrupted": 'the daemon was interrupted in the middle of the run: crabctl send "go on"',
}

# How a call that waited was decided about.
DECISIONS = {
    "allow": "allowed",
    "allow_session": "allowed for this session",
    "allow_always": "allowed from now on",
    "deny": "denied",
    "cancelled": "asked no more",
}
MARKS = {"pending": "[ ]", "in_progress": "[>]", "done": "[x]"}

CANCELLED = 130


class Screen:
    """The reply goes to ``out``, the rest to ``notes``, which may be the same; that one is for people.

    A reply that stays apart and goes to no terminal is exact; everything else is made harmless.

    Without ``shows_text`` the reply is left to the caller, who prints it once it is whole.
    """

    def __init__(self, out: TextIO, notes: TextIO, *, shows_text: bool = True) -> None:
        self._out = out
        self._notes = notes
        self._shows_text = shows_text
        self._is_exact = not out.isatty() and out is not notes
        # The stream on which a line has begun and not ended.
        self._open: TextIO | None = None

    def __repr__(self) -> str:
        return f"<Screen {'mid-line' if self._open else 'at a line start'}>"

    def draw(self, event: dict[str, Any]) -> None:
        """Draw one event; those that say nothing to a reader leave no trace."""
        match event["type"]:
            case "text_delta":
                self.text(event["text"])
            case "thinking_delta":
                self.thinking(event["text"])
            case "text_end" | "thinking_end":
                self.end_line()
            case "tool_call":
                self.note(f"→ {event['name']} {event['arguments']}")
            case "tool_result":
                took = duration(event["duration_ms"] / 1000)
                self.note(f"← {event['name']}: {event['status']} in {took}: {event['output']}")
            case "confirmation_requested" | "question_asked":
                self.note(waiting_line(event))
            case "confirmation_resolved":
                self.note(decision_line(event))
            case "question_answered":
                said = "; ".join(event["answers"] or ())
                self.note(f"answered by {event['by']}: {said}" if said else f"declined by {event['by']}")
            case "plan_changed":
                for item in event["plan"]:
                    self.note(f"{MARKS.get(item['status'], '[ ]')} {item['text']}")
            case "queued":
                self.note(f"waits at position {event['position']}: {text_of(event['content'])}")
            case "steered":
                self.note(f"joined the run: {text_of(event['content'])}")
            case "compacted":
                self.note(
                    f"history compacted: {event['usage_before']} → {event['usage_after']} tokens of context"
                )
            case "results_shortened":
                self.note(
                    f"results shortened: {event['usage_before']} → {event['usage_after']} tokens of context"
                )
            case "compaction_failed":
                more = "; it is not tried again for now" if event["gives_up"] else ""
                self.note(f"history not compacted: {event['error']['message']}{more}")
            case "project_untrusted":
                files = ", ".join(f"{file['path']} ({file['kind']})" for file in event["files"])
                self.note(f"left out until crabctl trust DIR: {files}")
            case "servers_failed":
                for server in event["servers"]:
                    self.note(f"without the tools of {server['name']}: {server['problem']}")
            case "retrying":
                again = event["model"] or f"again in {duration(event['seconds'])}"
                self.note(f"no answer: {event['problem']}: asking {again}")
            case "persistence_failed":
                self.note(f"not saved yet: {event['error']['message']}")
            case "lagged":
                self.note("… some of what happened here was missed: crabctl log")
            case "session_closed":
                self.note(f"the session was {event['reason']}")
            case _:
                pass

    @property
    def is_mid_line(self) -> bool:
        """A line has begun and not ended."""
        return self._open is not None

    def ask(self, text: str) -> None:
        """Show a line beside the reply, harmless already, that whoever sits there ends by answering."""
        self.end_line()
        self._write(self._notes, text, ends=False)

    def tell(self, text: str) -> None:
        """Show lines beside the reply, harmless already, as they are."""
        self.end_line()
        self._write(self._notes, text + "\n", ends=True)

    def was_answered(self) -> None:
        """The person has ended the line."""
        self._open = None

    def picture(self, run: dict[str, Any]) -> None:
        """Draw a run in progress: the reply so far, left open for what comes, and the calls that go on."""
        for block in run["reply"]["content"]:
            if block["type"] == "text":
                self.text(block["text"])
        for call in run["open_calls"]:
            self.note(f"→ {call['name']} {call['arguments']}")

    def text(self, text: str) -> None:
        """Show a piece of the reply."""
        if self._shows_text and text:
            shown = text if self._is_exact else harmless(text)
            self._write(self._out, shown, ends=shown.endswith("\n"))

    def thinking(self, text: str) -> None:
        """Show a piece of thinking, to somebody who watches."""
        if text and self._notes.isatty():
            shown = harmless(text)
            self._write(self._notes, dim(shown, self._notes), ends=shown.endswith("\n"))

    def note(self, text: str) -> None:
        """Show one line beside the reply, cut to fit."""
        width = columns(self._notes) or LINE_WITHOUT_TERMINAL
        self.end_line()
        self._write(self._notes, dim(fit(one_line(text), width), self._notes) + "\n", ends=True)

    def end_line(self) -> None:
        """End the line that has begun, if one has."""
        if self._open is not None:
            self._write(self._open, "\n", ends=True)

    def _write(self, stream: TextIO, text: str, *, ends: bool) -> None:
        if self._open not in (None, stream):
            self.end_line()
        stream.write(text)
        stream.flush()
        self._open = None if ends else stream


def waiting_line(event: dict[str, Any]) -> str:
    """Say what waits for a person, and how to answer it from elsewhere."""
    if event["type"] == "question_asked":
        asked = event["question"]
        texts = "; ".join(question["text"] for question in asked["questions"])
        return f"? crabctl answer {asked['id']}: {texts}"
    asked = event["confirmation"]
    return f"? crabctl confirm {asked['id']}: {asked['tool']}: {asked['command'] or asked['title']}"


def decision_line(event: dict[str, Any]) -> str:
    """Say who decided what about a call."""
    decision = DECISIONS.get(event["decision"], event["decision"])
    why = f": {event['reason']}" if event["reason"] else ""
    rules = f" ({', '.join(event['rules'])})" if event["rules"] else ""
    return f"{decision}{rules} by {event['by']}{why}"


def ending(stop_reason: str, error: dict[str, Any] | None) -> tuple[int, str | None]:
    """Give a run's exit code, and what to say when it did not end by itself."""
    if stop_reason == "end_turn":
        return 0, None
    problem = ENDINGS.get(stop_reason, stop_reason)
    if error is not None:
        from crabctl.failure import sentence

        problem = f"{problem}: {sentence(error['message'], error)}"
    return (CANCELLED if stop_reason == "cancelled" else 1), harmless(problem)
