"""Metrics as functions of row counts, which evaluate many bootstrap draws with few array operations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlops_assets.compute.training.responses import CachedPredictor

_MAX_CLASSES = 10
_MIN_CLASS_ROWS = 1_000  # of each class, or on either side of a ratio, for a linear form


@dataclass(frozen=True, eq=False)
class CountedMetric:
    """A metric as a function of how often each row was drawn.

    Parameters
    ----------
    measure
        A function from the counts of rows, shape (draws, rows), to values, shape (draws,).
    by_row
        Row values whose mean is the metric, shape (rows,); None when the metric is not such a mean.
    linearize
        A function that returns row values whose mean is the metric, with nearly the same sampling variance over many rows; None where no
        such values are known.
    """

    measure: Callable[[np.ndarray], np.ndarray]
    by_row: np.ndarray | None = None
    linearize: Callable[[], np.ndarray | None] = lambda: None

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """Return the metric of each draw, shape (draws,)."""
        return self.measure(counts)


def find_vectorised_form(metric: str, model: CachedPredictor, chosen: np.ndarray, y: np.ndarray) -> CountedMetric | None:
    """Return the vectorised form of a metric; None if the metric has no such form for this model.

    Parameters
    ----------
    metric
        A scikit-learn scorer name.
    model
        The cached predictions of the model.
    chosen, y
        The row numbers to measure, and their labels.
    """
    if (row := _ROW_SCORES.get(metric)) is not None:
        return _mean_form(np.asarray(row(model, chosen, y), dtype=float))
    return make(model, chosen, y) if (make := _FORMS.get(metric)) is not None else None


def _mean_form(values: np.ndarray) -> CountedMetric:
    return CountedMetric(lambda counts: counts @ values / counts.sum(axis=1), values)


def _residuals(model: CachedPredictor, chosen: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(y, dtype=float) - model.predict(chosen)  # type: ignore[no-any-return]


def _compute_log_likelihood(model: CachedPredictor, chosen: np.ndarray, y: np.ndarray) -> np.ndarray:
    shares = model.predict_proba(chosen)
    epsilon = np.finfo(shares.dtype).eps
    clipped = np.clip(shares, epsilon, 1 - epsilon)
    logs: np.ndarray = np.log(clipped / clipped.sum(axis=1, keepdims=True))[np.arange(len(y)), np.searchsorted(model.classes_, y)]
    return logs


def _positive_scores(model: CachedPredictor, chosen: np.ndarray) -> np.ndarray:
    """Return the score of the positive class: decisions, else probabilities."""
    if hasattr(model, "decision_function"):  # scikit-learn prefers it for a ranking
        return model.decision_function(chosen)  # type: ignore[no-any-return]
    return model.predict_proba(chosen)[:, 1]  # type: ignore[no-any-return]


def _brier_by_row(model: CachedPredictor, chosen: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -((model.predict_proba(chosen)[:, 1] - (y == model.classes_[1])) ** 2)  # type: ignore[no-any-return]


_ROW_SCORES: Mapping[str, Callable[[Any, np.ndarray, np.ndarray], np.ndarray]] = {
    "accuracy": lambda model, chosen, y: model.predict(chosen) == y,
    "neg_brier_score": _brier_by_row,
    "neg_log_loss": _compute_log_likelihood,
    "neg_mean_absolute_error": lambda model, chosen, y: -np.abs(_residuals(model, chosen, y)),
    "neg_mean_absolute_percentage_error": lambda model, chosen, y: (
        -np.abs(_residuals(model, chosen, y)) / np.maximum(np.abs(y), np.finfo(float).eps)
    ),
    "neg_mean_squared_error": lambda model, chosen, y: -(_residuals(model, chosen, y) ** 2),
    "neg_mean_squared_log_error": lambda model, chosen, y: -((np.log1p(y) - np.log1p(model.predict(chosen))) ** 2),
}


def _rmse_form(model: CachedPredictor, chosen: np.ndarray, y: np.ndarray) -> CountedMetric:
    squares = _residuals(model, chosen, y) ** 2

    def linearize() -> np.ndarray | None:
        root = math.sqrt(squares.mean())
        return -(squares + root**2) / (2 * root) if root > 0 else None

    return CountedMetric(lambda counts: -np.sqrt(counts @ squares / counts.sum(axis=1)), linearize=linearize)


def _r2_form(model: CachedPredictor, chosen: np.ndarray, y: np.ndarray) -> CountedMetric:
    errors, middle = _residuals(model, chosen, y), np.asarray(y, dtype=float) - np.mean(y)
    columns = np.stack([errors**2, middle, middle**2], axis=1)

    def measure(counts: np.ndarray) -> np.ndarray:
        left, first, second = (counts @ columns).T
        spread = second - first**2 / counts.sum(axis=1)
        return np.where(spread > 0, 1 - left / spread, np.nan)

    def linearize() -> np.ndarray | None:
        left, _, spread = columns.mean(axis=0)
        return 1 - errors**2 / spread + left * (middle**2 - spread) / spread**2 if spread > 0 else None

    return CountedMetric(measure, linearize=linearize)


def _auc_form(model: CachedPredictor, chosen: np.ndarray, y: np.ndarray) -> CountedMetric | None:
    """Return the form of the area under the ROC curve, where ties count half; None unless there are two classes."""
    if len(model.classes_) != 2:
        return None
    scores, positive = _positive_scores(model, chosen), y == model.classes_[1]
    order = np.argsort(scores, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    above, equal = positive[order].astype(float), len(first) == len(order)

    def measure(counts: np.ndarray) -> np.ndarray:
        sorted_counts = counts[:, order]
        up = sorted_counts * above
        down = sorted_counts - up
        if not equal:
            up, down = np.add.reduceat(up, first, axis=1), np.add.reduceat(down, first, axis=1)
        below = np.cumsum(down, axis=1)
        pairs = up.sum(axis=1) * below[:, -1]
        return np.where(pairs > 0, np.einsum("ij,ij->i", up, below - down / 2) / pairs, np.nan)

    return CountedMetric(measure, linearize=lambda: _compute_placements(order, first, above))


def _compute_placements(order: np.ndarray, first: np.ndarray, positive: np.ndarray) -> np.ndarray | None:
    """Return row values whose mean is the area under the ROC curve; None with fewer than 1,000 rows of a class.

    Parameters
    ----------
    order
        The row numbers, sorted by score.
    first
        The positions in this order where a new score begins.
    positive
        1 for a row of the positive class, in this order.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson, *Biometrics* 44, 837, 1988.
    """
    rows, up = len(order), np.add.reduceat(positive, first)
    down = np.add.reduceat(1 - positive, first)
    ups, downs = up.sum(), down.sum()
    if min(ups, downs) < _MIN_CLASS_ROWS:
        return None
    lengths = np.diff(np.r_[first, rows])
    lower, higher = np.repeat(np.cumsum(down) - down / 2, lengths) / downs, np.repeat(ups - np.cumsum(up) + up / 2, lengths) / ups
    area = float(lower @ positive) / ups
    values = np.empty(rows)
    values[order] = area + np.where(positive > 0, (lower - area) * (rows / ups), (higher - area) * (rows / downs))
    return values


def _confusion_form(
    numerator: Callable[..., np.ndarray], denominator: Callable[..., np.ndarray]
) -> Callable[[Any, np.ndarray, np.ndarray], CountedMetric | None]:
    """Return a function that builds the form of a ratio.

    Both arguments are functions of the true positives, false positives and false negatives of class 1. The ratio is 0 where the denominator
    is 0, as in scikit-learn.
    """

    def make(model: CachedPredictor, chosen: np.ndarray, y: np.ndarray) -> CountedMetric | None:
        predicted, true = model.predict(chosen) == 1, y == 1
        columns = np.stack([predicted & true, predicted & ~true, ~predicted & true], axis=1).astype(float)

        def measure(counts: np.ndarray) -> np.ndarray:
            cells = (counts @ columns).T
            bottom = denominator(*cells)
            return np.where(bottom > 0, numerator(*cells) / np.where(bottom > 0, bottom, 1), 0.0)

        return CountedMetric(measure, linearize=lambda: _linearize_ratio(numerator(*columns.T), denominator(*columns.T)))

    return make


def _linearize_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray | None:
    """Return row values whose mean is ``sum(numerator) / sum(denominator)``, from its first derivatives.

    None when the numerator, or the denominator without it, counts fewer than 1,000 rows.

    References
    ----------
    Cochran, *Sampling Techniques*, 1977, section 2.11.
    """
    top, bottom = float(numerator.sum()), float(denominator.sum())
    if min(top, bottom - top) < _MIN_CLASS_ROWS:
        return None
    return top / bottom + (numerator - denominator * (top / bottom)) * (len(numerator) / bottom)


def _balanced_accuracy_form(model: CachedPredictor, chosen: np.ndarray, y: np.ndarray) -> CountedMetric | None:
    """Return the form of the mean recall over the drawn classes; None with more than ten classes."""
    if len(labels := np.unique(y)) > _MAX_CLASSES:
        return None
    true = (np.asarray(y)[:, None] == labels).astype(float)
    correct = true * (model.predict(chosen) == y)[:, None]

    def measure(counts: np.ndarray) -> np.ndarray:
        drawn, hits = counts @ true, counts @ correct
        shares = np.where(drawn > 0, hits / np.where(drawn > 0, drawn, 1), np.nan)
        return np.nanmean(shares, axis=1)  # type: ignore[no-any-return]

    def linearize() -> np.ndarray | None:
        recalls = [_linearize_ratio(correct[:, k], true[:, k]) for k in range(len(labels))]
        defined = [recall for recall in recalls if recall is not None]
        return np.mean(defined, axis=0) if defined and len(defined) == len(labels) else None

    return CountedMetric(measure, linearize=linearize)


_FORMS: Mapping[str, Callable[[Any, np.ndarray, np.ndarray], CountedMetric | None]] = {
    "balanced_accuracy": _balanced_accuracy_form,
    "f1": _confusion_form(lambda hit, alarm, miss: 2 * hit, lambda hit, alarm, miss: 2 * hit + alarm + miss),  # noqa: ARG005  (one signature)
    "jaccard": _confusion_form(lambda hit, alarm, miss: hit, lambda hit, alarm, miss: hit + alarm + miss),  # noqa: ARG005
    "neg_root_mean_squared_error": _rmse_form,
    "precision": _confusion_form(lambda hit, alarm, miss: hit, lambda hit, alarm, miss: hit + alarm),  # noqa: ARG005
    "r2": _r2_form,
    "recall": _confusion_form(lambda hit, alarm, miss: hit, lambda hit, alarm, miss: hit + miss),  # noqa: ARG005
    "roc_auc": _auc_form,
}
