"""A regression tree that predicts the loss of a regressor's predictions (direct loss estimation), stored as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_CATEGORIES = 50  # of a column; columns with more values are left out
MAX_LEAVES = 32
MIN_LEAF_ROWS = 30
_MAX_NUMBER = float(np.finfo(np.float32).max)  # of the precision that the tree compares
_WORDS = (pl.String, pl.Categorical, pl.Enum, pl.Boolean)


@dataclass(frozen=True, eq=False)
class LossTree:
    """The expected absolute and squared error by features and prediction.

    Parameters
    ----------
    columns
        Column → code of each category; None for a numeric column.
    missing
        The number that replaces a missing or unknown value, for each column and last for the prediction.
    nodes
        ``left``, ``right`` (−1 at a leaf), ``feature`` and ``threshold`` of each node.
    losses
        Means and variances of absolute and squared errors of each node, shape (nodes, 4).
    """

    columns: Mapping[str, Mapping[str, float] | None]
    missing: tuple[float, ...]
    nodes: Mapping[str, np.ndarray]
    losses: np.ndarray

    def predict(self, rows: pl.DataFrame, predicted: np.ndarray) -> np.ndarray:
        """Return means and variances of absolute and squared errors, shape (rows, 4); a column that ``rows`` lacks counts as nulls."""
        matrix = _encode(rows, predicted, self.columns, self.missing)
        node, numbers = np.zeros(len(predicted), dtype=int), np.arange(len(predicted))
        left, right, feature = self.nodes["left"], self.nodes["right"], self.nodes["feature"]
        while (inner := left[node] >= 0).any():
            below = matrix[numbers, np.maximum(feature[node], 0)] <= self.nodes["threshold"][node]
            node = np.where(inner, np.where(below, left[node], right[node]), node)
        return self.losses[node]

    def as_json(self) -> dict[str, Any]:
        """Return the tree as a dict of JSON values."""
        nodes = {name: values.tolist() for name, values in self.nodes.items()}
        return {"columns": dict(self.columns), "missing": list(self.missing), "nodes": nodes, "losses": self.losses.tolist()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> LossTree:
        """Rebuild the tree from the result of :meth:`as_json`."""
        nodes = {name: np.asarray(values) for name, values in stored["nodes"].items()}
        return cls(stored["columns"], tuple(stored["missing"]), nodes, np.asarray(stored["losses"], dtype=float))


def fit_loss_tree(rows: pl.DataFrame, predicted: np.ndarray, y: np.ndarray) -> LossTree:
    """Fit a loss tree on the errors of a holdout.

    Parameters
    ----------
    rows
        The features of the holdout; nested columns and columns with more than 50 categories are left out.
    predicted, y
        Predictions and labels, shape (rows,).
    """
    from sklearn.tree import DecisionTreeRegressor

    errors = np.minimum(np.abs(y - predicted), _MAX_NUMBER)
    columns = {name: codes for name in rows.columns if (codes := _choose_codes(rows[name], errors)) is not _LEFT_OUT}
    missing = (*(_choose_replacement(rows[name], codes, errors) for name, codes in columns.items()), float(predicted.min()) - 1.0)
    matrix = _encode(rows, predicted, columns, missing)
    losses = np.column_stack([errors, errors**2])
    spread = losses.std(axis=0)
    scaled = losses / np.where(spread > 0, spread, 1.0)
    leaf_rows = max(MIN_LEAF_ROWS, len(y) // 200)
    tree = DecisionTreeRegressor(max_leaf_nodes=MAX_LEAVES, min_samples_leaf=leaf_rows, random_state=0).fit(matrix, scaled).tree_
    nodes = {"left": tree.children_left, "right": tree.children_right, "feature": tree.feature, "threshold": tree.threshold}
    fitted = LossTree(columns, missing, {name: np.array(values) for name, values in nodes.items()}, np.zeros((tree.node_count, 4)))
    leaf = tree.apply(matrix.astype(np.float32))
    for number in np.unique(leaf):
        inside = losses[leaf == number]
        fitted.losses[number] = [*inside.mean(axis=0), *inside.var(axis=0)]
    return fitted


_LEFT_OUT: dict[str, float] = {}


def _choose_codes(column: pl.Series, errors: np.ndarray) -> dict[str, float] | None:
    """Return the mean error of each category as its code, None for a numeric column, ``_LEFT_OUT`` for an unusable column."""
    if column.dtype.is_numeric() or column.dtype.is_temporal():
        return None
    if column.dtype not in _WORDS or column.n_unique() > MAX_CATEGORIES:
        return _LEFT_OUT
    means = pl.DataFrame({"value": column.cast(pl.String), "error": errors}).drop_nulls().group_by("value", maintain_order=True).mean()
    return dict(means.sort("value").iter_rows()) or _LEFT_OUT


def _choose_replacement(column: pl.Series, codes: Mapping[str, float] | None, errors: np.ndarray) -> float:
    """Return the number that replaces nulls: the mean error for categories, a number below all others for numbers."""
    if codes is not None:
        return float(errors.mean())
    smallest = _to_numbers(column).min()
    return float(smallest) - 1.0 if isinstance(smallest, (int, float)) else 0.0


def _to_numbers(column: pl.Series) -> pl.Series:
    numbers = (column.to_physical() if column.dtype.is_temporal() else column).cast(pl.Float64)
    return pl.select(pl.when(numbers.is_finite()).then(numbers)).to_series()


def _encode(
    rows: pl.DataFrame, predicted: np.ndarray, columns: Mapping[str, Mapping[str, float] | None], missing: tuple[float, ...]
) -> np.ndarray:
    """Return columns and prediction as numbers, rounded to the float32 that the tree compares, shape (rows, columns + 1)."""
    encoded = [
        _encode_column(rows[name] if name in rows.columns else None, codes, replacement, len(predicted))
        for (name, codes), replacement in zip(columns.items(), missing, strict=False)
    ]
    matrix: np.ndarray = np.clip(np.column_stack([*encoded, predicted]), -_MAX_NUMBER, _MAX_NUMBER)
    return matrix.astype(np.float32).astype(float)


def _encode_column(column: pl.Series | None, codes: Mapping[str, float] | None, missing: float, rows: int) -> np.ndarray:
    if column is None or column.dtype.is_nested() or (codes is None and not (column.dtype.is_numeric() or column.dtype.is_temporal())):
        return np.full(rows, missing)
    if codes is None:
        return _to_numbers(column).fill_null(missing).to_numpy()
    return column.cast(pl.String).replace_strict(codes, default=missing, return_dtype=pl.Float64).fill_null(missing).to_numpy()
