"""What a model takes: the columns of ``X`` with their types, and what was seen in them when it was trained."""

from __future__ import annotations

from typing import Any

import polars as pl

_MOST_CATEGORIES = 50  # of a column that are listed


def signature_of(X: pl.DataFrame) -> list[dict[str, Any]]:
    """Return one row for each column, JSON-like.

    Parameters
    ----------
    X
        The training rows.

    Returns
    -------
    list of dict
        ``column``, ``dtype``, ``nullable`` (whether a null was seen), ``minimum`` and ``maximum`` (of finite numbers and of times, ISO 8601),
        ``categories`` (sorted, of text and booleans, when there are at most fifty).
    """
    return [_row(name, X[name]) for name in X.columns]


def _row(name: str, values: pl.Series) -> dict[str, Any]:
    dtype = values.dtype
    row = {"column": name, "dtype": str(dtype), "nullable": values.null_count() > 0, "minimum": None, "maximum": None, "categories": None}
    if dtype.is_float():
        row["nullable"] = bool(row["nullable"]) or bool(values.is_nan().any())
        values = values.filter(values.is_finite())
    if dtype.is_numeric():
        row |= {"minimum": values.min(), "maximum": values.max()}
    elif dtype.is_temporal():
        row |= {"minimum": _iso(values.min()), "maximum": _iso(values.max())}
    elif dtype == pl.Boolean or isinstance(dtype, (pl.String, pl.Categorical, pl.Enum)):
        known = values.drop_nulls().unique()
        if len(known) <= _MOST_CATEGORIES:
            row["categories"] = sorted(known.to_list())
    return row


def _iso(value: Any) -> str | None:  # noqa: ANN401  (a date, a time, a duration)
    return None if value is None else value.isoformat() if hasattr(value, "isoformat") else str(value)
