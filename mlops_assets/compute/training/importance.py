"""How much a model's metric falls when one column no longer belongs to its row."""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.training.classes import as_two_classes, encoded_class, truth_of
from mlops_assets.compute.training.evaluate import scorer_of
from mlops_assets.compute.training.responses import Remembered

if TYPE_CHECKING:
    import polars as pl

REPEATS, MOST_ROWS, MOST_COLUMNS = 5, 2_000, 100
_LEAST_ROWS, _PREDICTIONS = 200, 400_000  # of the estimator, whatever the number of columns
_ROUNDED = 1e-12


@dataclass(frozen=True)
class Importance:
    """What one column is worth.

    Parameters
    ----------
    column
        Of ``X``.
    drop
        By how much the metric falls, on average, when the column is shuffled; NaN where the metric is undefined.
    error
        Standard deviation over the shuffles.
    """

    column: str
    drop: float
    error: float


@dataclass(frozen=True)
class Importances:
    """The columns of a model by what they are worth.

    Parameters
    ----------
    metric
        Which falls.
    rows
        On how many rows that was measured.
    columns
        The most important first.
    left_out
        How many columns were not measured, because there are too many.
    """

    metric: str
    rows: int
    columns: tuple[Importance, ...]
    left_out: int = 0


def permutation_importance(  # noqa: PLR0913  (what is measured, and how often)
    estimator: Any,  # noqa: ANN401  (any estimator)
    X: pl.DataFrame,
    y: np.ndarray,
    metric: str,
    seed: str,
    *,
    repeats: int = REPEATS,
    most_rows: int = MOST_ROWS,
    positive: Any = None,  # noqa: ANN401  (any label)
) -> Importances:
    """Shuffle one column after the other and look at the metric.

    Parameters
    ----------
    estimator
        Fitted.
    X, y
        Rows that it has not seen.
    metric
        A scikit-learn scorer name.
    seed
        Text: the same text shuffles alike.
    repeats
        Shuffles of each column; all of them are predicted in one call.
    most_rows
        Of more, so many are drawn.
    positive
        The positive one of two classes; the second when None.

    References
    ----------
    Breiman (2001), Random forests, section 10.
    """
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]))
    columns = X.columns[:MOST_COLUMNS]
    rows = min(len(y), most_rows, max(_LEAST_ROWS, _PREDICTIONS // (repeats * max(1, len(columns)))))
    if rows < len(y):
        drawn = np.sort(rng.choice(len(y), size=rows, replace=False))
        X, y = X[drawn], y[drawn]
    orders = np.stack([rng.permutation(rows) for _ in range(repeats)]).ravel()
    stacked, found = X[np.tile(np.arange(rows), repeats)], []
    # With a thread for each core, where other processes want the cores too, threads wait for one another longer than they work.
    with threadpool_limits(1):
        whole = _scores(metric, estimator, X, y, 1, positive)[0]
        answers = {name: _scores(metric, estimator, stacked.with_columns(X[name].gather(orders)), y, repeats, positive) for name in columns}
    for name, scores in answers.items():
        found.append(Importance(name, _told(whole - scores.mean(), whole), _told(scores.std(), whole)))
    ordered = sorted(found, key=lambda one: (math.inf if math.isnan(one.drop) else -one.drop, one.column))
    return Importances(metric, rows, tuple(ordered), X.width - len(columns))


def _told(figure: float, whole: float) -> float:
    """Return a figure, zero where it is no more than how numbers are rounded."""
    return 0.0 if abs(figure) <= _ROUNDED * max(1.0, abs(whole)) else float(figure)


def _scores(  # noqa: PLR0913  (what is measured, and on what)
    metric: str,
    estimator: Any,  # noqa: ANN401  (any estimator)
    X: pl.DataFrame,
    y: np.ndarray,
    repeats: int,
    positive: Any,  # noqa: ANN401
) -> np.ndarray:
    """Return the metric of each of the stretches of rows that were put below one another."""
    encoded = encoded_class(getattr(estimator, "classes_", None), y, positive)
    answers, y, rows = as_two_classes(Remembered(estimator, X), encoded), truth_of(y, encoded), len(y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an undefined metric is NaN
        try:
            scorer = scorer_of(metric, getattr(answers, "classes_", None))
            return np.array([float(scorer(answers, np.arange(k * rows, (k + 1) * rows), y)) for k in range(repeats)])
        except (ValueError, TypeError, AttributeError):
            return np.full(repeats, np.nan)
