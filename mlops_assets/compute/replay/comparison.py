"""Compare policies over windows: a block bootstrap of the differences of their metrics.

Differences of neighbouring windows are correlated, because a version serves many windows. Blocks of consecutive windows are therefore
drawn with replacement, on a circle (D. Politis, J. Romano, *A circular block-resampling procedure for stationary data*, 1992). The interval
is widened by Student's quantile for the number of blocks, since few blocks make a percentile interval too narrow.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.replay.result import PolicyComparison, PolicyResult

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_WINDOWS = 6
_DRAWS = 4_000
CONFIDENCE = 0.95


def compare_policies(policies: Sequence[PolicyResult], metric: str) -> tuple[PolicyComparison, ...]:
    """Return the comparison of each pair of policies, in the order of ``policies``.

    Parameters
    ----------
    policies
        Results over the same windows.
    metric
        A metric of the windows; greater is better.
    """
    return tuple(_compare(first, second, metric) for first, second in combinations(policies, 2))


def _compare(first: PolicyResult, second: PolicyResult, metric: str) -> PolicyComparison:
    pairs = zip(first.windows, second.windows, strict=True)
    differences = np.array([a.metrics[metric] - b.metrics[metric] for a, b in pairs])
    defined = differences[np.isfinite(differences)]
    mean = float(defined.mean()) if len(defined) else math.nan
    return PolicyComparison(first.policy, second.policy, mean, *estimate_interval(defined), len(defined))


def estimate_interval(differences: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of the mean of consecutive differences; NaN with fewer than six windows.

    Parameters
    ----------
    differences
        One for each window, in order of time, shape (windows,).
    confidence
        The confidence level of the two-sided interval.
    """
    count = len(differences)
    if count < MIN_WINDOWS:
        return math.nan, math.nan
    if not differences.any():
        return 0.0, 0.0
    from scipy import stats  # type: ignore[import-untyped]  # it has no stubs

    length = max(1, round(count ** (1 / 3)))
    blocks = -(-count // length)
    starts = np.random.default_rng(0).integers(0, count, size=(_DRAWS, blocks))
    drawn = differences[(starts[:, :, None] + np.arange(length)) % count].reshape(_DRAWS, -1)[:, :count].mean(axis=1)
    mean = float(differences.mean())
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2]) - mean
    freedom = max(1, count // length - 1)
    widening = float(stats.t.ppf((1 + confidence) / 2, freedom) / stats.norm.ppf((1 + confidence) / 2)) * math.sqrt((freedom + 1) / freedom)
    return mean + float(low) * widening, mean + float(high) * widening
