"""What the drift of columns cost a metric: each column is put back to its reference, and the rows are scored again."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.explanation.reference_columns import restore_column
from mlops_assets.compute.monitoring.window_intervals import WindowJackknife
from mlops_assets.compute.text import format_number
from mlops_assets.compute.training.classes import class_to_encode, encode_labels, wrap_two_classes
from mlops_assets.compute.training.evaluate import evaluate
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.values.evaluation import Split
from mlops_assets.values.monitoring import BREACH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.compute.drift.profile import ColumnProfile
    from mlops_assets.compute.monitoring.performance import PerformanceReport
    from mlops_assets.compute.monitoring.verdicts import WindowMetric
    from mlops_assets.values.monitoring import Performance

MAX_EXPLAINED_ROWS, MAX_EXPLAINED_COLUMNS = 2_000, 8
DRAWS = 3  # tie-breaks and moved rows differ between draws
MAX_STATED = 3  # columns in the verdict
MIN_SHARE = 0.05  # of the drop: a column that explains less is not named
CORRELATED = 0.6  # the absolute rank correlation from which columns are also restored together
CONFIDENCE = 0.95


@dataclass(frozen=True)
class ColumnEffect:
    """The change of a metric when the values of some columns are replaced by reference values.

    Parameters
    ----------
    columns
        One column, or several that are replaced together.
    gain
        The metric with these columns replaced, minus the metric of the window; the mean of several draws.
    low, high
        Ends of the 95 % confidence interval of the gain, for all examined columns together; None where it is undefined.
    """

    columns: tuple[str, ...]
    gain: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class DropExplanation:
    """The drop of a metric in a window against the holdout, by column.

    Parameters
    ----------
    metric, value, reference
        The metric, its value in the window, and its value on the holdout.
    columns
        The effect of each column alone, the largest gain first.
    groups
        The effects of correlated columns together, then that of all examined columns together.
    rows
        The number of scored rows.
    seconds
        The duration of the computation.
    """

    metric: str
    value: float
    reference: float
    columns: tuple[ColumnEffect, ...]
    groups: tuple[ColumnEffect, ...]
    rows: int
    seconds: float

    @property
    def drop(self) -> float:
        """The value on the holdout minus that of the window."""
        return self.reference - self.value

    @property
    def causes(self) -> tuple[ColumnEffect, ...]:
        """The columns that significantly explain a part of the drop, at least a twentieth of it; the largest gain first."""
        significant = (effect for effect in self.columns if effect.low is not None and effect.low > 0)
        return tuple(effect for effect in significant if effect.gain >= MIN_SHARE * self.drop)

    @property
    def remainder(self) -> float:
        """The part of the drop that no single column explains: the drop minus the gains of :attr:`causes`."""
        return self.drop - sum(effect.gain for effect in self.causes)

    def describe(self, window: str) -> str:
        """Return the verdict in words: the drop, the columns that significantly explain a part of it, and the remainder.

        Parameters
        ----------
        window
            The title of the window.
        """
        fell = f"{self.metric} fell from {format_number(self.reference)} (holdout) to {format_number(self.value)} in {window}"
        if not self.causes:
            largest = self.columns[0] if self.columns and self.columns[0].gain > 0 else None
            unproven = (
                "" if largest is None else f" (largest: {largest.columns[0]} {format_number(largest.gain, 2)}{_describe_interval(largest)})"
            )
            return f"{fell}; no single column explains a part of it with certainty{unproven}"
        first, *others = self.causes[:MAX_STATED]
        gain = format_number(first.gain, 2)
        why = f"replacing {first.columns[0]} by its reference explains {gain} of it ({_describe_interval(first).removeprefix(', ')})"
        more = "".join(f", {effect.columns[0]} {format_number(effect.gain, 2)}" for effect in others)
        rest = f"; {format_number(self.remainder, 2)} is not explained by any single column" if self.remainder > 0 else ""
        return f"{fell}; {why}{more}{rest}"

    def as_json(self) -> dict[str, Any]:
        """Return the explanation as a dict of JSON values."""
        return asdict(self) | {"drop": self.drop, "remainder": self.remainder}


def _describe_interval(effect: ColumnEffect) -> str:
    return "" if effect.low is None else f", 95 % CI {format_number(effect.low, 2)} to {format_number(effect.high, 2)}"


def find_fallen_metric(report: PerformanceReport, expectations: Sequence[Performance]) -> WindowMetric | None:
    """Return the first metric that breached, else the first that is significantly below the holdout; None without one.

    Parameters
    ----------
    report
        The performance report of the window.
    expectations
        The expectations that its verdicts are about.
    """
    if report.inverted:
        return None
    metric_of = {expectation.name: expectation.metric for expectation in expectations}
    breached = {
        metric_of[verdict.expectation] for verdict in report.verdicts if verdict.state == BREACH and verdict.expectation in metric_of
    }
    fallen = [m for m in report.metrics if m.value is not None and m.reference is not None and m.value < m.reference]
    significant = (m for m in fallen if m.high is not None and m.reference is not None and m.high < m.reference)
    return next((m for m in fallen if m.name in breached), None) or next(significant, None)


def explain_drop(  # noqa: PLR0913  (a model, rows and a metric)
    estimator: Any,  # noqa: ANN401  (any estimator)
    X: pl.DataFrame,
    y: np.ndarray,
    metric: WindowMetric,
    profiles: Mapping[str, ColumnProfile],
    *,
    columns: Sequence[str] | None = None,
    positive: Any = None,  # noqa: ANN401  (any label)
    seed: int = 0,
) -> DropExplanation | None:
    """Decompose the drop of a metric into columns: put each back to its reference, keep the labels, and score again.

    Parameters
    ----------
    estimator
        The fitted estimator of the version that predicted.
    X
        The labelled rows of the window, with the columns of training. At most 2,000 random rows are scored.
    y
        Their labels, shape (rows,).
    metric
        The metric, with its value in the window and on the holdout.
    profiles
        Column → its reference.
    columns
        The columns to examine, most drifted first; the first 8 are examined. All columns of ``X`` in their order when None.
    positive
        The positive class of two; the second when None.
    seed
        The seed of the rows and draws: the same seed gives the same result.

    Returns
    -------
    DropExplanation or None
        None when the metric is undefined on the scored rows, or its value on the holdout is not known.

    Notes
    -----
    An interval covers the chance of the rows of this window, not that of other windows: the window and its drop are given.
    """
    began = time.perf_counter()
    random = np.random.default_rng(seed)
    chosen = np.sort(random.permutation(len(y))[:MAX_EXPLAINED_ROWS])
    scored = _RescoredWindow(estimator, X[chosen], y[chosen], metric.name, positive)
    if metric.value is None or metric.reference is None or not math.isfinite(scored.value):
        return None
    examined = [name for name in columns or X.columns if name in X.columns and name in profiles][:MAX_EXPLAINED_COLUMNS]
    drawn = [{name: restore_column(scored.X[name], profiles[name], random) for name in examined} for _ in range(DRAWS)]
    restored = [{name: values for name, values in draw.items() if values is not None} for draw in drawn]
    names = [name for name in examined if name in restored[0]]
    confidence = 1 - (1 - CONFIDENCE) / max(len(names), 1)  # Bonferroni
    effects = [scored.measure_effect((name,), restored, confidence) for name in names]
    groups = [group for group in (*_group_correlated(scored.X, names), tuple(names)) if len(group) > 1]
    return DropExplanation(
        metric.name,
        metric.value,
        metric.reference,
        tuple(sorted((effect for effect in effects if effect is not None), key=lambda effect: -effect.gain)),
        tuple(effect for group in dict.fromkeys(groups) if (effect := scored.measure_effect(group, restored, CONFIDENCE)) is not None),
        len(chosen),
        time.perf_counter() - began,
    )


class _RescoredWindow:
    """The rows of a window with the metric of their predictions."""

    def __init__(
        self,
        estimator: Any,  # noqa: ANN401
        X: pl.DataFrame,
        y: np.ndarray,
        metric: str,
        positive: Any,  # noqa: ANN401
    ) -> None:
        self.X = X
        self._estimator, self._y, self._metric, self._positive = estimator, y, metric, positive
        self.value, self._deviations = self._score(CachedPredictor(estimator, X))

    def _score(self, predictor: CachedPredictor) -> tuple[float, np.ndarray | None]:
        """Return the metric and its jackknife deviations; the groups of rows are the same in each call."""
        evaluation = evaluate(predictor, Split(predictor.X, self._y, predictor.X), (self._metric,), positive=self._positive)
        encoded = class_to_encode(getattr(predictor, "classes_", None), self._y, self._positive)
        self._jackknife = WindowJackknife(wrap_two_classes(predictor, encoded), encode_labels(self._y, encoded))
        return dict(evaluation.metrics)[self._metric], self._jackknife.replicate(self._metric)

    def measure_effect(self, names: tuple[str, ...], restored: Sequence[Mapping[str, pl.Series]], confidence: float) -> ColumnEffect | None:
        """Return the mean gain over the draws with its interval; None where the metric is undefined."""
        scores = [self._score(CachedPredictor(self._estimator, self.X.with_columns([draw[name] for name in names]))) for draw in restored]
        gain = float(np.mean([value for value, _ in scores])) - self.value
        if not math.isfinite(gain):
            return None
        deviations = [found for _, found in scores if found is not None]
        if self._deviations is None or len(deviations) < len(scores):
            return ColumnEffect(names, gain)
        width = self._jackknife.compute_margin_of_error(np.mean(deviations, axis=0) - self._deviations, confidence)
        return ColumnEffect(names, gain, gain - width, gain + width) if math.isfinite(width) else ColumnEffect(names, gain)


def _group_correlated(X: pl.DataFrame, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the groups of numeric columns that rank correlations connect; columns without a correlated one are in no group."""
    numeric = [name for name in names if X[name].dtype.is_numeric() and X[name].drop_nulls().n_unique() > 1]
    if len(numeric) < 2:
        return []
    ranks = [X[name].cast(pl.Float64).fill_nan(None).rank().fill_null(strategy="mean").to_numpy() for name in numeric]
    with np.errstate(invalid="ignore"):  # a column with one value and NaN has no correlation
        linked = np.abs(np.corrcoef(ranks)) >= CORRELATED
    group = np.arange(len(numeric))
    for i, j in zip(*np.nonzero(linked), strict=True):
        group[group == group[j]] = group[i]
    members = [tuple(np.array(numeric)[group == number].tolist()) for number in dict.fromkeys(group.tolist())]
    return [names for names in members if len(names) > 1]
