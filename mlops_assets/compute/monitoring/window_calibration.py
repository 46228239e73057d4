"""Calibration of a window: the expected calibration error with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.training.calibration import CalibrationCurve, bin_predictions, compute_calibration_curve

if TYPE_CHECKING:
    from mlops_assets.compute.estimation.estimator import PerformanceEstimator
    from mlops_assets.compute.monitoring.window_intervals import WindowJackknife

FALSE_ALARM_RATE = 0.01  # of windows with the holdout's calibration, the share that is reported as drifted
DRAWS = 5_000


@dataclass(frozen=True)
class WindowCalibration(CalibrationCurve):
    """The calibration curve of a window.

    Parameters
    ----------
    low, high
        Ends of the confidence interval of ``error``; None when it is unknown. Sampling alone makes an error positive: the lower end is 0
        if the error is not significant, and otherwise excludes the part that is due to sampling.
    drift
        The mean absolute difference between the observed shares and the shares expected from the holdout's calibration; None without a
        stored calibration map.
    drift_limit
        The limit that ``drift`` exceeds in one of a hundred windows with the holdout's calibration.
    """

    low: float | None = None
    high: float | None = None
    drift: float | None = None
    drift_limit: float | None = None

    @property
    def drifted(self) -> bool:
        """Whether the calibration differs significantly from the calibration on the holdout."""
        return self.drift is not None and self.drift_limit is not None and self.drift > self.drift_limit


def measure_calibration(
    predicted: np.ndarray,
    observed: np.ndarray,
    jackknife: WindowJackknife,
    confidence: float,
    holdout: PerformanceEstimator | None = None,
) -> WindowCalibration:
    """Return the calibration curve of a window with the interval of its expected calibration error.

    Parameters
    ----------
    predicted, observed
        Probabilities and outcomes of 0 and 1, or numbers, shape (rows,).
    jackknife
        The jackknife of the same rows.
    confidence
        The confidence level.
    holdout
        The stored calibration of the version, for probabilities of two classes; None without one.
    """
    curve = compute_calibration_curve(predicted, observed)
    if jackknife.groups < 2:
        return WindowCalibration(curve.error, curve.bins)
    bins = np.unique(bin_predictions(predicted), return_inverse=True)[1]
    gaps, errors, deviations = estimate_bin_errors(observed - predicted, bins, jackknife)
    shares = np.bincount(bins) / len(bins)
    width = jackknife.compute_margin_of_error(deviations, confidence)
    by_chance = shares * errors
    largest = math.sqrt(2 / math.pi) * by_chance.sum() + jackknife.compute_margin_of_error(
        by_chance * math.sqrt(1 - 2 / math.pi), confidence
    )
    unbiased = curve.error - float(shares @ _compute_sampling_bias(np.abs(gaps), errors))
    low = 0.0 if curve.error <= largest else max(0.0, unbiased - width)
    drift = _measure_drift(predicted, observed, bins, jackknife, holdout)
    return WindowCalibration(curve.error, curve.bins, low, curve.error + width, *drift)


def _measure_drift(
    predicted: np.ndarray, observed: np.ndarray, bins: np.ndarray, jackknife: WindowJackknife, holdout: PerformanceEstimator | None
) -> tuple[float | None, float | None]:
    """Return the difference from the holdout's calibration, and its significance limit for this window and this holdout."""
    if holdout is None or len(holdout.maps) != 1:
        return None, None
    expected = holdout.maps[0](predicted)
    gaps, errors, _ = estimate_bin_errors(observed - expected, bins, jackknife)
    shares = np.bincount(bins) / len(bins)
    variances = np.bincount(bins, expected * (1 - expected)) / np.bincount(bins)
    # A bin with few rows of the outcome shows no spread of its own: the expected one is the minimum.
    in_window = np.maximum(errors**2, variances / np.bincount(bins))
    in_holdout = variances * holdout.dependence / (holdout.rows * shares)
    draws = np.abs(np.random.default_rng(0).normal(size=(DRAWS, len(shares)))) * np.sqrt(in_window + in_holdout)
    return float(shares @ np.abs(gaps)), float(np.quantile(draws @ shares, 1 - FALSE_ALARM_RATE))


def estimate_bin_errors(differences: np.ndarray, bins: np.ndarray, jackknife: WindowJackknife) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean difference of each bin, its standard error, and the scaled deviations of the mean absolute gap.

    Parameters
    ----------
    differences
        Observed minus expected, shape (rows,).
    bins
        The bin of each row, consecutive from 0, shape (rows,).
    jackknife
        The jackknife of the same rows.
    """
    groups, count = jackknife.groups, int(bins.max()) + 1
    cell = jackknife.group * count + bins
    sums = np.bincount(cell, differences, groups * count).reshape(groups, count)
    rows = np.bincount(cell, minlength=groups * count).reshape(groups, count)
    left = rows.sum(axis=0) - rows
    gaps = (sums.sum(axis=0) - sums) / np.maximum(left, 1)
    scale = np.sqrt((groups - 1) / groups)
    errors = scale * np.sqrt(((gaps - gaps.mean(axis=0)) ** 2).sum(axis=0))
    totals = (np.abs(gaps) * left).sum(axis=1) / left.sum(axis=1)
    return sums.sum(axis=0) / rows.sum(axis=0), errors, scale * (totals - totals.mean())


def _compute_sampling_bias(gaps: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return the bias of a mean absolute gap due to sampling, for normal gaps with these means and standard errors."""
    from scipy import special  # type: ignore[import-untyped]  # it has no stubs

    safe = np.where(errors > 0, errors, 1.0)
    folded = errors * np.sqrt(2 / np.pi) * np.exp(-((gaps / safe) ** 2) / 2) + gaps * special.erf(gaps / (safe * np.sqrt(2)))
    return np.where(errors > 0, folded - gaps, 0.0)
