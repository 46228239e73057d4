"""Distances between windows and a reference, from their counts: for all windows at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.monitoring.cells import NUMERIC

if TYPE_CHECKING:
    from mlops_assets.compute.monitoring.cells import Binning, Counts

# What an empty bin counts as in the PSI, which is infinite otherwise.
EMPTY_SHARE = 1e-4


def measure_distances(layout: Binning, windows: Counts, reference: Counts, spread: float) -> dict[str, np.ndarray]:
    """Return every distance of each window to the reference.

    Parameters
    ----------
    layout
        Where the column is cut.
    windows
        Counts of the windows.
    reference
        Counts to compare with: of one window for all, or of as many as there are windows.
    spread
        Standard deviation of the reference, the unit of the Wasserstein distance.

    Returns
    -------
    dict of str to numpy.ndarray
        ``ks``, ``wasserstein``, ``js``, ``psi`` and ``null_rate`` (absolute difference), each of shape (windows,); NaN where it is not defined.

    References
    ----------
    Kolmogorov (1933) and Smirnov (1939): sup |F − G|. Vallender (1974), Calculation of the Wasserstein distance between probability distributions
    on the line: ∫ |F − G| dx.
    """
    bins, expected = (_shares(layout.bins(tally)) for tally in (windows, reference))
    nulls = np.abs(windows.nulls / np.maximum(windows.rows, 1) - reference.nulls / np.maximum(reference.rows, 1))
    found = {"js": compute_jensen_shannon(bins, expected), "psi": compute_psi(bins, expected), "null_rate": nulls}
    missing = np.full(len(windows.nulls), np.nan)
    if layout.kind != NUMERIC or not len(layout.points):
        return {"ks": missing, "wasserstein": missing, **found}
    steps, expected_steps = (np.cumsum(_shares(tally.cells), axis=1) for tally in (windows, reference))
    known = windows.values * reference.values > 0
    ks = np.where(known, np.abs(steps - expected_steps).max(axis=1), np.nan)
    if not spread > 0:
        return {"ks": ks, "wasserstein": missing, **found}
    with np.errstate(over="ignore", invalid="ignore"):  # numbers at the end of the range have no distance
        wasserstein = _wasserstein(layout.points, windows, reference, steps, expected_steps) / spread
    return {"ks": ks, "wasserstein": np.where(known, wasserstein, np.nan), **found}


def compute_psi(shares: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return Σ (p − q) ln(p / q) over the bins, an empty bin counting as 0.0001.

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
    """Return the Jensen–Shannon distance in base 2, from 0 (equal) to 1 (nothing in common).

    Parameters
    ----------
    shares, expected
        Shares by bin, shape (windows, bins); each row sums to 1.

    References
    ----------
    Endres and Schindelin (2003), A new metric for probability distributions.
    """
    middle = (shares + expected) / 2
    divergence = (_relative(shares, middle) + _relative(expected, middle)) / 2
    result: np.ndarray = np.sqrt(np.maximum(divergence, 0))
    return result


def _relative(shares: np.ndarray, other: np.ndarray) -> np.ndarray:
    ratio = np.divide(shares, other, out=np.ones_like(shares + other), where=(shares > 0) & (other > 0))
    result: np.ndarray = (shares * np.log2(ratio)).sum(axis=1)
    return result


def _wasserstein(points: np.ndarray, windows: Counts, reference: Counts, steps: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return ∫ |F − G| dx. Exact where the two distribution functions do not cross between two points; there, as if both were straight."""
    n, m = np.maximum(windows.values, 1)[:, None], np.maximum(reference.values, 1)[:, None]
    width = np.diff(points)
    area = _areas(points, windows, steps, n) - _areas(points, reference, expected, m)
    left, right = (steps - expected)[:, 1:-2:2], (steps - expected)[:, 2:-1:2]
    inside = np.where(left * right < 0, _crossing(left, right, width), np.abs(area)).sum(axis=1)
    below = [points[0] * tally.cells[:, :1] / size - tally.sums[:, :1] / size for tally, size in ((windows, n), (reference, m))]
    above = [tally.sums[:, -1:] / size - points[-1] * tally.cells[:, -1:] / size for tally, size in ((windows, n), (reference, m))]
    ends = np.abs(below[0] - below[1]) + np.abs(above[0] - above[1])
    result: np.ndarray = inside + ends[:, 0]
    return result


def correct_crossings(layout: Binning, ordered: np.ndarray, window: Counts, reference: Counts) -> float:
    """Return by how much the Wasserstein distance of one window exceeds what its counts say, in the column's own unit.

    Where two distribution functions cross between two points, counts do not tell how; the window's values do.

    Parameters
    ----------
    layout
        Where the column is cut.
    ordered
        The window's finite values, ascending.
    window, reference
        Their counts.
    """
    if not len(ordered) or len(layout.points) < 2 or not reference.values[0]:
        return 0.0
    steps, expected = (np.cumsum(_shares(tally.cells)[0]) for tally in (window, reference))
    left, right = (steps - expected)[1:-2:2], (steps - expected)[2:-1:2]
    where = np.flatnonzero((left * right < 0) & (window.cells[0, 2:-1:2] > 0))
    rows = np.concatenate([[0], np.cumsum(window.cells[0])]).astype(int)
    first, count = rows[2 * where + 2], window.cells[0, 2 * where + 2].astype(int)
    # Each cell becomes one segment before each of its values, and one after the last.
    cell = np.repeat(np.arange(len(where)), count + 1)
    place = np.arange(len(cell)) - np.repeat(np.cumsum(count + 1) - count - 1, count + 1)
    value = np.append(ordered, np.nan)
    low, high = layout.points[where][cell], layout.points[where + 1][cell]
    start = np.where(place == 0, low, value[first[cell] + place - 1])
    end = np.where(place == count[cell], high, value[np.minimum(first[cell] + place, len(ordered))])
    mine = steps[2 * where + 1][cell] + place / len(ordered)
    base, rise = expected[2 * where + 1][cell], (expected[2 * where + 2] - expected[2 * where + 1])[cell] / (high - low)
    exact = _between(mine - base - rise * (start - low), mine - base - rise * (end - low), end - start)
    return float(exact.sum() - _crossing(left[where], right[where], np.diff(layout.points)[where]).sum())


def _between(left: np.ndarray, right: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return the area between zero and a straight line from ``left`` to ``right``."""
    return np.where(left * right < 0, _crossing(left, right, width), np.abs(left + right) / 2 * width)


def _crossing(left: np.ndarray, right: np.ndarray, width: np.ndarray) -> np.ndarray:
    slopes = np.abs(left) + np.abs(right)
    result: np.ndarray = width * np.divide(left**2 + right**2, 2 * slopes, out=np.zeros(slopes.shape), where=slopes > 0)
    return result


def _areas(points: np.ndarray, tally: Counts, steps: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the area under the distribution function between each two points."""
    result: np.ndarray = steps[:, 1:-2:2] * np.diff(points) + (points[1:] * tally.cells[:, 2:-1:2] - tally.sums[:, 1:-1]) / rows
    return result


def _shares(counts: np.ndarray) -> np.ndarray:
    result: np.ndarray = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return result
