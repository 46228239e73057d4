"""Embedding columns: lists of one length, compared by projections, norms, and the shift that the rows of a window share.

A single number of an embedding has no meaning. A profile stores the mean and the first principal components of the reference, and no row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.drift.texts import Measure

if TYPE_CHECKING:
    from collections.abc import Mapping

MIN_SIZE = 2  # numbers of an embedding
MIN_SAME_LENGTH = 0.99  # the share of lists with the same length from which a column has embeddings
MIN_EMBEDDINGS = 100  # of a reference
MAX_EMBEDDINGS = 20_000  # of a reference; of more, an even sample is measured
MAX_COMPONENTS = 4
MAX_BLOCK = 10  # times the numbers of an embedding: the rows in which a shift of 0.32 standard deviations has the default minimum effect
NORM, RESIDUAL, SHIFT, COMPONENT = "norm", "distance from the components", "shift shared by the rows", "component "
MIN_VARIANCE = 1e-10  # of a direction, as a share of all variance; a smaller one is a rounding error
_DIGITS = 5  # constant values, e.g. norms of 1, stay constant despite rounding errors


@dataclass(frozen=True, eq=False)
class EmbeddingSpace:
    """The principal components of reference embeddings, with which the embeddings of a window are measured.

    Parameters
    ----------
    mean
        The mean of the embeddings, shape (size,).
    components
        Orthonormal directions, shape (components, size).
    scales
        The standard deviation of the embeddings along each component, shape (components,).
    rest
        The standard deviation along each other direction, on average.
    block
        The number of rows whose shared shift is measured together.
    """

    mean: np.ndarray
    components: np.ndarray
    scales: np.ndarray
    rest: float
    block: int

    @classmethod
    def fit(cls, rows: np.ndarray, block: int) -> EmbeddingSpace:
        """Return the space of embeddings, shape (rows, size)."""
        from sklearn.decomposition import PCA

        size = rows.shape[1]
        mean = rows.mean(axis=0)
        with np.errstate(invalid="ignore"):  # of constant embeddings, 0 / 0 of the variance is explained
            fitted = PCA(min(MAX_COMPONENTS, size - 1), random_state=0).fit(rows - mean)
        total = float(rows.var(axis=0, ddof=1).sum())
        left = (total - fitted.explained_variance_.sum()) / (size - len(fitted.components_))
        variances = np.array([*fitted.explained_variance_, left])
        # Along a direction without variance, the usual standard deviation is the unit: rounding errors stay small.
        *scales, rest = np.sqrt(np.where(variances > MIN_VARIANCE * total, variances, total / size or 1.0))
        return cls(mean, fitted.components_, np.array(scales), float(rest), min(block, MAX_BLOCK * size))

    @np.errstate(over="ignore", invalid="ignore")  # the measures of huge numbers are infinite or null
    def measure(self, embeddings: pl.Series, windows: np.ndarray | None = None) -> dict[str, Measure]:
        """Return the measures of embeddings by name; null for a row without an embedding of this length.

        Parameters
        ----------
        embeddings
            The column.
        windows
            The window of each row, shape (rows,); None for one window.
        """
        valid, numbers = read_embeddings(embeddings, len(self.mean))
        centred = numbers - self.mean
        scores = centred @ self.components.T
        residuals = centred - scores @ self.components
        spherical = np.hstack([scores / self.scales, residuals / self.rest])
        groups = np.zeros(len(numbers), dtype=int) if windows is None else windows[valid]
        values = {
            NORM: np.linalg.norm(numbers, axis=1),
            SHIFT: _measure_shift(spherical, groups, self.block) / np.sqrt(len(self.mean)),
            RESIDUAL: np.linalg.norm(residuals, axis=1) / self.rest,
            **{f"{COMPONENT}{place + 1}": column for place, column in enumerate((scores / self.scales).T)},
        }
        rows = np.arange(len(embeddings))
        return {name: Measure(_place_values(value, valid), rows) for name, value in values.items()}

    def as_json(self) -> dict[str, Any]:
        """Return the space as a dict of JSON values; numbers have six significant digits."""
        components = [_round_digits(component) for component in self.components]
        return {
            "mean": _round_digits(self.mean),
            "components": components,
            "scales": _round_digits(self.scales),
            "rest": self.rest,
            "block": self.block,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> EmbeddingSpace:
        """Return the space that :meth:`as_json` described."""
        mean, components, scales = (np.array(stored[name], dtype=float) for name in ("mean", "components", "scales"))
        return cls(mean, components, scales, stored["rest"], stored["block"])


def find_size(column: pl.Series) -> int | None:
    """Return the length of the embeddings in a column; None for a column of other values.

    A column has embeddings if its values are lists or arrays of floats, and 99 % of them or more have the same length of 2 or more.
    A minimum of 100 must have finite numbers only.
    """
    dtype = column.dtype
    if not isinstance(dtype, (pl.List, pl.Array)) or not dtype.inner.is_float():
        return None
    lengths = _to_lists(column).list.len().drop_nulls()
    if len(lengths) < MIN_EMBEDDINGS:
        return None
    size, count = lengths.value_counts(sort=True).row(0)
    if size < MIN_SIZE or count < MIN_SAME_LENGTH * len(lengths):
        return None
    return size if len(read_embeddings(column, size)[1]) >= MIN_EMBEDDINGS else None


def describe_embeddings(column: pl.Series, windows: np.ndarray, size: int) -> tuple[EmbeddingSpace, dict[str, Measure]]:
    """Return the space of reference embeddings, and their measures by name.

    Every other embedding fits the components. The remaining rows measure projections: those of fitted rows spread more than those of new rows.

    Parameters
    ----------
    column
        The embeddings of the reference.
    windows
        The window of each row, shape (rows,).
    size
        The length of the embeddings.
    """
    valid, numbers = read_embeddings(column, size)
    counts = np.unique(windows[valid], return_counts=True)[1]
    space = EmbeddingSpace.fit(numbers[::2], int(np.median(counts)))
    new = np.setdiff1d(np.arange(len(column)), np.flatnonzero(valid)[::2])
    measured = space.measure(column, windows)
    whole = {name: measured[name] for name in (NORM, SHIFT)}
    return space, whole | {name: Measure(each.values.gather(new), new) for name, each in measured.items() if name not in whole}


def read_embeddings(column: pl.Series, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each row has an embedding of this length with finite numbers, and these embeddings, shape (embeddings, size)."""
    lists = _to_lists(column)
    valid = (lists.list.len() == size).fill_null(value=False).to_numpy().copy()
    flat = lists.filter(pl.Series(valid)).explode().cast(pl.Float64)
    numbers = flat.fill_null(np.nan).to_numpy().reshape(-1, size)
    finite = np.isfinite(numbers).all(axis=1)
    valid[valid] = finite
    return valid, numbers[finite]


def holds_numbers(dtype: pl.DataType) -> bool:
    """Return whether values of this type can be embeddings: lists or arrays of numbers, or of nothing but nulls."""
    return isinstance(dtype, (pl.List, pl.Array)) and (dtype.inner.is_numeric() or dtype.inner == pl.Null)


def describe_other_lengths(name: str, column: pl.Series, size: int) -> str:
    """Return how many embeddings of a window have another length; empty if none has."""
    lengths = _to_lists(column).list.len().drop_nulls()
    others = lengths.filter(lengths != size)
    if others.is_empty():
        return ""
    return (
        f"{name}: {len(others)} of {len(column)} rows have embeddings of another length than {size}, e.g. {others[0]}; they count as null"
    )


def _to_lists(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.Array):
        return column.arr.to_list()
    return column if isinstance(column.dtype, pl.List) else column.cast(pl.List(pl.Float64))


def _measure_shift(rows: np.ndarray, windows: np.ndarray, block: int) -> np.ndarray:
    """Return the product of each row with the mean of the other rows of its block, times the root of their number.

    The mean of the products is the squared shift of the mean; their spread does not depend on the size of blocks. NaN for a block of one
    row.
    """
    result = np.full(len(rows), np.nan)
    for window in np.unique(windows):
        members = np.flatnonzero(windows == window)
        blocks = max(round(len(members) / block), 1)
        for first in range(blocks):
            inside = members[first::blocks]
            others = (rows[inside].sum(axis=0) - rows[inside]) / max(len(inside) - 1, 1)
            if len(inside) > 1:
                result[inside] = np.sqrt(len(inside)) * (rows[inside] * others).sum(axis=1)
    return result


def _place_values(values: np.ndarray, valid: np.ndarray) -> pl.Series:
    """Return rounded values at the valid rows, and nulls at the others."""
    result = np.full(len(valid), np.nan)
    result[valid] = values
    # Projections of the mean are zero but for rounding errors, which have no significant digits.
    return pl.Series(result, nan_to_null=True).round(_DIGITS).round_sig_figs(_DIGITS)


def _round_digits(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
