"""The tail of a statistic over windows without drift, extrapolated to rates below 1 / windows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TAIL_SHARE = 0.25  # of the windows, to which a tail is fitted
_TINY = 1e-30
_EXPONENTIAL_VARIATION, _MAX_SHAPE = 1.2, 0.4  # the coefficient of variation that few exponential values can have by chance
_MAX_CORRELATION, _MIN_INDEPENDENT = 0.9, 3.0


@dataclass(frozen=True)
class ExponentialTail:
    """The upper tail of a statistic above a level: exponential, or heavier.

    Parameters
    ----------
    level, excess
        The tail begins at ``level``. A value in the tail exceeds ``level`` by ``excess`` on average.
    above, windows
        The number of windows in the tail, and of all windows of the sample.
    shape
        ξ of the generalised Pareto distribution; 0 for an exponential tail.
    """

    level: float
    excess: float
    above: int
    windows: int
    shape: float = 0.0

    @classmethod
    def fit(cls, values: np.ndarray, share: float = TAIL_SHARE, *, heavy: bool = True) -> ExponentialTail:
        """Fit the tail to the highest values of a sample of shape (windows,): to ``share`` of them, and at least one.

        With ``heavy``, values that vary more than exponential values get a heavier tail (method of moments, Hosking and Wallis 1987).
        """
        ordered = np.sort(values)
        above = max(1, int(len(ordered) * share))
        level = float(ordered[-above - 1])
        excesses = ordered[-above:] - level
        mean = float(excesses.mean())
        variation = float(excesses.std()) / mean if mean > 0 else 0.0
        shape = min((1 - variation**-2) / 2, _MAX_SHAPE) if heavy and variation > _EXPONENTIAL_VARIATION else 0.0
        return cls(level, mean, above, len(ordered), shape)

    @property
    def tail_probability(self) -> float:
        """The probability that a new window is in the tail."""
        return self.above / (self.windows + 1)

    def quantile(self, rate: float) -> float:
        """Return the value that a new window exceeds with probability ``rate``; ``level`` if the rate is at least ``tail_probability``.

        This is the predictive quantile, which allows for the error of the fitted mean.
        """
        if rate >= self.tail_probability:
            return self.level
        beyond = self.above * math.expm1(math.log(self.tail_probability / rate) / self.above)
        if self.shape:
            beyond = max(beyond, (1 - self.shape) / self.shape * math.expm1(self.shape * math.log(self.tail_probability / rate)))
        return self.level + self.excess * beyond

    def leave_one_out_rates(self, values: np.ndarray) -> np.ndarray:
        """Return each window's exceedance probability under a tail fitted to the other windows of the sample; at most ``tail_probability``.

        A tail that is fitted to a sample with a window overstates this window's exceedance probability.
        """
        beyond = np.maximum(values - self.level, 0)
        others = max(self.above - 1, 1)
        rest = np.maximum(self.above * self.excess - beyond, _TINY)
        result: np.ndarray = np.maximum(self.tail_probability * np.exp(-others * np.log1p(beyond / rest)), _TINY)
        return result


def count_effective_tests(min_rates: np.ndarray, share: float, maximum: int) -> float:
    """Return the effective number n of independent tests: the minimum of n rates is below x in a share n x of the windows.

    Parameters
    ----------
    min_rates
        The minimum rate of each window, shape (windows,).
    share
        The share of windows at which n is estimated. A smaller share has few windows and shows one column's tail, not the correlation
        of columns.
    maximum
        The number of tests, which n does not exceed.
    """
    quantile = float(np.quantile(min_rates, share))
    return min(max(share / quantile, 1.0), float(max(maximum, 1)))


def count_independent(values: np.ndarray) -> float:
    """Return the number of independent windows that are as informative as windows in the order of time, at least 3.

    When neighbours have correlation r, it is the number of windows times (1 − r) / (1 + r) (Bayley and Hammersley 1946).

    Parameters
    ----------
    values
        A statistic of each window, shape (windows,).
    """
    centred = values - values.mean()
    square = float(centred @ centred)
    r = min(max(float(centred[1:] @ centred[:-1]) / square, 0.0), _MAX_CORRELATION) if square > 0 else 0.0
    return max(len(values) * (1 - r) / (1 + r), _MIN_INDEPENDENT)
