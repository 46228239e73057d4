"""Metrics of a window by slice, with intervals: which slices are significantly below the whole window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.monitoring.window_intervals import UNKNOWN, Interval, WindowJackknife
from mlops_assets.compute.training.evaluate import select_slices
from mlops_assets.values.evaluation import SliceMetrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

MIN_SLICE_ROWS = 30  # a smaller slice has no interval and is not shown


@dataclass(frozen=True)
class WindowSlice(SliceMetrics):
    """The metrics of one slice of a window, with their confidence intervals.

    Parameters
    ----------
    intervals
        Metric → the ends of its interval, as triples; None where the interval is unknown.
    below
        The metrics that are significantly below the metrics of all rows. By chance, at most a share of 1 − confidence of the windows
        has such a metric.
    """

    intervals: tuple[tuple[str, float | None, float | None], ...] = ()
    below: tuple[str, ...] = ()

    def interval(self, metric: str) -> Interval:
        """Return the ends of a metric's interval; both are None when it is unknown."""
        return next(((low, high) for name, low, high in self.intervals if name == metric), UNKNOWN)


def measure_slices(
    slices: Sequence[SliceMetrics], rows: pl.DataFrame, jackknife: WindowJackknife, values: Mapping[str, float], confidence: float
) -> tuple[WindowSlice, ...]:
    """Return the slices with the intervals of their metrics; slices significantly below the whole window come first.

    Parameters
    ----------
    slices
        The metrics by slice.
    rows
        The labelled rows.
    jackknife
        The jackknife of these rows.
    values
        Metric → its value on all rows.
    confidence
        The confidence level of each interval, and of all comparisons of slices with the window together.
    """
    numbers = {(column, str(value)): chosen for column in {s.column for s in slices} for value, chosen in select_slices(rows[column], {})}
    tested = sum(s.rows >= MIN_SLICE_ROWS for s in slices)
    whole = {name: jackknife.replicate(name) for name in values} if tested else {}
    strict = 1 - (1 - confidence) / max(tested, 1)
    found = [
        _measure_slice(s, numbers[s.column, s.value], jackknife, values, whole, confidence, strict)
        if s.rows >= MIN_SLICE_ROWS
        else WindowSlice(s.column, s.value, s.rows, s.metrics)
        for s in slices
    ]
    first = next(iter(values), "")
    return tuple(sorted(found, key=lambda s: (not s.below, dict(s.metrics).get(first, 0.0) if s.below else 0.0)))


def _measure_slice(  # noqa: PLR0913  (what is measured, and against what)
    measured: SliceMetrics,
    chosen: np.ndarray,
    jackknife: WindowJackknife,
    values: Mapping[str, float],
    whole: Mapping[str, np.ndarray | None],
    confidence: float,
    strict: float,
) -> WindowSlice:
    intervals, below = [], []
    for name, value in measured.metrics:
        deviations, of_all = jackknife.replicate(name, chosen), whole[name]
        intervals.append((name, *jackknife.estimate_interval(name, value, deviations, confidence)))
        if (
            deviations is not None
            and of_all is not None
            and value + jackknife.compute_margin_of_error(deviations - of_all, strict) < values[name]
        ):
            below.append(name)
    return WindowSlice(measured.column, measured.value, measured.rows, measured.metrics, tuple(intervals), tuple(below))
