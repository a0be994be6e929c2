"""What was used: summed up over sessions and shared out."""

from __future__ import annotations

from datetime import timedelta

from msgspec import structs

from crabd.events import SessionUsage
from crabd.messages import Usage
from crabd.runtime.spending import Share, split, total
from crabd.store.meta import SessionMeta, add_up
from crabd.store.record import ModelCalled, Purpose, Step
from tests.store.samples import AT, numbered

DAY = timedelta(days=1)


def called(
    model: str, tokens: int, cost: float | None = None, *, purpose: Purpose = "reply", estimated: bool = False
) -> ModelCalled:
    return ModelCalled(
        "r1", model, purpose, Usage(tokens, cost=cost), tokens, 1000, duration_ms=10, estimated=estimated
    )


def at_days(*calls: ModelCalled, agent: str = "a") -> SessionMeta:
    """Make a session with a call a day."""
    steps = [Step(step.n, AT + step.n * DAY, step.record) for step in numbered(*calls)]
    return structs.replace(add_up(steps), agent=agent)


def test_the_context_is_that_of_the_last_reply_and_the_rest_is_a_sum() -> None:
    meta = at_days(called("m", 30), called("m", 50, 0.5), called("m", 999, purpose="title"))

    assert meta.usage == SessionUsage(50, 1000, 3, Usage(1079, cost=0.5), rounds=2, unpriced=2)


def test_shares_of_days_come_in_their_order() -> None:
    shares = split([at_days(called("m", 3), called("m", 1)), at_days(called("n", 2))], "day")

    assert [(share.key, share.sessions, share.usage.input_tokens) for share in shares] == [
        ("2026-02-02", 2, 5),
        ("2026-02-03", 1, 1),
    ]


def test_shares_of_models_come_the_dearest_first_and_tell_what_is_not_known() -> None:
    meta = at_days(called("m", 900), called("n", 1, 0.5), called("n", 2, estimated=True))

    shares = split([meta], "model")

    assert shares == (
        Share("n", 1, 2, Usage(3, cost=0.5), unpriced=1, estimated=1, duration_ms=20),
        Share("m", 1, 1, Usage(900), unpriced=1, duration_ms=10),
    )


def test_shares_of_agents_count_a_session_once() -> None:
    metas = [at_days(called("m", 1), called("n", 1)), at_days(called("m", 9), agent="z")]

    shares = split(metas, "agent")

    assert [(share.key, share.sessions, share.calls) for share in shares] == [("z", 1, 1), ("a", 1, 2)]


def test_nothing_is_shared_out_unless_it_is_asked_for() -> None:
    assert split([at_days(called("m", 1))], None) == ()


def test_a_total_has_no_context() -> None:
    usages = [at_days(called("m", 30, 0.25)).usage, at_days(called("m", 50)).usage]

    assert total(usages) == SessionUsage(0, None, 2, Usage(80, cost=0.25), rounds=2, unpriced=1)
