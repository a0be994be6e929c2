"""The desk of a session: who answers first is heard, once, and whoever leaves takes his question along."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from msgspec import structs
from trio.testing import MockClock, wait_all_tasks_blocked

from crabd import events
from crabd.errors import AlreadyAnswered, BadRequest, NotFound
from crabd.events import AnyEvent, Confirmation, PendingQuestion, Question, Resolution
from crabd.messages import utc_now
from crabd.runtime.confirmations import CLOCK, RULES, RUN, Answers, Desk, Verdict

CONFIRMATION = Confirmation(
    id="r1.1",
    session="crab_user_1",
    run="r1",
    call="c1",
    tool="bash",
    since=utc_now(),
    title="run make",
    arguments='{"command":"make"}',
    command="make",
    diff="",
    reads=(),
    writes=(),
    url=None,
    cwd="/work",
    rule="ask",
    reason="no rule speaks of bash",
    sandbox="nothing is confined",
    suggestions=("bash(make)",),
)
QUESTION = PendingQuestion(
    id="r1.2",
    session="crab_user_1",
    run="r1",
    call="c2",
    tool="ask_user",
    since=utc_now(),
    questions=(Question("Which?", ("red", "blue")), Question("Why?")),
)


async def never() -> bool:
    return False


async def always() -> bool:
    return True


class Office:
    """A desk, the events that it told, and what those who wait at it came to know."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.told: list[AnyEvent] = []
        self.desk = Desk("crab_user_1", self._tell)
        self.outcomes: list[Verdict | Answers] = []
        self._nursery = nursery

    async def confirm(
        self,
        confirmation: Confirmation = CONFIRMATION,
        within: float | None = None,
        is_allowed: Callable[[], Awaitable[bool]] = never,
    ) -> trio.CancelScope:
        return await self._start(lambda: self.desk.confirm(confirmation, within, is_allowed))

    async def ask(self, within: float | None = None) -> trio.CancelScope:
        return await self._start(lambda: self.desk.ask(QUESTION, within))

    async def _start(self, wait: Callable[[], Awaitable[Verdict | Answers]]) -> trio.CancelScope:
        scope = trio.CancelScope()

        async def work() -> None:
            with scope:
                self.outcomes.append(await wait())

        self._nursery.start_soon(work)
        await wait_all_tasks_blocked()
        return scope

    def _tell(self, event: AnyEvent, run: str) -> None:
        assert run == "r1"
        self.told.append(event)


@pytest.fixture
async def office(nursery: trio.Nursery) -> Office:
    return Office(nursery)


async def test_what_waits_is_told_and_listed_until_it_is_decided(office: Office) -> None:
    await office.confirm()
    waiting = office.desk.confirmations

    office.desk.decide("r1.1", "deny", by="nvim", reason="not now")
    await wait_all_tasks_blocked()

    assert waiting == (CONFIRMATION,)
    assert (office.desk.confirmations, office.desk.is_empty) == ((), True)
    assert office.outcomes == [Verdict("deny", "nvim", "not now")]
    assert office.told == [
        events.ConfirmationRequested(CONFIRMATION),
        events.ConfirmationResolved("r1.1", "c1", "deny", "nvim", "not now", ()),
    ]


async def test_the_first_answer_wins_and_the_second_is_told_who_was_first(office: Office) -> None:
    await office.confirm()
    office.desk.decide(office.desk.find_confirmation("c1").id, "allow", by="nvim")

    with pytest.raises(AlreadyAnswered) as late:
        office.desk.find_confirmation("c1")

    assert str(late.value) == "nvim was first and said allow to call c1 of session crab_user_1"


async def test_a_late_answer_never_meets_another_call_of_the_same_name(office: Office) -> None:
    await office.confirm()
    office.desk.decide("r1.1", "allow", by="nvim")
    again = structs.replace(CONFIRMATION, id="r1.7", command="rm -rf /")
    await office.confirm(again)

    with pytest.raises(AlreadyAnswered):
        office.desk.find_confirmation("c1", "r1.1")

    assert office.desk.find_confirmation("c1", "r1.7") == again


async def test_what_nobody_asked_is_not_found(office: Office) -> None:
    await office.confirm()

    with pytest.raises(NotFound, match=r"confirmation/list"):
        office.desk.find_confirmation("c9")
    with pytest.raises(NotFound, match=r"question/list"):
        office.desk.find_question("c1")


async def test_the_end_of_the_run_takes_its_questions_along(office: Office) -> None:
    confirmation, question = await office.confirm(), await office.ask()

    confirmation.cancel()
    question.cancel()
    await wait_all_tasks_blocked()

    assert office.desk.is_empty
    assert set(office.told[2:]) == {
        events.ConfirmationResolved("r1.1", "c1", "cancelled", RUN, "", ()),
        events.QuestionAnswered("r1.2", "c2", None, RUN),
    }
    with pytest.raises(AlreadyAnswered):
        office.desk.find_confirmation("c1")


async def test_an_answer_and_a_cancel_at_once_are_told_once(office: Office) -> None:
    scope = await office.confirm()

    office.desk.decide("r1.1", "allow", by="nvim")
    scope.cancel()
    await wait_all_tasks_blocked()

    assert [type(event) for event in office.told] == [
        events.ConfirmationRequested,
        events.ConfirmationResolved,
    ]


async def test_the_clock_says_no_only_where_it_may(office: Office, autojump_clock: MockClock) -> None:
    await office.confirm()
    await trio.sleep(10_000_000)
    waited = office.desk.confirmations
    office.desk.decide("r1.1", "allow", by="nvim")

    await office.confirm(structs.replace(CONFIRMATION, id="r1.3"), within=60)
    await office.ask(within=90)
    await trio.sleep(91)

    assert waited == (CONFIRMATION,)
    assert office.outcomes == [
        Verdict("allow", "nvim"),
        Verdict("deny", CLOCK, "nobody answered within 60 seconds"),
        Answers(None, CLOCK, "nobody answered within 90 seconds"),
    ]


@pytest.mark.parametrize("decision", ["allow_session", "allow_always"])
async def test_a_lasting_leave_brings_the_suggested_rules(office: Office, decision: Resolution) -> None:
    await office.confirm()

    verdict = office.desk.decide("r1.1", decision, by="nvim")

    assert verdict == Verdict(decision, "nvim", "", ("bash(make)",))
    assert office.told[-1] == events.ConfirmationResolved("r1.1", "c1", decision, "nvim", "", ("bash(make)",))


async def test_there_is_no_lasting_leave_without_a_rule(office: Office) -> None:
    await office.confirm(structs.replace(CONFIRMATION, suggestions=()))

    with pytest.raises(BadRequest, match=r"\$\.decision"):
        office.desk.decide("r1.1", "allow_always", by="nvim")

    assert len(office.desk.confirmations) == 1


async def test_what_the_rules_allow_by_now_waits_no_more(office: Office) -> None:
    await office.confirm(is_allowed=always)
    other = structs.replace(CONFIRMATION, id="r1.3", call="c3")
    await office.confirm(other, is_allowed=never)

    await office.desk.look_again()
    await wait_all_tasks_blocked()

    assert office.outcomes == [Verdict("allow", RULES)]
    assert office.desk.confirmations == (other,)


async def test_a_question_has_one_answer_for_each_of_its_parts(office: Office) -> None:
    await office.ask()

    with pytest.raises(BadRequest, match=r"\$\.answers: give 2"):
        office.desk.answer("r1.2", ("red",), by="nvim")
    office.desk.answer("r1.2", ("red", "it is warm"), by="nvim")
    await wait_all_tasks_blocked()

    assert office.outcomes == [Answers(("red", "it is warm"), "nvim")]
    assert office.told == [
        events.QuestionAsked(QUESTION),
        events.QuestionAnswered("r1.2", "c2", ("red", "it is warm"), "nvim"),
    ]


async def test_several_wait_at_once_and_are_answered_in_any_order(office: Office) -> None:
    await office.confirm()
    await office.ask()
    await office.confirm(structs.replace(CONFIRMATION, id="r1.3", call="c3"))

    for id_ in ("r1.3", "r1.1"):
        office.desk.decide(id_, "allow", by=id_)
    office.desk.answer("r1.2", None, by="nvim", reason="nobody is there")
    await wait_all_tasks_blocked()

    assert set(office.outcomes) == {
        Verdict("allow", "r1.3"),
        Verdict("allow", "r1.1"),
        Answers(None, "nvim", "nobody is there"),
    }
