"""Distances between windows and a reference, from their counts: for all windows at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.cells import NUMERIC

if TYPE_CHECKING:
    from mlops_assets.compute.cells import Layout, Tally

# What an empty bin counts as in the PSI, which is infinite otherwise.
EMPTY_SHARE = 1e-4


def distances(layout: Layout, windows: Tally, reference: Tally, spread: float) -> dict[str, np.ndarray]:
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
    """
    bins, expected = (_shares(layout.bins(tally)) for tally in (windows, reference))
    nulls = np.abs(windows.nulls / np.maximum(windows.rows, 1) - reference.nulls / np.maximum(reference.rows, 1))
    found = {"js": jensen_shannon(bins, expected), "psi": population_stability_index(bins, expected), "null_rate": nulls}
    missing = np.full(len(windows.nulls), np.nan)
    if layout.kind != NUMERIC or not len(layout.points):
        return {"ks": missing, "wasserstein": missing, **found}
    steps, expected_steps = (np.cumsum(_shares(tally.cells), axis=1) for tally in (windows, reference))
    known = windows.values * reference.values > 0
    ks = np.where(known, np.abs(steps - expected_steps).max(axis=1), np.nan)
    wasserstein = np.where(known, _wasserstein(layout.points, windows, reference, steps, expected_steps), np.nan)
    return {"ks": ks, "wasserstein": wasserstein / spread if spread > 0 else missing, **found}


def population_stability_index(shares: np.ndarray, expected: np.ndarray) -> np.ndarray:
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


def jensen_shannon(shares: np.ndarray, expected: np.ndarray) -> np.ndarray:
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


def _wasserstein(points: np.ndarray, windows: Tally, reference: Tally, steps: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return ∫ |F − G| dx. Exact where the two distribution functions do not cross between two points; there, as if both were straight."""
    n, m = np.maximum(windows.values, 1)[:, None], np.maximum(reference.values, 1)[:, None]
    width = np.diff(points)
    area = _areas(points, windows, steps, n) - _areas(points, reference, expected, m)
    left, right = (steps - expected)[:, 1:-2:2], (steps - expected)[:, 2:-1:2]
    slopes = np.abs(left) + np.abs(right)
    crossed = width * np.divide(left**2 + right**2, 2 * slopes, out=np.zeros_like(slopes), where=slopes > 0)
    inside = np.where(left * right < 0, np.maximum(crossed, np.abs(area)), np.abs(area)).sum(axis=1)
    below = [points[0] * tally.cells[:, :1] / size - tally.sums[:, :1] / size for tally, size in ((windows, n), (reference, m))]
    above = [tally.sums[:, -1:] / size - points[-1] * tally.cells[:, -1:] / size for tally, size in ((windows, n), (reference, m))]
    ends = np.abs(below[0] - below[1]) + np.abs(above[0] - above[1])
    result: np.ndarray = inside + ends[:, 0]
    return result


def _areas(points: np.ndarray, tally: Tally, steps: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the area under the distribution function between each two points."""
    result: np.ndarray = steps[:, 1:-2:2] * np.diff(points) + (points[1:] * tally.cells[:, 2:-1:2] - tally.sums[:, 1:-1]) / rows
    return result


def _shares(counts: np.ndarray) -> np.ndarray:
    result: np.ndarray = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return result
