"""What one client has seen of a session: its events in order, and the messages they add up to. Pure.

A client believes what it was told and nothing else, so what it puts together here from events alone can be
held against the store. It knows neither links nor what anybody asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

# Text that was shown this long before the newest event must be in the store. crabd promises a quarter of a
# second; the rest is for a disk and a machine that are busy with other things.
KEPT_AFTER = timedelta(seconds=2)
# A session keeps 256 KiB of events for a client that comes back; none here is as long as half a kilobyte.
KEPT_EVENTS = 512


class Telling:
    """A run as a client was told it. ``is_whole``: from its very first event on."""

    def __init__(self, run: str, *, is_whole: bool) -> None:
        self.run = run
        self.is_whole = is_whole
        self.stop_reason: str | None = None
        self.messages: list[Json] = []
        # So many messages are in the store: the daemon has gone on to what comes after them.
        self.saved = 0
        # The reply that is coming, and the one not paid for yet: if it never is, it was cut short.
        self._open: Json | None = None
        self._unpaid: Json | None = None
        self._pieces: list[tuple[datetime, str]] = []

    def __repr__(self) -> str:
        return f"<Telling {self.run} {self.stop_reason or 'open'}, {len(self.messages)} messages>"

    @property
    def age(self) -> timedelta:
        """How long the reply that is open has been coming."""
        return self._pieces[-1][0] - self._pieces[0][0] if self._open and self._pieces else timedelta()

    def begin(self, picture: Json) -> None:
        """Start from a picture of a run in progress."""
        blocks = [dict(block) for block in picture["reply"]["content"]]
        if blocks:
            self._open = self._unpaid = {"role": "assistant", "content": blocks}
            self.messages.append(self._open)

    def take(self, event: Json) -> None:
        """Go on with the next event of the run."""
        match event["type"]:
            case "run_started":
                self.messages.append({"role": "user", "content": event["content"]})
                self.saved = 1
            case "text_start" | "thinking_start" as kind:
                self._reply()["content"].append({"type": kind.removesuffix("_start"), "text": ""})
            case "text_delta" | "thinking_delta" as kind:
                block = self._reply()["content"][-1]
                assert block["type"] == kind.removesuffix("_delta"), event
                block["text"] += event["text"]
                self._pieces.append((datetime.fromisoformat(event["at"]), event["text"]))
            case "usage":
                # What a server did not tell was estimated, because the reply was cut off.
                if not event["estimated"]:
                    self._unpaid = None
                self._open = None
                self.saved = len(self.messages)
            case "steered":
                self.messages.append({"role": "user", "content": event["content"], "steer": event["steer"]})
                self._open = None
            case "tool_call":
                call = {"type": "tool_call", "id": event["call"]} | pick(event, "name", "arguments")
                if not self.messages or self.messages[-1]["role"] != "assistant":
                    self.messages.append({"role": "assistant", "content": []})
                self.messages[-1]["content"].append(call)
            case "tool_result":
                self.messages.append({"role": "tool"} | pick(event, "call", "name", "output", "status"))
            case "run_ended":
                self.stop_reason = event["stop_reason"]
                if self._unpaid is not None:
                    self._unpaid["partial"] = True
            case _:
                pass

    def compare(self, stored: Sequence[Json]) -> None:
        """Hold a run that has ended against its messages in the store.

        Raises:
          AssertionError: they are not the same.
        """
        found = [{name: value for name, value in message.items() if name != "model"} for message in stored]
        if self.is_whole:
            assert self.messages == found, f"{self!r}: {self.messages} was told, {found} is stored"
            return
        # What was said before the client came is in the picture as far as it is the reply of the moment.
        rest = iter([_words_of(message) for message in found])
        for words in [_words_of(message) for message in self.messages]:
            # Looking for it goes through the rest up to it, so that the order counts.
            assert not words or words in rest, f"{self!r}: {words!r} was told, {found} is stored"

    def compare_cut(self, stored: Sequence[Json], newest: datetime) -> str:
        """Hold a run that a kill has cut against its messages in the store; returns the text that was due.

        Raises:
          AssertionError: something is missing that was durable, or written down long enough ago.
        """
        if not self.is_whole:
            return ""
        found = [{name: value for name, value in message.items() if name != "model"} for message in stored]
        assert found[: self.saved] == self.messages[: self.saved], f"{self!r}: {self.messages}, {found}"
        if self._unpaid is None:
            return ""
        due = "".join(text for at, text in self._pieces if at <= newest - KEPT_AFTER)
        told = "".join(text for _, text in self._pieces)
        rest = found[self.saved :]
        kept = _words_of(rest[0]) if rest and rest[0]["role"] == "assistant" else ""
        assert kept.startswith(due), f"{self!r}: {due!r} was due, {kept!r} is stored"
        assert kept.startswith(told) or told.startswith(kept), f"{self!r}: {told!r} told, {kept!r} stored"
        # What comes in a later life is no measure of this one.
        self._pieces.clear()
        return due

    def _reply(self) -> Json:
        if self._open is None:
            # The daemon asks the model only when all that came before is durable.
            self.saved = len(self.messages)
            self._open = self._unpaid = {"role": "assistant", "content": []}
            self.messages.append(self._open)
            self._pieces.clear()
        return self._open


class Stream:
    """The events of one session as one client gets them, over as many links as it takes."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.epoch: str | None = None
        self.seq = 0
        self.tellings: dict[str, Telling] = {}

    def __repr__(self) -> str:
        return f"<Stream {self.session} at {self.seq} of {self.epoch}>"

    @classmethod
    def from_event(cls, event: Json) -> Stream:
        """Begin right before an event, whatever came earlier."""
        stream = cls(event["session"])
        stream.epoch, stream.seq = event["epoch"], _first_of(event) - 1
        return stream

    @property
    def place(self) -> Json:
        """Say where to go on, as ``session/subscribe`` takes it."""
        return {} if self.epoch is None else {"after": self.seq, "epoch": self.epoch}

    def subscribed(self, answer: Json) -> None:
        """Take the answer to a subscription made at ``place``."""
        if answer["epoch"] == self.epoch:
            missed = answer["seq"] - self.seq
            assert missed >= 0, f"{self!r}: {answer}"
            if answer["replay"] == "complete":
                return
            assert missed > KEPT_EVENTS, f"{self!r}: {missed} events were not kept"
        else:
            assert answer["replay"] == ("complete" if self.epoch is None else "partial"), (
                f"{self!r}: {answer}"
            )
        self.epoch, self.seq = answer["epoch"], answer["seq"]
        self.tellings.clear()
        picture = answer["snapshot"]["run"]
        if picture is not None:
            telling = self.tellings[picture["run"]] = Telling(picture["run"], is_whole=False)
            telling.begin(picture)

    def take(self, event: Json) -> Telling | None:
        """Take the next event; returns the run that it tells of.

        Raises:
          AssertionError: something is missing before it, or it was here already.
        """
        assert (event["epoch"], _first_of(event)) == (self.epoch, self.seq + 1), f"{self!r}: {event}"
        self.seq = event["seq"]
        if event["type"] == "lagged":
            self.tellings.clear()
        run: str = event.get("run", "")
        if event["type"] == "run_started":
            self.tellings[run] = Telling(run, is_whole=True)
        telling = self.tellings.get(run)
        if telling is not None:
            telling.take(event)
        return telling

    def take_ended(self) -> list[Telling]:
        """Give the runs that have ended, each once."""
        ended = [telling for telling in self.tellings.values() if telling.stop_reason]
        self.tellings = {run: kept for run, kept in self.tellings.items() if not kept.stop_reason}
        return ended


def _first_of(event: Json) -> int:
    """Tell the number of the first event that this one stands for."""
    first: int = event.get("merged_from") or event.get("from") or event["seq"]
    return first


def pick(source: Json, *names: str) -> Json:
    """Copy some fields of an object."""
    return {name: source[name] for name in names}


def text_of(message: Json) -> str:
    """Join the visible text of a message of a user or an assistant."""
    return "".join(block["text"] for block in message["content"] if block["type"] == "text")


def user_texts(messages: Iterable[Json]) -> list[str]:
    """List what users have said."""
    return [text_of(message) for message in messages if message["role"] == "user"]


def _words_of(message: Json) -> str:
    """Join all that a user or an assistant has said or thought; nothing for a tool's result."""
    return "".join(block["text"] for block in message.get("content", ()) if block["type"] != "tool_call")
