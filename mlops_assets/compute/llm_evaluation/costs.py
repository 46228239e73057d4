"""The costs of many LLM calls: a column per frame, and an exact sum that counts unknown costs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

from mlops_assets.compute.llm_evaluation.prices import (
    INVALID_TOKENS,
    MAX_TOKENS,
    NO_CACHED_TOKENS,
    NO_TIME,
    NO_TOKENS,
    TOO_EARLY,
    UNKNOWN_MODEL,
    to_amount,
)
from mlops_assets.errors import DataError, suggest_name

if TYPE_CHECKING:
    from decimal import Decimal

    import polars as pl

    from mlops_assets.compute.llm_evaluation.prices import PriceTable

_COUNTS = ("input_tokens", "output_tokens", "cached_tokens")


@dataclass(frozen=True)
class CostTotal:
    """The sum of known costs, and how many are unknown.

    Parameters
    ----------
    amount : Decimal
        The sum of known costs, in units of the currency. With unknown costs, the sum is a lower bound.
    calls : int
        All calls.
    unknown : int
        The calls whose cost is unknown.

    Examples
    --------
    >>> from decimal import Decimal
    >>> from mlops_assets.compute.llm_evaluation.costs import CostTotal
    >>> CostTotal(Decimal("0.25"), calls=10, unknown=1).complete
    False
    """

    amount: Decimal
    calls: int
    unknown: int

    @property
    def complete(self) -> bool:
        """Whether the cost of every call is known."""
        return self.unknown == 0


def price_calls(calls: pl.DataFrame, table: PriceTable) -> pl.DataFrame:
    """Return calls with their costs.

    Parameters
    ----------
    calls : polars.DataFrame
        One row per call, with the columns ``model``, ``at`` (a time with a zone), ``input_tokens``, ``output_tokens`` and
        ``cached_tokens``. Any value may be null.
    table : PriceTable
        The prices.

    Returns
    -------
    polars.DataFrame
        The same rows in the same order, with ``cost_pico`` (in picounits, 10⁻¹² of the currency), ``price_from`` (the time from which the
        price is valid) and ``cost_missing`` (why the cost is null).

    Raises
    ------
    DataError
        A column is missing or of another type, or the calls already have a cost.

    See Also
    --------
    sum_costs : Adds the costs.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> from decimal import Decimal
    >>> import polars as pl
    >>> from mlops_assets.compute.llm_evaluation.prices import Price, PriceTable
    >>> from mlops_assets.compute.llm_evaluation.costs import price_calls
    >>> start = datetime(2026, 1, 1, tzinfo=UTC)
    >>> table = PriceTable((Price("small", start, Decimal("0.15"), Decimal("0.60"), cached_price=Decimal("0.075")),))
    >>> counts = {"input_tokens": [1000, 1000], "output_tokens": [200, 200], "cached_tokens": [400, 0]}
    >>> calls = pl.DataFrame({"model": ["small", "large"], "at": [start, start], **counts})
    >>> price_calls(calls, table).select("cost_pico", "cost_missing").rows()
    [(240000000, None), (None, 'the model has no price')]
    """
    import polars as pl

    _check_calls(calls)
    normalised = [pl.col("model").cast(pl.String), pl.col("at").dt.cast_time_unit("us").dt.convert_time_zone("UTC")]
    needed = calls.select(*normalised, *map(_limit_count, _COUNTS)).with_row_index("_row")
    timed = (
        needed.filter(pl.col("at").is_not_null())
        .sort("at")
        .join_asof(_build_price_frame(table), left_on="at", right_on="price_from", by="model", coalesce=False, check_sortedness=False)
    )
    prices = ["price_from", "input_pico", "output_pico", "cached_pico"]
    joined = needed.join(timed.select("_row", *prices), on="_row", how="left", maintain_order="left")
    tokens, output, cached = (pl.col(name) for name in _COUNTS)
    has_price = pl.col("model").is_in(table.models)
    possible = tokens.is_between(cached.fill_null(0), MAX_TOKENS) & cached.fill_null(0).ge(0) & output.is_between(0, MAX_TOKENS)
    missing = (
        pl.when(~has_price.fill_null(value=False))
        .then(pl.lit(UNKNOWN_MODEL))
        .when(pl.col("at").is_null())
        .then(pl.lit(NO_TIME))
        .when(pl.col("price_from").is_null())
        .then(pl.lit(TOO_EARLY))
        .when(tokens.is_null() | output.is_null())
        .then(pl.lit(NO_TOKENS))
        .when(cached.is_null() & pl.col("cached_pico").ne(pl.col("input_pico")))
        .then(pl.lit(NO_CACHED_TOKENS))
        .when(~possible)
        .then(pl.lit(INVALID_TOKENS))
    )
    read = cached.fill_null(0)
    cost = (tokens - read) * pl.col("input_pico") + read * pl.col("cached_pico") + output * pl.col("output_pico")
    costs = joined.with_columns(missing.alias("cost_missing")).select(
        pl.when(pl.col("cost_missing").is_null()).then(cost).alias("cost_pico"), "price_from", "cost_missing"
    )
    return calls.hstack(costs)


def sum_costs(costs: pl.Series) -> CostTotal:
    """Return the exact sum of costs, and how many are unknown.

    Parameters
    ----------
    costs : polars.Series
        Costs in picounits; null where unknown.

    Returns
    -------
    CostTotal
        The sum in units of the currency.

    Raises
    ------
    DataError
        The costs are not integers of 64 bits.

    Examples
    --------
    >>> import polars as pl
    >>> from mlops_assets.compute.llm_evaluation.costs import sum_costs
    >>> sum_costs(pl.Series([240_000_000, None, 60_000_000]))
    CostTotal(amount=Decimal('0.000300000000'), calls=3, unknown=1)
    """
    import polars as pl

    if costs.dtype not in (pl.Int64, pl.Null):
        raise DataError(f"costs are of type {costs.dtype}", hint="sum the column cost_pico, of whole picounits")
    total = int(costs.cast(pl.Int128).sum())  # the sum of many costs of 64 bits may need more
    return CostTotal(to_amount(total), len(costs), costs.null_count())


def _limit_count(name: str) -> pl.Expr:
    """Return a column of counts as 64-bit integers; a count out of range becomes −1 or ``MAX_TOKENS + 1``."""
    import polars as pl

    return pl.col(name).cast(pl.Int128).clip(-1, MAX_TOKENS + 1).cast(pl.Int64)


def _build_price_frame(table: PriceTable) -> pl.DataFrame:
    import polars as pl

    rows = [(p.model, p.valid_from.astimezone(UTC), p.input_pico, p.output_pico, p.cached_pico) for p in table.prices]
    pico = {name: pl.Int64() for name in ("input_pico", "output_pico", "cached_pico")}
    types: dict[str, pl.DataType] = {"model": pl.String(), "price_from": pl.Datetime("us", "UTC"), **pico}
    return pl.DataFrame(rows, schema=types, orient="row").sort("price_from")


def _check_calls(calls: pl.DataFrame) -> None:
    """Raise DataError for calls with missing or mistyped columns, or with columns of costs.

    A column of type Null holds unknown values and is valid, except for ``at``.
    """
    import polars as pl

    for name in ("model", "at", *_COUNTS):
        if name not in calls.columns:
            raise DataError(
                f"the calls have no column '{name}'", hint=suggest_name(name, calls.columns) + "a column of nulls means unknown"
            )
        dtype = calls.schema[name]
        zoned = isinstance(dtype, pl.Datetime) and dtype.time_zone is not None
        fits = zoned if name == "at" else dtype in (pl.String, pl.Categorical) if name == "model" else dtype.is_integer()
        if not fits and (dtype != pl.Null or name == "at"):
            expected = {"at": "times with a zone", "model": "text"}.get(name, "whole numbers")
            raise DataError(f"the column '{name}' of the calls is of type {dtype}", hint=f"it must hold {expected}")
    for name in ("cost_pico", "price_from", "cost_missing"):
        if name in calls.columns:
            raise DataError(f"the calls already have the column '{name}'", hint="drop it, and price the calls again")
