"""The 95th percentile of the durations of calls, and its interval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

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


def find_p95_interval(seconds: Sequence[float], confidence: float) -> tuple[float, float]:
    """Return the interval of the 95th percentile by order statistics, which holds for any distribution.

    With few durations an end is infinite: the slowest of 20 calls does not bound the percentile.

    Parameters
    ----------
    seconds : Sequence[float]
        The durations, in seconds.
    confidence : float
        The confidence of the interval.

    Returns
    -------
    tuple[float, float]
        The lower and the upper end, in seconds; NaN without durations.

    Examples
    --------
    >>> find_p95_interval([1.0] * 20, 0.95)
    (1.0, inf)
    >>> find_p95_interval([1.0] * 200, 0.95)
    (1.0, 1.0)
    """
    from scipy import stats  # type: ignore[import-untyped]  # it has no stubs

    ordered, n = sorted(seconds), len(seconds)
    if not n:
        return math.nan, math.nan
    low, high = (int(stats.binom.ppf(q, n, 0.95)) for q in ((1 - confidence) / 2, (1 + confidence) / 2))
    return (ordered[low - 1] if low else -math.inf), (ordered[high] if high < n else math.inf)
