"""Distances between windows and a reference, from their counts: for all windows at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mlops_assets.compute.drift.binning import Binning, Counts

EMPTY_SHARE = 1e-4  # the minimum share of a bin in the PSI, which an empty bin would make infinite


@dataclass(frozen=True, eq=False)
class Comparison:
    """The counts of one column in windows and in a reference, with the shares that several statistics use.

    Parameters
    ----------
    binning
        The binning of the column.
    windows
        The counts of the windows.
    reference
        Counts of the reference: one row for all windows, or one row per window.
    spread
        Standard deviation of the reference; the Wasserstein distance is divided by this value.
    correction
        The result of :func:`correct_crossings`, which is added to the Wasserstein distance of one window.
    """

    binning: Binning
    windows: Counts
    reference: Counts
    spread: float
    correction: float = 0.0

    @cached_property
    def bin_shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Shares by bin of the windows, shape (windows, bins), and of the reference, with one row or one per window."""
        return _to_shares(self.binning.bins(self.windows)), _to_shares(self.binning.bins(self.reference))

    @cached_property
    def cumulative_shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Cumulative shares by cell of the windows, shape (windows, cells), and of the reference, with one row or one per window."""
        return np.cumsum(_to_shares(self.windows.cells), axis=1), np.cumsum(_to_shares(self.reference.cells), axis=1)

    @property
    def undefined(self) -> np.ndarray:
        """The value of an undefined statistic: NaN for each window."""
        return np.full(len(self.windows.nulls), np.nan)

    def mask_empty(self, values: np.ndarray) -> np.ndarray:
        """Return values with NaN where a window or its reference has no finite value."""
        result: np.ndarray = np.where(self.windows.values * self.reference.values > 0, values, np.nan)
        return result


def measure_ks(comparison: Comparison) -> np.ndarray:
    """Return the Kolmogorov–Smirnov statistic max |F − G| at the binning's points for each window; NaN where it is undefined.

    Parameters
    ----------
    comparison
        The comparison of a numeric column.

    References
    ----------
    Kolmogorov (1933) and Smirnov (1939).
    """
    if not len(comparison.binning.points):
        return comparison.undefined
    shares, expected = comparison.cumulative_shares
    return comparison.mask_empty(np.abs(shares - expected).max(axis=1))


def measure_wasserstein(comparison: Comparison) -> np.ndarray:
    """Return the Wasserstein-1 distance ∫ |F − G| dx of each window, in standard deviations of the reference.

    The distance is NaN where a window has no finite value, and for all windows when the reference is empty or constant.

    Parameters
    ----------
    comparison
        The comparison of a numeric column.

    References
    ----------
    Vallender (1974), Calculation of the Wasserstein distance between probability distributions on the line.
    """
    points, spread = comparison.binning.points, comparison.spread
    if not len(points) or not spread > 0:
        return comparison.undefined
    with np.errstate(over="ignore", invalid="ignore"):  # distances of numbers near the limits of float64 overflow
        distance = _wasserstein(points, comparison.windows, comparison.reference, *comparison.cumulative_shares) / spread
    return comparison.mask_empty(distance + comparison.correction / spread)


def measure_js(comparison: Comparison) -> np.ndarray:
    """Return the Jensen–Shannon distance of each window over the bins.

    Parameters
    ----------
    comparison
        The comparison of any column.
    """
    return compute_jensen_shannon(*comparison.bin_shares)


def measure_psi(comparison: Comparison) -> np.ndarray:
    """Return the population stability index of each window over the bins.

    Parameters
    ----------
    comparison
        The comparison of any column.
    """
    return compute_psi(*comparison.bin_shares)


def measure_null_rate_change(comparison: Comparison) -> np.ndarray:
    """Return the absolute change of the null rate of each window, from 0 to 1.

    Parameters
    ----------
    comparison
        The comparison of any column.
    """
    windows, reference = comparison.windows, comparison.reference
    result: np.ndarray = np.abs(windows.nulls / np.maximum(windows.rows, 1) - reference.nulls / np.maximum(reference.rows, 1))
    return result


def compute_psi(shares: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return Σ (p − q) ln(p / q) over the bins of each window; a share below 0.0001 counts as 0.0001.

    Parameters
    ----------
    shares, expected
        Shares by bin, shape (windows, bins); each row sums to 1.

    References
    ----------
    Karakoulas (2004), Empirical validation of retail credit-scoring models; it is Jeffreys' divergence (1946).
    """
    p, q = np.maximum(shares, EMPTY_SHARE), np.maximum(expected, EMPTY_SHARE)
    result: np.ndarray = ((p - q) * np.log(p / q)).sum(axis=1)
    return result


def compute_jensen_shannon(shares: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the Jensen–Shannon distance of each window in base 2, from 0 (equal) to 1 (nothing in common).

    Parameters
    ----------
    shares, expected
        Shares by bin, shape (windows, bins); each row sums to 1.

    References
    ----------
    Endres and Schindelin (2003), A new metric for probability distributions.
    """
    middle = (shares + expected) / 2
    divergence = (_relative_entropy(shares, middle) + _relative_entropy(expected, middle)) / 2
    result: np.ndarray = np.sqrt(np.maximum(divergence, 0))
    return result


def _relative_entropy(shares: np.ndarray, other: np.ndarray) -> np.ndarray:
    ratio = np.divide(shares, other, out=np.ones_like(shares + other), where=(shares > 0) & (other > 0))
    result: np.ndarray = (shares * np.log2(ratio)).sum(axis=1)
    return result


def _wasserstein(points: np.ndarray, windows: Counts, reference: Counts, steps: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return ∫ |F − G| dx of each window, from the cumulative shares ``steps`` of F and ``expected`` of G.

    Between two points, the integral is exact if F and G do not cross there. If they cross, both are taken as straight lines.
    """
    n, m = np.maximum(windows.values, 1)[:, None], np.maximum(reference.values, 1)[:, None]
    width = np.diff(points)
    area = _compute_areas(points, windows, steps, n) - _compute_areas(points, reference, expected, m)
    left, right = (steps - expected)[:, 1:-2:2], (steps - expected)[:, 2:-1:2]
    inside = np.where(left * right < 0, _crossing_area(left, right, width), np.abs(area)).sum(axis=1)
    below = [points[0] * counts.cells[:, :1] / size - counts.sums[:, :1] / size for counts, size in ((windows, n), (reference, m))]
    above = [counts.sums[:, -1:] / size - points[-1] * counts.cells[:, -1:] / size for counts, size in ((windows, n), (reference, m))]
    ends = np.abs(below[0] - below[1]) + np.abs(above[0] - above[1])
    result: np.ndarray = inside + ends[:, 0]
    return result


def correct_crossings(binning: Binning, ordered: np.ndarray, window: Counts, reference: Counts) -> float:
    """Return the Wasserstein distance of one window minus the estimate from its counts, in the column's unit.

    Counts do not show where two distribution functions cross between two points. The values of the window show where; between the points,
    the reference's function is taken as a straight line. Without values in the window or the reference, the difference is 0.

    Parameters
    ----------
    binning
        The cells and bins of the column.
    ordered
        The window's finite values, ascending.
    window, reference
        The counts of the window and of the reference.
    """
    if not len(ordered) or len(binning.points) < 2 or not reference.values[0]:
        return 0.0
    steps, expected = (np.cumsum(_to_shares(counts.cells)[0]) for counts in (window, reference))
    left, right = (steps - expected)[1:-2:2], (steps - expected)[2:-1:2]
    crossed = np.flatnonzero((left * right < 0) & (window.cells[0, 2:-1:2] > 0))
    rows = np.concatenate([[0], np.cumsum(window.cells[0])]).astype(int)
    first, count = rows[2 * crossed + 2], window.cells[0, 2 * crossed + 2].astype(int)
    # The window's function is a staircase: each cell has one step before each of its values, and one after the last value.
    cell = np.repeat(np.arange(len(crossed)), count + 1)
    step = np.arange(len(cell)) - np.repeat(np.cumsum(count + 1) - count - 1, count + 1)
    value = np.append(ordered, np.nan)
    low, high = binning.points[crossed][cell], binning.points[crossed + 1][cell]
    start = np.where(step == 0, low, value[first[cell] + step - 1])
    end = np.where(step == count[cell], high, value[np.minimum(first[cell] + step, len(ordered))])
    window_share = steps[2 * crossed + 1][cell] + step / len(ordered)
    base, rise = expected[2 * crossed + 1][cell], (expected[2 * crossed + 2] - expected[2 * crossed + 1])[cell] / (high - low)
    exact = _area_to_line(window_share - base - rise * (start - low), window_share - base - rise * (end - low), end - start)
    return float(exact.sum() - _crossing_area(left[crossed], right[crossed], np.diff(binning.points)[crossed]).sum())


def _area_to_line(left: np.ndarray, right: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return the area between zero and a straight line from ``left`` to ``right``."""
    return np.where(left * right < 0, _crossing_area(left, right, width), np.abs(left + right) / 2 * width)


def _crossing_area(left: np.ndarray, right: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return the area between zero and a straight line from ``left`` to ``right``, which have opposite signs."""
    slopes = np.abs(left) + np.abs(right)
    result: np.ndarray = width * np.divide(left**2 + right**2, 2 * slopes, out=np.zeros(slopes.shape), where=slopes > 0)
    return result


def _compute_areas(points: np.ndarray, counts: Counts, steps: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the area under the distribution function between each two neighbouring points, shape (windows, points − 1)."""
    result: np.ndarray = steps[:, 1:-2:2] * np.diff(points) + (points[1:] * counts.cells[:, 2:-1:2] - counts.sums[:, 1:-1]) / rows
    return result


def _to_shares(counts: np.ndarray) -> np.ndarray:
    result: np.ndarray = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return result
