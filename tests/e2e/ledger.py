"""What all clients together were told of each session, and whether its journal bears it out. Pure.

Time is a count of what the clients have asked and heard: of two things the order is known only if one was
over before the other was asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import combinations
from random import Random

from tests.e2e.journals import Journal
from tests.e2e.witness import Json, text_of

NEVER = 1 << 60
# How many of all messages are answered slowly, so that a kill finds them unfinished.
SLOW = 0.35


class World:
    """What all clients together know, and the clock that they share.

    ``watch`` is told of everything that is asked and heard, as it happens.
    """

    def __init__(self, watch: Callable[[str], None]) -> None:
        self.ledgers: dict[str, Ledger] = {}
        self.newest = datetime.min.replace(tzinfo=UTC)
        self.figures: Counter[str] = Counter()
        self._watch = watch
        self._clock = 0
        self._serial = 0

    def note(self, what: str) -> int:
        """Take note of something; returns the time."""
        self._clock += 1
        self.figures[what] += 1
        self._watch(what)
        return self._clock

    def hear(self, event: Json) -> None:
        """Take note of an event that a client has seen."""
        self.newest = max(self.newest, datetime.fromisoformat(event["at"]))
        self.ledgers[event["session"]].hear(event)
        self.note(event["type"])

    def invent(self, rng: Random) -> str:
        """Make a message that was never sent before, to which the built-in model has a definite answer."""
        self._serial += 1
        if rng.random() < SLOW:
            # Two figures, and no word more; zeros before them make it this one and no other.
            count, pause = rng.choice((10, 30, 150)) + self._serial % 10, 8 + self._serial // 10 % 20
            return f"slow {count:0{3 + self._serial // 200 % 6}d} {pause:0{3 + self._serial // 1200 % 6}d}"
        words = "".join(f" w{i}" for i in range(rng.choice((2, 5, 20, 150))))
        return f"{rng.choice(('echo', 'echo', 'think'))} {self._serial}{words}"

    def name(self) -> str:
        """Make a name that was never used before."""
        self._serial += 1
        return f"n{self._serial}"

    def close(self) -> None:
        """Note that the daemon is gone."""
        now = self.note("killed")
        for ledger in self.ledgers.values():
            ledger.close(now)


class Fact:
    """Something that a client asks for, and does not know until it is told, if it ever is.

    ``ask`` comes again when a link was lost, and so may an answer to what has a key.
    """

    def ask(self, now: int) -> None:
        """Note that it is being asked for."""

    def accept(self, answer: Json, now: int) -> None:
        """Take the answer."""

    def refuse(self, now: int) -> None:
        """Take note that the daemon would not."""


# Of what leaves nothing behind that could be held against anybody.
NO_FACT = Fact()


class Said(Fact):
    """A message or a steering, and what became of it as far as its client knows."""

    def __init__(self, client: str, params: Json) -> None:
        self.client = client
        self.params = params
        self.session: str = params["session"]
        self.text: str = params["content"]
        self.key: str | None = params.get("request_key")
        self.first_ask = NEVER
        self.last_ask = NEVER
        self.answered = NEVER
        self.run: str | None = None
        self.steer: str | None = None
        self.result: Json | None = None
        self.is_refused = False

    def __repr__(self) -> str:
        fate = "refused" if self.is_refused else "in doubt" if self.run is None else "acknowledged"
        times = f"asked {self.first_ask}/{self.last_ask}, answered {self.answered}"
        return f"<Said {self.params} by {self.client}, run {self.run}, {self.steer}, {fate}, {times}>"

    def ask(self, now: int) -> None:
        if self.run is None:
            self.first_ask, self.last_ask = min(self.first_ask, now), now

    def accept(self, answer: Json, now: int) -> None:
        assert self.run in (None, answer["run"]), f"{self!r} has become {answer}"
        self.run = answer["run"]
        self.answered = min(self.answered, now)
        self.steer = answer.get("steer", self.steer)
        if "stop_reason" in answer:
            assert answer["persisted"], f"{self!r}: {answer}"
            assert answer["stop_reason"] in ("end_turn", "cancelled", "interrupted"), f"{self!r}: {answer}"
            self.result = answer

    def refuse(self, now: int) -> None:
        # What was asked before, and never answered, may have been taken all the same: a daemon that is about
        # to stop looks nothing up.
        self.is_refused = self.run is None and self.first_ask == self.last_ask


class Write(Fact):
    """A value for a setting; ``ended`` when it can take effect no more."""

    def __init__(self, value: object) -> None:
        self.value = value
        self.asked = NEVER
        self.ended = NEVER
        self.is_acknowledged = False

    def ask(self, now: int) -> None:
        self.asked = now

    def accept(self, answer: Json, now: int) -> None:
        self.ended, self.is_acknowledged = now, True

    def refuse(self, now: int) -> None:
        self.ended = now


class Register:
    """A setting that clients write at the same time."""

    def __init__(self) -> None:
        self._writes: list[Write] = []

    def write(self, value: object) -> Write:
        """Begin to give it a value."""
        self._writes.append(Write(value))
        return self._writes[-1]

    def close(self, now: int) -> None:
        """Note that nothing that is under way can take effect any more."""
        for write in self._writes:
            write.ended = min(write.ended, now)

    def allows(self, value: object) -> bool:
        """Tell whether the setting may have a value; any, as long as nobody was told of one."""
        newest = max((write.asked for write in self._writes if write.is_acknowledged), default=0)
        # One that was over before another was asked for is superseded by that.
        return not newest or value in [write.value for write in self._writes if write.ended >= newest]


class Ledger:
    """What is known of one session."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.said: list[Said] = []
        self.settings = {name: Register() for name in ("title", "cwd", "paused")}
        self.archives: dict[str, str] = {}
        self.started: dict[str, tuple[int, str]] = {}
        self.ended: dict[str, str] = {}
        # Runs that somebody has asked to cancel, and the time until which all of them may have been.
        self.cancels: set[str] = set()
        self.cancelled_until = 0
        self.is_new = True
        self.is_delete_asked = False
        # From when on nobody may be given it any more.
        self.gone_at = NEVER

    def __repr__(self) -> str:
        return f"<Ledger {self.session}, {len(self.said)} said{', gone' if self.is_gone else ''}>"

    def hear(self, event: Json) -> None:
        """Note what an event says is durable."""
        match event["type"]:
            case "run_started":
                start = (event["step"], text_of(event))
                assert self.started.setdefault(event["run"], start) == start, f"{self!r}: {event}"
            case "run_ended":
                assert event["persisted"], f"{self!r}: {event}"
                assert self.ended.setdefault(event["run"], event["stop_reason"]) == event["stop_reason"]
            case "compacted":
                self.archives[event["archive"]] = event["summary"]
            case _:
                pass

    def close(self, now: int) -> None:
        """Note that the daemon is gone, and with it all that was under way."""
        self.cancelled_until = min(self.cancelled_until, now)
        for setting in self.settings.values():
            setting.close(now)

    @property
    def is_gone(self) -> bool:
        return self.gone_at < NEVER

    def check_life(self, is_there: bool) -> None:
        """Hold that the session is there, or is not, against what was told, while nothing is under way.

        Raises:
          AssertionError: it is lost, or has come back.
        """
        assert is_there or self.is_delete_asked, f"{self!r} is lost"
        assert not (is_there and self.is_gone), f"{self!r} has come back"
        self.is_delete_asked = not is_there
        self.gone_at = NEVER if is_there else 0

    def check_settings(self, info: Json) -> None:
        """Hold a session's settings against what was told.

        Raises:
          AssertionError: one is not what somebody was told last.
        """
        stored = {"title": info["title"], "cwd": info["cwd"], "paused": info["state"] == "paused"}
        for name, value in stored.items():
            assert self.settings[name].allows(value), f"{self!r}: {name} is {value}"

    def check(self, journal: Journal) -> None:
        """Hold what was told against what is stored, when nothing is under way.

        Raises:
          AssertionError: something that was acknowledged is missing, doubled, changed or in another order.
        """
        journal.check_closed()
        journal.check_replies({said.text for said in self.said})
        places = {text: i for i, text in enumerate(journal.texts)}
        assert len(places) == len(journal.texts), f"{self!r}: doubled {Counter(journal.texts).most_common(1)}"
        for said in self.said:
            self._check_said(said, journal, places.get(said.text))
        there = sorted((said for said in self.said if said.text in places), key=lambda s: places[s.text])
        _check_order([s for s in there if not journal.users[places[s.text]].steer])
        _check_order([s for s in there if journal.users[places[s.text]].steer])
        for run, (step, text) in self.started.items():
            assert (run, text) in [(u.run, u.text) for u in journal.users if u.step == step], f"{run} {step}"
        for run, reason in self.ended.items():
            assert journal.closed[run] == reason, f"{self!r}: {run} was told to be {reason}"
        for archive, summary in self.archives.items():
            assert journal.archives[archive] == summary, f"{self!r}: {archive} is {journal.archives}"

    def _check_said(self, said: Said, journal: Journal, place: int | None) -> None:
        if said.is_refused:
            assert place is None, f"{said!r} is stored"
        if said.run is None:
            return
        if place is None:
            was_asked_for = said.run in self.cancels or self.cancelled_until > said.first_ask
            was_waiting = said.run not in self.started and journal.closed.get(said.run) == "cancelled"
            assert (was_asked_for, was_waiting) == (True, True), f"{said!r} is lost"
            return
        found = journal.users[place]
        assert found.run == said.run, f"{said!r} is in {found.run}"
        assert said.steer in (None, found.steer), f"{said!r} is steering {found.steer}"
        if said.result is not None:
            stored = (journal.closed[found.run], journal.last_text(found.run))
            assert (said.result["stop_reason"], said.result["text"]) == stored, f"{said!r}: {said.result}"


class Creation(Fact):
    """A session that is to be found or made, whichever it will be."""

    def __init__(self, ledgers: dict[str, Ledger]) -> None:
        self._ledgers = ledgers
        self._asked = NEVER

    def ask(self, now: int) -> None:
        self._asked = now

    def accept(self, answer: Json, now: int) -> None:
        ledger = self._ledgers.setdefault(answer["id"], Ledger(answer["id"]))
        # Two links are read in any order, so the answer may be older than the deletion that was read first.
        assert self._asked < ledger.gone_at, f"{ledger!r} has come back"
        if answer["created"]:
            assert ledger.is_new, f"{ledger!r} was made twice"
            ledger.is_new = False


class Compaction(Fact):
    """A summary that is to take the place of the older messages."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def accept(self, answer: Json, now: int) -> None:
        if answer["stop_reason"] == "cancelled":
            return
        archives, summary = self._ledger.archives, answer["summary"]
        assert archives.setdefault(answer["archive"], summary) == summary, f"{self._ledger!r}: {answer}"


class Closing(Fact):
    """A session that is to be closed whatever is going on in it."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def ask(self, now: int) -> None:
        self.ledger.cancelled_until = NEVER


class Deletion(Closing):
    """A session that is to be deleted."""

    def ask(self, now: int) -> None:
        super().ask(now)
        self.ledger.is_delete_asked = True

    def accept(self, answer: Json, now: int) -> None:
        self.ledger.gone_at = min(now, self.ledger.gone_at)


def _check_order(said: list[Said]) -> None:
    """See that none stands before what was over, or asked for by the same client, before it was asked for."""
    for before, after in combinations([one for one in said if one.run is not None], 2):
        is_wrong = after.answered < before.first_ask
        is_overtaken = after.client == before.client and after.last_ask < before.first_ask
        assert not is_wrong, f"{before!r} stands before {after!r}, which was answered earlier"
        assert not is_overtaken, f"{before!r} stands before {after!r}, which was asked earlier"
