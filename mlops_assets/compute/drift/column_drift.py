"""The drift of one column: its statistics against their thresholds, in words and as a histogram."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.drift.binning import CATEGORICAL, INFINITE, NEW, NULL, NUMERIC, OTHER, label_category
from mlops_assets.compute.drift.collapse import describe_collapse
from mlops_assets.compute.drift.distances import Comparison
from mlops_assets.compute.drift.drift_statistics import (
    BIN,
    MEAN,
    NULLS,
    STATISTICS,
    Statistic,
    deciding_statistics,
    max_values,
    measure_statistics,
    reported_statistics,
    sampling_variances,
)
from mlops_assets.compute.drift.texts import explain_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.compute.drift.profile import ColumnProfile
    from mlops_assets.compute.drift.texts import WordShare
    from mlops_assets.compute.drift.thresholds import DriftCalibration
    from mlops_assets.compute.drift.window_statistics import StatisticHistory

MAX_BARS, MAX_CATEGORIES = 22, 10
MIN_NARROW = 0.6  # the minimum Jensen-Shannon distance of each window of a narrow column


@dataclass(frozen=True)
class HistogramBar:
    """One bar of a chart: the share of rows whose value is in the range or category ``label``, in the reference and in the window."""

    label: str
    reference: float
    current: float


@dataclass(frozen=True)
class ColumnDrift:
    """The drift report of one column; a figure is None where it is undefined.

    Parameters
    ----------
    name, role, kind
        ``role`` is ``feature`` or ``prediction``; ``kind`` is ``numeric``, ``categorical`` or ``presence`` (only whether there is a value).
    statistics
        Name → value of each reported statistic of :data:`mlops_assets.compute.drift.drift_statistics.STATISTICS`.
    null_rate, reference_null_rate
        Share of the rows that are null or NaN, in the window and in the reference.
    new_rate
        Share of the window's rows whose category the reference lacks. None for a column that is not categorical, and when the reference
        has too many categories to store.
    statistic, value, threshold
        The name, the value and the threshold of the statistic with the largest ratio of value to threshold.
    severity
        The ratio of value to threshold. Infinite for a column that is missing or of another type, or that collapsed, see
        :mod:`mlops_assets.compute.drift.collapse`.
    drifted
        Whether the severity exceeds 1.
    why
        The change behind ``statistic`` in words.
    bars
        The bars of the column's chart, from :func:`draw_bars`; empty for a column that is missing or of another type.
    reference_values
        The finite values of this statistic in the reference windows.
    capped
        Whether the threshold of any statistic is a cap, because the reference has too few windows for the false-alarm rate.
    measure
        The measure that decided in a column that is compared by measures, e.g. the number of words of a text; empty for other columns.
        ``kind``, statistics and bars are those of the measure.
    """

    name: str
    role: str
    kind: str
    statistics: Mapping[str, float | None] = field(default_factory=dict)
    null_rate: float | None = None
    reference_null_rate: float | None = None
    new_rate: float | None = None
    statistic: str = ""
    value: float | None = None
    threshold: float | None = None
    severity: float = 0.0
    drifted: bool = False
    why: str = ""
    bars: tuple[HistogramBar, ...] = ()
    reference_values: tuple[float, ...] = ()
    capped: bool = False
    measure: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the report as a flat dict of JSON values: each statistic is a key, and an infinite severity is None."""
        stored = asdict(self) | {"severity": self.severity if math.isfinite(self.severity) else None}
        statistics: dict[str, float | None] = stored.pop("statistics")
        return stored | statistics


@dataclass(frozen=True, eq=False)
class ColumnComparison:
    """One column in the window and in the reference, with its calibration.

    ``history`` has the column's statistics in the reference windows, and ``statistics`` those of the window; None if they are not stored.
    ``measure`` names the measure by which the column is compared; empty if its values are compared. ``words`` are the words of a text
    column whose shares changed most; None for other measures.
    """

    name: str
    role: str
    reference: ColumnProfile
    current: ColumnProfile
    calibration: DriftCalibration
    history: StatisticHistory | None = None
    statistics: np.ndarray | None = None
    measure: str = ""
    words: tuple[WordShare, ...] | None = None

    @property
    def variances(self) -> np.ndarray:
        """The sampling variance 1/n + 1/m of each deciding statistic, see :func:`sampling_variances`."""
        return sampling_variances(self.current.counts, self.reference.counts)[:, 0]

    @property
    def maxima(self) -> np.ndarray:
        """The largest attainable value of each deciding statistic; infinite where there is none."""
        return max_values(self.reference.binning, self.reference.counts)

    @property
    def is_narrow(self) -> bool:
        """Whether each reference window has few of the reference's values, e.g. a feature that is computed once a day.

        Every window is then far from the others, so that only statistics of windows can be compared.
        """
        if self.history is None:
            return False
        distances = self.measure_reference_windows(STATISTICS["js"])
        known = distances[np.isfinite(distances)]
        return len(known) > 0 and bool((known >= MIN_NARROW).all())

    def measure_reference_windows(self, statistic: Statistic) -> np.ndarray:
        """Return the statistic of each reference window, shape (windows,); empty if the statistic is not calibrated."""
        calibrated = deciding_statistics()
        return self.calibration.distances[calibrated.index(statistic)] if statistic in calibrated else np.zeros(0)


def evaluate_column(
    comparison: ColumnComparison, limits: np.ndarray, capped: np.ndarray | None = None, statistics: Sequence[Statistic] | None = None
) -> ColumnDrift:
    """Compare a column's statistics with their thresholds; a collapsed column always counts as drifted.

    Parameters
    ----------
    comparison
        The column.
    limits
        A threshold for each of ``statistics``; NaN for a statistic that is not calibrated.
    capped
        Which of ``limits`` are caps, see :func:`mlops_assets.compute.drift.thresholds.compute_thresholds`; none when None.
    statistics
        The statistics that decide; the calibrated ones when None.

    Returns
    -------
    ColumnDrift
    """
    values, statistics = _measure(comparison), deciding_statistics() if statistics is None else statistics
    severities = [_severity(values[statistic.name], float(limit)) for statistic, limit in zip(statistics, limits, strict=True)]
    index = int(np.argmax(severities))
    worst, severity = statistics[index], max(severities[index], 0.0)
    value, explanation = values[worst.name], _explain(comparison, worst)
    why = f"{explanation}; {worst.label} {value:.3g}, threshold {limits[index]:.3g}"
    histogram = draw_bars(comparison)
    if collapse := describe_collapse(comparison, histogram):
        severity, why = math.inf, collapse if math.isnan(value) else f"{collapse}; {explanation}"
    reference_values = comparison.measure_reference_windows(worst)
    return ColumnDrift(
        comparison.name,
        comparison.role,
        comparison.reference.binning.kind,
        {statistic.name: _replace_non_finite(values[statistic.name]) for statistic in reported_statistics()},
        null_rate=_null_rate(comparison.current),
        reference_null_rate=_null_rate(comparison.reference),
        new_rate=_new_rate(comparison),
        statistic=worst.name,
        value=_replace_non_finite(value),
        threshold=float(limits[index]),
        severity=severity,
        drifted=severity > 1,
        why=why,
        bars=histogram,
        reference_values=tuple(reference_values[np.isfinite(reference_values)].tolist()),
        capped=capped is not None and bool(capped.any()),
        measure=comparison.measure,
    )


def merge_measures(reports: Sequence[ColumnDrift]) -> list[ColumnDrift]:
    """Return one report for each column: for several measures, the most severe report, with the measure named in its reason."""
    by_column: dict[str, list[ColumnDrift]] = {}
    for column in reports:
        by_column.setdefault(column.name, []).append(column)
    return [_choose_worst(measures) for measures in by_column.values()]


def _choose_worst(measures: Sequence[ColumnDrift]) -> ColumnDrift:
    worst = max(measures, key=lambda column: column.severity)
    if not worst.measure:
        return worst
    whole = measures[0]  # the first measure has a value for each row that has one
    return replace(
        worst,
        null_rate=whole.null_rate,
        reference_null_rate=whole.reference_null_rate,
        why=f"{worst.measure}: {worst.why}",
        capped=any(column.capped for column in measures),
    )


def _measure(comparison: ColumnComparison) -> dict[str, float]:
    """Return the window's value of every statistic by name; NaN where it is undefined."""
    reference, current = comparison.reference, comparison.current
    counts = Comparison(reference.binning, current.counts, reference.counts, reference.spread, current.crossing)
    return {name: float(values[0]) for name, values in measure_statistics(counts).items()}


def _replace_non_finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def report_broken_column(name: str, role: str, kind: str, why: str) -> ColumnDrift:
    """Return the report of a column that cannot be compared, which counts as drifted."""
    return ColumnDrift(name, role, kind, severity=math.inf, drifted=True, why=why)


def _severity(value: float, limit: float) -> float:
    """Return ``value / limit``; −1 when one of them is undefined, and infinity for a positive value and a limit of 0."""
    if math.isnan(value) or math.isnan(limit):
        return -1.0  # undefined or not calibrated: any other statistic decides
    if not value:
        return 0.0
    return value / limit if limit > 0 else math.inf


def _null_rate(column: ColumnProfile) -> float:
    return float(column.counts.nulls[0] / max(column.counts.rows[0], 1))


def _new_rate(comparison: ColumnComparison) -> float | None:
    binning = comparison.reference.binning
    if binning.kind != CATEGORICAL or binning.known is None:
        return None
    return float(comparison.current.counts.cells[0, -1] / max(comparison.current.counts.rows[0], 1))


def _explain(comparison: ColumnComparison, statistic: Statistic) -> str:
    """Return the change behind a statistic in words; new categories explain every change except a change of the null rate."""
    current, reference = comparison.current, comparison.reference
    if statistic.explained_by == NULLS:
        return f"null in {_null_rate(current):.2%} of the rows, in the reference in {_null_rate(reference):.2%}"
    if current.unseen:
        return f"{_new_rate(comparison) or 0:.2%} of the rows have values that the reference lacks, e.g. {', '.join(map(repr, current.unseen))}"
    if statistic.explained_by == BIN and comparison.words is not None:
        return explain_words(comparison.words)
    if statistic.explained_by == BIN:
        moved = max(draw_bars(comparison), key=lambda bar: abs(bar.current - bar.reference))
        return f"{moved.label} in {moved.current:.1%} of the rows, in the reference in {moved.reference:.1%}"
    fact = "mean" if statistic.explained_by == MEAN else "median"
    now, before = current.facts.get(fact), reference.facts.get(fact)
    return "no values to compare" if now is None or before is None else f"{fact} {now:.4g}, in the reference {before:.4g}"


def draw_bars(comparison: ColumnComparison) -> tuple[HistogramBar, ...]:
    """Return the bars of a column's chart, each with its share of the rows in the reference and in the window.

    A numeric column has bars of equal width from the reference's 1st to 99th percentile, and one below and above; with few values, it has
    a bar for each value. A categorical column has a bar for each of its ten most frequent categories, and ``other`` for the rest. Of words,
    those of the vocabulary whose shares changed most have a bar. Empty bars for nulls and other special cases are left out.

    Parameters
    ----------
    comparison
        The column.
    """
    if comparison.words:
        return _draw_words(comparison.words)
    binning, tallies = comparison.reference.binning, (comparison.reference.counts, comparison.current.counts)
    if binning.kind == NUMERIC and len(binning.edges) > 1:
        labels, shares = _share_histogram(comparison)
    else:
        labels, counts = binning.labels(), [binning.bins(counts)[0] for counts in tallies]
        shares = [count / max(count.sum(), 1) for count in counts]
    bars = [HistogramBar(label, float(a), float(b)) for label, a, b in zip(labels, *shares, strict=True)]
    if binning.kind != CATEGORICAL:
        return tuple(bar for bar in bars if bar.reference or bar.current or not bar.label.startswith(_HIDDEN))
    return _keep_frequent([bar for bar in bars if bar.reference or bar.current])


_BELOW, _ABOVE = "below", "above"
_HIDDEN = (OTHER, NULL, INFINITE, _BELOW, _ABOVE)  # the first word of bars that are left out when empty


def _draw_words(words: Sequence[WordShare]) -> tuple[HistogramBar, ...]:
    named = [HistogramBar(label_category(word.word), word.reference, word.current) for word in words]
    reference, current = (1 - sum(shares) for shares in zip(*((bar.reference, bar.current) for bar in named), strict=True))
    return (*named, HistogramBar(OTHER, max(reference, 0.0), max(current, 0.0)))


def _keep_frequent(bars: list[HistogramBar]) -> tuple[HistogramBar, ...]:
    """Return the bars of the most frequent categories, then those of special cases; the other categories are summed up in ``other``."""
    named = sorted(
        (bar for bar in bars if bar.label not in (OTHER, NEW, NULL, INFINITE)),
        key=lambda bar: (-max(bar.reference, bar.current), bar.label),
    )
    infrequent = [*named[MAX_CATEGORIES:], *(bar for bar in bars if bar.label == OTHER)]
    pooled = [HistogramBar(OTHER, sum(bar.reference for bar in infrequent), sum(bar.current for bar in infrequent))] if infrequent else []
    return (*named[:MAX_CATEGORIES], *pooled, *(bar for bar in bars if bar.label in (NEW, NULL, INFINITE)))


def _share_histogram(comparison: ColumnComparison) -> tuple[list[str], list[np.ndarray]]:
    """Return the labels of a numeric column's bars, and the share of rows in each: of the reference, then of the window."""
    points = comparison.reference.binning.points
    steps = [np.cumsum(column.counts.cells[0])[:-1] for column in (comparison.reference, comparison.current)]
    inner = points[np.searchsorted(steps[0][1::2], np.array([0.01, 0.99]) * steps[0][-1])] if steps[0][-1] else points[[0, -1]]
    low, high = (inner[0], inner[1]) if inner[0] < inner[1] else (points[0], points[-1])
    edges = np.linspace(low, high, MAX_BARS + 1)
    shares = []
    for column, step in zip((comparison.reference, comparison.current), steps, strict=True):
        rows = max(column.counts.rows[0], 1)
        # Values equal to the lowest edge belong to the first bar after it.
        until = np.interp(edges, points, step[1::2])
        until[0] = np.interp(low, points, step[::2])
        parts = np.diff(np.concatenate([[0], until, [column.counts.values[0]]]))
        shares.append(np.concatenate([parts, [column.counts.nulls[0], column.counts.infinite[0]]]) / rows)
    middle = [f"{a:.4g} to {b:.4g}" for a, b in pairwise(edges)]
    return [f"{_BELOW} {low:.4g}", *middle, f"{_ABOVE} {high:.4g}", NULL, INFINITE], shares
