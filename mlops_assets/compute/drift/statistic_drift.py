"""Evaluate columns by statistics of their window, in addition to distances between rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.drift.statistic_changes import StatisticWindows, compare_with_past
from mlops_assets.compute.drift.texts import explain_words
from mlops_assets.compute.drift.window_statistics import MEAN, NEW_VALUES, QUANTILES, SHARE, SPREAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.compute.drift.column_drift import ColumnComparison, ColumnDrift
    from mlops_assets.compute.drift.statistic_changes import StatisticChanges
    from mlops_assets.compute.drift.window_statistics import StatisticHistory


def evaluate_statistics(
    comparisons: Sequence[ColumnComparison], columns: Sequence[ColumnDrift], rate: float, min_psi: float
) -> list[ColumnDrift]:
    """Return the reports of columns; a window statistic decides where it is more severe than the distances of the column.

    Parameters
    ----------
    comparisons
        The columns.
    columns
        The reports of the columns by distances, in the same order.
    rate
        The probability of an alarm by any statistic of a window without drift.
    min_psi
        The minimum effect as a PSI.
    """
    measured = [
        (place, c.history, c.statistics)
        for place, c in enumerate(comparisons)
        if c.history is not None and c.history.names and c.statistics is not None
    ]
    if not measured:
        return list(columns)
    changes = compare_with_past(_join(measured, [comparisons[place].current.counts.rows for place, _, _ in measured], min_psi), rate)
    ends = np.cumsum([len(history.names) for _, history, _ in measured])
    found = {
        place: _find_worst(comparisons[place], history, statistics, changes, int(end) - len(history.names))
        for (place, history, statistics), end in zip(measured, ends, strict=True)
    }
    return [_report_worse(column, found.get(place)) for place, column in enumerate(columns)]


@dataclass(frozen=True)
class _WorstStatistic:
    """The most severe change of a column's statistics."""

    name: str
    value: float
    threshold: float
    severity: float
    why: str
    reference_values: tuple[float, ...]


def _report_worse(column: ColumnDrift, worst: _WorstStatistic | None) -> ColumnDrift:
    """Return the report of a column by its worst statistic if this is more severe than its distances, else unchanged."""
    if worst is None or worst.severity <= column.severity:
        return column
    return replace(
        column,
        statistic=worst.name,
        value=worst.value,
        threshold=worst.threshold,
        severity=worst.severity,
        drifted=worst.severity > 1,
        why=worst.why,
        reference_values=worst.reference_values,
    )


def _join(measured: Sequence[tuple[int, StatisticHistory, np.ndarray]], rows: Sequence[np.ndarray], min_psi: float) -> StatisticWindows:
    """Return the statistics of all columns side by side; ``rows`` are the numbers of values in the window."""
    histories = [history for _, history, _ in measured]
    return StatisticWindows(
        np.concatenate([history.values for history in histories], axis=1),
        np.concatenate([statistics for _, _, statistics in measured]),
        np.concatenate([history.sampling_variances(history.rows) for history in histories], axis=1),
        np.concatenate([history.sampling_variances(count)[0] for history, count in zip(histories, rows, strict=True)]),
        np.concatenate([history.min_effects(min_psi) for history in histories]),
        np.concatenate([history.only_increases for history in histories]),
        np.concatenate([history.are_rates for history in histories]),
    )


def _find_worst(
    comparison: ColumnComparison, history: StatisticHistory, statistics: np.ndarray, changes: StatisticChanges, first: int
) -> _WorstStatistic:
    """Return the most severe change of a column, whose statistics begin at the place ``first`` of all changes."""
    place = int(np.argmax(changes.severities[first : first + len(history.names)]))
    at, name = first + place, history.names[place]
    change, limit = float(changes.changes[at]), float(changes.limits[at])
    past, reference_values = history.values[:, place], changes.reference_values[:, at]
    known = past[np.isfinite(past)]
    explained = explain_words(comparison.words) if comparison.words else _explain(name, float(statistics[place]), known)
    why = f"{explained}; changed by {change:.3g}, threshold {limit:.3g}"
    return _WorstStatistic(
        name, change, limit, float(changes.severities[at]), why, tuple(reference_values[np.isfinite(reference_values)].tolist())
    )


def _explain(name: str, now: float, past: np.ndarray) -> str:
    """Return the change of a statistic in words."""
    low, high = (float(past.min()), float(past.max())) if len(past) else (math.nan, math.nan)
    if name in (MEAN, *QUANTILES):
        return f"{name} {now:.4g}, in the reference windows {low:.4g} to {high:.4g}"
    if name == SPREAD:
        return f"standard deviation {np.exp(now):.4g}, in the reference windows {np.exp(low):.4g} to {np.exp(high):.4g}"
    if name == NEW_VALUES:
        return f"{now:.1%} of the rows have values that the reference lacks, in its windows {low:.1%} to {high:.1%}"
    what = f"{name.removeprefix(SHARE)} in" if name.startswith(SHARE) else name
    return f"{what} {now:.1%}, in the reference windows {low:.1%} to {high:.1%}"
