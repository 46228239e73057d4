"""The signature of a model: columns of ``X`` with their types and training values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_CATEGORIES = 12
MIN_ROWS = 5  # a category of fewer rows is not stored with the model, because it may identify a person


def describe_signature(X: pl.DataFrame) -> list[dict[str, Any]]:
    """Return one JSON-compatible description per column of ``X``.

    Parameters
    ----------
    X
        The training rows.

    Returns
    -------
    list of dict
        ``column``, ``dtype``, ``nulls`` (the share of rows), ``minimum`` and ``maximum`` (of finite numbers, and of times as ISO 8601),
        ``categories`` (of text and booleans: at most twelve of the most frequent values that occur in at least five rows) and ``others``
        (the number of other values).
    """
    return [_describe_column(name, X[name]) for name in X.columns]


def describe_values(row: Mapping[str, Any]) -> str:
    """Return the training range or the categories of a column as text; empty for lists and structs.

    Parameters
    ----------
    row
        From :func:`describe_signature`.
    """
    if row["nulls"] == 1:
        return "only nulls"
    if row["minimum"] is not None:
        return f"{_format_bound(row['minimum'])} … {_format_bound(row['maximum'])}"
    categories, others = ", ".join(map(str, row["categories"])), row["others"]
    return categories + (f" and {others} more" if categories else f"{others} different values") * bool(others)


def _describe_column(name: str, values: pl.Series) -> dict[str, Any]:
    dtype, known = values.dtype, values.drop_nulls()
    row: dict[str, Any] = {"column": name, "dtype": str(dtype), "nulls": values.null_count() / max(len(values), 1)}
    low = high = None
    categories, others = list[Any](), 0
    if dtype.is_numeric() or dtype.is_temporal():
        known = known.filter(known.is_finite()) if dtype.is_float() else known
        low, high = _to_json(known.min()), _to_json(known.max())
    elif not dtype.is_nested():
        counted = known.rename("value").value_counts(name="__rows").sort("__rows", "value", descending=[True, False])
        categories = [value for value, count in counted.head(MAX_CATEGORIES).rows() if count >= MIN_ROWS]
        others = counted.height - len(categories)
    return row | {"minimum": low, "maximum": high, "categories": categories, "others": others}


def _to_json(value: Any) -> Any:  # noqa: ANN401  (a number, a time, or none)
    return value if value is None or isinstance(value, (int, float)) else value.isoformat() if hasattr(value, "isoformat") else str(value)


def _format_bound(value: Any) -> str:  # noqa: ANN401
    return f"{value:.6g}" if isinstance(value, float) else str(value)
