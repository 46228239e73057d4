"""Estimate the metrics of a window before its labels arrive, evaluate the estimates, and score them when labels have arrived."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.estimation.estimator import EstimatedMetric
from mlops_assets.compute.monitoring.labels import LabelledPredictions, read_predictions, replay_predictions
from mlops_assets.compute.monitoring.verdicts import Verdict
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.values.monitoring import BREACH, CANNOT, GOOD, IN_TRAINING, NOT_ENOUGH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.compute.estimation.estimator import PerformanceEstimator
    from mlops_assets.compute.monitoring.verdicts import WindowMetric
    from mlops_assets.values.expectations.estimated_performance import EstimatedPerformance

NOT_STORED = "the version was trained before estimates were stored in this form: train again"


@dataclass(frozen=True)
class EstimateReport:
    """The estimated performance of one version in one window.

    Parameters
    ----------
    rows
        The number of predictions with estimates.
    metrics
        The estimated metric of each expectation.
    verdicts
        The verdict on each expectation.
    reference
        Metric → the version's value on its holdout.
    rows_in_training
        The number of omitted predictions: for rows that the version was fitted on.
    """

    rows: int
    metrics: tuple[EstimatedMetric, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    reference: tuple[tuple[str, float], ...] = ()
    rows_in_training: int = 0

    @property
    def state(self) -> str:
        """``breach`` if any estimate is breached, else ``cannot be measured`` or ``not enough data`` if this holds for any estimate, else ``good``."""
        if self.rows_in_training and not self.rows:
            return IN_TRAINING
        states = {verdict.state for verdict in self.verdicts}
        return next((state for state in (BREACH, CANNOT, NOT_ENOUGH) if state in states), GOOD)

    @property
    def summary(self) -> str:
        """The state and its reasons."""
        reasons = dict.fromkeys(v.reason for v in self.verdicts if self.state in (v.state, IN_TRAINING))
        return f"{self.state}: {'; '.join(reasons)}"

    def metric(self, name: str) -> EstimatedMetric | None:
        """Return the estimate of this metric; None when it was not estimated."""
        return next((found for found in self.metrics if found.name == name), None)

    def find_reference(self, name: str) -> float | None:
        """Return the version's value of this metric on its holdout; None when it is not known."""
        return dict(self.reference).get(name)

    def as_json(self) -> dict[str, Any]:
        """Return the report as a dict of JSON values."""
        return asdict(self) | {"state": self.state, "summary": self.summary}


def estimate_performance(  # noqa: PLR0913  (the predictions, and what is known of the version)
    predictions: pl.DataFrame,
    expectations: Sequence[EstimatedPerformance],
    estimator: PerformanceEstimator | None,
    *,
    classes: Sequence[object] | None = None,
    positive: Any = None,  # noqa: ANN401  (any label)
    reference: Mapping[str, float] | None = None,
    min_rows: int = 100,
    rows_in_training: int = 0,
    problem: str = "",
) -> EstimateReport:
    """Estimate the metrics of predictions without labels, and evaluate the estimates.

    Parameters
    ----------
    predictions
        One row per prediction, with its features; a row without a finite prediction is left out.
    expectations
        The metrics and their bounds.
    estimator
        The version's estimator; None if the version has no stored estimator.
    classes, positive
        The classes of a classifier in the estimator's order, and the positive class of a binary one; None for a regressor.
    reference
        Metric → the version's value on its holdout.
    min_rows
        The minimum number of rows; with fewer, estimates are shown and not evaluated.
    rows_in_training
        The number of predictions left out because the version was fitted on their rows.
    problem
        The reason why no estimator is stored; empty if it is unknown.
    """
    known = {name: value for name, value in (reference or {}).items() if math.isfinite(value)}
    used = tuple((e.metric, known[e.metric]) for e in expectations if e.metric in known)
    read = None if predictions.is_empty() else read_predictions(predictions, classes)
    rows = 0 if read is None else read.rows.height
    if read is None or not rows or estimator is None:
        reason = (
            f"the version was fitted on all {rows_in_training} rows of the window"
            if rows_in_training and not rows
            else f"cannot be estimated: {problem or NOT_STORED}"
            if rows
            else "nothing was predicted"
        )
        state = CANNOT if rows else IN_TRAINING if rows_in_training else NOT_ENOUGH
        verdicts = tuple(Verdict(e.name, state, None, _find_bound(e, known), reason) for e in expectations)
        return EstimateReport(
            rows, tuple(EstimatedMetric(e.metric, None, problem=reason) for e in expectations), verdicts, used, rows_in_training
        )
    predictor = _replay(read)
    metrics = tuple(estimator.estimate(e.metric, predictor, read.rows, e.confidence, positive) for e in expectations)
    verdicts = tuple(_evaluate_estimate(e, m, known, rows, min_rows) for e, m in zip(expectations, metrics, strict=True))
    return EstimateReport(rows, metrics, verdicts, used, rows_in_training)


def _replay(read: LabelledPredictions) -> CachedPredictor:
    return CachedPredictor(replay_predictions(read), read.split.X)


def _find_bound(expectation: EstimatedPerformance, reference: Mapping[str, float]) -> float | None:
    if expectation.at_least is not None:
        return expectation.at_least
    return reference[expectation.metric] - expectation.threshold if expectation.metric in reference else None


def _evaluate_estimate(
    expectation: EstimatedPerformance, metric: EstimatedMetric, reference: Mapping[str, float], rows: int, min_rows: int
) -> Verdict:
    bound = _find_bound(expectation, reference)
    if metric.value is None:
        return Verdict(expectation.name, CANNOT, None, bound, f"cannot be estimated: {metric.problem}")
    if bound is None:
        return Verdict(expectation.name, NOT_ENOUGH, metric.value, None, f"the version's {metric.name} on its holdout is not known")
    if rows < min_rows:
        return Verdict(expectation.name, NOT_ENOUGH, metric.value, bound, f"{rows} predictions, {min_rows} are needed")
    below = metric.value < bound
    significant = metric.high is not None and metric.high < bound
    between = "" if metric.low is None else f" ({metric.low:.4g} to {metric.high:.4g})"
    finding = f"{metric.name} is estimated at {metric.value:.4g}{between} {'<' if below else '≥'} {bound:.4g} on {rows} predictions"
    if below and not significant:
        finding += "; the interval reaches the bound, so it may be chance"
    breach = below and (significant or not expectation.significant)
    return Verdict(expectation.name, BREACH if breach else GOOD, metric.value, bound, finding)


@dataclass(frozen=True)
class EstimateScore:
    """The accuracy of the estimates of one metric, measured with the labels that have arrived.

    Parameters
    ----------
    metric
        A scikit-learn scorer name.
    estimate, low, high
        The estimate of the current window, and the ends of its interval.
    truth
        The metric with the labels of the current window; None while it is unknown.
    windows
        The number of windows, the current one included, with an estimate and enough labels.
    error, holdout_error
        The mean absolute error over these windows, of the estimate and of a constant guess: the version's value on its holdout. None
        without such windows.
    """

    metric: str
    estimate: float
    low: float | None
    high: float | None
    truth: float | None
    windows: int
    error: float | None
    holdout_error: float | None

    @property
    def text(self) -> str:
        """The estimate, the truth and the error over past windows, as a sentence."""
        between = "" if self.low is None else f" ({self.low:.4g} to {self.high:.4g})"
        found = f"{self.metric} was estimated at {self.estimate:.4g}{between}"
        if self.truth is None:
            return f"{found}; the labels do not suffice to check it"
        found += f", the labels give {self.truth:.4g}, a difference of {self.truth - self.estimate:+.2g}"
        if self.error is None or self.holdout_error is None:
            return found
        better = self.error < self.holdout_error
        verdict = "" if better else ": the estimate is no better than assuming the holdout's value"
        return f"{found}; mean absolute error over {self.windows} windows: {self.error:.2g}; with the holdout's value as the estimate: {self.holdout_error:.2g}{verdict}"


def score_estimates(
    report: EstimateReport, metrics: Sequence[WindowMetric], state: str, earlier: pl.DataFrame
) -> tuple[EstimateScore, ...]:
    """Compare estimates with the metrics that labels gave, for a window and earlier windows.

    Parameters
    ----------
    report
        The estimates of the window.
    metrics
        The metrics with the labels that have arrived.
    state
        The state of the performance report: only windows that are good or a breach have enough labels.
    earlier
        Rows of other windows, with ``metric``, ``state``, ``estimate``, ``value`` and ``reference``.
    """
    return tuple(_score(found, report, metrics, state, earlier) for found in report.metrics if found.value is not None)


def _score(
    found: EstimatedMetric, report: EstimateReport, metrics: Sequence[WindowMetric], state: str, earlier: pl.DataFrame
) -> EstimateScore:
    is_evaluated = state in (GOOD, BREACH)
    truth = next((metric.value for metric in metrics if metric.name == found.name), None) if is_evaluated else None
    past = earlier.filter((pl.col("metric") == found.name) & pl.col("state").is_in([GOOD, BREACH]))
    known = past.select("estimate", "value", "reference").drop_nulls().to_numpy().astype(float).reshape(-1, 3)
    holdout = report.find_reference(found.name)
    if truth is not None and holdout is not None:
        known = np.vstack([known, [found.value, truth, holdout]])
    errors = np.abs(known[:, [0, 2]] - known[:, [1]]).mean(axis=0) if len(known) else (None, None)
    return EstimateScore(
        found.name, found.value or 0.0, found.low, found.high, truth, len(known), *(None if e is None else float(e) for e in errors)
    )
