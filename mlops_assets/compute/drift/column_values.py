"""The values of one column of a window, sorted or counted once for all statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mlops_assets.compute.drift.binning import CATEGORICAL, NUMERIC, find_kind

if TYPE_CHECKING:
    from collections.abc import Mapping

FACTS = ("mean", "std", "min", "median", "max")


@dataclass(frozen=True, eq=False)
class ColumnValues:
    """The values of a column.

    Parameters
    ----------
    dtype
        Name of the column's polars type.
    kind
        How the column is counted, see :func:`find_kind`.
    rows, nulls, infinite
        The numbers of all rows, of rows that are null or NaN, and of rows with an infinite value.
    ordered
        The finite values of a numeric column, ascending.
    categories
        The number of rows of each category of a categorical column, most frequent first.
    """

    dtype: str
    kind: str
    rows: int
    nulls: int
    infinite: int = 0
    ordered: np.ndarray = field(default_factory=lambda: np.zeros(0))
    categories: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_series(cls, column: pl.Series, kind: str = "") -> ColumnValues:
        """Sort or count a column; ``kind`` is the kind of the reference, or follows from the column's type when empty."""
        kind, dtype = kind or find_kind(column.dtype), str(column.dtype)
        if kind == NUMERIC:
            # polars sorts on all cores; NaN comes last.
            ordered = column.drop_nulls().sort().cast(pl.Float64).to_numpy()
            first, last, end = (int(np.searchsorted(ordered, *end)) for end in ((-np.inf, "right"), (np.inf,), (np.inf, "right")))
            return cls(dtype, kind, len(column), len(column) - end, first + end - last, ordered[first:last])
        if kind == CATEGORICAL:
            categories, nulls = _count_categories(column)
            return cls(dtype, kind, len(column), nulls, categories=categories)
        return cls(dtype, kind, len(column), column.null_count())

    @cached_property
    def facts(self) -> dict[str, float | None]:
        """The :data:`FACTS` of a numeric column by name, None where not finite. The median is the larger of two middle values.

        Empty for other columns.
        """
        if self.kind != NUMERIC:
            return {}
        if not len(self.ordered):
            return dict.fromkeys(FACTS)
        low, middle, high = (float(self.ordered[place]) for place in (0, len(self.ordered) // 2, -1))
        with np.errstate(over="ignore", invalid="ignore"):
            # Rounding gives a constant column a tiny standard deviation; distances divided by it would be huge.
            values = (float(self.ordered.mean()), float(self.ordered.std()) if low != high else 0.0, low, middle, high)
        return {name: value if math.isfinite(value) else None for name, value in zip(FACTS, values, strict=True)}

    def quantile(self, share: float) -> float:
        """Return a quantile of the finite values, interpolated between two ranks; NaN if there are none."""
        if not len(self.ordered):
            return math.nan
        rank = share * (len(self.ordered) - 1)
        low, high = self.ordered[math.floor(rank)], self.ordered[math.ceil(rank)]
        return float(low + (rank - math.floor(rank)) * (high - low)) if low < high else float(low)

    def count_between(self, low: float, high: float) -> int:
        """Return the number of rows with ``low < value < high``."""
        return max(int(np.searchsorted(self.ordered, high) - np.searchsorted(self.ordered, low, side="right")), 0)

    def count_equal(self, values: np.ndarray) -> int:
        """Return the number of rows whose value is one of these distinct numbers."""
        return int((np.searchsorted(self.ordered, values, side="right") - np.searchsorted(self.ordered, values)).sum())


def _count_categories(column: pl.Series) -> tuple[dict[str, int], int]:
    """Return the number of rows of each category, most frequent first, and the number of nulls."""
    counted = (
        column.alias("value")
        .value_counts()
        .with_columns(pl.col("value").cast(pl.String))
        .sort(["count", "value"], descending=[True, False])
    )
    counts: dict[str | None, int] = dict(counted.iter_rows())
    nulls = counts.pop(None, 0)
    return {str(value): count for value, count in counts.items()}, nulls
