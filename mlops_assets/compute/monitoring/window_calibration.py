"""Calibration of a window: the expected calibration error with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.training.calibration import CalibrationCurve, bin_predictions, calibrate

if TYPE_CHECKING:
    from mlops_assets.compute.monitoring.window_intervals import WindowJackknife


@dataclass(frozen=True)
class WindowCalibration(CalibrationCurve):
    """The calibration curve of a window.

    Parameters
    ----------
    low, high
        Ends of the confidence interval of ``error``; None when it is unknown. Chance alone makes an error positive: the lower end is 0
        if perfect calibration could give this error, and otherwise takes off what chance adds.
    """

    low: float | None = None
    high: float | None = None


def measure_calibration(predicted: np.ndarray, observed: np.ndarray, jackknife: WindowJackknife, confidence: float) -> WindowCalibration:
    """Return the calibration curve of a window with the interval of its expected calibration error.

    Parameters
    ----------
    predicted, observed
        Probabilities and outcomes of 0 and 1, or numbers, shape (rows,).
    jackknife
        The jackknife of the same rows.
    confidence
        The confidence level.
    """
    curve = calibrate(predicted, observed)
    if jackknife.groups < 2:
        return WindowCalibration(curve.error, curve.bins)
    bins = np.unique(bin_predictions(predicted), return_inverse=True)[1]
    gaps, errors, deviations = leave_out_groups(observed - predicted, bins, jackknife)
    shares = np.bincount(bins) / len(bins)
    width = jackknife.width(deviations, confidence)
    by_chance = shares * errors
    largest = math.sqrt(2 / math.pi) * by_chance.sum() + jackknife.width(by_chance * math.sqrt(1 - 2 / math.pi), confidence)
    unbiased = curve.error - float(shares @ _chance_part(np.abs(gaps), errors))
    low = 0.0 if curve.error <= largest else max(0.0, unbiased - width)
    return WindowCalibration(curve.error, curve.bins, low, curve.error + width)


def leave_out_groups(differences: np.ndarray, bins: np.ndarray, jackknife: WindowJackknife) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _chance_part(gaps: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return by how much sampling raises the mean of an absolute gap, when the gap is normal with this mean and standard error."""
    from scipy import special  # type: ignore[import-untyped]  # it has no stubs

    safe = np.where(errors > 0, errors, 1.0)
    folded = errors * np.sqrt(2 / np.pi) * np.exp(-((gaps / safe) ** 2) / 2) + gaps * special.erf(gaps / (safe * np.sqrt(2)))
    return np.where(errors > 0, folded - gaps, 0.0)
