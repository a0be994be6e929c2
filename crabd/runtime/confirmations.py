"""What waits for a person in a live session: calls that may be made or not, and questions of the model.

Whoever answers first is heard. No clock answers unless it was told to, and then it says no. What a call would
do, which rules there are, and how an answer is kept is not known here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import Generic, TypeAlias, TypeVar

import trio
from msgspec import Struct

from crabd import events
from crabd.errors import AlreadyAnswered, BadRequest, NotFound
from crabd.events import AnyEvent, Confirmation, PendingQuestion, Resolution, Waiting

# Who answers where no person does.
CLOCK = "the clock"
RUN = "the end of the run"
RULES = "a rule"
# How many answers of a session are known to those who come late.
MAX_ANSWERED = 256

Publish: TypeAlias = Callable[[AnyEvent, str], object]


class Verdict(Struct, frozen=True):
    """What was decided about a call, by whom, and the rules that were added with it."""

    decision: Resolution
    by: str
    reason: str = ""
    rules: tuple[str, ...] = ()


class Answers(Struct, frozen=True):
    """What was answered by whom, a text for each question in order; null when nobody answers."""

    texts: tuple[str, ...] | None
    by: str
    reason: str = ""


class Late(Struct, frozen=True):
    """What a late answer is told: who was quicker, and what he said."""

    call: str
    by: str
    answer: str


W = TypeVar("W", bound=Waiting)
A = TypeVar("A", bound=Verdict | Answers)


class Open(Generic[W, A]):
    """Something that waits, and how it ends. ``is_allowed`` looks whether it need wait any longer."""

    def __init__(self, about: W, is_allowed: Callable[[], Awaitable[bool]] | None = None) -> None:
        self.about = about
        self.is_allowed = is_allowed
        self.outcome: A | None = None
        self.settled = trio.Event()


class Desk:
    """All that waits in one session; it is empty between runs.

    ``publish`` tells an event of a run. What is asked has to be durable before it comes here.
    """

    def __init__(self, session: str, publish: Publish) -> None:
        self._session = session
        self._publish = publish
        self._confirmations: dict[str, Open[Confirmation, Verdict]] = {}
        self._questions: dict[str, Open[PendingQuestion, Answers]] = {}
        # By id, the newest last.
        self._answered: dict[str, Late] = {}
        self._numbers = 0

    def __repr__(self) -> str:
        return f"<Desk {len(self._confirmations)} confirmations, {len(self._questions)} questions>"

    @property
    def is_empty(self) -> bool:
        return not self._confirmations and not self._questions

    @property
    def confirmations(self) -> tuple[Confirmation, ...]:
        """List the calls that wait, the first one first."""
        return tuple(each.about for each in self._confirmations.values())

    @property
    def questions(self) -> tuple[PendingQuestion, ...]:
        """List what the model asks, the first one first."""
        return tuple(each.about for each in self._questions.values())

    def next_id(self, run: str) -> str:
        """Make an id for something that a run is about to ask."""
        self._numbers += 1
        return f"{run}.{self._numbers}"

    async def confirm(
        self, confirmation: Confirmation, within: float | None, is_allowed: Callable[[], Awaitable[bool]]
    ) -> Verdict:
        """Ask whether a call may be made, and wait; if ``within`` is not null, so many seconds at most.

        ``is_allowed`` asks the rules again. If cancelled it is told so, and nobody can answer any more.
        """
        waiting: Open[Confirmation, Verdict] = Open(confirmation, is_allowed)
        self._confirmations[confirmation.id] = waiting
        self._publish(events.ConfirmationRequested(confirmation), confirmation.run)
        try:
            await _wait(waiting.settled, within)
            if waiting.outcome is None:
                self.decide(confirmation.id, "deny", by=CLOCK, reason=_too_late(within))
        finally:
            if waiting.outcome is None:
                self.decide(confirmation.id, "cancelled", by=RUN)
        assert waiting.outcome is not None, "it was decided"
        return waiting.outcome

    async def ask(self, question: PendingQuestion, within: float | None) -> Answers:
        """Ask questions and wait for the answers, as ``confirm``."""
        waiting: Open[PendingQuestion, Answers] = Open(question)
        self._questions[question.id] = waiting
        self._publish(events.QuestionAsked(question), question.run)
        try:
            await _wait(waiting.settled, within)
            if waiting.outcome is None:
                self.answer(question.id, None, by=CLOCK, reason=_too_late(within))
        finally:
            if waiting.outcome is None:
                self.answer(question.id, None, by=RUN)
        assert waiting.outcome is not None, "it was answered"
        return waiting.outcome

    def find_confirmation(self, call: str, id_: str | None = None) -> Confirmation:
        """Find a call that waits, the very one if the ``id_`` is given.

        Raises:
          AlreadyAnswered, NotFound.
        """
        return self._find(self._confirmations, call, id_, "confirmation").about

    def find_question(self, call: str, id_: str | None = None) -> PendingQuestion:
        """Find a call whose questions wait, as ``find_confirmation``.

        Raises:
          AlreadyAnswered, NotFound.
        """
        return self._find(self._questions, call, id_, "question").about

    def decide(self, id_: str, decision: Resolution, *, by: str, reason: str = "") -> Verdict:
        """Settle a confirmation that waits. All of this happens at once.

        Raises:
          BadRequest: it is to be allowed for longer than this time, and no rule could say that.
        """
        about = self._confirmations[id_].about
        is_lasting = decision in ("allow_session", "allow_always")
        if is_lasting and not about.suggestions:
            raise BadRequest("$.decision", "no rule would allow just this, so answer allow, or deny")
        verdict = Verdict(decision, by, reason, about.suggestions if is_lasting else ())
        self._settle(self._confirmations, id_, verdict, decision)
        told = events.ConfirmationResolved(id_, about.call, decision, by, reason, verdict.rules)
        self._publish(told, about.run)
        return verdict

    def answer(self, id_: str, texts: tuple[str, ...] | None, *, by: str, reason: str = "") -> Answers:
        """Settle questions that wait, with null if nobody answers them. All of this happens at once.

        Raises:
          BadRequest: there are more or fewer answers than questions.
        """
        about = self._questions[id_].about
        if texts is not None and len(texts) != len(about.questions):
            raise BadRequest("$.answers", f"give {len(about.questions)}, one for each question")
        answers = Answers(texts, by, reason)
        self._settle(self._questions, id_, answers, "nothing" if texts is None else "; ".join(texts))
        self._publish(events.QuestionAnswered(id_, about.call, texts, by), about.run)
        return answers

    async def look_again(self) -> None:
        """Let calls through that the rules allow by now."""
        for id_, waiting in tuple(self._confirmations.items()):
            is_allowed = waiting.is_allowed is not None and await waiting.is_allowed()
            if is_allowed and waiting.outcome is None:
                self.decide(id_, "allow", by=RULES)

    def _find(self, waiting: dict[str, Open[W, A]], call: str, id_: str | None, what: str) -> Open[W, A]:
        for each in waiting.values():
            if each.about.call == call and id_ in (None, each.about.id):
                return each
        for known, late in reversed(self._answered.items()):
            if late.call == call and id_ in (None, known):
                raise AlreadyAnswered(self._session, call, by=late.by, answer=late.answer)
        raise NotFound(what, id_ or call, hint=f"{what}/list tells what waits")

    def _settle(self, waiting: dict[str, Open[W, A]], id_: str, outcome: A, told: str) -> None:
        settled = waiting.pop(id_)
        settled.outcome = outcome
        settled.settled.set()
        self._answered[id_] = Late(settled.about.call, outcome.by, told)
        if len(self._answered) > MAX_ANSWERED:
            del self._answered[next(iter(self._answered))]


async def _wait(settled: trio.Event, within: float | None) -> None:
    with trio.move_on_after(inf if within is None else within):
        await settled.wait()


def _too_late(within: float | None) -> str:
    return f"nobody answered within {within:g} seconds" if within is not None else ""
