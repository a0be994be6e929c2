"""Judges what a model asks tools for: which calls are not made, what it is told instead, when it is enough.

Pure. It knows calls as the model wrote them, not the tools, and not what a run does with the judgement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from crabd.messages import ToolCall

# Rounds in a row with arguments that are no JSON object: a model that two answers did not help will not mend.
MAX_MALFORMED = 2
# Rounds in a row with the very same call. One may look again whether something is done; a fourth time is a
# loop.
MAX_REPEATED = 3
REPEATED = (
    f"the call was not made: you have made this very call in {MAX_REPEATED} rounds in a row, and its results "
    "are above. Go on with what they say, try something else, or say what you cannot do."
)

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder(order="sorted").encode


class Verdict(Struct, frozen=True):
    """What is said to calls that are not made, by their ids; with an ``end`` the run ends after that."""

    objections: dict[str, str]
    end: str | None = None


class CallWatch:
    """Watches the calls of a run, round by round."""

    def __init__(self) -> None:
        self._malformed = 0
        # In how many rounds, up to the last one, each call of the last one was asked for.
        self._repeated: dict[bytes, int] = {}

    def judge(self, calls: Sequence[ToolCall]) -> Verdict:
        """Look at the calls of the next round, of which there is at least one."""
        objections: dict[str, str] = {}
        repeated: dict[bytes, int] = {}
        malformed = ""
        for call in calls:
            try:
                key = _encode([call.name, read_arguments(call)])
            except ValueError as exc:
                malformed = call.name
                objections[call.id] = f"the call was not made: {exc}. Write them again, as one JSON object."
                continue
            repeated[key] = self._repeated.get(key, 0) + 1
            if repeated[key] > MAX_REPEATED:
                objections[call.id] = REPEATED
        self._malformed = self._malformed + 1 if malformed else 0
        self._repeated = repeated
        if self._malformed > MAX_MALFORMED:
            return Verdict(objections, _end_malformed(malformed))
        has_been_told = max(repeated.values(), default=0) > MAX_REPEATED + 1
        if has_been_told and len(objections) == len(calls):
            return Verdict(objections, _end_repeated(calls[-1].name))
        return Verdict(objections)

    def forgive(self) -> None:
        """Begin anew: a person has said something, so the same call may now be the right one."""
        self._malformed = 0
        self._repeated = {}


def read_arguments(call: ToolCall) -> dict[str, Any]:
    """Read what a tool is called with; a call without arguments has none.

    Raises:
      ValueError: they are no JSON object.
    """
    try:
        return _decode(call.arguments.strip() or "{}")
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"its arguments are not a JSON object: {exc}") from exc


def _end_malformed(name: str) -> str:
    return (
        f"the model wrote the arguments of {name} wrongly {MAX_MALFORMED + 1} times in a row, so the run was "
        "stopped: say it in other words, or choose another model"
    )


def _end_repeated(name: str) -> str:
    return (
        f"the model asked for the same call of {name} again and again, so the run was stopped: "
        "tell it what to do differently"
    )
