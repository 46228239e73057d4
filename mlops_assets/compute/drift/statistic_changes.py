"""The change of a window's statistics against thresholds learned from the reference windows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlops_assets.compute.drift.exponential_tail import TAIL_SHARE, ExponentialTail, count_effective_tests, count_independent

MIN_HISTORY = 8  # windows in which a statistic must be defined
_MAX_SURPRISE = 600.0  # -ln of the smallest probability that is distinguished


@dataclass(frozen=True, eq=False)
class StatisticWindows:
    """Statistics of the reference windows and of the window to evaluate.

    Parameters
    ----------
    past
        Shape (windows, statistics), in the order of time; NaN where a statistic is undefined.
    current
        Shape (statistics,).
    past_variances, current_variances
        The sampling variances of the statistics, of the same shapes.
    min_effects
        The minimum change that counts as drift, shape (statistics,); NaN for a statistic that is not evaluated.
    only_increases
        Whether only an increase counts as drift, shape (statistics,).
    are_rates
        Whether a statistic is a share of rows, shape (statistics,). When None, no statistic is a share.
    """

    past: np.ndarray
    current: np.ndarray
    past_variances: np.ndarray
    current_variances: np.ndarray
    min_effects: np.ndarray
    only_increases: np.ndarray
    are_rates: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class StatisticChanges:
    """The changes of a window's statistics from their means over the reference windows.

    Parameters
    ----------
    changes
        Absolute changes, shape (statistics,); NaN for a statistic that is not evaluated.
    limits
        A change above its limit is drift, shape (statistics,).
    reference_values
        The absolute changes of the reference windows, shape (windows, statistics).
    """

    changes: np.ndarray
    limits: np.ndarray
    reference_values: np.ndarray

    @property
    def severities(self) -> np.ndarray:
        """Changes divided by their limits, shape (statistics,); −1 where a statistic is not evaluated."""
        return np.where(np.isfinite(self.changes) & (self.limits > 0), self.changes / np.where(self.limits > 0, self.limits, 1), -1.0)


def compare_with_past(windows: StatisticWindows, rate: float) -> StatisticChanges:
    """Compare the statistics of a window with those of the reference windows.

    Parameters
    ----------
    windows
        The statistics.
    rate
        The probability that any statistic of a window without drift exceeds its limit.

    Returns
    -------
    StatisticChanges

    Notes
    -----
    A change is divided by the standard deviation of the statistic over windows. If the statistic is normal, the ratio has Student's
    distribution with n − 1 degrees of freedom, where n is the number of independent windows, see :func:`count_independent`.
    Because it may not be normal, each reference window is also compared with the others. Each comparison gives a probability by Student's
    distribution, and a tail is fitted to −ln of these probabilities.
    Two changes have the probability rate / m, where m is the effective number of independent statistics: one by Student's distribution, one
    by the fitted tail. The limit is the larger one, and no less than the minimum effect. Limits of rates are capped.
    """
    limits, changes = (np.full(len(windows.current), math.nan) for _ in range(2))
    reference_values = np.full(windows.past.shape, math.nan)
    models = {k: model for k in np.flatnonzero(np.isfinite(windows.min_effects)).tolist() if (model := _fit_model(windows, k))}
    if not models:
        return StatisticChanges(changes, limits, reference_values)
    surprises = {k: model.surprises() for k, model in models.items()}
    tails = {k: ExponentialTail.fit(values[np.isfinite(values)]) for k, values in surprises.items()}
    # An undefined statistic is as frequent as any.
    rates = [np.where(np.isfinite(values), tails[k].leave_one_out_rates(np.nan_to_num(values)), 1.0) for k, values in surprises.items()]
    level = rate / count_effective_tests(np.min(rates, axis=0), TAIL_SHARE, len(models))
    for k, model in models.items():
        surprise = max(tails[k].quantile(level), -math.log(level))
        limits[k] = max(model.find_change(surprise, windows.current_variances[k]), windows.min_effects[k])
        if windows.are_rates is not None and windows.are_rates[k]:
            limits[k] = min(limits[k], _cap_rate(windows.past[:, k], model.mean))
        change = float(windows.current[k] - model.mean)
        changes[k] = max(change, 0.0) if windows.only_increases[k] else abs(change)
        reference_values[:, k] = np.abs(windows.past[:, k] - model.mean)
    return StatisticChanges(changes, limits, reference_values)


def _cap_rate(past: np.ndarray, mean: float) -> float:
    """Return the largest limit of a rate: three quarters of the way from the largest reference change to the largest attainable change."""
    observed, attainable = float(np.nanmax(np.abs(past - mean))), max(mean, 1 - mean)
    return observed + 0.75 * (attainable - observed)


def _fit_model(windows: StatisticWindows, k: int) -> _StatisticModel | None:
    """Return the model of a statistic; None when it is defined in too few windows."""
    values, chance = windows.past[:, k], windows.past_variances[:, k]
    known = np.isfinite(values)
    if known.sum() < MIN_HISTORY:
        return None
    n = count_independent(values[known])
    variance = float(values[known].var()) * n / (n - 1)
    return _StatisticModel(values, chance, float(values[known].mean()), max(variance - float(chance[known].mean()), 0.0), n)


@dataclass(frozen=True, eq=False)
class _StatisticModel:
    """The distribution of one statistic over the reference windows."""

    values: np.ndarray  # NaN where undefined
    chance: np.ndarray  # variances
    mean: float
    beyond: float  # the variance between windows beyond chance
    independent: float  # the number of independent windows

    def find_change(self, surprise: float, chance: float) -> float:
        """Return the change that has the probability exp(−surprise) in a window without drift."""
        from scipy.special import stdtrit  # type: ignore[import-untyped]  # it has no stubs

        probability = math.exp(-min(surprise, _MAX_SURPRISE))
        scale = math.sqrt((self.beyond + chance) * (1 + 1 / self.independent))
        return float(-stdtrit(self.independent - 1, probability / 2)) * scale

    def surprises(self) -> np.ndarray:
        """Return −ln of the probability of each reference window's change from the others, shape (windows,); NaN where undefined."""
        from scipy.special import stdtr

        known = np.isfinite(self.values)
        n = int(known.sum())
        change = (self.values - self.mean) * n / (n - 1)  # from the mean of the others
        # The others' variance lacks this window's share.
        beyond = np.maximum(self.beyond * (n - 1) / (n - 2) - (self.values - self.mean) ** 2 * n / (n - 1) / (n - 2), 0)
        scale = np.sqrt((beyond + self.chance) * (1 + 1 / self.independent))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(scale > 0, np.abs(change) / scale, 0.0)
            probability = 2 * stdtr(self.independent - 1, -ratio)
            result: np.ndarray = np.minimum(-np.log(np.maximum(probability, math.exp(-_MAX_SURPRISE))), _MAX_SURPRISE)
        return np.where(known, result, math.nan)
