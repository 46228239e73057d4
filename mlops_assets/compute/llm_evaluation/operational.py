"""Percentiles of the durations of calls, and their intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def measure_percentile(seconds: Sequence[float], share: float) -> float:
    """Return a nearest-rank percentile of durations; NaN if there are no durations or one is NaN.

    Parameters
    ----------
    seconds : Sequence[float]
        The durations, in seconds: infinite for a failed call, NaN for an unknown one.
    share : float
        The percentile, between 0 and 1.

    Returns
    -------
    float
        The percentile, in seconds.

    Examples
    --------
    >>> measure_percentile([0.1] * 95 + [2.0] * 5, 0.95)
    0.1
    """
    if not seconds or any(map(math.isnan, seconds)):
        return math.nan
    return float(sorted(seconds)[math.ceil(share * len(seconds)) - 1])


def find_percentile_interval(seconds: Sequence[float], share: float, confidence: float) -> tuple[float, float]:
    """Return the confidence interval of a percentile by order statistics, which is valid for any distribution.

    With few durations, an end is infinite: the slowest of 20 calls does not bound the percentile.

    Parameters
    ----------
    seconds : Sequence[float]
        The durations, in seconds: infinite for a failed call, NaN for an unknown one.
    share : float
        The percentile, between 0 and 1.
    confidence : float
        The confidence of the interval.

    Returns
    -------
    tuple[float, float]
        The lower and the upper end, in seconds; NaN if there are no durations or one is NaN.

    Examples
    --------
    >>> find_percentile_interval([1.0] * 20, 0.95, confidence=0.95)
    (1.0, inf)
    >>> find_percentile_interval([1.0] * 200, 0.95, confidence=0.95)
    (1.0, 1.0)
    """
    from scipy import stats  # type: ignore[import-untyped]  # it has no stubs

    ordered, n = sorted(seconds), len(seconds)
    if not n or any(map(math.isnan, seconds)):
        return math.nan, math.nan
    low, high = (int(stats.binom.ppf(q, n, share)) for q in ((1 - confidence) / 2, (1 + confidence) / 2))
    return (ordered[low - 1] if low else -math.inf), (ordered[high] if high < n else math.inf)
