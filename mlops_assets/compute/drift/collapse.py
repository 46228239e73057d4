"""Changes that always count as drift: a column that became empty or constant, or that shares no value with the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.drift.binning import CATEGORICAL, INFINITE, NULL, NUMERIC, label_category

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.compute.drift.column_drift import ColumnComparison, HistogramBar

MIN_VALUES = 30  # fewer values can be equal, or miss the reference, by chance
MAX_CHANCE = 1e-4  # the probability that independent rows of the reference all have the window's only value; above it, this may be chance
MAX_OVERLAP = 0.005  # two histograms with a smaller overlap count as disjoint


def describe_collapse(comparison: ColumnComparison, bars: Sequence[HistogramBar]) -> str:
    """Return how a column collapsed; empty for a column that did not collapse.

    Parameters
    ----------
    comparison
        The column.
    bars
        The bars of the column's chart, from :func:`mlops_assets.compute.drift.column_drift.draw_bars`.
    """
    window, calibration = comparison.current.counts, comparison.calibration
    if calibration.always_filled and not window.values[0] and not window.infinite[0]:
        return "no row has a value; every window of the reference had some"
    if window.values[0] < MIN_VALUES:
        return ""
    if (
        not calibration.ever_constant
        and (value := _find_only_value(comparison)) is not None
        and not (comparison.history and comparison.history.was_concentrated(value))
        and _measure_reference_share(comparison, value) ** float(window.values[0]) < MAX_CHANCE
    ):
        return f"every value is {label_category(value)}; no window of the reference had one value only"
    if comparison.is_narrow:
        return ""
    return "no value in common with the reference" if _is_out_of_range(comparison) or _measure_overlap(bars) < MAX_OVERLAP else ""


def _find_only_value(comparison: ColumnComparison) -> str | None:
    """Return the only value of the window's rows that are not null, as text.

    None when the rows have several values, no value or an infinite value, or when the column is counted by presence only.
    """
    facts, binning = comparison.current.facts, comparison.reference.binning
    if binning.kind == NUMERIC:
        is_constant = facts.get("min") is not None and facts["min"] == facts.get("max") and not comparison.current.counts.infinite[0]
        return f"{facts['min']:.6g}" if is_constant else None
    return comparison.current.only_category if binning.kind == CATEGORICAL else None


def _measure_reference_share(comparison: ColumnComparison, value: str) -> float:
    """Return the share of the reference's values that equal the window's only value; 0 for a value without a separate cell."""
    binning, counts = comparison.reference.binning, comparison.reference.counts
    if binning.kind == CATEGORICAL:
        cell = binning.values.index(value) if value in binning.values else None
    else:
        matches = np.flatnonzero(binning.points == comparison.current.facts["min"])
        cell = 2 * int(matches[0]) + 1 if len(matches) else None
    return 0.0 if cell is None else float(counts.cells[0, cell] / max(counts.values[0], 1))


def _is_out_of_range(comparison: ColumnComparison) -> bool:
    """Return True if all numbers of a window lie above, or all below, the range of the reference; False without numbers."""
    ends = [column.facts.get(name) for column in (comparison.current, comparison.reference) for name in ("min", "max")]
    low, high, first, last = (np.nan if end is None else end for end in ends)
    return bool(low > last or high < first)


def _measure_overlap(bars: Sequence[HistogramBar]) -> float:
    """Return the overlap of the reference's and the window's histogram, from 0 to 1; 1 when either is empty.

    Nulls and infinite values are left out.
    """
    shares = np.array([(bar.reference, bar.current) for bar in bars if bar.label not in (NULL, INFINITE)]).reshape(-1, 2)
    totals = shares.sum(axis=0)
    return 1.0 if not totals.all() else float((shares / totals).min(axis=1).sum())
