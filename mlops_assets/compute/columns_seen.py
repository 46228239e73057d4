"""What the columns of a training set held: types, nulls, ranges, categories."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

MOST_CATEGORIES = 12
LEAST_ROWS = 5  # a value of fewer rows may be one person's, and is not shown


@dataclass(frozen=True)
class ColumnSeen:
    """One column.

    Parameters
    ----------
    name, dtype
        As in the frame.
    nulls
        The share of its rows that are null.
    held
        The range, or the categories, in words.
    """

    name: str
    dtype: str
    nulls: float
    held: str


def columns_seen(X: pl.DataFrame) -> list[ColumnSeen]:
    """Describe every column.

    Parameters
    ----------
    X
        The rows a model learned from.
    """
    rows = max(X.height, 1)
    return [ColumnSeen(name, str(X[name].dtype), X[name].null_count() / rows, _held(X[name])) for name in X.columns]


def _held(column: pl.Series) -> str:
    dtype, known = column.dtype, column.drop_nulls()
    if known.is_empty():
        return "nothing but nulls"
    if dtype.is_float():
        known = known.filter(known.is_finite())
    if dtype.is_numeric() or dtype.is_temporal():
        return f"{_end(known.min())} … {_end(known.max())}" if len(known) else "no finite value"
    return "" if dtype.is_nested() else _categories(known)


def _categories(known: pl.Series) -> str:
    counted = known.rename("value").value_counts(sort=True, name="__rows")
    often = [str(value) for value, count in counted.head(MOST_CATEGORIES).rows() if count >= LEAST_ROWS]
    left = counted.height - len(often)
    return ", ".join(often) + (f" and {left} more" if often else f"{left} different values") * bool(left)


def _end(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="minutes")
    return value.isoformat() if isinstance(value, date) else str(value)
