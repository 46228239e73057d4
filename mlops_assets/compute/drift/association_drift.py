"""Evaluate the associations between columns in a window, and find the columns that break associations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.drift.associations import Association, ColumnCodes
from mlops_assets.compute.drift.statistic_changes import StatisticChanges, StatisticWindows, compare_with_past

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from mlops_assets.compute.drift.column_drift import ColumnDrift

ASSOCIATION = "association with "  # followed by the other column


def evaluate_associations(
    stored: Mapping[str, Any], samples: Mapping[str, pl.Series], columns: Sequence[ColumnDrift], rate: float, min_psi: float
) -> list[ColumnDrift]:
    """Return the reports of columns; columns that break associations are reported as drifted.

    Parameters
    ----------
    stored
        The result of :func:`mlops_assets.compute.drift.associations.find_associations`.
    samples
        Column → rows of the window, the same rows of each column.
    columns
        The reports of columns by the other views. A drifted column explains each of its broken associations.
    rate
        The probability of an alarm for any association of a window without drift.
    min_psi
        The minimum effect as a PSI. For small changes, half of it is the mean change of ln(lift).
    """
    pairs = [pair for pair in map(Association.from_json, stored["pairs"]) if set(pair.columns) <= set(samples)]
    if not pairs:
        return list(columns)
    codes = {
        name: ColumnCodes.from_json(stored["codes"][name]).encode(samples[name]) for name in {n for pair in pairs for n in pair.columns}
    }
    current = np.array([pair.measure(*(codes[name] for name in pair.columns)) for pair in pairs])
    rows, variances = np.array(stored["rows"]), np.array([pair.variance for pair in pairs])
    past = np.stack([pair.history for pair in pairs], axis=1)
    sampled = len(next(iter(codes.values())))
    # Values that do not fit the reference lower the lift; the sign is inverted, so that drift is an increase.
    windows = StatisticWindows(
        -past,
        -current,
        variances / np.maximum(rows, 1)[:, None],
        variances / max(sampled, 1),
        np.full(len(pairs), min_psi / 2),
        np.ones(len(pairs), dtype=bool),
    )
    changes = compare_with_past(windows, rate)
    blamed = _choose_drifted_columns(pairs, changes.severities, {column.name for column in columns if column.drifted})
    return [
        _report(column, pairs[blamed[column.name]], blamed[column.name], current, changes) if column.name in blamed else column
        for column in columns
    ]


def _choose_drifted_columns(pairs: Sequence[Association], severities: np.ndarray, drifted: set[str]) -> dict[str, int]:
    """Return column → its worst pair, for a small set of columns that covers every broken pair of columns that have not drifted."""
    broken = [k for k, pair in enumerate(pairs) if severities[k] > 1 and not set(pair.columns) & drifted]
    blamed: dict[str, int] = {}
    while broken:
        totals = {name: 0.0 for k in broken for name in pairs[k].columns}
        for k in broken:
            for name in pairs[k].columns:
                totals[name] += float(severities[k])
        for k, pair in enumerate(pairs):  # of two columns with the same broken pairs, the one whose other pairs are worse
            for name in set(pair.columns) & set(totals):
                totals[name] += 1e-3 * max(float(severities[k]), 0.0)
        worst = max(totals, key=lambda name: (totals[name], name))
        blamed[worst] = max((k for k in broken if worst in pairs[k].columns), key=lambda k: float(severities[k]))
        broken = [k for k in broken if worst not in pairs[k].columns]
    return blamed


def _report(column: ColumnDrift, pair: Association, place: int, current: np.ndarray, changes: StatisticChanges) -> ColumnDrift:
    """Return the report of a column that breaks an association."""
    other = next(name for name in pair.columns if name != column.name)
    change, limit = float(changes.changes[place]), float(changes.limits[place])
    low, high = float(pair.history.min()), float(pair.history.max())
    return replace(
        column,
        statistic=ASSOCIATION + other,
        value=change,
        threshold=limit,
        severity=change / limit,
        drifted=True,
        why=(
            f"its values do not fit those of {other} as before: mean ln(lift) {current[place]:.3g}, in the reference windows "
            f"{low:.3g} to {high:.3g}; changed by {change:.3g}, threshold {limit:.3g}"
        ),
        reference_values=tuple(changes.reference_values[:, place].tolist()),
    )
