"""The performance of a window's predictions, measured by the labels that have arrived so far."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from mlops_assets.compute.monitoring.error_changes import measure_errors
from mlops_assets.compute.monitoring.inverted_labels import look_inverted
from mlops_assets.compute.monitoring.labels import LabelArrivals, LabelledPredictions, join_labels, replay_predictions
from mlops_assets.compute.monitoring.undefined_metrics import find_undefined_metrics
from mlops_assets.compute.monitoring.verdicts import Verdict, WindowMetric, describe_metric, evaluate_expectations
from mlops_assets.compute.monitoring.window_calibration import WindowCalibration, measure_calibration
from mlops_assets.compute.monitoring.window_intervals import CERTAIN, WindowJackknife
from mlops_assets.compute.monitoring.window_slices import WindowSlice, measure_slices
from mlops_assets.compute.training.classes import class_names, class_to_encode, encode_labels, positive_class, wrap_two_classes
from mlops_assets.compute.training.evaluate import evaluate
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.compute.training.time_blocks import INDEPENDENT, find_blocks, prediction_errors
from mlops_assets.errors import DataError, suggest_name
from mlops_assets.values.expectations.error_change import ErrorChange
from mlops_assets.values.monitoring import BREACH, CANNOT, GOOD, IN_TRAINING, INVERTED, NOT_ENOUGH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    import polars as pl

    from mlops_assets.compute.estimation.estimator import PerformanceEstimator
    from mlops_assets.compute.monitoring.error_changes import WindowErrors
    from mlops_assets.values.evaluation import Evaluation
    from mlops_assets.values.monitoring import Performance

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PerformanceReport:
    """The performance report of a window.

    Parameters
    ----------
    arrivals
        How many predictions have a label.
    metrics
        The metrics of the expectations, then the others, then ``roc_auc`` for two classes with probabilities.
    verdicts
        One for each expectation.
    calibration
        The calibration curve of the positive class's probability, or of a predicted number. None for more than two classes, without
        probabilities and without labelled rows.
    slices
        The metrics by the values of the slice columns, those significantly below the whole window first.
    inverted
        Whether the labels look inverted: the whole 99.9 % confidence interval of the ROC AUC lies below 0.5, and a Mann–Whitney test
        confirms this at a level of 0.001, with 10 rows of each class or more.
    problem
        The reason why nothing could be measured; empty otherwise.
    intervals
        How the intervals were resampled: ``independent rows``, or blocks of time; empty when nothing was measured.
    rows_in_training
        The number of predictions for rows that the version was fitted on, which are not measured.
    confidence
        The confidence level of all intervals: the highest that an expectation declares.
    errors
        The errors of the labelled predictions; None when they are not requested, or nothing could be measured.
    """

    arrivals: LabelArrivals
    metrics: tuple[WindowMetric, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    calibration: WindowCalibration | None = None
    slices: tuple[WindowSlice, ...] = ()
    inverted: bool = False
    problem: str = ""
    intervals: str = ""
    rows_in_training: int = 0
    confidence: float = CONFIDENCE
    errors: WindowErrors | None = None

    @property
    def state(self) -> str:
        """``breach`` if any verdict is a breach, else ``cannot be measured`` or ``not enough data`` if any verdict is that, else ``good``.

        ``in training data`` if the version was fitted on all rows of the window. ``labels look inverted`` if there are enough labels for an
        expectation and they do. An error change that cannot be measured does not count if another expectation has a verdict.
        """
        if self.rows_in_training and not self.arrivals.predicted:
            return IN_TRAINING
        unmeasured = self._unmeasured_change
        states = {verdict.state for verdict in self.verdicts if verdict is not unmeasured}
        if self.inverted and states & {GOOD, BREACH}:
            return INVERTED
        if BREACH in states:
            return BREACH
        if CANNOT in states:
            return CANNOT
        return NOT_ENOUGH if self.problem or NOT_ENOUGH in states else GOOD

    @property
    def _unmeasured_change(self) -> Verdict | None:
        """The verdict on the error change if it cannot be measured, but another expectation has a verdict; else None."""
        is_evaluated = any(verdict.state in (GOOD, BREACH) for verdict in self.verdicts)
        return next((v for v in self.verdicts if is_evaluated and v.expectation == ErrorChange.NAME and v.state == CANNOT), None)

    @property
    def summary(self) -> str:
        """The state and its reasons, or the metrics when no expectation gives a reason; then the share of rows without a prediction."""
        if self.state == INVERTED:
            reasons = [
                f"{describe_metric(metric)} is below 0.5, which chance does not explain"
                for metric in self.metrics
                if metric.name == "roc_auc"
            ]
        else:
            reasons = [verdict.reason for verdict in self.verdicts if verdict.state == self.state]
        without = self.arrivals.unpredicted
        share = f"{without} of {self.arrivals.predicted} rows ({without / max(1, self.arrivals.predicted):.1%}) have no prediction"
        bias = "" if any(self.arrivals.bias in reason for reason in reasons) else self.arrivals.bias
        unmeasured = self._unmeasured_change
        notes = [share if without else "", bias, f"{unmeasured.expectation} {CANNOT}: {unmeasured.reason}" if unmeasured else ""]
        stated = reasons or [self.problem or "; ".join(map(describe_metric, self.metrics))]
        return f"{self.state}: {'; '.join(dict.fromkeys([*stated, *filter(None, notes)]))}"

    def metric(self, name: str) -> WindowMetric | None:
        """Return the metric of this name; None when it was not measured."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    @property
    def worst_slices(self) -> tuple[WindowSlice, ...]:
        """The slices with a metric that is significantly below that of the whole window, worst first."""
        return tuple(found for found in self.slices if found.below)

    def as_json(self) -> dict[str, Any]:
        """Return the report as a dict of JSON values, without the errors of rows; undefined numbers are None."""
        stored = asdict(replace(self, errors=None)) | {"state": self.state, "summary": self.summary, "coverage": self.arrivals.coverage}
        stored["slices"] = [
            {**asdict(s), "metrics": {name: value if math.isfinite(value) else None for name, value in s.metrics}} for s in self.slices
        ]
        del stored["errors"]
        return stored


def measure_performance(  # noqa: PLR0913  (what a monitor and a model declare)
    predictions: pl.DataFrame,
    labels: pl.DataFrame,
    *,
    key: Sequence[str],
    label: str,
    metrics: Sequence[str],
    slices: Sequence[str] = (),
    expectations: Sequence[Performance] = (),
    reference: Mapping[str, float] | None = None,
    classes: Sequence[object] | None = None,
    label_known_at: str | None = None,
    event_timestamp: str | None = None,
    block_length: timedelta | None = None,
    positive: Any = None,  # noqa: ANN401  (any label)
    rows_in_training: int = 0,
    measure_intervals: Literal["always", "below bound"] = "always",
    estimator: PerformanceEstimator | None = None,
    error_change: ErrorChange | None = None,
) -> PerformanceReport:
    """Measure the performance of a window's predictions and evaluate the expectations.

    Parameters
    ----------
    predictions
        One row per prediction: key, ``prediction``, ``probabilities`` by class where there are any, and the slice columns. Several
        predictions of one key all count; a row without a prediction counts in no metric.
    labels
        One row per label; a null label has not arrived.
    key, label
        Columns of ``labels`` (the key also of ``predictions``).
    metrics
        scikit-learn scorer names, in addition to those of the expectations; ``roc_auc`` is added for two classes with probabilities.
    slices
        Columns of ``predictions``, in addition to those of the expectations.
    expectations
        The expectations to evaluate. The intervals have the highest confidence that one of them declares; 95 % without expectations.
    reference
        Metric → the version's value on its holdout.
    classes
        The classes in the estimator's order; see :func:`join_labels`.
    label_known_at
        The column of ``labels`` with the time at which a label is known: of several labels of a key, the latest counts.
    event_timestamp
        The column of ``predictions`` with the time of each row, by which blocks of time are found; rows are independent without it.
    block_length
        As the training set declares it; estimated from the errors when None.
    positive
        The positive class of two; the second when None.
    rows_in_training
        The number of predictions left out because the version was fitted on their rows.
    measure_intervals
        Whether intervals are measured: ``always``, or only if a metric is ``below bound``.
    estimator
        What the version's holdout says about its errors; None when none is stored.
    error_change
        The expectation for which the errors of rows are measured; None without one.

    Returns
    -------
    PerformanceReport
        Without predictions or labels, its ``problem`` says so, and no metric is defined.

    Raises
    ------
    DataError
        A column is missing, types do not fit, or one key has two different labels and neither is the latest.

    Notes
    -----
    The interval is a delete-a-group jackknife (Kott 2001) on at most 20,000 rows in at most 40 groups, which is valid for smooth metrics.
    Groups are random rows, or whole blocks of time where the errors of neighbours are correlated. The interval covers the sampling
    error of this window only.
    """
    if predictions.is_empty():  # a table that holds no prediction yet may lack columns
        return _report_unmeasured(expectations, metrics, LabelArrivals(0, 0), reference, _explain_empty(rows_in_training), rows_in_training)
    by = tuple(dict.fromkeys([*(column for e in expectations for column in e.slices), *slices]))
    _check_slices(predictions, by)
    labelled, arrivals = join_labels(predictions, labels, key, label, classes=classes, known_at=label_known_at)
    if not arrivals.labelled:
        problem = _explain_unlabelled(arrivals)
        return _report_unmeasured(expectations, [*metrics, *_extra_metrics(labelled)], arrivals, reference, problem, rows_in_training)
    names = tuple(dict.fromkeys([*(e.metric for e in expectations), *metrics, *_extra_metrics(labelled)]))
    split = labelled.split
    predictor = CachedPredictor(replay_predictions(labelled), split.X)
    evaluation = evaluate(predictor, split, names, by, positive=positive, part="labelled")
    confidence = max((e.confidence for e in expectations), default=CONFIDENCE)
    times = labelled.rows[event_timestamp] if event_timestamp in labelled.rows.columns else None
    errors = None if error_change is None else measure_errors(error_change, labelled, arrivals, times, estimator)
    problems = {name: _rephrase_problem(why) for name, why in evaluation.problems} | find_undefined_metrics(names, labelled, positive)
    if measure_intervals != "always":
        found, _ = _measure_metrics(evaluation, None, confidence, problems, reference)
        verdicts = evaluate_expectations(expectations, found, arrivals, inverted=False, problem="")
        below = any(verdict.below for verdict in verdicts) or any(m.name == "roc_auc" and (m.value or 1.0) < 0.5 for m in found)
        if not below:
            return PerformanceReport(arrivals, found, verdicts, rows_in_training=rows_in_training, confidence=confidence, errors=errors)
    blocks = None if times is None else find_blocks(times, prediction_errors([predictor], split.y), block_length)
    encoded = class_to_encode(labelled.classes, split.y, positive)
    jackknife = WindowJackknife(wrap_two_classes(predictor, encoded), encode_labels(split.y, encoded), blocks)
    window_metrics, below_chance = _measure_metrics(evaluation, jackknife, confidence, problems, reference)
    inverted = below_chance and look_inverted(labelled)
    return PerformanceReport(
        arrivals,
        window_metrics,
        evaluate_expectations(expectations, window_metrics, arrivals, inverted=inverted, problem=""),
        _measure_calibration(labelled, positive, jackknife, confidence, estimator),
        measure_slices(evaluation.slices, labelled.rows, jackknife, dict(evaluation.metrics), confidence),
        inverted,
        intervals=INDEPENDENT if blocks is None else str(blocks),
        rows_in_training=rows_in_training,
        confidence=confidence,
        errors=errors,
    )


def _measure_metrics(
    evaluation: Evaluation,
    jackknife: WindowJackknife | None,
    confidence: float,
    problems: Mapping[str, str],
    reference: Mapping[str, float] | None,
) -> tuple[tuple[WindowMetric, ...], bool]:
    """Return the metrics with their intervals, none without a jackknife, and whether the 99.9 % interval of the ROC AUC lies below 0.5."""
    measured, below_chance = [], False
    for name, value in evaluation.metrics:
        known = _finite_reference(reference, name)
        if name in problems:
            measured.append(WindowMetric(name, None, reference=known, problem=problems[name]))
            continue
        if jackknife is None:
            measured.append(WindowMetric(name, value if math.isfinite(value) else None, reference=known))
            continue
        deviations = jackknife.replicate(name)
        ends = jackknife.estimate_interval(name, value, deviations, confidence)
        measured.append(WindowMetric(name, value if math.isfinite(value) else None, *ends, known))
        if name == "roc_auc" and deviations is not None:
            below_chance = value + jackknife.compute_margin_of_error(deviations, CERTAIN) < 0.5
    return tuple(measured), below_chance


def _check_slices(predictions: pl.DataFrame, columns: Sequence[str]) -> None:
    if missing := [column for column in columns if column not in predictions.columns]:
        raise DataError(
            f"the predictions lack the column '{missing[0]}' to slice by",
            hint=suggest_name(missing[0], predictions.columns) + f"the columns are {', '.join(predictions.columns)}",
        )


def _report_unmeasured(  # noqa: PLR0913  (what a report says without a measurement)
    expectations: Sequence[Performance],
    metrics: Sequence[str],
    arrivals: LabelArrivals,
    reference: Mapping[str, float] | None,
    problem: str,
    rows_in_training: int,
) -> PerformanceReport:
    """Return the report of a window in which nothing could be measured: every metric is undefined for the reason ``problem``."""
    names = dict.fromkeys([*(e.metric for e in expectations), *metrics])
    window_metrics = tuple(WindowMetric(name, None, reference=_finite_reference(reference, name), problem=problem) for name in names)
    verdicts = evaluate_expectations(expectations, window_metrics, arrivals, inverted=False, problem=problem)
    if rows_in_training and not arrivals.predicted:
        verdicts = tuple(replace(verdict, state=IN_TRAINING) for verdict in verdicts)
    return PerformanceReport(arrivals, window_metrics, verdicts, problem=problem, rows_in_training=rows_in_training)


def _explain_empty(rows_in_training: int) -> str:
    return f"the version was fitted on all {rows_in_training} rows of the window" if rows_in_training else "nothing was predicted"


def _explain_unlabelled(arrivals: LabelArrivals) -> str:
    """Return why no prediction can be measured: none is finite, or no finite one has a label yet."""
    finite = arrivals.predicted - arrivals.unpredicted
    if not finite:
        return f"none of {arrivals.predicted} predictions is finite"
    return f"none of {finite}{' finite' if arrivals.unpredicted else ''} predictions has a label yet"


def _rephrase_problem(why: str) -> str:
    # The replayed estimator has no predict_proba when no probabilities were recorded.
    return f"{CANNOT}: it needs probabilities, and none were stored with these predictions" if "predict_proba" in why else why


def _extra_metrics(labelled: LabelledPredictions) -> tuple[str, ...]:
    """Return ``roc_auc``, which shows inverted labels, for two classes with probabilities; nothing otherwise."""
    binary = labelled.classes is not None and len(labelled.classes) == 2 and labelled.probabilities is not None
    return ("roc_auc",) if binary else ()


def _finite_reference(reference: Mapping[str, float] | None, name: str) -> float | None:
    value = (reference or {}).get(name)
    return value if value is not None and math.isfinite(value) else None


def _measure_calibration(
    labelled: LabelledPredictions,
    positive: Any,  # noqa: ANN401  (any label)
    jackknife: WindowJackknife,
    confidence: float,
    holdout: PerformanceEstimator | None,
) -> WindowCalibration | None:
    if labelled.classes is None:
        return measure_calibration(labelled.prediction.astype(float), labelled.y, jackknife, confidence)
    if labelled.probabilities is None or len(labelled.classes) != 2:
        return None
    positive_label = positive_class(labelled.classes, positive)
    index = class_names(labelled.classes).index(str(positive_label))
    outcomes = (labelled.y == positive_label).astype(float)
    return measure_calibration(labelled.probabilities[:, index], outcomes, jackknife, confidence, holdout)
