"""The request keys of a session: what each has led to, so that a repeated request is answered and not done.

One rule for all methods: within a session a key names one request, the same method with the same content.
Keys are as durable as what they led to, for they are in its records; which those are is known here. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias, TypeVar

from msgspec import Struct

from crabd.errors import RequestKeyReused
from crabd.messages import AssistantMessage, UserBlock, UserMessage, text_of, utc_now
from crabd.runtime.ticket import Admission, Compacting, Compaction, Outcome, Steering, Ticket
from crabd.store.meta import KEY_AGE, MAX_KEYS, Claim
from crabd.store.record import (
    Claimed,
    Compacted,
    Created,
    MessageAdded,
    MessageQueued,
    ModelCalled,
    RunClosed,
    RunOpened,
    Step,
)

Answer: TypeAlias = Admission | Steering | Compacting | Claim
# What a request is compared by: a message's blocks, a compaction's instructions, a claim's topic.
Content: TypeAlias = tuple[UserBlock, ...] | str | None
AnswerT = TypeVar("AnswerT", bound=Answer)

METHODS: dict[type, str] = {
    Admission: "session/send",
    Steering: "session/steer",
    Compacting: "session/compact",
    Claim: "session/get_or_create",
}


class Kept(Struct, frozen=True):
    content: Content
    answer: Answer
    at: datetime


class Keys:
    """The keys of one session, the newest ``MAX_KEYS`` of the last ``KEY_AGE``."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}

    def __repr__(self) -> str:
        return f"<Keys {len(self._kept)}>"

    def __contains__(self, key: str) -> bool:
        return self._look_up(key) is not None

    def find(self, key: str | None, kind: type[AnswerT], content: Content) -> AnswerT | None:
        """Find what the same request has led to before; null for a new one, or without a key.

        Raises:
          RequestKeyReused: the key came with another request.
        """
        kept = self._look_up(key)
        if kept is None:
            return None
        if not isinstance(kept.answer, kind) or kept.content != content:
            raise RequestKeyReused(key or "", METHODS[type(kept.answer)])
        return kept.answer

    def refuse(self, key: str) -> None:
        """Refuse a request that cannot have come before.

        Raises:
          RequestKeyReused: the key came with another one.
        """
        kept = self._look_up(key)
        if kept is not None:
            raise RequestKeyReused(key, METHODS[type(kept.answer)])

    def add(self, key: str | None, content: Content, answer: Answer, at: datetime | None = None) -> None:
        """Note what a request has led to; ``at`` is when it came, if not now."""
        if key is not None:
            # What comes last in the dictionary is the newest.
            self._kept.pop(key, None)
            self._kept[key] = Kept(content, answer, at or utc_now())
            self._forget_excess()

    def add_earlier(self, earlier: Keys) -> None:
        """Note what was found in a longer part of the log; what is known already is the newer."""
        self._kept = {**earlier._kept, **self._kept}
        self._forget_excess()

    def drop(self, key: str | None) -> None:
        """Forget a request that came to nothing, so that it may be tried again."""
        if key is not None:
            self._kept.pop(key, None)

    def _forget_excess(self) -> None:
        while len(self._kept) > MAX_KEYS:
            del self._kept[next(iter(self._kept))]

    def _look_up(self, key: str | None) -> Kept | None:
        kept = self._kept.get(key) if key is not None else None
        return kept if kept is not None and utc_now() - kept.at <= KEY_AGE else None


def recall_keys(steps: Sequence[Step], now: datetime) -> Keys:
    """Rebuild from a log what the requests of the last ``KEY_AGE`` have led to.

    A message whose run has not ended has led to nothing yet.
    """
    recall = _Recall()
    for step in _since(steps, now - KEY_AGE):
        recall.take(step)
    return recall.keys


class _Sent(Struct):
    """A message with a key, on its way to the end of its run."""

    run: str
    content: tuple[UserBlock, ...]
    at: datetime


class _Recall:
    """Reads the keys out of a log, step by step."""

    def __init__(self) -> None:
        self.keys = Keys()
        self._sent: dict[str, _Sent] = {}
        self._texts: dict[str, str] = {}
        # Of the newest model call, which for a compaction is that of its summary.
        self._context_tokens = 0

    def take(self, step: Step) -> None:
        """Take in the next step."""
        match step.record:
            case Created(request_key=str(key), topic=topic):
                self.keys.add(key, topic, Claim(key, step.at, topic, created=True), step.at)
            case Claimed(request_key=key, topic=topic):
                self.keys.add(key, topic, Claim(key, step.at, topic), step.at)
            case MessageQueued(request_key=str()) as queued:
                self._take_queued(queued, step.at)
            case RunOpened(run=run, request_key=str(key)):
                self._sent.setdefault(key, _Sent(run, (), step.at))
            case MessageAdded(message=UserMessage() as message) as added:
                self._take_message(added, message, step.at)
            case MessageAdded(run=run, message=AssistantMessage() as message):
                self._texts[run] = text_of(message)
            case RunClosed() as closed:
                self._take_end(closed)
            case ModelCalled(context_tokens=tokens):
                self._context_tokens = tokens
            case Compacted(request_key=str(key), instructions=wishes) as done:
                self.keys.add(key, wishes, _compacted(done, self._context_tokens), step.at)
            case _:
                pass

    def _take_queued(self, queued: MessageQueued, at: datetime) -> None:
        assert queued.request_key is not None, "only those with a key come here"
        if queued.position:
            self.keys.add(
                queued.request_key, queued.content, Steering(None, queued.position, queued, True), at
            )
        else:
            self._sent.setdefault(queued.request_key, _Sent(queued.run, queued.content, at))

    def _take_message(self, added: MessageAdded, message: UserMessage, at: datetime) -> None:
        if added.request_key is not None:
            # A steering, which may have joined before it was written that it waits.
            queued = MessageQueued(
                added.run, message.content, message.steer, added.request_key, added.position
            )
            self._take_queued(queued, at)
        elif not message.steer:
            for sent in self._sent.values():
                if sent.run == added.run and not sent.content:
                    sent.content = message.content

    def _take_end(self, closed: RunClosed) -> None:
        admission = Admission(_settled_ticket(closed, self._texts.pop(closed.run, "")), "attached")
        for key in [key for key, sent in self._sent.items() if sent.run == closed.run]:
            sent = self._sent.pop(key)
            self.keys.add(key, sent.content, admission, sent.at)


def _since(steps: Sequence[Step], horizon: datetime) -> Sequence[Step]:
    """Leave out what is older, from the end on: a long log has little that is young."""
    first = next((n for n in range(len(steps), 0, -1) if steps[n - 1].at < horizon), 0)
    return steps[first:]


def _settled_ticket(closed: RunClosed, text: str) -> Ticket:
    ticket = Ticket(closed.run, (), request_key=None, tool_choice="auto")
    ticket.settle(
        Outcome(
            run=closed.run,
            stop_reason=closed.stop_reason,
            text=text,
            usage=closed.usage,
            persisted=True,
            error=closed.error,
            first_seq=0,
            last_seq=0,
        )
    )
    return ticket


def _compacted(done: Compacted, before: int) -> Compacting:
    compacting = Compacting()
    compacting.settle(Compaction(done.archive, done.summary, before, done.context_tokens))
    return compacting
