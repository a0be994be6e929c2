"""Pictures are shown to models that take them, or may; to no other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from msgspec import structs

from crabd.errors import BadRequest
from crabd.messages import ImageBlock, TextBlock, UserBlock, UserMessage
from crabd.providers.base import ModelChoice, TextChunk
from crabd.runtime.intake import confirm
from crabd.runtime.runtime import WhenBusy
from crabd.runtime.session import Session
from crabd.runtime.ticket import Admission
from tests.fakes import ScriptedModels, says
from tests.runtime.test_runtime import Bench, open_bench, outcome_of

SHOWN = (TextBlock("what is this?"), ImageBlock("image/png", b"\x89PNG"))


class Sighted(ScriptedModels):
    """Models of which it is known whether they take pictures."""

    images: bool | None = None

    def resolve(self, model: str | None, fallbacks: Sequence[str] = ()) -> ModelChoice:
        return structs.replace(super().resolve(model, fallbacks), images=self.images)


def know(bench: Bench, *, images: bool | None) -> None:
    models = Sighted(bench.provider)
    models.images = images
    bench.runtime.equipper.models = models


def show(
    bench: Bench,
    session: Session,
    content: tuple[UserBlock, ...] = SHOWN,
    *,
    when_busy: WhenBusy = "queue",
    key: str | None = None,
) -> Admission:
    return bench.runtime.admit(
        session, content, when_busy=when_busy, request_key=key, on_ticket=lambda _: None
    )


@pytest.mark.parametrize("images", [True, None])
async def test_a_model_that_may_take_pictures_is_shown_them(images: bool | None) -> None:
    async with open_bench(says("a crab")) as bench:
        know(bench, images=images)
        session = await bench.session()

        admission = show(bench, session)
        await confirm(session, admission)
        await outcome_of(admission.ticket)

        assert bench.provider.requests[0].messages == (UserMessage(SHOWN),)


async def test_a_model_that_takes_no_pictures_refuses_a_message_with_one_and_says_what_to_do() -> None:
    async with open_bench(says("fine")) as bench:
        know(bench, images=False)
        session = await bench.session()

        with pytest.raises(BadRequest) as refused:
            show(bench, session)
        outcome = await bench.ask(session, "in words, then")

        assert refused.value.path == "$.content"
        assert "scripted/one takes no pictures" in str(refused.value)
        assert "images = true" in str(refused.value)
        assert outcome.text == "fine"


async def test_a_run_whose_model_takes_no_pictures_is_steered_with_words_alone() -> None:
    gate = trio.Event()
    async with open_bench([TextChunk("a"), gate, *says()]) as bench:
        know(bench, images=False)
        session = await bench.session()
        ticket, _ = await bench.accept(session, "go")

        with pytest.raises(BadRequest):
            show(bench, session, when_busy="steer")
        gate.set()
        await outcome_of(ticket)

        assert len(bench.provider.requests) == 1


async def test_a_picture_that_was_taken_before_is_no_new_one_for_another_model() -> None:
    async with open_bench(says("a crab")) as bench:
        session = await bench.session()
        first = show(bench, session, key="k1")
        await confirm(session, first)
        await outcome_of(first.ticket)
        know(bench, images=False)

        again = show(bench, session, key="k1")

        assert (again.ticket, again.disposition) == (first.ticket, "attached")
