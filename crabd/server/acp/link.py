"""A client that speaks the Agent Client Protocol: what it can do, what it has open, what it was told.

It subscribes to the sessions that it has open as any other client, and is told in other words. If it reads so
slowly that it misses events, what it missed is told from the log and the picture of the run, once it has read
what it had. Which methods there are is not known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import msgspec
import structlog
import trio
from msgspec import Raw, Struct
from structlog.typing import FilteringBoundLogger

from crabd.errors import CrabdError
from crabd.events import AnyEvent, Envelope, Lagged, RunEnded, SessionChanged, SessionClosed, ToolOutput
from crabd.rpc.envelope import encode_notification
from crabd.rpc.peer import LOW_WATER, Peer
from crabd.runtime.history import StoredMessage, list_messages
from crabd.runtime.pace import Subscriber
from crabd.runtime.runtime import Runtime
from crabd.runtime.session import Session
from crabd.server.acp import schema as acp
from crabd.server.acp.deciding import Asker
from crabd.server.acp.editor import ClientEditor, shows_files
from crabd.server.acp.opened import Opened
from crabd.server.acp.options import COMMANDS, Models, Settings
from crabd.server.acp.replay import catch_up, replay
from crabd.server.acp.updates import tell_plan, tell_usage
from crabd.server.line import Line

DEFAULT_NAME = "acp"
# Messages of a log that are told in one go; of more, the client is to read some first.
AT_ONCE = 20
# Unsent bytes above which what tools print is not told as it comes.
FRESH_BACKLOG = 64 * 1024

log: FilteringBoundLogger = structlog.get_logger()


class Prompt(Protocol):
    """A prompt that is not answered yet."""

    def cancel(self) -> None:
        """Have it end soon."""
        ...


class AcpLink(Subscriber):
    """One client. What it has open ends with it; the sessions and their runs do not."""

    def __init__(self, peer: Peer, runtime: Runtime) -> None:
        self.peer = peer
        self.runtime = runtime
        self.capabilities = acp.ClientCapabilities()
        # Who it is, for sessions that it makes and for people who are told what it did.
        self.name = DEFAULT_NAME
        self.opened: dict[str, Opened] = {}
        # What it asks of a session in one go keeps its order, also where the session has to be loaded first.
        self.line = Line()
        # Its prompts that are not answered yet, by session.
        self.prompts: dict[str, list[Prompt]] = {}
        self._asker = Asker(self)
        self._has_read = trio.Event()

    def __repr__(self) -> str:
        return f"<AcpLink {self.name}, {len(self.opened)} sessions open>"

    @property
    def backlog(self) -> int:
        return self.peer.backlog

    def post(self, payload: bytes) -> None:
        """Take an encoded event, and tell the client what follows from it. A fault here is nobody else's."""
        try:
            self._post(payload)
        except Exception:
            log.exception("update_failed", client=self.name)

    def _post(self, payload: bytes) -> None:
        raw = _notification.decode(payload).params
        envelope, event = _envelope.decode(raw), _event.decode(raw)
        opened = self.opened.get(envelope.session)
        if opened is None:
            return
        run = envelope.run if isinstance(envelope.run, str) else None
        if opened.gap is not None:
            if isinstance(event, RunEnded):
                opened.ends.append((event, run))
        elif isinstance(event, Lagged):
            opened.gap = trio.Event()
            self.peer.start_soon(self._close_gap, opened)
        else:
            self._take(opened, event, run)

    def post_at_once(self, bundle: Any) -> bool:
        """Take nothing in bulk: each event is put into other words."""
        return False

    def close(self) -> None:
        """Hang up: it has left too much unread."""
        self.peer.close()

    def drained(self) -> None:
        """Note that the client has read most of what it was sent."""
        self._has_read.set()
        self.runtime.drained(self)

    async def open(self, id_: str, *, is_replayed: bool = False) -> Opened:
        """Have a session open: from here on the client is told of it, after a replay of all that was before.

        Nothing falls between the two. Without a replay nothing is told of what was before.

        Raises:
          NotFound, StoreError, ShuttingDown.
        """
        models = await self._list_models()
        session = await self.runtime.sessions.load(id_)
        opened = Opened(id_, session.meta.cwd, models, self._settings_of(session))
        before = self.opened.get(id_)
        self._leave(id_)
        self.opened[id_] = opened
        self._show_files(opened)
        if is_replayed:
            opened.gap = trio.Event()
            with ExitStack() as undo:
                undo.callback(self._give_up, opened)
                await self._retell(opened, 1)
                undo.pop_all()
        else:
            self._skip(opened, session)
        if before is not None:
            # What was replayed is told, and what is said next the client shows by itself, as it did.
            opened.teller.own |= before.teller.own
        return opened

    async def require(self, id_: str) -> Opened:
        """Find a session that is open, or open it: a client may know it from a link that it has lost.

        Raises:
          NotFound, StoreError, ShuttingDown.
        """
        opened = self.opened.get(id_)
        if opened is None:
            opened = await self.open(id_)
            self.tell(opened, self.introduce(opened))
        # The person is here now.
        self._show_files(opened)
        return opened

    def forget(self, id_: str) -> None:
        """Tell the client no more of a session, and ask it nothing."""
        if id_ in self.opened:
            self._leave(id_)
            self.runtime.broker.topic(id_).unsubscribe(self)

    def forget_prompt(self, id_: str, prompt: Prompt) -> None:
        """Take note that a prompt is answered."""
        self.prompts[id_].remove(prompt)
        if not self.prompts[id_]:
            del self.prompts[id_]

    def end(self) -> None:
        """End what ends with the link."""
        for id_ in tuple(self.opened):
            self._leave(id_)
        self.runtime.forget(self)

    def tell(self, opened: Opened, updates: Iterable[acp.Update]) -> None:
        """Send updates of a session."""
        for payload in self.write(opened, updates):
            self.peer.post(payload)

    def write(self, opened: Opened, updates: Iterable[acp.Update]) -> tuple[bytes, ...]:
        """Make the notifications of updates, of those that this client shows."""
        session = self.capabilities.session
        shows_notices = session is not None and session.notices is not None
        return tuple(
            encode_notification("session/update", acp.Told(session_id=opened.session, update=update))
            for update in updates
            if shows_notices or not isinstance(update, acp.Notice)
        )

    def introduce(self, opened: Opened) -> Iterator[acp.Update]:
        """Tell of a session that was just opened what there is besides what was said in it."""
        yield acp.CommandsUpdate(available_commands=COMMANDS)
        yield from opened.untold
        yield from self._describe(opened)

    def _describe(self, opened: Opened) -> Iterator[acp.Update]:
        snapshot = self.runtime.snapshot(opened.session)
        if snapshot.info.title:
            yield acp.InfoUpdate(title=snapshot.info.title)
        if snapshot.plan:
            yield tell_plan(snapshot.plan)
        if snapshot.info.usage.calls:
            yield from tell_usage(snapshot.info.usage)

    def _take(self, opened: Opened, event: AnyEvent, run: str | None) -> None:
        if isinstance(event, ToolOutput) and self.backlog > FRESH_BACKLOG:
            # All of it comes with the result.
            return
        if isinstance(event, SessionChanged):
            self._note_settings(opened)
        self.tell(opened, opened.teller.take(event, run))
        self._asker.take(opened, event)
        if isinstance(event, SessionClosed) and event.reason == "deleted":
            # The subscription goes with the session.
            self._leave(opened.session)

    def _give_up(self, opened: Opened) -> None:
        """Have a session open no more whose replay came to nothing, unless it was opened once more since."""
        if self.opened.get(opened.session) is opened:
            self.forget(opened.session)

    def _leave(self, id_: str) -> None:
        opened = self.opened.pop(id_, None)
        if opened is not None:
            opened.close_gap()
            self._asker.forget(id_)
            self._hide_files(opened)

    def _show_files(self, opened: Opened) -> None:
        """Have the client's editor asked about the session's files from here on, before any other's."""
        self._hide_files(opened)
        if shows_files(self.capabilities):
            opened.editor = ClientEditor(self.peer, opened.session)
            self.runtime.editors.attach(opened.session, opened.editor)

    def _hide_files(self, opened: Opened) -> None:
        if opened.editor is not None:
            self.runtime.editors.detach(opened.session, opened.editor)

    def _note_settings(self, opened: Opened) -> None:
        session = self.runtime.sessions.find_live(opened.session)
        if session is None:
            return
        before, opened.settings = opened.settings, self._settings_of(session)
        if opened.settings.mode != before.mode:
            self.tell(opened, [acp.ModeUpdate(current_mode_id=opened.settings.mode)])
        if opened.settings != before:
            self.tell(opened, [acp.OptionsUpdate(config_options=opened.options)])

    def _settings_of(self, session: Session) -> Settings:
        meta = session.meta
        return Settings(self.runtime.snapshot(session.id).mode, meta.model, meta.thinking)

    async def _list_models(self) -> Models:
        models, _ = await self.runtime.models.list_models()
        return Models(tuple(model.id for model in models), self.runtime.models.resolve(None).id)

    async def _close_gap(self, opened: Opened) -> None:
        """Tell what the client has missed, once it has read what it had."""
        try:
            await self._until_read()
            opened.teller.go_back()
            await self._retell(opened, opened.teller.anchor)
            self.tell(opened, self._describe(opened))
        except CrabdError as exc:
            log.warning("gap_not_closed", session=opened.session, client=self.name, problem=str(exc))
        finally:
            opened.close_gap()

    async def _retell(self, opened: Opened, first: int) -> None:
        """Tell what the log has from a step on, as fast as it is read, and what it does not have yet."""
        while self.opened.get(opened.session) is opened:
            session = await self.runtime.sessions.load(opened.session)
            is_at_hand = session.first <= first
            steps = session.steps if is_at_hand else await self.runtime.sessions.read_log(session.id)
            messages = [each for each in list_messages(steps) if each.step >= first]
            if is_at_hand and len(messages) <= AT_ONCE:
                self._join(opened, session, messages)
                return
            for update in replay(opened.teller, messages):
                self.tell(opened, [update])
                await self._until_read()
            first = messages[-1].step + 1 if messages else steps[-1].n + 1

    def _join(self, opened: Opened, session: Session, rest: Sequence[StoredMessage]) -> None:
        """Tell the rest of what was before, and from here on events. All of this happens at once."""
        self.runtime.broker.topic(session.id).subscribe(self)
        self.tell(opened, replay(opened.teller, rest))
        picture = self.runtime.snapshot(session.id).run
        if picture is not None:
            self.tell(opened, catch_up(opened.teller, picture, session.meta.steps))
        self._note_settings(opened)
        opened.close_gap()
        for event, run in opened.ends:
            self.tell(opened, opened.teller.take(event, run))
        opened.ends.clear()
        self._asker.resume(opened, session)

    def _skip(self, opened: Opened, session: Session) -> None:
        """Take events from here on, and what came before of the run that is going as told."""
        self.runtime.broker.topic(session.id).subscribe(self)
        teller, picture = opened.teller, self.runtime.snapshot(session.id).run
        teller.anchor = session.meta.steps + 1
        if picture is not None:
            messages = [each for each in list_messages(session.steps) if each.run == picture.run]
            deque(replay(teller, messages), maxlen=0)
            deque(catch_up(teller, picture, session.meta.steps), maxlen=0)
        opened.untold = teller.open_calls
        self._asker.resume(opened, session)

    async def _until_read(self) -> None:
        """Wait until the client has read most of what it was sent; the link's end cancels it."""
        await trio.lowlevel.checkpoint()
        while self.backlog > LOW_WATER:
            if self._has_read.is_set():
                self._has_read = trio.Event()
            await self._has_read.wait()


class _Published(Struct):
    params: Raw


_notification = msgspec.json.Decoder(_Published)
_envelope = msgspec.json.Decoder(Envelope)
_event: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
