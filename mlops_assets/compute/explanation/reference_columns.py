"""Restore a column of a window to the distribution of its reference, and leave every other column unchanged.

The distribution comes from the stored profile of the version: no row of the training set is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mlops_assets.compute.drift.binning import CATEGORICAL, NUMERIC

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.compute.drift.profile import ColumnProfile

_NULL = "null"
_KNOWN = "known"  # rare categories of the reference, which are counted together


def restore_column(column: pl.Series, reference: ColumnProfile, random: np.random.Generator) -> pl.Series | None:
    """Return a column with the distribution of its reference; as few values change as possible.

    Parameters
    ----------
    column
        The column in the window.
    reference
        The column's profile, from the reference.
    random
        The generator that breaks ties, and chooses the rows to change where the distribution leaves a choice.

    Returns
    -------
    polars.Series or None
        The same name and length. None for a type whose profile knows only nulls, and for a reference without values.

    Notes
    -----
    A number keeps its rank: the lowest tenth of the window becomes the lowest tenth of the reference. In a categorical column, rows move
    from categories with too many rows to categories with too few, the largest difference first. So a renamed category gets its old name
    unless another renamed category has the same share.
    """
    if reference.binning.kind == NUMERIC and (column.dtype.is_numeric() or column.dtype == pl.Null):
        return _restore_numbers(column, reference, random)
    return _restore_categories(column, reference, random) if reference.binning.kind == CATEGORICAL else None


def _restore_numbers(column: pl.Series, reference: ColumnProfile, random: np.random.Generator) -> pl.Series | None:
    quantiles = ReferenceQuantiles.from_profile(reference)
    if quantiles is None:
        return None
    values = column.cast(pl.Float64).fill_null(np.nan).to_numpy().copy()
    missing = np.isnan(values)
    expected = round(float(reference.counts.nulls[0]) / float(reference.counts.rows[0]) * len(values))
    surplus = int(missing.sum()) - expected
    rank = np.empty(len(values))
    order = np.lexsort([random.random(len(values)), values])  # ties in random order, missing values last
    present = len(values) - int(missing.sum())
    rank[order[:present]] = (np.arange(present) + 0.5) / max(present, 1)
    if surplus > 0:
        filled = random.choice(np.flatnonzero(missing), surplus, replace=False)
        rank[filled], missing[filled] = random.random(surplus), False
    elif surplus < 0:
        missing[random.choice(np.flatnonzero(~missing), -surplus, replace=False)] = True
    values[~missing] = quantiles(rank[~missing])
    dtype = column.dtype if column.dtype.is_numeric() else pl.Int64 if reference.dtype.startswith(("Int", "UInt")) else pl.Float64
    values = np.round(values) if dtype.is_integer() else values
    return pl.Series(column.name, values, dtype=pl.Float64).fill_nan(None).cast(dtype, strict=False)


@dataclass(frozen=True, eq=False)
class ReferenceQuantiles:
    """The quantile function of a numeric column's reference; values between two stored points are interpolated.

    Parameters
    ----------
    points
        The stored points, ascending.
    cumulative
        The share of values up to the end of each cell, ascending to 1. The cells alternate: an open interval, then a point.
    """

    points: np.ndarray
    cumulative: np.ndarray

    @classmethod
    def from_profile(cls, reference: ColumnProfile) -> ReferenceQuantiles | None:
        """Return the quantile function; None when the reference has no finite value."""
        cells = np.asarray(reference.counts.cells[0], dtype=float)
        points = reference.binning.points
        return cls(points, np.cumsum(cells) / cells.sum()) if len(points) and cells.sum() else None

    def __call__(self, shares: np.ndarray) -> np.ndarray:
        """Return the values below which these shares of the reference lie, each between 0 and 1."""
        cell = np.minimum(np.searchsorted(self.cumulative, shares, side="left"), len(self.cumulative) - 1)
        begin = np.concatenate([[0.0], self.cumulative])[cell]
        width = self.cumulative[cell] - begin
        inside = np.divide(shares - begin, width, out=np.zeros(len(shares)), where=width > 0)
        last = len(self.points) - 1
        low, high = self.points[np.clip(cell // 2 - 1, 0, last)], self.points[np.clip(cell // 2, 0, last)]
        result: np.ndarray = np.where(cell % 2 == 1, high, low + inside * (high - low))
        return result


def _restore_categories(column: pl.Series, reference: ColumnProfile, random: np.random.Generator) -> pl.Series | None:
    binning, counts = reference.binning, reference.counts
    known = set(binning.known or ())
    named = dict(zip(binning.values, counts.cells[0].tolist(), strict=False))
    rows = [_find_category(value, named, known, named_only=binning.known is None) for value in column.cast(pl.String).to_list()]
    shares = {**named, _name_group(_KNOWN): float(counts.cells[0][len(named)]), _name_group(_NULL): float(counts.nulls[0])}
    expected = _share_rows({name: count for name, count in shares.items() if count}, len(rows))
    if not expected:
        return None
    restored = _move_rows(np.array(rows, dtype=object), expected, random)
    rare = list(binning.known or ())
    values = [
        old if new == before else None if new == _name_group(_NULL) else random.choice(rare) if new == _name_group(_KNOWN) and rare else new
        for old, before, new in zip(column.cast(pl.String).to_list(), rows, restored.tolist(), strict=True)
    ]
    words = pl.Series(column.name, [None if value == _name_group(_KNOWN) else value for value in values], dtype=pl.String)
    if column.dtype == pl.Boolean or (column.dtype == pl.Null and reference.dtype == "Boolean"):
        return words == "true"
    return words if column.dtype == pl.Null else words.cast(column.dtype, strict=False)


def _name_group(kind: str) -> str:
    """Return a group name that no category can have."""
    return f"\x00{kind}"


def _find_category(value: str | None, named: Mapping[str, float], known: set[str], *, named_only: bool) -> str:
    """Return the category of a value: the value, rare or null. If rare categories have no stored names, every other value is rare."""
    if value is None:
        return _name_group(_NULL)
    return _name_group(_KNOWN) if value in known or (named_only and value not in named) else value


def _share_rows(counts: Mapping[str, float], rows: int) -> dict[str, int]:
    """Return whole numbers of rows in proportion to ``counts``, by largest remainder."""
    total = sum(counts.values())
    exact = {name: count / total * rows for name, count in counts.items()}
    whole = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: whole[name] - exact[name])
    return whole | {name: whole[name] + 1 for name in by_remainder[: rows - sum(whole.values())]}


def _move_rows(rows: np.ndarray, expected: Mapping[str, int], random: np.random.Generator) -> np.ndarray:
    """Move random rows from categories with too many rows to categories with too few, the largest difference first."""
    names, counts = np.unique(rows.astype(str), return_counts=True)
    current = dict(zip(names.tolist(), counts.tolist(), strict=True))
    surplus = {name: count - expected.get(name, 0) for name, count in current.items()}
    lack = {name: count - current.get(name, 0) for name, count in expected.items()}
    sources = [
        random.permutation(np.flatnonzero(rows == name))[:number]
        for name, number in sorted(surplus.items(), key=lambda entry: (-entry[1], entry[0]))
        if number > 0
    ]
    if not sources:
        return rows
    targets = [np.repeat(name, number) for name, number in sorted(lack.items(), key=lambda entry: (-entry[1], entry[0])) if number > 0]
    moved = rows.copy()
    moved[np.concatenate(sources)] = np.concatenate(targets)
    return moved
