"""The windows of a replay: after which a policy decides, and by which results are measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.monitoring.labels import LabelledPredictions, replay_predictions
from mlops_assets.compute.replay.result import WindowResult
from mlops_assets.compute.training.evaluate import evaluate
from mlops_assets.errors import DefinitionError
from mlops_assets.values.window import TimeWindow, window_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import dagster as dg

    from mlops_assets.orchestrate.replay.simulation import ReplayPlan, Segment

UNITS = {"hour": "1h", "day": "1d", "week": "1w", "month": "1mo", "quarter": "1q", "year": "1y"}
MIN_WINDOWS = 20  # windows of a result, from which the intervals of comparisons are worth something

NamedWindow = tuple[str, TimeWindow]


def list_windows(partitions: dg.PartitionsDefinition, start: datetime, end: datetime) -> tuple[NamedWindow, ...]:
    """Return the name and span of each partition between two times, oldest first.

    Raises
    ------
    DefinitionError
        No whole partition lies between the times.
    """
    spans = ((key, window_of(partitions, key)) for key in partitions.get_partition_keys())
    windows = tuple((key, span) for key, span in spans if span is not None and start <= span.start and span.end <= end)
    if not windows:
        raise DefinitionError(
            f"no whole partition of {partitions} lies between {start} and {end}", hint="choose --from and --to within the partitions"
        )
    return windows


def group_windows(windows: Sequence[NamedWindow], unit: str | None, timezone: str) -> tuple[str, tuple[NamedWindow, ...]]:
    """Return the unit of the result, and the windows of the result: calendar units that are filled by whole windows.

    Parameters
    ----------
    windows
        The windows after which policies decide.
    unit
        A name of :data:`UNITS`; when None, the longest unit that gives at least 20 windows, or else the windows themselves.
    timezone
        The time zone of the calendar.
    """
    if unit is not None:
        return unit, _group_by(windows, unit, timezone)
    for name in reversed(UNITS):
        grouped = _group_by(windows, name, timezone)
        if len(grouped) >= MIN_WINDOWS and len(grouped) < len(windows):
            return name, grouped
    return "window", tuple(windows)


def _group_by(windows: Sequence[NamedWindow], unit: str, timezone: str) -> tuple[NamedWindow, ...]:
    starts = pl.Series([span.start for _, span in windows]).dt.convert_time_zone(timezone)
    labels = starts.dt.truncate(UNITS[unit]).dt.strftime(_choose_label_format(unit)).to_list()
    grouped: dict[str, TimeWindow] = {}
    for label, (_, span) in zip(labels, windows, strict=True):
        grouped[label] = TimeWindow(grouped[label].start, span.end) if label in grouped else span
    return tuple(grouped.items())


def _choose_label_format(unit: str) -> str:
    return {"hour": "%Y-%m-%d %H:%M", "month": "%Y-%m", "year": "%Y"}.get(unit, "%Y-%m-%d")


def measure_windows(plan: ReplayPlan, segments: Sequence[Segment]) -> tuple[WindowResult, ...]:
    """Return the metrics of each window of the result, by all labels; NaN where no version predicted or a metric is undefined."""
    return tuple(_measure(plan, name, span, segments) for name, span in plan.units)


def _measure(plan: ReplayPlan, name: str, span: TimeWindow, segments: Sequence[Segment]) -> WindowResult:
    history = plan.history
    start, stop = history.count_before(span.start), history.count_before(span.end)
    inside = [s for s in segments if start <= s.start < s.stop <= stop]
    rows = sum(s.stop - s.start for s in inside)
    if not rows:
        return WindowResult(name, span.start, span.end, 0, dict.fromkeys(plan.metrics, math.nan), ())
    predicted = [s.version.serving.predict_rows(s.start, s.stop) for s in inside]
    numbers = np.concatenate([np.arange(s.start, s.stop) for s in inside])
    y = history.rows[plan.model.training_set.label].gather(numbers).to_numpy()
    classes, shares = _merge_shares([(s.version.serving.estimator, p[1]) for s, p in zip(inside, predicted, strict=True)])
    answers = np.concatenate([p[0] for p in predicted])
    finite = np.isfinite(answers) if np.issubdtype(answers.dtype, np.floating) else np.ones(rows, dtype=bool)
    labelled = LabelledPredictions(history.rows.head(0), y[finite], answers[finite], None if shares is None else shares[finite], classes)
    evaluation = evaluate(replay_predictions(labelled), labelled.split, plan.metrics, positive=plan.model.positive, part="window")
    versions = tuple(dict.fromkeys(s.version.number for s in inside))
    return WindowResult(name, span.start, span.end, rows, dict(evaluation.metrics), versions)


def _merge_shares(predicted: Sequence[tuple[Any, np.ndarray | None]]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the classes of several estimators, and the probability of each; a class that an estimator did not know has 0.

    Parameters
    ----------
    predicted
        Estimator and probabilities, shape (rows, classes), of consecutive rows.
    """
    known: list[Any] = [getattr(estimator, "classes_", None) for estimator, _ in predicted]
    if any(classes is None for classes in known):
        return None, None
    classes: np.ndarray = np.unique(np.concatenate(known))
    if any(shares is None for _, shares in predicted):
        return classes, None
    merged = []
    for own, (_, shares) in zip(known, predicted, strict=True):
        assert shares is not None  # noqa: S101  (for the type checker)
        wide = np.zeros((len(shares), len(classes)))
        wide[:, np.searchsorted(classes, own)] = shares
        merged.append(wide)
    return classes, np.concatenate(merged)
