"""A session's log, read from its files as anybody can, and what must hold of it whatever anybody was told."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import msgspec

from crabd.store.journal.line import encode_step
from crabd.store.stepfiles.store import StepLayout
from tests.e2e.witness import Json, text_of


class User(msgspec.Struct):
    """A user's message in a journal."""

    step: int
    run: str
    text: str
    steer: str


class Journal:
    """A session's log, read from its files as anybody can."""

    def __init__(self, home: Path) -> None:
        self.home = home
        lines = [msgspec.json.decode(line) for line in read_lines(home)]
        self.entries: list[Json] = []
        self.opened: list[str] = []
        self.closed: dict[str, str] = {}
        self.archives: dict[str, str] = {}
        self._queued: list[Json] = []
        for line in lines:
            self._take(line["n"], line["at"], line["record"])
        self.steps = len(lines)
        self.users = [
            User(entry["step"], entry["run"], text_of(entry["message"]), entry["message"].get("steer", ""))
            for entry in self.entries
            if entry["message"]["role"] == "user"
        ]
        self.texts = [user.text for user in self.users]

    def __repr__(self) -> str:
        return f"<Journal {self.home}, {self.steps} steps>"

    def messages_of(self, run: str) -> list[Json]:
        """List a run's messages."""
        return [entry["message"] for entry in self.entries if entry["run"] == run]

    def last_text(self, run: str) -> str:
        """Tell what the last reply of a run says."""
        replies = [message for message in self.messages_of(run) if message["role"] == "assistant"]
        return text_of(replies[-1]) if replies else ""

    def check_closed(self) -> None:
        """See that nothing is open: each run was closed once, nothing waits, every call has its result."""
        assert len(set(self.opened)) == len(self.opened), f"{self!r}: {self.opened}"
        assert set(self.opened) <= set(self.closed), f"{self!r}: {set(self.opened) - set(self.closed)}"
        assert all(_number(a) < _number(b) for a, b in pairwise(self.opened)), f"{self!r}: {self.opened}"
        steers = {user.steer for user in self.users}
        for waiting in self._queued:
            is_settled = waiting["steer"] in steers if "steer" in waiting else waiting["run"] in self.closed
            assert is_settled, f"{self!r}: {waiting} is still waiting"
        messages = [entry["message"] for entry in self.entries]
        for i, message in enumerate(messages):
            calls = [block["id"] for block in message.get("content", ()) if block["type"] == "tool_call"]
            results = [result.get("call") for result in messages[i + 1 : i + 1 + len(calls)]]
            assert calls == results, f"{self!r}: {calls} are answered by {results}"

    def check_replies(self, asked: Iterable[str]) -> None:
        """See that nobody said what was not asked for, and that every reply is all of what it has to be.

        One that is marked partial is a beginning of that.
        """
        known, last = set(asked), ""
        for entry in self.entries:
            message = entry["message"]
            if message["role"] == "user":
                last = text_of(message)
                assert last in known, f"{self!r}: nobody said {last!r}"
            elif message["role"] == "assistant":
                thought, answer = expect(last)
                said = [block["text"] for block in message["content"] if block["type"] != "tool_call"]
                whole, is_partial = thought + answer, message.get("partial", False)
                # A model that calls a tool says the rest when it has the result.
                is_call = len(said) < len(message["content"])
                is_right = whole.startswith("".join(said)) if is_partial else "".join(said) == whole
                assert is_right or (is_call and not said), f"{self!r}: {last!r} got {message}"

    def _take(self, n: int, at: str, record: Json) -> None:
        match record["type"]:
            case "message":
                self.entries.append({"step": n, "run": record["run"], "at": at, "message": record["message"]})
            case "queued":
                self._queued.append(record)
            case "run_opened":
                self.opened.append(record["run"])
            case "run_closed":
                assert record["run"] not in self.closed, f"{self!r}: {record} again"
                self.closed[record["run"]] = record["stop_reason"]
            case "compacted":
                assert record["archive"] not in self.archives, f"{self!r}: {record} again"
                self.archives[record["archive"]] = record["summary"]
            case _:
                pass


def read_lines(home: Path) -> list[bytes]:
    """Read the lines of a journal, or what step files would be as such."""
    journal = home / "journal.jsonl"
    if journal.exists():
        return journal.read_bytes().splitlines()
    return [encode_step(step) for step in StepLayout().read(home, 0, None)]


def expect(text: str) -> tuple[str, str]:
    """Tell what the models of these tests think and say to a text."""
    verb, _, rest = text.partition(" ")
    match verb:
        case "echo":
            return "", rest
        case "think":
            return rest, "I have thought about it."
        case "slow":
            return "", " ".join(map(str, range(1, 1 + int(rest.split()[0]))))
        case _:
            return "", text


def _number(run: str) -> int:
    match = re.fullmatch(r"r(\d+)", run)
    assert match, run
    return int(match[1])
