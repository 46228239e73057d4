"""Compute the cost of LLM calls from token counts and a table of prices, exactly and reproducibly.

A cost is a whole number of picounits, 10⁻¹² of the currency. A price per million tokens with up to six decimals is a whole number of
picounits per token, so products and sums are exact. An unknown model, time, price or token count makes a cost null, with a reason: a
cost of zero would mean that the call was free.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import cached_property

from mlops_assets.errors import DefinitionError

MAX_PRICE = Decimal(100_000)  # per million tokens
MAX_TOKENS = 10_000_000  # of one call: within both limits, a cost fits 64 bits
NO_TIME = "the time of the call is unknown"
UNKNOWN_MODEL = "the model has no price"
TOO_EARLY = "the call is before the first price of the model"
NO_TOKENS = "the number of input or output tokens is unknown"
NO_CACHED_TOKENS = "the number of cached tokens is unknown"
INVALID_TOKENS = "the token counts are not possible"
_PICO_PER_TOKEN = 10**6  # at a price of 1 per million tokens


@dataclass(frozen=True)
class Price:
    """The price of a model from a point in time until the model's next price.

    Parameters
    ----------
    model : str
        The model, as calls name it.
    valid_from : datetime
        The first time at which the price is valid, with a time zone.
    input_price, output_price : Decimal
        Per million tokens.
    cached_price : Decimal or None
        Per million input tokens that the provider read from its cache. None: the model has no such discount, and cached tokens cost
        the same as other input.

    Raises
    ------
    DefinitionError
        A price is not a Decimal, is negative or above ``MAX_PRICE``, or has more than six decimals; or the time has no zone.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> from decimal import Decimal
    >>> from mlops_assets.compute.llm_evaluation.prices import Price
    >>> Price("small", datetime(2026, 1, 1, tzinfo=UTC), Decimal("0.15"), Decimal("0.60")).input_pico
    150000
    """

    model: str
    valid_from: datetime
    input_price: Decimal
    output_price: Decimal
    cached_price: Decimal | None = None

    def __post_init__(self) -> None:
        """Require prices that are whole numbers of picounits per token, and a time with a zone."""
        for price in (self.input_price, self.output_price, *(() if self.cached_price is None else (self.cached_price,))):
            self._check_price(price)
        if self.valid_from.tzinfo is None:
            raise DefinitionError(f"valid_from={self.valid_from} of a price of '{self.model}' has no time zone", hint="add tzinfo=UTC")

    def _check_price(self, price: object) -> None:
        if not isinstance(price, Decimal):
            raise DefinitionError(f"the price {price!r} of '{self.model}' is no Decimal", hint='write Decimal("0.15"): floats are inexact')
        if not price.is_finite() or not 0 <= price <= MAX_PRICE or (Fraction(price) * _PICO_PER_TOKEN).denominator != 1:
            limits = f"from 0 to {MAX_PRICE:,} per million tokens, with at most six decimals"
            raise DefinitionError(f"the price {price} of '{self.model}' is not possible", hint=f"give a price {limits}")

    @cached_property
    def input_pico(self) -> int:
        """Picounits per input token that was not read from a cache."""
        return _to_pico(self.input_price)

    @cached_property
    def output_pico(self) -> int:
        """Picounits per output token."""
        return _to_pico(self.output_price)

    @cached_property
    def cached_pico(self) -> int:
        """Picounits per input token that was read from a cache."""
        return self.input_pico if self.cached_price is None else _to_pico(self.cached_price)


@dataclass(frozen=True)
class CallCost:
    """The cost of a call, or why it is unknown.

    Parameters
    ----------
    pico : int or None
        The cost in picounits; None when it is unknown.
    missing : str
        Why the cost is unknown; empty when it is known.
    """

    pico: int | None
    missing: str = ""

    @property
    def amount(self) -> Decimal | None:
        """The cost in units of the currency; None when it is unknown."""
        return None if self.pico is None else to_amount(self.pico)


@dataclass(frozen=True)
class PriceTable:
    """The prices of models over time.

    Parameters
    ----------
    prices : tuple of Price
        In any order.
    currency : str
        The currency of every price.

    Raises
    ------
    DefinitionError
        A model has two prices from the same time.

    See Also
    --------
    mlops_assets.compute.llm_evaluation.costs.price_calls : Prices the calls of a frame.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> from decimal import Decimal
    >>> from mlops_assets.compute.llm_evaluation.prices import Price, PriceTable
    >>> table = PriceTable((Price("small", datetime(2026, 1, 1, tzinfo=UTC), Decimal("0.15"), Decimal("0.60")),))
    >>> table.price_call("small", datetime(2026, 2, 1, tzinfo=UTC), 1000, 200).amount
    Decimal('0.000270000000')
    >>> table.price_call("large", datetime(2026, 2, 1, tzinfo=UTC), 1000, 200)
    CallCost(pico=None, missing='the model has no price')
    """

    prices: tuple[Price, ...]
    currency: str = "USD"

    def __post_init__(self) -> None:
        """Refuse two prices of a model from the same time."""
        counts = Counter((price.model, price.valid_from.astimezone(UTC)) for price in self.prices)
        for (model, time), count in counts.items():
            if count > 1:
                raise DefinitionError(
                    f"{count} prices of '{model}' are valid from the same time, {time}", hint="keep one price of each model from each time"
                )

    @cached_property
    def version(self) -> str:
        """The hash of prices and currency, for the record of a call; the order of the prices does not matter."""
        return hashlib.sha256(json.dumps([self.currency, *self._lines]).encode()).hexdigest()

    @property
    def _lines(self) -> list[list[str | int]]:
        return sorted([p.model, p.valid_from.astimezone(UTC).isoformat(), p.input_pico, p.output_pico, p.cached_pico] for p in self.prices)

    @property
    def models(self) -> tuple[str, ...]:
        """The models with a price, sorted."""
        return tuple(sorted(self._by_model))

    @cached_property
    def _by_model(self) -> dict[str, list[Price]]:
        by_model: dict[str, list[Price]] = {}
        for price in sorted(self.prices, key=lambda price: price.valid_from):
            by_model.setdefault(price.model, []).append(price)
        return by_model

    def find_price(self, model: str, at: datetime) -> Price | None:
        """Return the price of a model at a time.

        Parameters
        ----------
        model : str
            The model.
        at : datetime
            The time, with a time zone.

        Returns
        -------
        Price or None
            None for an unknown model and before the first price.

        Examples
        --------
        >>> from datetime import UTC, datetime
        >>> from mlops_assets.compute.llm_evaluation.prices import PriceTable
        >>> PriceTable(()).find_price("small", datetime(2026, 1, 1, tzinfo=UTC)) is None
        True
        """
        prices = self._by_model.get(model, [])
        count = bisect_right(prices, at, key=lambda price: price.valid_from)
        return prices[count - 1] if count else None

    def price_call(
        self,
        model: str | None,
        at: datetime | None,
        input_tokens: int | None,
        output_tokens: int | None,
        cached_tokens: int | None = None,
    ) -> CallCost:
        """Return the cost of one call; ``price_calls`` computes the same for the rows of a frame.

        Parameters
        ----------
        model : str or None
            The model.
        at : datetime or None
            The time of the call, with a time zone.
        input_tokens, output_tokens : int or None
            The tokens that the provider counted.
        cached_tokens : int or None
            How many of the input tokens the provider read from its cache. With None, the cost is unknown if cached
            tokens have another price.

        Returns
        -------
        CallCost
            The cost, or why it is unknown.

        Examples
        --------
        >>> from datetime import UTC, datetime
        >>> from mlops_assets.compute.llm_evaluation.prices import PriceTable
        >>> PriceTable(()).price_call("small", datetime(2026, 1, 1, tzinfo=UTC), 10, 10).missing
        'the model has no price'
        """
        if model not in self._by_model:
            return CallCost(None, UNKNOWN_MODEL)
        if at is None:
            return CallCost(None, NO_TIME)
        if (price := self.find_price(model, at)) is None:
            return CallCost(None, TOO_EARLY)
        return _price_tokens(price, input_tokens, output_tokens, cached_tokens)


def _price_tokens(price: Price, input_tokens: int | None, output_tokens: int | None, cached_tokens: int | None) -> CallCost:
    if input_tokens is None or output_tokens is None:
        return CallCost(None, NO_TOKENS)
    if cached_tokens is None and price.cached_pico != price.input_pico:
        return CallCost(None, NO_CACHED_TOKENS)
    cached = cached_tokens or 0
    if not (0 <= cached <= input_tokens <= MAX_TOKENS and 0 <= output_tokens <= MAX_TOKENS):
        return CallCost(None, INVALID_TOKENS)
    fresh = (input_tokens - cached) * price.input_pico
    return CallCost(fresh + cached * price.cached_pico + output_tokens * price.output_pico)


def _to_pico(price: Decimal) -> int:
    """Return picounits per token, exact in any decimal context."""
    return int(Fraction(price) * _PICO_PER_TOKEN)


def to_amount(pico: int) -> Decimal:
    """Return picounits as units of the currency, exact in any decimal context.

    Parameters
    ----------
    pico : int
        Picounits.

    Returns
    -------
    Decimal
        Units of the currency.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.prices import to_amount
    >>> to_amount(270_000_000)
    Decimal('0.000270000000')
    """
    return Decimal(f"{pico}E-12")
