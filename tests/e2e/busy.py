"""Clients that do everything a client may do, at random, and keep note of what they were told.

They know nothing of the daemon but its socket, and nothing of when it dies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import trio

from tests.e2e.journals import Journal
from tests.e2e.ledger import NO_FACT, Closing, Compaction, Creation, Deletion, Fact, Ledger, Said, World
from tests.e2e.link import HungUp, Link, Refused
from tests.e2e.witness import KEPT_AFTER, Json, Stream
from tests.model_server import ModelServer, calls

Deed: TypeAlias = Callable[[], Awaitable[object]]

# What a client that knows the rules may be told at any time.
RULES = {"busy", "cancelled", "no_run", "nothing_to_compact", "paused", "queue_full", "shutting_down"}
# How often a client takes up with another session, or loses its link, instead of doing something.
MEETS = 0.05
LOSES = 0.02
TOOLS = "tools"


class Subscription(Fact):
    """A stream that is to begin, or to go on."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def accept(self, answer: Json, now: int) -> None:
        self._stream.subscribed(answer)


class Look(Fact):
    """A look at a session. What it has told so far comes on the link before the picture does."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def accept(self, answer: Json, now: int) -> None:
        assert answer["info"]["seq"] == self._stream.seq, f"{self._stream!r}: {answer}"


class Busy:
    """A client with a mind of its own, over as many links as it takes."""

    def __init__(self, name: str, world: World, rng: Random) -> None:
        self.name = name
        self.world = world
        self.rng = rng
        self.streams: dict[str, Stream] = {}
        # How many things it does at the same time, and what they are, each so often.
        self.at_once = 4
        self.deeds: dict[Callable[[Ledger], Awaitable[object]], float] = {
            self._send: 10,
            self._steer: 3,
            self._repeat: 1,
            self._look: 1,
            self._cancel: 1,
            self._compact: 0.7,
            self._pause: 0.5,
            self._configure: 1,
            self._close: 0.7,
            self._delete: 0.2,
        }
        self._link: Link | None = None
        # Requests with a key that a lost link has left without an answer.
        self._unanswered: list[Deed] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, {len(self.streams)} streams>"

    @property
    def link(self) -> Link:
        """The link of the moment."""
        assert self._link is not None, "nothing is done without a link"
        return self._link

    async def work(self, socket: Path) -> None:
        """Do one thing and another until the daemon is gone."""
        while await self._use_link(socket, self.do_anything):
            pass

    async def settle(self, socket: Path) -> None:
        """Begin nothing new, and see to the end what is under way."""
        await self._use_link(socket, self._finish)

    def check(self, journals: dict[str, Journal]) -> None:
        """Hold what was seen against what is stored, while nothing is under way.

        Raises:
          AssertionError: the two differ.
        """
        figures = self.world.figures
        self.streams = {name: stream for name, stream in self.streams.items() if name in journals}
        for name, stream in self.streams.items():
            for ended in stream.take_ended():
                ended.compare(journals[name].messages_of(ended.run))
                figures["runs compared"] += 1
            for cut in stream.tellings.values():
                due = cut.compare_cut(journals[name].messages_of(cut.run), self.world.newest)
                figures["cut runs compared"] += 1
                figures["characters that were due"] += len(due)

    async def do_anything(self) -> None:
        """Do one thing and another, a few at a time, until the link ends."""
        slots = trio.Semaphore(self.at_once)

        async def fill(deed: Deed) -> None:
            await self.attempt(deed)
            slots.release()

        async with trio.open_nursery() as nursery:
            while not self.link.ended.is_set():
                await slots.acquire()
                nursery.start_soon(fill, self._choose())

    async def attempt(self, deed: Deed) -> None:
        """Do something that the daemon may refuse by its rules, or that the end of the link may cut off."""
        try:
            await deed()
        except HungUp:
            pass
        except Refused as refused:
            match refused.kind:
                case "not_found" if self.world.ledgers[refused.data["name"]].is_delete_asked:
                    self.streams.pop(refused.data["name"], None)
                case "paused" if self.rng.random() < 0.5:
                    await self.attempt(partial(self._resume, self.world.ledgers[refused.data["session"]]))
                case kind if kind not in RULES:
                    raise
                case _:
                    pass

    async def ask(self, method: str, fact: Fact = NO_FACT, **params: object) -> Any:
        """Ask; what has a key and is not answered is asked again on the next link.

        Raises:
          Refused, HungUp.
        """
        try:
            return await self.link.call(method, fact, **params)
        except HungUp:
            if "request_key" in params:
                self._unanswered.append(partial(self.ask, method, fact, **params))
            raise

    async def meet(self) -> None:
        """Get to know a session: one of our own, one that all share, or somebody else's."""
        others = [name for name, one in self.world.ledgers.items() if not one.is_gone and TOOLS not in name]
        if others and self.rng.random() < 0.3:
            await self._follow(self.rng.choice(others))
        elif self.rng.random() < 0.5:
            await self.get_or_create(sender=self.name, topic=self.rng.choice("ab"))
        else:
            await self.get_or_create(sender="all")

    async def get_or_create(self, **identity: object) -> None:
        """Have a session, and follow it."""
        fact = Creation(self.world.ledgers)
        got = await self.ask("session/get_or_create", fact, agent="crab", **identity, **self._key())
        await self._follow(got["id"])

    async def send(self, ledger: Ledger, text: str, **params: object) -> None:
        """Send a new message."""
        said = Said(self.name, {"session": ledger.session, "content": text} | params)
        ledger.said.append(said)
        await self.ask("session/send", said, **said.params)

    async def send_last(self, ledger: Ledger) -> None:
        """Send a message that is answered after all others."""
        await self.send(ledger, f"echo {self.world.name()}")

    def hear(self, event: Json) -> None:
        """Take an event as it comes."""
        telling = self.streams[event["session"]].take(event)
        self.world.hear(event)
        if telling is not None and telling.age > KEPT_AFTER:
            self.world.note("old text")

    async def _use_link(self, socket: Path, pursue: Callable[[], Awaitable[None]]) -> bool:
        """Connect, go on where the last link broke off, and pursue; false if nobody is there."""
        try:
            stream = await trio.open_unix_socket(str(socket))
        except OSError:
            return False
        link = self._link = Link(stream, self.world, self.hear)
        async with trio.open_nursery() as reading:
            reading.start_soon(link.read)
            for session in tuple(self.streams):
                await self.attempt(partial(self._subscribe, session))
            again, self._unanswered = self._unanswered, []
            async with trio.open_nursery() as nursery:
                for deed in again:
                    nursery.start_soon(self.attempt, deed)
                await pursue()
            await link.hang_up()
        return True

    async def _finish(self) -> None:
        """Have nothing paused and nothing left in a queue, and see that all has been told."""
        for session in tuple(self.streams):
            ledger = self.world.ledgers[session]
            for deed in (self._resume, self.send_last, self._look):
                await self.attempt(partial(deed, ledger))

    def _choose(self) -> Deed:
        chance = self.rng.random()
        if not self.streams or chance < MEETS:
            return self.meet
        if chance < MEETS + LOSES:
            return self.link.hang_up
        [deed] = self.rng.choices(list(self.deeds), list(self.deeds.values()))
        return partial(deed, self.world.ledgers[self.rng.choice(list(self.streams))])

    def _key(self) -> dict[str, str]:
        return {"request_key": self.world.name()} if self.rng.random() < 0.7 else {}

    async def _follow(self, session: str) -> None:
        if session not in self.streams:
            await self._subscribe(session)

    async def _subscribe(self, session: str) -> None:
        stream = self.streams.setdefault(session, Stream(session))
        await self.ask("session/subscribe", Subscription(stream), session=session, **stream.place)

    async def _send(self, ledger: Ledger) -> None:
        when_busy = self.rng.choice(("queue", "queue", "queue", "steer", "reject"))
        params = {"when_busy": when_busy, "wait": self.rng.random() < 0.6, "events": self.rng.random() < 0.5}
        await self.send(ledger, self.world.invent(self.rng), **(params | self._key()))

    async def _steer(self, ledger: Ledger) -> None:
        text = self.world.invent(self.rng)
        said = Said(self.name, {"session": ledger.session, "content": text} | self._key())
        ledger.said.append(said)
        await self.ask("session/steer", said, **said.params)

    async def _repeat(self, ledger: Ledger) -> None:
        """Send once more what was accepted, to hear how it ended."""
        # A session remembers 256 keys.
        mine = [said for said in ledger.said[-100:] if said.client == self.name and said.key and said.run]
        if mine:
            said = self.rng.choice(mine)
            await self.ask("session/steer" if said.steer else "session/send", said, **said.params)

    async def _look(self, ledger: Ledger) -> None:
        stream = self.streams.get(ledger.session)
        if stream is not None:
            await self.ask("session/get", Look(stream), session=ledger.session)

    async def _cancel(self, ledger: Ledger) -> None:
        runs = [said.run for said in ledger.said[-6:] if said.run is not None]
        which = {"run": self.rng.choice(runs)} if runs and self.rng.random() < 0.6 else {}
        ledger.cancels.update(which.values())
        await self.ask("session/cancel", NO_FACT, session=ledger.session, **which)

    async def _compact(self, ledger: Ledger) -> None:
        await self.ask("session/compact", Compaction(ledger), session=ledger.session, **self._key())

    async def _pause(self, ledger: Ledger) -> None:
        write = ledger.settings["paused"].write(True)
        await self.ask("session/pause", write, session=ledger.session)
        if self.rng.random() < 0.8:
            await self._resume(ledger)

    async def _resume(self, ledger: Ledger) -> None:
        write = ledger.settings["paused"].write(False)
        await self.ask("session/resume", write, session=ledger.session)

    async def _configure(self, ledger: Ledger) -> None:
        setting, value = self.rng.choice(("title", "cwd")), f"/{self.world.name()}"
        write = ledger.settings[setting].write(value)
        await self.ask("session/configure", write, session=ledger.session, **{setting: value})

    async def _close(self, ledger: Ledger) -> None:
        if self.rng.random() < 0.5:
            await self.ask("session/close", session=ledger.session)
        else:
            await self.ask("session/close", Closing(ledger), session=ledger.session, cancel=True)

    async def _delete(self, ledger: Ledger) -> None:
        await self.ask("session/delete", Deletion(ledger), session=ledger.session, **self._key())


class ToolUser(Busy):
    """A client whose model calls a tool before it answers, in a session that it has for itself."""

    def __init__(self, world: World, rng: Random, models: ModelServer) -> None:
        super().__init__(TOOLS, world, rng)
        self.at_once = 1
        self.deeds = {self._use_tool: 5, self._repeat: 1, self._look: 1}
        self._models = models
        self._is_equipped = False

    async def meet(self) -> None:
        await self.get_or_create(sender=TOOLS)

    async def send_last(self, ledger: Ledger) -> None:
        await self._use_tool(ledger)

    async def _use_tool(self, ledger: Ledger) -> None:
        if not self._is_equipped:
            await self.ask("session/configure", session=ledger.session, model="test/m")
            self._is_equipped = True
        # Scripts that nobody used add up, and the same call again and again ends a run.
        await self._models.script(calls("look_around", {"where": self.world.name()}))
        await self.send(ledger, f"tool {self.world.name()}", request_key=self.world.name())


class Watcher(Busy):
    """A client that watches all sessions at once, and only watches."""

    def check(self, journals: dict[str, Journal]) -> None:
        super().check(journals)
        # There is no going on where one left off: whoever watches all begins with what comes first.
        self.streams.clear()

    async def do_anything(self) -> None:
        with suppress(HungUp):
            await self.ask("session/subscribe", all=True)
        await self.link.ended.wait()

    def hear(self, event: Json) -> None:
        self.streams.setdefault(event["session"], Stream.from_event(event))
        super().hear(event)
