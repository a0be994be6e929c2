"""The interface of a store, of its logs and of its index, and what goes through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal, Protocol

from msgspec import Struct

from crabd.messages import AssistantBlock
from crabd.store.meta import Deletion, SessionMeta
from crabd.store.record import Record, Step


class Damage(Struct, frozen=True):
    """Something a store found broken: where, what, and what it did about it."""

    session: str
    problem: str


class Skipped(Struct, frozen=True):
    """Something in a source that was left out: the file, line or message, and why."""

    where: str
    problem: str


class Reading(Struct, frozen=True, kw_only=True):
    """What was read of one session in a ``place`` outside the store; with a ``problem`` it has no steps.

    ``notes`` tell what an importer cannot see: whose times the records have, what stands in for what.
    """

    place: str
    steps: tuple[Step, ...] = ()
    problem: str | None = None
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


class Partial(Struct, frozen=True):
    """What has come of a reply of ``run``; the log's last step was ``after`` when its model was asked."""

    run: str
    after: int
    content: tuple[AssistantBlock, ...]


class Loaded(Struct, frozen=True):
    """A log made ready for writing, with what is needed to go on with it.

    ``steps`` are the last ones, without a gap, from ``Tail.first`` or an earlier one on. ``goal`` is the step
    that a compaction has kept, if it lies before them.
    """

    log: SessionLog
    steps: tuple[Step, ...]
    partial: Partial | None = None
    goal: Step | None = None


class SessionLog(Protocol):
    """The open log of one session. There is one at a time; whoever opened it closes it."""

    @property
    def meta(self) -> SessionMeta:
        """What the records acknowledged so far add up to."""
        ...

    @property
    def size(self) -> int:
        """How many bytes the acknowledged records take, about."""
        ...

    async def append(self, records: Sequence[Record]) -> tuple[Step, ...]:
        """Write records, all or none, and return them as numbered steps once they are durable.

        Concurrent calls are served in order. Not cancellable once it has begun: it ends with the disk's
        answer. Not to be called after ``close``.

        Raises:
          StoreError: nothing of it is acknowledged; the log stays as it was and may be tried again.
        """
        ...

    async def keep_partial(self, piece: Partial, *, is_first: bool) -> None:
        """Write a piece of a reply as it comes; ``is_first`` forgets what there was of an earlier reply.

        It is written and not synced: it survives SIGKILL, not a power cut. A closed log takes none.

        Raises:
          StoreError: the piece is not kept; the log is none the worse.
        """
        ...

    async def checkpoint(self) -> None:
        """Write the meta beside the log, for the next start's list. Losing it costs time, not data.

        Raises:
          StoreError: the old meta is still there.
        """
        ...

    async def aclose(self) -> None:
        """Checkpoint and give the files back. Never raises; a second call does nothing."""
        ...


class Store(Protocol):
    """Sessions on some medium. One process holds it at a time."""

    async def open(self) -> tuple[Damage, ...]:
        """Take the store, read every session's meta, and say what was found broken.

        Raises:
          StoreError: ``locked`` when another process holds it, naming the holder; ``io`` otherwise.
        """
        ...

    async def aclose(self) -> None:
        """Give the store back. A second call does nothing."""
        ...

    def metas(self) -> tuple[SessionMeta, ...]:
        """List all sessions, live or not, from memory, in no order."""
        ...

    def meta(self, session: str) -> SessionMeta | None:
        """Look one session up, from memory."""
        ...

    def damage(self) -> tuple[Damage, ...]:
        """List the sessions that cannot be loaded, and all that was cut or set aside since ``open``."""
        ...

    def is_damaged(self, session: str) -> bool:
        """Tell whether a session was found to be one that cannot be loaded."""
        ...

    async def create(
        self,
        agent: str,
        sender: str,
        *,
        topic: str | None = None,
        description: str | None = None,
        cwd: str | None = None,
        parent: str | None = None,
        request_key: str | None = None,
    ) -> Loaded:
        """Make a new session with an id that was never used before; it is durable on return.

        Raises:
          StoreError: there is no new session.
        """
        ...

    async def restore(self, steps: Sequence[Step]) -> SessionMeta:
        """Make a session of a log that was made elsewhere, with its times; its log is closed, and durable.

        It keeps the id that its first record names if that is right for its agent and sender and higher than
        every one that was ever used for them; else it gets a new one.

        Raises:
          StoreError: there is no new session.
          ValueError: the steps are no log, or hold what cannot be kept; there is no new session.
        """
        ...

    async def load(self, session: str) -> Loaded:
        """Open a stored session's log and read what is needed to go on with it.

        Raises:
          NotFound: no session of that id, or an id outside the grammar.
          StoreError: ``damaged`` when the log cannot be trusted, ``io`` when it cannot be read.
        """
        ...

    async def read(self, session: str, *, after: int = 0, upto: int | None = None) -> tuple[Step, ...]:
        """Read the acknowledged steps that are numbered above ``after``, whoever has the log open.

        ``upto`` is the last one wanted, null for the end. What lies before or behind is not looked into.

        Raises:
          NotFound: no session of that id.
          StoreError: as ``load``.
        """
        ...

    def on_commit(self, notify: Callable[[str], None]) -> None:
        """Have ``notify`` called with a session's id after each commit of its log, and after its deletion.

        It is called once the caller of the commit can be answered, and must not block or raise. Whoever asked
        before goes on being told as well.
        """
        ...

    async def sizes(self) -> dict[str, int]:
        """Measure how many bytes each session takes on the medium, about.

        Raises:
          StoreError: they cannot be measured.
        """
        ...

    def check_room(self) -> None:
        """Make sure that there is room for more than what is going on already. It takes microseconds.

        Raises:
          StoreError: ``full``: what is left is for runs that are going, to be saved to their end.
        """
        ...

    async def save_catalogue(self) -> None:
        """Write down what spares the next start the reading of every session. Losing it costs time, not data.

        Raises:
          StoreError: what was written before is still there.
        """
        ...

    async def delete(self, session: str, *, request_key: str | None = None) -> bool:
        """Remove a session whose log is closed; false if there is none.

        With a key, or with claims that are still known, it is among the ``deletions`` from the same moment
        on in which it is gone, whatever dies then.

        Raises:
          StoreError: it may be partly removed; the next ``open`` removes the rest.
        """
        ...

    def deletions(self) -> tuple[Deletion, ...]:
        """List the deletions that keys still lead to, from memory, the oldest first."""
        ...


class Query(Struct, frozen=True, kw_only=True):
    """What is looked for: ``text`` as a person types it, in the sessions that the other fields name.

    With a ``session`` every message is a hit of its own, else every session. ``cursor`` is the last page's.
    """

    text: str
    agent: str | None = None
    sender: str | None = None
    topic: str | None = None
    session: str | None = None
    limit: int = 20
    cursor: str | None = None


class Hit(Struct, frozen=True, kw_only=True):
    """A session in which the text was found, and the place in it that shows it best.

    ``snippet`` is in pieces: every second one, from the second on, is what was looked for. ``matches`` is how
    many of its messages have it, as far as they were ranked.
    """

    session: str
    title: str
    step: int
    role: Literal["user", "assistant", "tool", "summary", "title"]
    at: datetime
    snippet: tuple[str, ...]
    score: float
    matches: int


class Hits(Struct, frozen=True):
    """A page of hits, the best first. While ``indexing`` there may be more, for so many sessions ``waiting``.

    ``cursor`` asks for the next page; null is the end.
    """

    hits: tuple[Hit, ...]
    cursor: str | None
    indexing: bool
    waiting: int


class IndexHealth(Struct, frozen=True):
    """``problem`` tells why it was made anew, or cannot be had."""

    state: Literal["ready", "indexing", "off"]
    waiting: int
    problem: str | None


class Index(Protocol):
    """The full text of a store's sessions, derived from them, and made anew whenever it is in doubt."""

    async def search(self, query: Query) -> Hits:
        """Look for text, also in what was committed a moment ago; waits for that half a second at most.

        Raises:
          BadRequest: the query or the cursor means nothing.
          StoreError: the index cannot be had, or not now.
        """
        ...

    def health(self) -> IndexHealth:
        """Tell how far it got."""
        ...


def ignore(_session: str) -> None:
    """Take no note of a commit."""


def both(first: Callable[[str], None], second: Callable[[str], None]) -> Callable[[str], None]:
    """Have two told of a commit, in this order."""

    def notify(session: str) -> None:
        first(session)
        second(session)

    return notify
