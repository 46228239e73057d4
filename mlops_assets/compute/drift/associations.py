"""Associations between columns: how well the pairs of values in a window fit the pairs in the reference.

Swapped categories or columns hardly change the distribution of a column, but yield pairs of values without precedent. The measure of a
pair of columns is the mean of ln(lift) over the rows of a window; the lift of two values is their frequency in the reference, divided by
the frequency that independent columns would have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.drift.binning import CATEGORICAL, NUMERIC, Binning

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PAIRS, MAX_CODES = 60, 24
MIN_ASSOCIATION = 0.05  # mean ln(lift); weaker associations reveal no fault
MIN_STABILITY = 5.0  # the mean in units of the deviation over windows; below, the association is between windows, not between rows
MAX_WINDOW_ROWS = 20_000  # of a window; more rows are sampled evenly
_PSEUDO_ROWS = 1.0  # added to observed and expected frequencies, so that an unseen pair has a finite lift
_DIGITS = 4


@dataclass(frozen=True, eq=False)
class ColumnCodes:
    """The codes of a column's values: 0 for missing values, one code for each range or category, and the last for other categories.

    Parameters
    ----------
    cuts
        The upper ends of the ranges of a numeric column, ascending; None for a categorical column.
    categories
        The categories of a categorical column.
    """

    cuts: np.ndarray | None
    categories: tuple[str, ...] = ()

    @classmethod
    def from_binning(cls, binning: Binning) -> ColumnCodes | None:
        """Return the codes of a column; None for a column that is counted by presence only."""
        if binning.kind == CATEGORICAL:
            return cls(None, binning.values[: MAX_CODES - 2])
        if binning.kind != NUMERIC:
            return None
        cuts = np.unique(np.concatenate([binning.edges[1:-1], binning.atoms]))
        return cls(
            cuts[np.unique(np.linspace(0, len(cuts) - 1, MAX_CODES - 2).round().astype(int))] if len(cuts) >= MAX_CODES - 1 else cuts
        )

    @property
    def count(self) -> int:
        """The number of codes."""
        return 2 + (len(self.categories) if self.cuts is None else len(self.cuts))

    def encode(self, column: pl.Series) -> np.ndarray:
        """Return the code of each row, shape (rows,)."""
        if self.cuts is None:
            by_category = {name: code for code, name in enumerate(self.categories, 1)}
            if not by_category:
                return np.zeros(len(column), dtype=int)
            codes = column.cast(pl.String).replace_strict(by_category, default=self.count - 1, return_dtype=pl.Int64)
            return pl.select(pl.when(column.is_not_null()).then(codes).otherwise(0)).to_series().to_numpy()
        values = column.cast(pl.Float64).fill_null(math.nan).to_numpy()
        result: np.ndarray = np.where(np.isfinite(values), np.searchsorted(self.cuts, values) + 1, 0)
        return result

    def as_json(self) -> dict[str, Any]:
        """Return the codes as a dict of JSON values."""
        return {"cuts": None if self.cuts is None else self.cuts.tolist(), "categories": list(self.categories)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ColumnCodes:
        """Rebuild the codes from the result of :meth:`as_json`."""
        return cls(None if stored["cuts"] is None else np.array(stored["cuts"], dtype=float), tuple(stored["categories"]))


@dataclass(frozen=True, eq=False)
class Association:
    """The association of two columns in the reference and in each of its windows.

    Parameters
    ----------
    columns
        The names of the two columns.
    lifts
        ln(lift) by the code of the first and of the second column.
    history
        The mean of ln(lift) over the rows of each reference window, with the lifts of the other windows; shape (windows,).
    variance
        The variance of ln(lift) over rows.
    """

    columns: tuple[str, str]
    lifts: np.ndarray
    history: np.ndarray
    variance: float

    @property
    def stability(self) -> float:
        """The mean association divided by its standard deviation over windows (plus 0.001)."""
        return float(self.history.mean() / (self.history.std() + 1e-3))

    def measure(self, first: np.ndarray, second: np.ndarray) -> float:
        """Return the mean of ln(lift) over the rows of a window, given the codes of both columns."""
        return float(self.lifts[first, second].mean())

    def as_json(self) -> dict[str, Any]:
        """Return the association as a dict of JSON values."""
        return {
            "columns": list(self.columns),
            "lifts": self.lifts.round(_DIGITS).tolist(),
            "history": self.history.round(_DIGITS + 2).tolist(),
            "variance": self.variance,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Association:
        """Rebuild the association from the result of :meth:`as_json`."""
        first, second = stored["columns"]
        return cls((first, second), np.array(stored["lifts"]), np.array(stored["history"]), stored["variance"])


def find_associations(frame: pl.DataFrame, binnings: Mapping[str, Binning], windows: np.ndarray) -> dict[str, Any]:
    """Return the associations that are strong and stable over the windows of the reference, as JSON values.

    Parameters
    ----------
    frame
        Rows of the reference.
    binnings
        The binning of each column.
    windows
        The window number of each row, from 0, shape (rows,).

    Returns
    -------
    dict
        ``codes`` by column, ``rows`` of each window, and ``pairs``: at most :data:`MAX_PAIRS`, the most stable first.
    """
    codes = {name: found for name, binning in binnings.items() if (found := ColumnCodes.from_binning(binning)) and found.count > 2}
    encoded = {name: each.encode(frame[name]) for name, each in codes.items()}
    rows = np.bincount(windows)
    pairs = []
    for first, second in combinations(codes, 2):
        shape = (codes[first].count, codes[second].count)
        cells = np.bincount((windows * shape[0] + encoded[first]) * shape[1] + encoded[second], minlength=len(rows) * math.prod(shape))
        if (pair := _associate((first, second), cells.reshape(len(rows), *shape).astype(float))) is not None:
            pairs.append(pair)
    chosen = sorted(pairs, key=lambda pair: (-pair.stability, pair.columns))[:MAX_PAIRS]
    used = {name for pair in chosen for name in pair.columns}
    return {
        "codes": {name: each.as_json() for name, each in codes.items() if name in used},
        "rows": rows.tolist(),
        "pairs": [pair.as_json() for pair in chosen],
    }


def _associate(columns: tuple[str, str], counts: np.ndarray) -> Association | None:
    """Return the association of two columns from their counts, shape (windows, codes, codes); None for a weak or unstable association."""
    whole = counts.sum(axis=0)
    lifts = _compute_log_lifts(whole[None])[0]
    mean = float((whole * lifts).sum() / whole.sum())
    if mean < MIN_ASSOCIATION:
        return None
    rows = counts.sum(axis=(1, 2))
    history = (counts * _compute_log_lifts(whole - counts)).sum(axis=(1, 2)) / np.maximum(rows, 1)
    pair = Association(columns, lifts, history, float((whole * (lifts - mean) ** 2).sum() / whole.sum()))
    return pair if pair.stability >= MIN_STABILITY else None


def _compute_log_lifts(counts: np.ndarray) -> np.ndarray:
    """Return ln(lift) of each pair of codes, for counts of shape (tables, codes, codes)."""
    expected = counts.sum(axis=2, keepdims=True) * counts.sum(axis=1, keepdims=True) / np.maximum(counts.sum(axis=(1, 2), keepdims=True), 1)
    result: np.ndarray = np.log((counts + _PSEUDO_ROWS) / (expected + _PSEUDO_ROWS))
    return result


def sample_rows(column: pl.Series) -> pl.Series:
    """Return at most :data:`MAX_WINDOW_ROWS` evenly spaced rows of a window."""
    return column.gather_every(-(-len(column) // MAX_WINDOW_ROWS)) if len(column) > MAX_WINDOW_ROWS else column
