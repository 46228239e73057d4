"""What is said of one column's drift: its statistics, whether they exceed their thresholds, in words and as a chart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.monitoring.cells import CATEGORICAL, NUMERIC
from mlops_assets.compute.monitoring.collapse import describe_collapse
from mlops_assets.compute.monitoring.distances import measure_distances
from mlops_assets.compute.monitoring.thresholds import STATISTICS, sampling_variance

if TYPE_CHECKING:
    from mlops_assets.compute.monitoring.profile import Column
    from mlops_assets.compute.monitoring.thresholds import DriftCalibration

NAMES = {
    "ks": "Kolmogorov–Smirnov",
    "wasserstein": "Wasserstein (standard deviations)",
    "js": "Jensen–Shannon",
    "null_rate": "change of the null rate",
}
BARS, CATEGORIES = 22, 10


@dataclass(frozen=True)
class HistogramBar:
    """The share of rows with some values, in the reference and in the window."""

    label: str
    reference: float
    current: float


@dataclass(frozen=True)
class ColumnDrift:
    """What was found of one column; None where a statistic is not defined.

    Parameters
    ----------
    name, role, kind
        ``role`` is ``feature`` or ``output``; ``kind`` is ``numeric``, ``categorical`` or ``presence`` (only whether there is a value).
    ks
        Kolmogorov–Smirnov statistic of the values.
    wasserstein
        Wasserstein-1 distance of the values, in standard deviations of the reference.
    psi
        Population stability index over the profile's bins, null among them.
    js
        Jensen–Shannon distance over the same bins, base 2.
    null_rate, reference_null_rate
        Share of rows without a value; NaN is none.
    new_rate
        Share of rows whose category the reference lacks; None of other kinds, and when the reference had too many to keep.
    statistic, value, threshold
        The one that is greatest in units of its threshold.
    severity
        How many thresholds it is; infinite for a column that is missing, empty or of another type.
    drifted
        Whether it exceeds its threshold.
    why
        In words.
    bars
        Shares of the values, for a chart.
    usual
        The same statistic of windows of the reference.
    by_rank
        Whether the reference has too few windows for the stated rate, so that the rule for few windows gives the threshold.
    """

    name: str
    role: str
    kind: str
    ks: float | None = None
    wasserstein: float | None = None
    psi: float | None = None
    js: float | None = None
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
    usual: tuple[float, ...] = ()
    by_rank: bool = False


@dataclass(frozen=True, eq=False)
class ColumnComparison:
    """A column of the window beside the same column of the reference."""

    name: str
    role: str
    reference: Column
    current: Column
    calibration: DriftCalibration

    @property
    def sampling_variance(self) -> np.ndarray:
        """1/n + 1/rows for each statistic."""
        return sampling_variance(self.current.tally, self.reference.tally)[:, 0]


def judge_column(scan: ColumnComparison, limits: np.ndarray, by_rank: np.ndarray | None = None) -> ColumnDrift:
    """Compare a column's statistics with their thresholds.

    Parameters
    ----------
    scan
        The column.
    limits
        A threshold for each statistic.
    by_rank
        Which of them the rule for few windows gives; none when left out.
    """
    found = _statistics(scan)
    severities = [_severity(found[name], float(limit)) for name, limit in zip(STATISTICS, limits, strict=True)]
    place = int(np.argmax(severities))
    deciding, severity = STATISTICS[place], max(severities[place], 0.0)
    why = f"{_words(scan, deciding)}; {NAMES[deciding]} {found[deciding]:.3g}, threshold {limits[place]:.3g}"
    shown = bars(scan)
    if collapse := describe_collapse(scan, shown):
        severity, why = math.inf, collapse if math.isnan(found[deciding]) else f"{collapse}; {_words(scan, deciding)}"
    usual = scan.calibration.strays[place]
    return ColumnDrift(
        scan.name,
        scan.role,
        scan.reference.layout.kind,
        **{name: found[name] if math.isfinite(found[name]) else None for name in ("ks", "wasserstein", "psi", "js")},
        null_rate=_null_rate(scan.current),
        reference_null_rate=_null_rate(scan.reference),
        new_rate=_new_rate(scan),
        statistic=deciding,
        value=found[deciding] if math.isfinite(found[deciding]) else None,
        threshold=float(limits[place]),
        severity=severity,
        drifted=severity > 1,
        why=why,
        bars=shown,
        usual=tuple(usual[np.isfinite(usual)].tolist()),
        by_rank=by_rank is not None and bool(by_rank.any()),
    )


def _statistics(scan: ColumnComparison) -> dict[str, float]:
    """Return every distance of the window from the reference; NaN where it is not defined."""
    distance = measure_distances(scan.reference.layout, scan.current.tally, scan.reference.tally, scan.reference.spread)
    found = {name: float(value[0]) for name, value in distance.items()}
    if scan.reference.spread > 0:
        found["wasserstein"] += scan.current.crossing / scan.reference.spread
    return found


def report_broken_column(name: str, role: str, kind: str, why: str) -> ColumnDrift:
    """Return what is said of a column that cannot be compared: it has drifted."""
    return ColumnDrift(name, role, kind, severity=math.inf, drifted=True, why=why)


def _severity(value: float, limit: float) -> float:
    if math.isnan(value):
        return -1.0  # undefined: any other statistic decides
    if not value:
        return 0.0
    return value / limit if limit > 0 else math.inf


def _null_rate(column: Column) -> float:
    return float(column.tally.nulls[0] / max(column.tally.rows[0], 1))


def _new_rate(scan: ColumnComparison) -> float | None:
    layout = scan.reference.layout
    if layout.kind != CATEGORICAL or layout.known is None:
        return None
    return float(scan.current.tally.cells[0, -1] / max(scan.current.tally.rows[0], 1))


def _words(scan: ColumnComparison, statistic: str) -> str:
    if statistic == "null_rate":
        return f"null in {_null_rate(scan.current):.2%} of the rows, in the reference in {_null_rate(scan.reference):.2%}"
    if scan.current.strange:
        return f"{_new_rate(scan) or 0:.2%} of the rows have values that the reference lacks, e.g. {', '.join(map(repr, scan.current.strange))}"
    if statistic == "js":
        moved = max(bars(scan), key=lambda bar: abs(bar.current - bar.reference))
        return f"{moved.label} in {moved.current:.1%} of the rows, in the reference in {moved.reference:.1%}"
    which = "mean" if statistic == "wasserstein" else "median"
    now, before = scan.current.facts.get(which), scan.reference.facts.get(which)
    return "no values to compare" if now is None or before is None else f"{which} {now:.4g}, in the reference {before:.4g}"


def bars(scan: ColumnComparison) -> tuple[HistogramBar, ...]:
    """Return shares of the values for a chart: a histogram between the reference's percentiles, or the most frequent categories.

    Parameters
    ----------
    scan
        The column.
    """
    layout, tallies = scan.reference.layout, (scan.reference.tally, scan.current.tally)
    if layout.kind == NUMERIC and len(layout.edges) > 1:
        labels, shares = _histogram(scan)
    else:
        labels, counts = layout.labels(), [layout.bins(tally)[0] for tally in tallies]
        shares = [count / max(count.sum(), 1) for count in counts]
    kept = [HistogramBar(label, float(a), float(b)) for label, a, b in zip(labels, *shares, strict=True)]
    if layout.kind != CATEGORICAL:
        return tuple(bar for bar in kept if bar.reference or bar.current or not bar.label.startswith(_EXTRA))
    return _most_frequent([bar for bar in kept if bar.reference or bar.current])


_EXTRA = ("other", "new", "null", "infinite", "below", "above")  # left out when empty


def _most_frequent(kept: list[HistogramBar]) -> tuple[HistogramBar, ...]:
    named = sorted((bar for bar in kept if bar.label not in _EXTRA), key=lambda bar: (-max(bar.reference, bar.current), bar.label))
    rest = [*named[CATEGORIES:], *(bar for bar in kept if bar.label == "other")]
    pooled = [HistogramBar("other", sum(bar.reference for bar in rest), sum(bar.current for bar in rest))] if rest else []
    return (*named[:CATEGORIES], *pooled, *(bar for bar in kept if bar.label in _EXTRA[1:]))


def _histogram(scan: ColumnComparison) -> tuple[list[str], list[np.ndarray]]:
    points = scan.reference.layout.points
    steps = [np.cumsum(column.tally.cells[0])[:-1] for column in (scan.reference, scan.current)]
    inner = points[np.searchsorted(steps[0][1::2], np.array([0.01, 0.99]) * steps[0][-1])] if steps[0][-1] else points[[0, -1]]
    low, high = (inner[0], inner[1]) if inner[0] < inner[1] else (points[0], points[-1])
    edges = np.linspace(low, high, BARS + 1)
    shares = []
    for column, step in zip((scan.reference, scan.current), steps, strict=True):
        rows = max(column.tally.rows[0], 1)
        # Values equal to the lowest edge belong to the first bar after it.
        until = np.interp(edges, points, step[1::2])
        until[0] = np.interp(low, points, step[::2])
        parts = np.diff(np.concatenate([[0], until, [column.tally.values[0]]]))
        shares.append(np.concatenate([parts, [column.tally.nulls[0], column.tally.infinite[0]]]) / rows)
    middle = [f"{a:.4g} to {b:.4g}" for a, b in pairwise(edges)]
    return [f"below {low:.4g}", *middle, f"above {high:.4g}", "null", "infinite"], shares
