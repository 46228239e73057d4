"""How the values of a column are counted, so that every distance between two windows follows from the counts.

A numeric column is cut at some 1,000 of the reference's own values (its quantiles, its tails and an even grid); rows are counted at
each of these points and between them, with the sum of the values between. A categorical column is counted by its most frequent values.
Counts add up: a window's counts are subtracted from the reference's to compare a window with all the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping

NUMERIC, CATEGORICAL, PRESENCE = "numeric", "categorical", "presence"
QUANTILES, GRID, ATOMS, VALUES, KNOWN = 1000, 100, 20, 100, 1000


@dataclass(frozen=True, eq=False)
class Tally:
    """The counts of one window or of several.

    Parameters
    ----------
    cells
        Numeric: rows below the first point, at it, between it and the next, …, above the last, shape (windows, 2 points + 1).
        Categorical: rows by value, then other known values, then new ones, shape (windows, values + 2). Else rows with a value, shape (windows, 1).
    sums
        Sum of the values in each open interval of a numeric column, shape (windows, points + 1); of width 0 otherwise.
    nulls, infinite
        Rows without a value (NaN counts as none) and with an infinite one, shape (windows,).
    """

    cells: np.ndarray
    sums: np.ndarray
    nulls: np.ndarray
    infinite: np.ndarray

    def __sub__(self, other: Tally) -> Tally:
        """Return the counts of the rows that are in ``self`` and not in ``other``."""
        return Tally(self.cells - other.cells, self.sums - other.sums, self.nulls - other.nulls, self.infinite - other.infinite)

    @property
    def values(self) -> np.ndarray:
        """Rows with a finite value, shape (windows,)."""
        return self.cells.sum(axis=1)

    @property
    def rows(self) -> np.ndarray:
        """All rows, shape (windows,)."""
        return self.values + self.nulls + self.infinite


@dataclass(frozen=True, eq=False)
class Layout:
    """Where a column is cut.

    Parameters
    ----------
    kind
        ``numeric``, ``categorical`` or ``presence`` (only whether there is a value).
    points
        Of a numeric column, ascending.
    edges, atoms
        Bins of a numeric column: single frequent values, and intervals ``(edge, next edge]`` of the others, open at both ends.
    values, known
        Of a categorical column: those counted by themselves, most frequent first, and rarer ones; ``known`` is None when they are too many.
    """

    kind: str
    points: np.ndarray
    edges: np.ndarray
    atoms: np.ndarray
    values: tuple[str, ...] = ()
    known: tuple[str, ...] | None = ()

    def bins(self, tally: Tally) -> np.ndarray:
        """Return rows by bin, shape (windows, bins): the cells' bins, then null, then infinite."""
        cells = tally.cells
        if self.kind == NUMERIC:
            place = self._bin_of_cell()
            cells = cells @ (place[:, None] == np.arange(place.max() + 1)).astype(float)
        return np.column_stack([cells, tally.nulls, tally.infinite])

    def labels(self) -> list[str]:
        """Return what each of :meth:`bins` holds."""
        if self.kind == CATEGORICAL:
            return [*self.values, "other", "new", "null", "infinite"]
        if self.kind == PRESENCE:
            return ["a value", "null", "infinite"]
        inner = [f"{low:.4g} – {high:.4g}" for low, high in zip(self.edges, self.edges[1:], strict=False)] or ["other values"]
        return [*inner, *(f"{atom:.6g}" for atom in self.atoms), "null", "infinite"]

    def _bin_of_cell(self) -> np.ndarray:
        count = max(len(self.edges) - 1, 1)
        # A point belongs to the interval that ends in it, the open interval after it to the next one; the ends take what lies outside.
        at = np.clip(np.searchsorted(self.edges, self.points, side="left") - 1, 0, count - 1)
        after = np.clip(np.searchsorted(self.edges, self.points, side="right") - 1, 0, count - 1)
        for place, atom in enumerate(self.atoms):
            at = np.where(self.points == atom, count + place, at)
        first = np.zeros(1, dtype=int)
        return np.concatenate([first, np.column_stack([at, after]).ravel()]) if len(self.points) else first

    def as_json(self) -> dict[str, Any]:
        """Return the layout as JSON holds it."""
        return {
            "kind": self.kind,
            "points": self.points.tolist(),
            "edges": self.edges.tolist(),
            "atoms": self.atoms.tolist(),
            "values": list(self.values),
            "known": None if self.known is None else list(self.known),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Layout:
        """Return a stored layout."""
        known = stored["known"]
        arrays = (np.array(stored[name], dtype=float) for name in ("points", "edges", "atoms"))
        return cls(stored["kind"], *arrays, tuple(stored["values"]), None if known is None else tuple(known))


def kind_of(dtype: pl.DataType) -> str:
    """Return how a type is counted: numbers by size, words and truth values by value, anything else by presence."""
    if dtype.is_numeric():
        return NUMERIC
    return CATEGORICAL if dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum) else PRESENCE


def sorted_numbers(column: pl.Series) -> tuple[np.ndarray, int, int, int]:
    """Return the finite values ascending, and how many rows are null or NaN, −∞ and ∞."""
    # polars sorts on all cores, nulls last and NaN before them.
    ordered = column.cast(pl.Float64).drop_nulls().sort().to_numpy()
    low, high, end = np.searchsorted(ordered, [-np.inf, np.inf, np.inf], side="left")[:2].tolist() + [0] if False else (0, 0, 0)
    return ordered, low, high, end
