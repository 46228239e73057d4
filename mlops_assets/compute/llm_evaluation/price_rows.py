"""Read prices from the rows of a dataset."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.llm_evaluation.prices import Price, PriceTable
from mlops_assets.errors import DataError, DefinitionError, suggest_name

if TYPE_CHECKING:
    import polars as pl

_COLUMNS = ("model", "valid_from", "input_price", "output_price")


def read_prices(rows: pl.DataFrame, source: str) -> PriceTable:
    """Return the prices of a dataset.

    Parameters
    ----------
    rows : polars.DataFrame
        One row per price, with ``model``, ``valid_from`` (a date, or a time with a zone), ``input_price``, ``output_price`` and perhaps
        ``cached_price``, in USD per million tokens. A float counts as its decimal notation: 0.15 is exactly 0.15.
    source : str
        The dataset, named in error messages.

    Returns
    -------
    PriceTable
        The prices.

    Raises
    ------
    DataError
        A column is missing, a value is null or impossible, or a model has two prices from the same time.

    Examples
    --------
    >>> from datetime import date
    >>> import polars as pl
    >>> from mlops_assets.compute.llm_evaluation.price_rows import read_prices
    >>> row = {"model": ["small"], "valid_from": [date(2026, 1, 1)], "input_price": [0.15], "output_price": [0.6]}
    >>> read_prices(pl.DataFrame(row), "dataset/prices").prices[0].input_pico
    150000
    """
    for name in _COLUMNS:
        if name not in rows.columns:
            raise DataError(
                f"'{source}' has no column '{name}'", hint=suggest_name(name, rows.columns) + f"prices need {', '.join(_COLUMNS)}"
            )
    prices = [_read_price(row, f"'{source}', row {number}") for number, row in enumerate(rows.iter_rows(named=True))]
    try:
        return PriceTable(tuple(prices))
    except DefinitionError as error:
        raise DataError(f"'{source}': {error.message}", hint=error.hint) from error


def _read_price(row: dict[str, Any], where: str) -> Price:
    if not isinstance(row["model"], str):
        raise DataError(f"{where}: 'model' is {row['model']!r}, not text", hint="name the model as prompts name it")
    cached = row.get("cached_price")
    try:
        return Price(
            row["model"],
            _read_time(row["valid_from"], where),
            _read_number(row, "input_price", where),
            _read_number(row, "output_price", where),
            None if cached is None else _read_number(row, "cached_price", where),
        )
    except DefinitionError as error:
        raise DataError(f"{where}: {error.message}", hint=error.hint) from error


def _read_time(value: object, where: str) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    raise DataError(f"{where}: 'valid_from' is {value!r}, not a date or a time", hint="give the first day on which the price is valid")


def _read_number(row: dict[str, Any], name: str, where: str) -> Decimal:
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise DataError(f"{where}: '{name}' is {value!r}, not a number", hint="give USD per million tokens; 0 for a model that is free")
    return Decimal(str(value))
