"""Measure the predictions of one version in one window: drift from the version's reference, and performance by the labels.

Nothing here reads a store or writes to one, so that a monitor's steps and a replay of its history call the same functions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.drift.drift_report import DriftReport, measure_drift
from mlops_assets.compute.drift.prediction_drift import (
    PREDICTION_SHARE,
    add_prediction_drift,
    explain_missing_reference,
    select_predictions,
)
from mlops_assets.compute.monitoring.estimates import EstimateReport, estimate_performance
from mlops_assets.compute.monitoring.performance import PerformanceReport, measure_performance
from mlops_assets.compute.tables.own_columns import MODEL_VERSION
from mlops_assets.errors import DataError
from mlops_assets.values.decisions import DRIFT, ESTIMATED, PERFORMANCE, WindowReport
from mlops_assets.values.drift import Drift
from mlops_assets.values.monitoring import Monitor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.compute.estimation.estimator import PerformanceEstimator
    from mlops_assets.values.window import TimeWindow


@dataclass(frozen=True, eq=False)
class PredictionWindow:
    """The predictions of one version in one window.

    Parameters
    ----------
    partition, span
        The partition key of the window, and its time span.
    version
        The version that predicted; None when nothing was predicted.
    rows
        The version's predictions, with the column names that they have in memory.
    fitted
        For each row, True if the version was fitted on this row, which is then not evaluated.
    event_timestamp
        The column of ``rows`` with the time of each row; empty without such a column.
    shared
        Whether other versions predicted in the same window.
    """

    partition: str
    span: TimeWindow
    version: int | None
    rows: pl.DataFrame
    fitted: pl.Series
    event_timestamp: str
    shared: bool = False

    @property
    def unseen(self) -> pl.DataFrame:
        """The rows that the version was not fitted on: only these are evaluated."""
        return self.rows.filter(~self.fitted)

    @property
    def title(self) -> str:
        """The partition key; the version follows where several versions predicted in the window."""
        return f"{self.partition}, version {self.version}" if self.shared else self.partition


@dataclass(frozen=True, eq=False)
class VersionReference:
    """The stored profile, metrics and classes of a version, with which monitors compare its windows.

    Parameters
    ----------
    profile
        From :func:`mlops_assets.compute.drift.profile.build_profile`; None when none is stored.
    metrics
        Metric → the version's value on its holdout.
    classes, positive
        For a classifier: its classes in the estimator's order, and the positive one of two; None otherwise.
    note
        A note of drift reports, e.g. that the profile is calibrated on windows of another length.
    estimator
        What the holdout says about the errors of predictions; None when none is stored.
    estimator_problem
        The reason why none is stored; empty when it is not known.
    predictions
        The profile of predictions for rows that the version was not fitted on; None when none is stored.
    """

    profile: Mapping[str, Any] | None = None
    metrics: Mapping[str, float] | None = None
    classes: Sequence[object] | None = None
    positive: Any = None
    note: str = ""
    estimator: PerformanceEstimator | None = None
    estimator_problem: str = ""
    predictions: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class LabelTable:
    """The rows of a model's training set with the labels that have arrived so far, and the columns that identify a row."""

    rows: pl.DataFrame
    key: Sequence[str]


@dataclass(frozen=True, eq=False)
class WindowMeasurement:
    """The reports of one version in one window, and the reference that it was compared with; None for a report that was not requested."""

    window: PredictionWindow
    reference: VersionReference
    drift: DriftReport | None = None
    performance: PerformanceReport | None = None
    estimate: EstimateReport | None = None

    @property
    def drift_record(self) -> WindowReport | None:
        """The drift report as a record for decisions; None without a drift report or without a version."""
        return None if self.drift is None else self._record(DRIFT, self.drift.state, self.drift.summary)

    @property
    def performance_record(self) -> WindowReport | None:
        """The performance report as a record for decisions; None without a performance report, expectations or a version."""
        report = self.performance
        return None if report is None or not report.verdicts else self._record(PERFORMANCE, report.state, report.summary)

    @property
    def estimate_record(self) -> WindowReport | None:
        """The report of estimates as a record for decisions; None without estimates or without a version."""
        return None if self.estimate is None else self._record(ESTIMATED, self.estimate.state, self.estimate.summary)

    def _record(self, kind: str, state: str, reason: str) -> WindowReport | None:
        window = self.window
        return None if window.version is None else WindowReport(window.partition, window.span.end, window.version, state, kind, reason)


def split_windows(
    rows: pl.DataFrame, times: pl.Series, fitted: pl.Series, windows: Sequence[tuple[str, TimeWindow]], event_timestamp: str = ""
) -> list[PredictionWindow]:
    """Split predictions by window and by the version that predicted, in the order of ``windows`` and then of versions.

    Parameters
    ----------
    rows
        Predictions, with the version of each.
    times
        The time of each row, shape (rows,).
    fitted
        True for each row that the predicting version was fitted on, shape (rows,).
    windows
        Partition key and time span of each window; the end is excluded.
    event_timestamp
        The column of ``rows`` with ``times``; empty without such a column.

    Returns
    -------
    list of PredictionWindow
        At least one for each of ``windows``; its version is None where nothing was predicted.
    """
    prediction_windows = []
    for partition, span in windows:
        in_window = times.is_between(span.start, span.end, closed="left")
        versions = rows.filter(in_window)[MODEL_VERSION].unique().sort().to_list()
        for version in versions or [None]:
            selected = in_window if version is None else in_window & (rows[MODEL_VERSION] == version)
            shared = len(versions) > 1
            prediction_windows.append(
                PredictionWindow(partition, span, version, rows.filter(selected), fitted.filter(selected), event_timestamp, shared)
            )
    return prediction_windows


def measure_window(
    monitor: Monitor, window: PredictionWindow, reference: VersionReference, labels: LabelTable | None = None, *, with_drift: bool = True
) -> WindowMeasurement:
    """Measure the predictions of one version in one window; metrics are estimated where the monitor expects estimates.

    Parameters
    ----------
    monitor
        The monitor, with its expectations.
    window
        The predictions.
    reference
        The reference of the version that predicted.
    labels
        The labels that performance is measured by; performance is not measured when None.
    with_drift
        Whether drift is measured.

    Returns
    -------
    WindowMeasurement

    Raises
    ------
    DataError
        Labels or predictions lack a column, their types do not match, or a key has two different labels. Or the version's profile lacks a
        column that the monitor names, or a later version of the package wrote it.
    """
    drifted = measure_window_drift(monitor.drift or Drift(), monitor.min_rows, window, reference) if with_drift else None
    performance = None if labels is None else _measure_performance(monitor, window, reference, labels)
    return WindowMeasurement(window, reference, drifted, performance, _estimate(monitor, window, reference) if monitor.estimates else None)


def _estimate(monitor: Monitor, window: PredictionWindow, reference: VersionReference) -> EstimateReport:
    return estimate_performance(
        window.unseen,
        monitor.estimates,
        reference.estimator,
        classes=reference.classes,
        positive=reference.positive,
        reference=reference.metrics,
        min_rows=monitor.min_rows,
        rows_in_training=int(window.fitted.sum()),
        problem=reference.estimator_problem,
    )


def measure_window_drift(declared: Drift, min_rows: int, window: PredictionWindow, reference: VersionReference) -> DriftReport:
    """Measure the drift of the rows of a window that its version was not fitted on.

    Parameters
    ----------
    declared
        The expectation.
    min_rows
        The minimum number of rows; a window with fewer is not evaluated.
    window, reference
        As in :func:`measure_window`.

    Raises
    ------
    DataError
        As in :func:`measure_window`.
    """
    rows, rows_in_training = window.unseen, int(window.fitted.sum())
    if reference.profile is None or (rows_in_training and rows.is_empty()):
        why = _explain_unmeasured(window, rows, rows_in_training)
        return DriftReport(rows.height, False, (), why, declared.false_alarm_rate, 0, rows_in_training=rows_in_training)  # noqa: FBT003  (in order)
    problem = explain_missing_reference(reference.predictions) if declared.predictions else ""
    compares_predictions, rate = declared.predictions and not problem, declared.false_alarm_rate
    report = measure_drift(
        reference.profile,
        rows,
        columns=declared.columns,
        fixed=declared.thresholds,
        classifier=declared.classifier is not None,
        false_alarm_rate=rate * (1 - PREDICTION_SHARE) if compares_predictions else rate,
        min_psi=declared.min_psi,
        min_rows=min_rows,
    )
    if compares_predictions and reference.predictions is not None:
        predictions = select_predictions(rows, reference.classes, reference.positive)
        report = add_prediction_drift(report, reference.predictions, predictions, declared, min_rows)
    left_out = f"{rows_in_training} rows in training data are left out" if rows_in_training else ""
    return replace(report, rows_in_training=rows_in_training).with_notes([left_out, problem, reference.note])


def _explain_unmeasured(window: PredictionWindow, rows: pl.DataFrame, rows_in_training: int) -> str:
    if rows_in_training and rows.is_empty():
        return f"version {window.version} was fitted on all {rows_in_training} rows of the window"
    return "nothing was predicted" if rows.is_empty() else "no reference is stored with the version that predicted"


def _measure_performance(monitor: Monitor, window: PredictionWindow, reference: VersionReference, labels: LabelTable) -> PerformanceReport:
    """Measure the performance of the unseen rows; the model's slice columns that the predictions lack are skipped."""
    declared = monitor.model.training_set
    if missing := [name for name in (*labels.key, declared.label) if name not in labels.rows.columns]:
        raise DataError(
            f"'{monitor.performance_key}' needs the column '{missing[0]}' of '{declared.key}' to find the label of a prediction",
            hint=f"return it from the function; it returns {', '.join(labels.rows.columns)}",
        )
    rows = window.unseen
    return measure_performance(
        rows,
        labels.rows,
        key=labels.key,
        label=declared.label,
        metrics=monitor.model.metrics,
        slices=[name for name in monitor.model.slices if name in rows.columns],
        expectations=monitor.performance,
        reference=reference.metrics,
        classes=reference.classes,
        positive=reference.positive,
        label_known_at=declared.label_known_at,
        event_timestamp=window.event_timestamp,
        block_length=declared.block_length,
        rows_in_training=int(window.fitted.sum()),
        estimator=reference.estimator,
        error_change=monitor.error_change,
    )
