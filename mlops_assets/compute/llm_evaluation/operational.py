"""Operational measures of calls: the share of errors, and the 95th percentile of durations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def measure_p95(seconds: Sequence[float]) -> float:
    """Return the nearest-rank 95th percentile of durations; NaN without any.

    Parameters
    ----------
    seconds : Sequence[float]
        The durations, in seconds.

    Returns
    -------
    float
        The percentile, in seconds.

    Examples
    --------
    >>> measure_p95([0.1] * 95 + [2.0] * 5)
    0.1
    """
    if not seconds:
        return math.nan
    return float(sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1])


def resample_p95(seconds: Sequence[float], seed: int, confidence: float) -> tuple[float, float]:
    """Return the percentile bootstrap interval of :func:`measure_p95`; NaN for less than two durations.

    Parameters
    ----------
    seconds : Sequence[float]
        The durations, in seconds.
    seed : int
        The seed of the draws.
    confidence : float
        The confidence of the interval.

    Returns
    -------
    tuple[float, float]
        The lower and the upper end, in seconds.

    Examples
    --------
    >>> resample_p95([1.0] * 20, 0, 0.95)
    (1.0, 1.0)
    """
    if len(seconds) < 2:
        return math.nan, math.nan
    draws = np.random.default_rng(seed).choice(np.asarray(seconds, dtype=float), size=(1000, len(seconds)))
    rank = math.ceil(0.95 * len(seconds)) - 1
    upper = (1 + confidence) / 2
    low, high = np.quantile(np.sort(draws, axis=1)[:, rank], [1 - upper, upper])
    return float(low), float(high)
