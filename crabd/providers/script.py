"""A script for the offline model: a whole task, one round after the other. Pure.

Below the word ``script`` each ``call TOOL {json}`` is a round, with the words of the ``say TEXT`` lines above
it; ``and TOOL {json}`` is one more call in the same round. What is said last ends the run. ``$result`` stands
for what the call before has answered, in a text and in the arguments' strings alike::

    script
    say I look first.
    call read {"path": "notes.txt"}
    and ls {"path": "."}
    call bash {"command": "make test"}
    say The tests say: $result

What has been played is seen from the history. What is steered meanwhile changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from crabd.messages import AssistantMessage, Message, ToolMessage, UserMessage, text_of

USAGE = "A script has lines of `say TEXT`, `call TOOL {json}` and, after a call, `and TOOL {json}`."
_SCRIPT = re.compile(r"\s*script\s*\n(.*)", re.DOTALL)
_LINE = re.compile(r"(say|call|and)\s+(\S.*)")
_RESULT = "$result"


class Round(Struct, frozen=True):
    """What is said, and what is called: each a tool and its arguments."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()


class Script(Struct, frozen=True):
    """The lines of a script, and the messages that have come of it."""

    lines: str
    since: Sequence[Message]

    def next_round(self) -> Round | None:
        """Give the round that comes next, an empty one behind the end; null if some line makes no sense."""
        rounds = _read(self.lines)
        played = sum(isinstance(message, AssistantMessage) for message in self.since)
        if rounds is None or played >= len(rounds):
            return None if rounds is None else Round("The script is over.")
        results = [message.output for message in self.since if isinstance(message, ToolMessage)]
        return _fill_in(rounds[played], results[-1] if results else "")


def find_script(messages: Sequence[Message]) -> Script | None:
    """Find the script that a person's last message is, if it is one."""
    for at in range(len(messages) - 1, -1, -1):
        message = messages[at]
        if isinstance(message, UserMessage) and not message.steer:
            found = _SCRIPT.fullmatch(text_of(message))
            return Script(found[1], messages[at + 1 :]) if found else None
    return None


def _read(lines: str) -> list[Round] | None:
    rounds = [Round()]
    for line in filter(None, map(str.strip, lines.splitlines())):
        found = _LINE.fullmatch(line)
        last = rounds[-1]
        if found is None or (found[1] == "and" and not last.calls):
            return None
        if last.calls and found[1] != "and":
            last = Round()
            rounds.append(last)
        rounds[-1] = _add(last, found[1], found[2])
    return rounds


def _add(to: Round, verb: str, rest: str) -> Round:
    if verb == "say":
        return Round(f"{to.text}\n{rest}" if to.text else rest, to.calls)
    name, _, arguments = rest.partition(" ")
    return Round(to.text, (*to.calls, (name, arguments.strip() or "{}")))


def _fill_in(played: Round, result: str) -> Round:
    # As a string of JSON has it, without its quotes.
    escaped = msgspec.json.encode(result).decode()[1:-1]
    calls = tuple((name, arguments.replace(_RESULT, escaped)) for name, arguments in played.calls)
    return Round(played.text.replace(_RESULT, result), calls)
