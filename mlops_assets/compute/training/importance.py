"""Permutation importance of columns."""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.training.classes import class_to_encode, encode_labels, wrap_two_classes
from mlops_assets.compute.training.evaluate import make_scorer
from mlops_assets.compute.training.responses import CachedPredictor

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

IMPORTANCE = "importance"  # key in the record of a training
REPEATS, MAX_ROWS, MAX_COLUMNS = 5, 2_000, 100
_MIN_ROWS, _MAX_PREDICTIONS = 200, 400_000  # rows of a sample; predicted rows over all columns and repeats
_ROUNDING_ERROR = 1e-12


@dataclass(frozen=True)
class ColumnImportance:
    """Permutation importance of one column.

    Parameters
    ----------
    column
        The column of ``X``.
    drop
        The mean decrease of the metric when the column is shuffled; NaN where the metric is undefined.
    error
        Standard deviation over the shuffles.
    """

    column: str
    drop: float
    error: float


@dataclass(frozen=True)
class PermutationImportance:
    """Permutation importance of the columns of ``X``.

    Parameters
    ----------
    metric
        The metric whose decrease is measured.
    rows
        The number of rows on which the decrease was measured.
    columns
        The most important column first, columns with undefined importance last.
    left_out
        The number of columns that were not measured, because only the first 100 columns are.
    """

    metric: str
    rows: int
    columns: tuple[ColumnImportance, ...]
    left_out: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the importance as a dict of JSON values; an undefined value is None."""
        columns = [[c.column, *(value if math.isfinite(value) else None for value in (c.drop, c.error))] for c in self.columns]
        return {"metric": self.metric, "rows": self.rows, "columns": columns, "left_out": self.left_out}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> PermutationImportance:
        """Rebuild the importance from the result of :meth:`as_json`; None becomes NaN."""
        columns = [(name, *(math.nan if value is None else value for value in figures)) for name, *figures in stored["columns"]]
        return cls(stored["metric"], stored["rows"], tuple(ColumnImportance(*fields) for fields in columns), stored["left_out"])


def permutation_importance(  # noqa: PLR0913  (what is measured, and how often)
    estimator: Any,  # noqa: ANN401  (any estimator)
    X: pl.DataFrame,
    y: np.ndarray,
    metric: str,
    seed: str,
    *,
    repeats: int = REPEATS,
    max_rows: int = MAX_ROWS,
    positive: Any = None,  # noqa: ANN401  (any label)
) -> PermutationImportance:
    """Measure how much a metric falls when one column is shuffled, for each of the first 100 columns.

    Parameters
    ----------
    estimator
        A fitted estimator.
    X, y
        Held-out rows and their labels.
    metric
        A scikit-learn scorer name.
    seed
        Text that seeds the shuffles; the same text gives the same shuffles.
    repeats
        Shuffles of each column; all of them are predicted in one call.
    max_rows
        The maximum number of rows; of more rows, a random sample is used. With many columns or repeats, the sample is smaller, down to 200
        rows.
    positive
        The positive class of a binary classifier; the second class when None.

    References
    ----------
    Breiman (2001), Random forests, section 10.
    """
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]))
    columns = X.columns[:MAX_COLUMNS]
    rows = min(len(y), max_rows, max(_MIN_ROWS, _MAX_PREDICTIONS // (repeats * max(1, len(columns)))))
    if rows < len(y):
        drawn = np.sort(rng.choice(len(y), size=rows, replace=False))
        X, y = X[drawn], y[drawn]
    orders = np.stack([rng.permutation(rows) for _ in range(repeats)]).ravel()
    stacked, importances = X[np.tile(np.arange(rows), repeats)], []
    # One thread: if other processes use the cores too, a model's threads wait for each other longer than they work.
    with threadpool_limits(1):
        unshuffled = _score_copies(metric, estimator, X, y, 1, positive)[0]
        scores_by_column = {
            name: _score_copies(metric, estimator, stacked.with_columns(X[name].gather(orders)), y, repeats, positive) for name in columns
        }
    for name, scores in scores_by_column.items():
        importances.append(
            ColumnImportance(name, _drop_rounding(unshuffled - scores.mean(), unshuffled), _drop_rounding(scores.std(), unshuffled))
        )
    ordered = sorted(importances, key=lambda item: (math.inf if math.isnan(item.drop) else -item.drop, item.column))
    return PermutationImportance(metric, rows, tuple(ordered), X.width - len(columns))


def _drop_rounding(figure: float, unshuffled: float) -> float:
    """Return ``figure``, or 0 when it is within the rounding error of ``unshuffled``."""
    return 0.0 if abs(figure) <= _ROUNDING_ERROR * max(1.0, abs(unshuffled)) else float(figure)


def _score_copies(  # noqa: PLR0913  (what is measured, and on what)
    metric: str,
    estimator: Any,  # noqa: ANN401  (any estimator)
    X: pl.DataFrame,
    y: np.ndarray,
    repeats: int,
    positive: Any,  # noqa: ANN401
) -> np.ndarray:
    """Return the metric of each of the ``repeats`` copies of the rows that are stacked in ``X``; all NaN when it cannot be computed."""
    encoded = class_to_encode(getattr(estimator, "classes_", None), y, positive)
    model, y, rows = wrap_two_classes(CachedPredictor(estimator, X), encoded), encode_labels(y, encoded), len(y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an undefined metric is NaN
        try:
            scorer = make_scorer(metric, getattr(model, "classes_", None))
            return np.array([float(scorer(model, np.arange(k * rows, (k + 1) * rows), y)) for k in range(repeats)])
        except (ValueError, TypeError, AttributeError):
            return np.full(repeats, np.nan)
