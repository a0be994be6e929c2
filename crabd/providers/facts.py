"""What is known of models: what they read and write, and what it costs. Pure but for one file of ours.

``models.json`` beside this module holds the figures; a person adds to them, or puts them right, with
``[models."provider/model"]`` in config.toml. What nobody has told is unknown, and never zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from crabd.messages import Usage

T = TypeVar("T")
Tokens = Annotated[int, Meta(gt=0)]
# In US dollars for a million tokens.
Price = Annotated[float, Meta(ge=0)]

_MILLION = 1_000_000
# A model's name may end with the day of its making, which changes neither its size nor its price.
_DATE = re.compile(r"-(\d{8}|\d{4}-\d\d-\d\d|latest)$")


class Prices(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """In US dollars for a million tokens. What is cached costs the same as other input, unless it says so."""

    input: Price
    output: Price
    cache_read: Price | None = None
    cache_write: Price | None = None


class LongPrices(Prices, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The prices of a request whose input is more than ``above`` tokens."""

    above: Tokens


class ModelFacts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``context_window`` and ``max_output`` are in tokens, ``images`` is whether it takes pictures.

    Null is unknown.
    """

    context_window: Tokens | None = None
    max_output: Tokens | None = None
    images: bool | None = None
    prices: Prices | None = None
    long_prices: LongPrices | None = None

    def cost_of(self, usage: Usage) -> float | None:
        """Tell what a call cost in US dollars: what the server said, else by the prices, else null."""
        if usage.cost is not None or self.prices is None:
            return usage.cost
        long = self.long_prices
        prices = long if long and usage.input_tokens > long.above else self.prices
        read = _first(prices.cache_read, prices.input)
        write = _first(prices.cache_write, prices.input)
        fresh = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
        dollars = (
            max(0, fresh) * prices.input
            + usage.cache_read_tokens * read
            + usage.cache_write_tokens * write
            + usage.output_tokens * prices.output
        )
        return dollars / _MILLION

    def filled_up(self, other: ModelFacts) -> ModelFacts:
        """Take from another what is unknown here."""
        ours = self if self.prices else other
        return ModelFacts(
            context_window=self.context_window or other.context_window,
            max_output=self.max_output or other.max_output,
            images=_first(self.images, other.images),
            prices=ours.prices,
            long_prices=ours.long_prices,
        )


UNKNOWN = ModelFacts()


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    """``windows`` and ``images`` are by how a model's name begins after its last slash.

    ``models`` are by ``service/model``.

    Ollama's names (``gpt-oss:20b``) fit no window on purpose: there it is what its server was started with.
    ``about`` says where the figures are from.
    """

    about: str
    windows: dict[str, Tokens]
    images: dict[str, bool]
    models: dict[str, ModelFacts]


def known_facts(service: str | None, model: str) -> ModelFacts:
    """Look up a model: all of it at the service whose figures they are, elsewhere what does not depend on it.

    The same model costs something else at another service, or nothing.
    """
    file = _read()
    short = model.rpartition("/")[2]
    anywhere = ModelFacts(context_window=_longest(file.windows, short), images=_longest(file.images, short))
    if service is None:
        return anywhere
    found = file.models.get(f"{service}/{model}") or file.models.get(f"{service}/{_DATE.sub('', model)}")
    return found.filled_up(anywhere) if found else anywhere


@cache
def _read() -> _File:
    # JSON, because as much TOML takes fifty times as long to read, and this is read at every start.
    return msgspec.json.decode((Path(__file__).parent / "models.json").read_bytes(), type=_File)


def _longest(by_start: Mapping[str, T], name: str) -> T | None:
    start = max((start for start in by_start if name.startswith(start)), key=len, default=None)
    return by_start[start] if start else None


def _first(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value
