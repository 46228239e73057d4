"""The reports of a replay: a version's predictions in a window, measured or estimated as a monitor of production does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.monitoring.estimates import EstimateReport, estimate_performance
from mlops_assets.compute.monitoring.performance import PerformanceReport, measure_performance
from mlops_assets.compute.tables.own_columns import PREDICTION, PROBABILITIES
from mlops_assets.compute.training.classes import class_names
from mlops_assets.serving.formats.prediction_columns import make_probability_structs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlops_assets.orchestrate.replay.simulation import ReplayedVersion, ReplayPlan, Segment
    from mlops_assets.values.monitoring import Monitor

_ROW = "row"


def measure_predictions(plan: ReplayPlan, monitor: Monitor, rows: Segment, known: np.ndarray) -> PerformanceReport:
    """Return the performance report of a version's predictions, by the labels of the rows ``known``.

    Intervals are measured only where a metric is below its bound, because nothing else depends on them.
    """
    history, version, training_set = plan.history, rows.version, plan.model.training_set
    predictions = _build_predictions(plan, rows, [column for expectation in monitor.performance for column in expectation.slices])
    labels = pl.DataFrame({_ROW: known, training_set.label: history.rows[training_set.label].gather(known)})
    return measure_performance(
        predictions,
        labels,
        key=(_ROW,),
        label=training_set.label,
        metrics=(),
        expectations=monitor.performance,
        reference=version.candidate.metrics,
        classes=_list_classes(version),
        event_timestamp=training_set.event_timestamp,
        block_length=training_set.block_length,
        positive=plan.model.positive,
        measure_intervals="below bound",
        estimator=version.candidate.estimator,
        error_change=monitor.error_change,
    )


def estimate_predictions(plan: ReplayPlan, monitor: Monitor, rows: Segment) -> EstimateReport:
    """Return the estimated performance of a version's predictions, by what its holdout showed; no label is used."""
    version, model = rows.version, plan.model
    return estimate_performance(
        _build_predictions(plan, rows, plan.history.columns),
        monitor.estimates,
        version.candidate.estimator,
        classes=_list_classes(version),
        positive=model.positive,
        reference=version.candidate.metrics,
        min_rows=monitor.min_rows,
        problem=version.candidate.estimator_problem,
    )


def _list_classes(version: ReplayedVersion) -> Sequence[object] | None:
    classes = getattr(version.serving.estimator, "classes_", None)
    return None if classes is None else list(classes)


def _build_predictions(plan: ReplayPlan, rows: Segment, others: Iterable[str]) -> pl.DataFrame:
    """Return the predictions of a version, with the time of each row and with other columns."""
    serving, time = rows.version.serving, plan.model.training_set.event_timestamp or ""
    predicted, shares = serving.predict_rows(rows.start, rows.stop)
    columns: dict[str, Any] = {_ROW: np.arange(rows.start, rows.stop), PREDICTION: predicted}
    if shares is not None:
        columns[PROBABILITIES] = make_probability_structs(class_names(serving.estimator.classes_), shares)
    return plan.history.rows[rows.start : rows.stop].select(list(dict.fromkeys([time, *others]))).with_columns(pl.DataFrame(columns))
