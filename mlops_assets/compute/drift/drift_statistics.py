"""The drift statistics: a table with the name, the measure and the minimum effect of each.

A new statistic is one more entry of :data:`STATISTICS`. Calibration, thresholds, reports and pages follow the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.drift.binning import CATEGORICAL, NUMERIC, PRESENCE
from mlops_assets.compute.drift.distances import (
    compute_jensen_shannon,
    measure_js,
    measure_ks,
    measure_null_rate_change,
    measure_psi,
    measure_wasserstein,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlops_assets.compute.drift.binning import Binning, Counts
    from mlops_assets.compute.drift.distances import Comparison

MEAN, MEDIAN, BIN, NULLS = "mean", "median", "bin", "nulls"  # the figures that can explain a drift, see Statistic.explained_by
_MISSING_BINS = 2  # the last bins hold null and infinite values


@dataclass(frozen=True)
class Statistic:
    """The definition of a distance between a window and the reference: one entry of :data:`STATISTICS`.

    Parameters
    ----------
    name
        The key of the statistic in stored calibrations and reports.
    label, short
        The statistic's name on pages, and its shorter name as a column heading.
    kinds
        The kinds of columns for which the statistic is defined, see :func:`mlops_assets.compute.drift.binning.find_kind`.
    measure
        A function that returns the statistic of each window, shape (windows,); NaN where it is undefined.
    min_effect
        A function from the minimum effect that the monitor declares, a PSI, to the minimum of this statistic that counts as drift.
    maximum
        A function that returns the largest attainable value for a reference, or infinity; no threshold is above this value.
    explained_by
        The figure with which a report explains a drift: ``mean``, ``median``, ``bin`` (the bin that changed most) or ``nulls``.
    counts_nulls
        True if the sample size is the number of all rows; False if it is the number of rows with a finite value.
    decides
        Whether a column drifts when the statistic exceeds its threshold; if not, the statistic is only reported.
    reported
        Whether reports have a column for the statistic.
    saturates
        Whether most windows of some columns nearly reach the maximum: of columns that are constant within a window, and of rows with a
        shared shift. The statistic does not decide for these columns.
    """

    name: str
    label: str
    short: str
    kinds: frozenset[str]
    measure: Callable[[Comparison], np.ndarray]
    min_effect: Callable[[float], float]
    maximum: Callable[[Binning, Counts], float]
    explained_by: str
    counts_nulls: bool = False
    decides: bool = True
    reported: bool = True
    saturates: bool = False


def _no_maximum(_binning: Binning, _reference: Counts) -> float:
    return math.inf


def _max_ks(binning: Binning, _reference: Counts) -> float:
    """Return 1, the value for a window whose values all lie above, or all below, the reference; infinite for an empty reference."""
    return 1.0 if len(binning.points) else math.inf


def _max_js(binning: Binning, reference: Counts) -> float:
    """Return the Jensen–Shannon distance of a window with all rows in the reference's rarest bin; infinite for an empty reference.

    The bins of null and infinite values do not count as the rarest.
    """
    counts = binning.bins(reference)
    bins = counts.shape[1] - _MISSING_BINS
    if not counts.sum() or bins < 1:
        return math.inf
    windows = np.eye(bins, counts.shape[1])
    return float(compute_jensen_shannon(windows, counts / counts.sum()).max())


def _max_null_rate_change(_binning: Binning, reference: Counts) -> float:
    """Return the larger change of the null rate: to a window without nulls, or to a window with nulls only."""
    rate = float(reference.nulls[0] / max(reference.rows[0], 1))
    return max(rate, 1 - rate)


_NUMBERS, _ALL = frozenset({NUMERIC}), frozenset({NUMERIC, CATEGORICAL, PRESENCE})

# When the mean of a normal column shifts by √psi standard deviations, its PSI is psi. The minimum effects of ks, wasserstein and js (to
# second order) are the values of these statistics for this shift. A null rate that rises from 0 to its minimum effect has the same js.
STATISTICS: dict[str, Statistic] = {
    statistic.name: statistic
    for statistic in (
        Statistic(
            "ks",
            "Kolmogorov–Smirnov",
            "KS",
            _NUMBERS,
            measure_ks,
            lambda psi: math.erf(math.sqrt(psi / 8)),
            _max_ks,
            MEDIAN,
            saturates=True,
        ),
        Statistic(
            "wasserstein", "Wasserstein (standard deviations)", "Wasserstein", _NUMBERS, measure_wasserstein, math.sqrt, _no_maximum, MEAN
        ),
        Statistic("psi", "population stability index", "PSI", _ALL, measure_psi, lambda psi: psi, _no_maximum, BIN, True, decides=False),  # noqa: FBT003  (in order)
        Statistic(
            "js",
            "Jensen–Shannon",
            "JS",
            _ALL,
            measure_js,
            lambda psi: math.sqrt(psi / (8 * math.log(2))),
            _max_js,
            BIN,
            counts_nulls=True,
            saturates=True,
        ),
        Statistic(
            "null_rate",
            "change of the null rate",
            "null rate",
            _ALL,
            measure_null_rate_change,
            lambda psi: psi / (4 * math.log(2)),
            _max_null_rate_change,
            NULLS,
            counts_nulls=True,
            reported=False,  # reports have both rates
        ),
    )
}


def deciding_statistics() -> tuple[Statistic, ...]:
    """Return the statistics that decide whether a column drifts, in the order of the arrays of calibrations and thresholds."""
    return tuple(statistic for statistic in STATISTICS.values() if statistic.decides)


def reported_statistics() -> tuple[Statistic, ...]:
    """Return the statistics that reports and pages have a column for."""
    return tuple(statistic for statistic in STATISTICS.values() if statistic.reported)


def name_statistic(name: str, *, short: bool = False) -> str:
    """Return the name of a statistic on pages; names of window statistics and associations are returned unchanged."""
    if name not in STATISTICS:
        return name
    return STATISTICS[name].short if short else STATISTICS[name].label


def measure_statistics(comparison: Comparison, statistics: Iterable[Statistic] | None = None) -> dict[str, np.ndarray]:
    """Return statistics of each window: name → values of shape (windows,), NaN where the statistic is undefined.

    Parameters
    ----------
    comparison
        The windows and the reference.
    statistics
        The statistics to measure; every statistic when None.
    """
    kind, chosen = comparison.binning.kind, STATISTICS.values() if statistics is None else statistics
    return {s.name: s.measure(comparison) if kind in s.kinds else comparison.undefined for s in chosen}


def min_effects(psi: float) -> np.ndarray:
    """Return the minimum that counts as drift for each deciding statistic, shape (statistics,).

    Parameters
    ----------
    psi
        The minimum effect as a population stability index.
    """
    return np.array([statistic.min_effect(psi) for statistic in deciding_statistics()])


def max_values(binning: Binning, reference: Counts) -> np.ndarray:
    """Return the largest attainable value of each deciding statistic, shape (statistics,); infinite where there is none.

    Parameters
    ----------
    binning
        The binning of the column.
    reference
        The counts of the column in the reference.
    """
    maxima = [s.maximum(binning, reference) if binning.kind in s.kinds else math.inf for s in deciding_statistics()]
    return np.array(maxima)


def sampling_variances(windows: Counts, reference: Counts) -> np.ndarray:
    """Return 1/n + 1/m of each deciding statistic and window, shape (statistics, windows).

    Parameters
    ----------
    windows, reference
        Counts; n and m are their rows with a finite value, or all rows where the statistic counts nulls, and at least 1.
    """
    by_value = 1 / np.maximum(windows.values, 1) + 1 / np.maximum(reference.values, 1)
    by_row = 1 / np.maximum(windows.rows, 1) + 1 / np.maximum(reference.rows, 1)
    return np.stack([by_row if statistic.counts_nulls else by_value for statistic in deciding_statistics()])
