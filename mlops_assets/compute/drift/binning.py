"""Count the values of a column in cells and bins, so that every drift statistic follows from the counts.

A numeric column is cut at some 1,000 points: quantiles and tail values of the reference, and an even grid. Rows are counted at each
point and between neighbouring points; values between two points are also summed. A categorical column is counted by its most frequent
values. Counts add up, so that a window's counts can be subtracted from the reference's to compare the window with all other rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping

NUMERIC, CATEGORICAL, PRESENCE = "numeric", "categorical", "presence"
OTHER, NEW, NULL, INFINITE = "other", "new", "null", "infinite"  # labels of bins of rows without a category or range of their own
QUANTILES, GRID, MAX_ATOMS = 1000, 100, 20  # points of a numeric column; the maximum number of distinct values that all get a bin
MAX_VALUES, MAX_KNOWN, RARE = 100, 1000, 0.005  # the maximum of categories with a cell, and stored by name; a rare category's share


@dataclass(frozen=True, eq=False)
class Counts:
    """A column's rows by cell, in one window or several.

    Parameters
    ----------
    cells
        Numeric: rows below the first point, at it, between it and the next, …, above the last, shape (windows, 2 points + 1).
        Categorical: rows by value, then of all other known values, then of new values, shape (windows, values + 2). Presence: rows with
        a value, shape (windows, 1).
    sums
        Sum of the values in each open interval of a numeric column, shape (windows, points + 1); of width 0 otherwise.
    nulls, infinite
        Rows that are null or NaN, and rows with an infinite value, shape (windows,).
    """

    cells: np.ndarray
    sums: np.ndarray
    nulls: np.ndarray
    infinite: np.ndarray

    def __sub__(self, other: Counts) -> Counts:
        """Return the counts of the rows that are in ``self`` and not in ``other``."""
        return Counts(self.cells - other.cells, self.sums - other.sums, self.nulls - other.nulls, self.infinite - other.infinite)

    def total(self) -> Counts:
        """Return the counts of all windows together."""
        arrays = (self.cells, self.sums, self.nulls, self.infinite)
        return Counts(*(array.sum(axis=0, keepdims=True) for array in arrays))

    @property
    def values(self) -> np.ndarray:
        """Rows per window with a value that is neither null nor infinite, shape (windows,)."""
        result: np.ndarray = self.cells.sum(axis=1)
        return result

    @property
    def rows(self) -> np.ndarray:
        """Rows per window, including nulls and infinite values, shape (windows,)."""
        result: np.ndarray = self.values + self.nulls + self.infinite
        return result


@dataclass(frozen=True, eq=False)
class Binning:
    """The cells and bins in which a column is counted.

    Parameters
    ----------
    kind
        ``numeric``, ``categorical`` or ``presence`` (only whether there is a value).
    points
        The points of a numeric column, ascending; empty for other columns.
    edges, atoms
        Bins of a numeric column. Each of ``atoms``, single frequent values, has a bin. Other values fall into intervals ``(edge, next
        edge]``; the first and last interval are unbounded.
    values, known
        The values of a categorical column. ``values`` have a cell each, most frequent first; ``known`` are rarer values, None when there
        are too many to store.
    frequent
        The number of ``values`` that have a bin each.
    """

    kind: str
    points: np.ndarray
    edges: np.ndarray
    atoms: np.ndarray
    values: tuple[str, ...] = ()
    known: tuple[str, ...] | None = ()
    frequent: int = 0

    def bins(self, counts: Counts) -> np.ndarray:
        """Return the number of rows by bin, shape (windows, bins): the cells' bins, then null, then infinite.

        Rare categories share a bin, because differences between few rows are mostly chance. New categories join them where the reference
        has more categories than cells, so that new ones are expected.
        """
        cells = counts.cells
        if self.kind == CATEGORICAL:
            rare, new = cells[:, self.frequent : -1].sum(axis=1), cells[:, -1]
            cells = np.column_stack([cells[:, : self.frequent], *((rare, new) if self.known == () else (rare + new,))])
        if self.kind == NUMERIC:
            # A product with a matrix of zeros and ones would wake all threads of the linear algebra library.
            bin_of_cell = self._bin_of_cell()
            order = np.argsort(bin_of_cell, kind="stable")
            present, starts = np.unique(bin_of_cell[order], return_index=True)
            binned = np.zeros((len(cells), int(bin_of_cell.max()) + 1))
            binned[:, present] = np.add.reduceat(cells[:, order], starts, axis=1)
            cells = binned
        return np.column_stack([cells, counts.nulls, counts.infinite])

    def labels(self) -> list[str]:
        """Return the label of each bin, in the order of :meth:`bins`; categories are labelled by :func:`label_category`."""
        if self.kind == CATEGORICAL:
            names = map(label_category, self.values[: self.frequent])
            return [*names, OTHER, *([NEW] if self.known == () else []), NULL, INFINITE]
        if self.kind == PRESENCE:
            return ["a value", NULL, INFINITE]
        inner = [f"{low:.4g} – {high:.4g}" for low, high in pairwise(self.edges)] or ["other values"]
        return [*inner, *(f"{atom:.6g}" for atom in self.atoms), NULL, INFINITE]

    def _bin_of_cell(self) -> np.ndarray:
        """Return the index of each cell's bin, for a numeric column."""
        count = max(len(self.edges) - 1, 1)
        # A point belongs to the interval that ends in it, the open interval after it to the next one; the ends take what lies outside.
        bin_at_point = np.clip(np.searchsorted(self.edges, self.points, side="left") - 1, 0, count - 1)
        bin_after_point = np.clip(np.searchsorted(self.edges, self.points, side="right") - 1, 0, count - 1)
        for atom_index, atom in enumerate(self.atoms):
            bin_at_point = np.where(self.points == atom, count + atom_index, bin_at_point)
        first = np.zeros(1, dtype=int)
        return np.concatenate([first, np.column_stack([bin_at_point, bin_after_point]).ravel()]) if len(self.points) else first

    def as_json(self) -> dict[str, Any]:
        """Return the binning as a dict of JSON values."""
        return {
            "kind": self.kind,
            "points": self.points.tolist(),
            "edges": self.edges.tolist(),
            "atoms": self.atoms.tolist(),
            "values": list(self.values),
            "known": None if self.known is None else list(self.known),
            "frequent": self.frequent,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Binning:
        """Rebuild the binning from the result of :meth:`as_json`."""
        known = stored["known"]
        points, edges, atoms = (np.array(stored[name], dtype=float) for name in ("points", "edges", "atoms"))
        return cls(
            stored["kind"], points, edges, atoms, tuple(stored["values"]), None if known is None else tuple(known), stored["frequent"]
        )


def label_category(value: str) -> str:
    """Return the label of a category: its name, in quotes if a special bin, such as the bin of nulls, has the same label."""
    return repr(value) if value in (OTHER, NEW, NULL, INFINITE) else value


def find_kind(dtype: pl.DataType) -> str:
    """Return how a column is counted: ``numeric`` for numbers, ``categorical`` for text, booleans and enumerations, else ``presence``."""
    if dtype.is_numeric():
        return NUMERIC
    return CATEGORICAL if dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum) else PRESENCE


def bin_numbers(ordered: np.ndarray) -> Binning:
    """Return the binning of a numeric column.

    Parameters
    ----------
    ordered
        The reference's finite values, ascending.

    Notes
    -----
    At most a thousandth of the reference lies between two neighbouring points. In the tails, each next point halves the rows beyond it.
    So the Kolmogorov–Smirnov statistic at the points is within 0.001 of the statistic over all values. The even grid keeps wide gaps
    narrow for the Wasserstein distance. A column whose deciles coincide (zero-inflated, or with few values) gets a bin for each
    frequent value, and the deciles of the other values as edges.
    """
    if not len(ordered):
        return Binning(NUMERIC, np.zeros(0), np.zeros(0), np.zeros(0))
    last = len(ordered) - 1
    tail = np.unique((last / QUANTILES * 0.5 ** np.arange(30)).astype(int))
    ranks = np.unique(np.concatenate([np.linspace(0, last, QUANTILES + 1).round().astype(int), tail, last - tail]))
    atoms = _find_atoms(ordered)
    others = ordered[~np.isin(ordered, atoms)] if len(atoms) else ordered
    edges = np.unique(others[np.linspace(0, len(others) - 1, 11).round().astype(int)]) if len(others) else np.zeros(0)
    with np.errstate(over="ignore", invalid="ignore"):
        grid = np.linspace(ordered[0], ordered[-1], GRID + 1)
    return Binning(NUMERIC, np.unique(np.concatenate([ordered[ranks], grid[np.isfinite(grid)], edges, atoms])), edges, atoms)


def _find_atoms(ordered: np.ndarray) -> np.ndarray:
    """Return the values that get a bin each: all of few distinct values, else the values that several deciles share."""
    deciles = ordered[np.linspace(0, len(ordered) - 1, 11).round().astype(int)]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    if len(starts) <= MAX_ATOMS:
        return ordered[starts]
    return np.unique(deciles[1:][deciles[1:] == deciles[:-1]])


def count_numbers(binning: Binning, ordered: np.ndarray, nulls: int, infinite: int) -> Counts:
    """Count the rows of one window from its sorted values.

    Parameters
    ----------
    binning
        The binning of the reference.
    ordered, nulls, infinite
        The finite values ascending, the number of null or NaN rows, and the number of rows with an infinite value.
    """
    before, until = np.searchsorted(ordered, binning.points), np.searchsorted(ordered, binning.points, side="right")
    bounds = np.concatenate([[0], np.column_stack([before, until]).ravel(), [len(ordered)]])
    cells = np.diff(bounds)
    sums = np.zeros(len(binning.points) + 1)
    filled = cells[::2] > 0
    if filled.any():
        # Summed by cell, so that an interval ends where the next point begins; an empty cell repeats a neighbour's value and is masked.
        with np.errstate(over="ignore"):
            cell_sums = np.add.reduceat(np.append(ordered, 0.0), bounds[:-1])
        sums[filled] = cell_sums[::2][filled]
    return Counts(cells[None], sums[None], np.array([nulls]), np.array([infinite]))


def bin_categories(counts: Mapping[str, int]) -> Binning:
    """Return the binning of a categorical column.

    Parameters
    ----------
    counts
        The number of rows of each category, most frequent first.
    """
    ordered, none = list(counts), np.zeros(0)
    min_rows = RARE * sum(counts.values())
    frequent = sum(counts[value] >= min_rows for value in ordered[:MAX_VALUES])
    return Binning(
        CATEGORICAL,
        none,
        none,
        none,
        tuple(ordered[:MAX_VALUES]),
        tuple(ordered[MAX_VALUES:]) if len(ordered) <= MAX_KNOWN else None,
        frequent,
    )


def count_categories(binning: Binning, counts: Mapping[str, int], nulls: int) -> Counts:
    """Count the rows of one window by category.

    Parameters
    ----------
    binning
        The binning of the reference.
    counts, nulls
        The number of rows of each category, and the number of null rows.
    """
    by_value = [counts.get(value, 0) for value in binning.values]
    uncelled_rows = sum(counts.values()) - sum(by_value)
    # Without the names of all categories, new ones cannot be distinguished from rare ones: each category without a cell counts as known.
    known_rows = uncelled_rows if binning.known is None else sum(counts.get(value, 0) for value in binning.known)
    return Counts(
        np.array([[*by_value, known_rows, uncelled_rows - known_rows]]), np.zeros((1, 0)), np.array([nulls]), np.zeros(1, dtype=int)
    )


def count_presence(rows: int, nulls: int) -> Counts:
    """Count the rows with a value and the null rows."""
    return Counts(np.array([[rows - nulls]]), np.zeros((1, 0)), np.array([nulls]), np.zeros(1, dtype=int))


_NULL, _INFINITE = -1, -2


@dataclass(frozen=True, eq=False)
class CellIndex:
    """The cell of each row of one column, so that rows can be counted in many windows.

    Parameters
    ----------
    binning
        The binning of the reference.
    cells
        The cell of each row, negative for null and infinite, shape (rows,).
    values
        The values of a numeric column, shape (rows,); empty for other columns.
    """

    binning: Binning
    cells: np.ndarray
    values: np.ndarray

    @classmethod
    def from_series(cls, binning: Binning, column: pl.Series) -> CellIndex:
        """Find the cell of each row of a column of the reference."""
        if binning.kind == CATEGORICAL:
            codes = {value: code for code, value in enumerate(binning.values)}
            words = column.cast(pl.String)
            cell = words.replace_strict(codes, default=len(codes), return_dtype=pl.Int64) if codes else pl.repeat(0, len(words), eager=True)
            return cls(binning, np.where(words.is_null().to_numpy(), _NULL, cell.fill_null(_NULL).to_numpy()), np.zeros(0))
        if binning.kind == PRESENCE:
            return cls(binning, np.where(column.is_null().to_numpy(), _NULL, 0), np.zeros(0))
        values = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
        after = np.searchsorted(binning.points, values, side="right")
        is_at_point = (after > 0) & (np.append(binning.points, np.nan)[after - 1] == values)
        cells = np.where(np.isnan(values), _NULL, np.where(np.isinf(values), _INFINITE, 2 * after - is_at_point))
        return cls(binning, cells, values)

    def count_windows(self, window: np.ndarray) -> Counts:
        """Return the counts of each window.

        Parameters
        ----------
        window
            The window number of each row, from 0, shape (rows,). Several partitions of the same rows into windows have shape
            (partitions, rows).
        """
        partitions = window.reshape(-1, len(self.cells))
        windows = int(partitions.max()) + 1
        width = max(len(self.binning.points), len(self.binning.values)) + 1
        width = 2 * width - 1 if self.binning.kind == NUMERIC else width + (self.binning.kind == CATEGORICAL)
        is_finite = self.cells >= 0
        cells = np.bincount((partitions[:, is_finite] * width + self.cells[is_finite]).ravel(), minlength=windows * width).reshape(
            windows, width
        )
        nulls, infinite = (np.bincount(partitions[:, self.cells == code].ravel(), minlength=windows) for code in (_NULL, _INFINITE))
        return Counts(cells, self._sum_intervals(partitions, windows), nulls, infinite)

    def _sum_intervals(self, partitions: np.ndarray, windows: int) -> np.ndarray:
        """Return the sum of each window's values in each open interval between points, as :class:`Counts` has them."""
        if self.binning.kind != NUMERIC:
            return np.zeros((windows, 0))
        intervals = len(self.binning.points) + 1
        is_between = (self.cells >= 0) & (self.cells % 2 == 0)
        cells = partitions[:, is_between] * intervals + self.cells[is_between] // 2
        return np.bincount(cells.ravel(), np.tile(self.values[is_between], len(partitions)), windows * intervals).reshape(
            windows, intervals
        )
