"""Estimate the metrics of unlabelled predictions from a version's errors on its holdout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.estimation.calibration_map import CalibrationMap, fit_calibration
from mlops_assets.compute.estimation.expected_metrics import compute_expected_metric
from mlops_assets.compute.estimation.loss_tree import LossTree, fit_loss_tree
from mlops_assets.compute.training.classes import class_to_encode, encode_labels, wrap_two_classes
from mlops_assets.compute.training.metric_range import clip_interval
from mlops_assets.compute.training.time_blocks import find_blocks, prediction_errors
from mlops_assets.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    import polars as pl

    from mlops_assets.compute.training.responses import CachedPredictor
    from mlops_assets.values.evaluation import Split

MIN_HOLDOUT_ROWS = 100
FORMAT = 2
PERFORMANCE_ESTIMATOR = "estimates"  # in the manifest of a version
ESTIMATOR_PROBLEM = "no_estimates"  # in the manifest of a version without an estimator: the reason
_ABSOLUTE, _SQUARED, _ROOT = "neg_mean_absolute_error", "neg_mean_squared_error", "neg_root_mean_squared_error"
_SCALE = 0.95  # quantile of absolute errors
LOSSES = (_ABSOLUTE, _SQUARED, _ROOT)  # the metrics of a regressor that can be estimated


@dataclass(frozen=True)
class EstimatedMetric:
    """The estimate of one metric of a window without labels.

    Parameters
    ----------
    name
        A scikit-learn scorer name; greater is better.
    value
        The estimate; None where it is undefined.
    low, high
        Ends of the confidence interval of the true metric, assuming no concept drift.
    problem
        The reason why the metric cannot be estimated; empty when it can.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class PerformanceEstimator:
    """An estimator of a version's metrics without labels, fitted on the version's holdout.

    Parameters
    ----------
    rows
        The number of rows of the holdout.
    dependence
        The factor by which dependence between neighbouring rows increases the variance of a mean; 1 for independent rows.
    maps
        The calibration map of each class of a classifier; for two classes, only the map of the positive class.
    tree
        The loss tree of a regressor; None for a classifier.
    scale
        The 95 % quantile of a regressor's absolute errors; None for a classifier, and when the version was stored before.
    """

    rows: int
    dependence: float
    maps: tuple[CalibrationMap, ...] = ()
    tree: LossTree | None = None
    scale: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the estimator as a dict of JSON values."""
        maps = [one.as_json() for one in self.maps]
        tree = None if self.tree is None else self.tree.as_json()
        return {"format": FORMAT, "rows": self.rows, "dependence": self.dependence, "maps": maps, "tree": tree, "scale": self.scale}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> PerformanceEstimator:
        """Rebuild the estimator from the result of :meth:`as_json`."""
        maps = tuple(CalibrationMap.from_json(one) for one in stored["maps"])
        tree = None if stored["tree"] is None else LossTree.from_json(stored["tree"])
        return cls(stored["rows"], stored["dependence"], maps, tree, stored.get("scale"))

    def estimate(
        self,
        metric: str,
        predictor: CachedPredictor,
        rows: pl.DataFrame,
        confidence: float,
        positive: Any = None,  # noqa: ANN401  (any label)
    ) -> EstimatedMetric:
        """Estimate one metric of predictions.

        Parameters
        ----------
        metric
            A scikit-learn scorer name.
        predictor
            The cached predictions.
        rows
            The rows of the predictions, with every column.
        confidence
            The confidence level of the interval.
        positive
            The positive class of a binary classifier; the second class when None.

        Returns
        -------
        EstimatedMetric
            Its interval includes the sampling error of the unknown labels and of the holdout.
        """
        from scipy import special  # type: ignore[import-untyped]  # it has no stubs

        if self.tree is not None:
            value, error = _compute_expected_loss(metric, self.tree.predict(rows, predictor.predict_all("predict").astype(float)))
            # The holdout is a sample too: it has the sampling error of a window with as many rows.
            error *= math.sqrt(1 + len(rows) / self.rows)
            problem = "" if metric in LOSSES else f"of a regressor, only {', '.join(LOSSES)} can be estimated"
        elif not hasattr(predictor, "predict_proba"):
            value, error, problem = math.nan, math.nan, "the predictions have no probabilities"
        else:
            classes = np.asarray(predictor.classes_)
            model, known = _encode_classes(predictor, classes, positive)
            shares = np.asarray(model.predict_proba(np.arange(len(rows))), dtype=float)
            value, error = compute_expected_metric(metric, model, known, self.maps, shares)
            problem = "" if math.isfinite(value) else f"{metric} cannot be computed from probabilities"
        if not math.isfinite(value):
            return EstimatedMetric(metric, None, problem=problem)
        width = float(special.ndtri((1 + confidence) / 2)) * error * math.sqrt(self.dependence)
        ends = clip_interval(metric, value - width, value + width) if math.isfinite(width) else (None, None)
        return EstimatedMetric(metric, value, *ends)


def fit_estimator(
    predictor: CachedPredictor,
    holdout: Split,
    positive: Any = None,  # noqa: ANN401  (any label)
    times: pl.Series | None = None,
    block_length: timedelta | None = None,
) -> PerformanceEstimator:
    """Fit the estimator of a version's performance on its holdout.

    Parameters
    ----------
    predictor
        The cached predictions for the holdout.
    holdout
        The holdout, which the version was not fitted on.
    positive
        The positive class of a binary classifier; the second class when None.
    times
        The event time of each row; rows count as independent when None.
    block_length
        The block length that the training set declares; estimated from the errors when None.

    Returns
    -------
    PerformanceEstimator

    Raises
    ------
    DataError
        The holdout has fewer than 100 rows, a classifier has no probabilities or one class only, or a regressor has several outputs.
    """
    count = len(holdout.y)
    if count < MIN_HOLDOUT_ROWS:
        raise DataError(f"the holdout has {count} rows, {MIN_HOLDOUT_ROWS} are needed", hint="train on more rows")
    errors = prediction_errors([predictor], holdout.y)
    blocks = None if times is None else find_blocks(times, errors, block_length)
    dependence = 1.0 if blocks is None else _measure_dependence(errors[-1], blocks.ids)
    if hasattr(predictor.estimator, "classes_"):
        if not hasattr(predictor, "predict_proba"):
            raise DataError("the model predicts no probabilities", hint="return a classifier with predict_proba")
        classes = np.asarray(predictor.classes_)
        if len(classes) < 2:
            raise DataError(f"the model was trained on one class only, {classes[0]!s}", hint="train on rows of two classes or more")
        model, known = _encode_classes(predictor, classes, positive)
        shares = np.asarray(model.predict_proba(np.arange(count)), dtype=float)
        y = encode_labels(holdout.y, class_to_encode(classes, classes, positive))
        columns = range(1, 2) if len(known) == 2 else range(len(known))
        return PerformanceEstimator(count, dependence, tuple(fit_calibration(shares[:, n], (y == known[n]).astype(float)) for n in columns))
    predicted = predictor.predict_all("predict")
    if predicted.ndim != 1:
        raise DataError("the model predicts several numbers for a row", hint="declare EstimatedPerformance for models of one output only")
    tree = fit_loss_tree(holdout.X, predicted.astype(float), holdout.y.astype(float))
    return PerformanceEstimator(count, dependence, tree=tree, scale=float(np.quantile(errors[-1], _SCALE)))


def _encode_classes(predictor: CachedPredictor, classes: np.ndarray, positive: Any) -> tuple[Any, np.ndarray]:  # noqa: ANN401
    """Return the predictor with labels encoded as True/False for binary metrics, and the classes in probability order."""
    encoded = class_to_encode(classes, classes, positive)
    return wrap_two_classes(predictor, encoded), classes if encoded is None else np.array([False, True])


def _compute_expected_loss(metric: str, losses: np.ndarray) -> tuple[float, float]:
    """Return a metric and its standard error from the expected losses of each row, as :meth:`LossTree.predict` returns them."""
    if metric not in LOSSES:
        return math.nan, math.nan
    absolute, squared, absolute_variance, squared_variance = losses.mean(axis=0)
    rows = len(losses)
    if metric == _ABSOLUTE:
        return -float(absolute), math.sqrt(absolute_variance / rows)
    error = math.sqrt(squared_variance / rows)
    if metric == _SQUARED:
        return -float(squared), error
    root = math.sqrt(squared)
    return -root, error / (2 * root) if root > 0 else 0.0


def _measure_dependence(losses: np.ndarray, blocks: np.ndarray) -> float:
    """Return the variance of the mean loss of dependent blocks, divided by that of independent rows; at least 1."""
    deviations = losses - losses.mean()
    independent = float((deviations**2).sum())
    count = int(blocks.max()) + 1
    if independent <= 0 or count < 2:
        return 1.0
    return max(1.0, count / (count - 1) * float((np.bincount(blocks, deviations) ** 2).sum()) / independent)
