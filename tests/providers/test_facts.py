"""What is known of models, and what it makes a call cost."""

from __future__ import annotations

import pytest

from crabd.messages import Usage
from crabd.providers.facts import UNKNOWN, LongPrices, ModelFacts, Prices, known_facts
from crabd.providers.presets import PRESETS, service_at

PRICES = Prices(input=2, output=10, cache_read=0.5, cache_write=4)
MILLION = 1_000_000


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(MILLION, MILLION), 12),
        (Usage(MILLION, 0, cache_read_tokens=MILLION), 0.5),
        (Usage(3 * MILLION, 0, cache_read_tokens=MILLION, cache_write_tokens=MILLION), 0.5 + 4 + 2),
        (Usage(MILLION, cost=0.25), 0.25),
        (Usage(), 0),
    ],
)
def test_a_call_costs_what_its_tokens_do(usage: Usage, cost: float) -> None:
    assert ModelFacts(prices=PRICES).cost_of(usage) == cost


def test_what_the_cache_costs_is_what_other_input_does_if_nobody_says() -> None:
    facts = ModelFacts(prices=Prices(input=2, output=10))

    assert facts.cost_of(Usage(MILLION, 0, cache_read_tokens=MILLION)) == 2


def test_a_long_request_has_its_own_prices() -> None:
    facts = ModelFacts(prices=PRICES, long_prices=LongPrices(above=1000, input=4, output=20))

    assert facts.cost_of(Usage(1000, 0)) == 2 * 1000 / MILLION
    assert facts.cost_of(Usage(1001, 0)) == 4 * 1001 / MILLION


def test_an_unknown_price_is_an_unknown_cost_and_never_zero() -> None:
    assert UNKNOWN.cost_of(Usage(1000, 1000)) is None


@pytest.mark.parametrize(
    "model", ["claude-haiku-4-5", "claude-haiku-4-5-20251001", "claude-haiku-4-5-latest"]
)
def test_a_date_at_the_end_of_a_name_changes_nothing(model: str) -> None:
    known = known_facts("anthropic", model)

    assert known.context_window == 200_000
    assert known.prices == Prices(input=1, output=5, cache_read=0.1, cache_write=1.25)


@pytest.mark.parametrize("model", ["gpt-5.4-mini-next", "gpt-5", "x"])
def test_a_name_that_is_only_similar_has_no_price(model: str) -> None:
    assert known_facts(None, model).prices is None
    assert known_facts("groq", model).prices is None


@pytest.mark.parametrize(
    ("model", "window"),
    [
        ("anthropic/claude-next", 200_000),
        ("openai/gpt-oss-20b", 131_072),
        ("gpt-oss:20b", None),
        ("mystery", None),
    ],
)
def test_a_window_is_known_by_the_name_wherever_the_model_runs(model: str, window: int | None) -> None:
    assert known_facts(None, model).context_window == window


@pytest.mark.parametrize(
    ("service", "model", "images"),
    [
        ("anthropic", "claude-opus-4-8", True),
        ("gemini", "gemini-3.8-flash", True),
        ("openai", "gpt-5.4-mini", True),
        ("openai", "o3", True),
        ("openai", "o3-mini", False),
        (None, "gpt-oss:20b", False),
        ("groq", "openai/gpt-oss-20b", False),
        (None, "mystery", None),
    ],
)
def test_whether_a_model_takes_pictures_is_known_by_its_name(
    service: str | None, model: str, images: bool | None
) -> None:
    assert known_facts(service, model).images is images


@pytest.mark.parametrize("told", [True, False])
def test_what_is_said_first_of_pictures_counts(told: bool) -> None:
    assert ModelFacts(images=told).filled_up(ModelFacts(images=not told)).images is told
    assert UNKNOWN.filled_up(ModelFacts(images=told)).images is told


def test_what_is_known_first_counts_and_prices_stay_together() -> None:
    first = ModelFacts(context_window=1, prices=PRICES)
    second = ModelFacts(
        context_window=2, max_output=3, long_prices=LongPrices(above=1, input=1, output=1), prices=PRICES
    )

    assert first.filled_up(second) == ModelFacts(context_window=1, max_output=3, prices=PRICES)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.model])
def test_the_model_of_a_service_that_is_taken_by_itself_has_a_known_window(name: str) -> None:
    preset = PRESETS[name]

    assert service_at(preset.base_url) == name
    # What a router takes is not known before it has chosen.
    known = known_facts(name, preset.model or "")
    assert known.context_window or name == "openrouter"
    assert known.prices or name == "openrouter"
