"""Calibration curves: of rows predicted at 30 %, 30 % should be positive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10


@dataclass(frozen=True)
class CalibrationBin:
    """One quantile bin of predictions.

    Parameters
    ----------
    rows
        The number of rows in the bin.
    predicted, observed
        The mean prediction, and the share of positive rows (in a regression, the mean label).
    error
        Standard error of ``observed``.
    """

    rows: int
    predicted: float
    observed: float
    error: float


@dataclass(frozen=True)
class CalibrationCurve:
    """Predictions against observed outcomes.

    Parameters
    ----------
    error
        Expected calibration error: the mean absolute difference of ``predicted`` and ``observed`` over the bins, weighted by rows. It
        is a share for probabilities; in a regression it has the label's unit.
    bins
        At most ten quantile bins, ascending. They hold equally many rows each, unless predictions are equal.
    """

    error: float
    bins: tuple[CalibrationBin, ...]


def compute_calibration_curve(predicted: np.ndarray, observed: np.ndarray) -> CalibrationCurve:
    """Return the calibration curve of predictions, in at most ten quantile bins; without rows, no bin and an error of 0.

    Parameters
    ----------
    predicted
        Probabilities or numbers, shape (rows,).
    observed
        0 and 1, or numbers; shape (rows,).

    References
    ----------
    Naeini, Cooper and Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian binning. Bins hold equally many rows
    rather than having equal width, as in Nguyen and O'Connor (2015), so that no bin is empty.
    """
    place = bin_predictions(predicted)
    bins = tuple(_summarise_bin(predicted[place == b], observed[place == b]) for b in np.unique(place))
    total = sum(bin_.rows for bin_ in bins)
    return CalibrationCurve(sum(bin_.rows * abs(bin_.predicted - bin_.observed) for bin_ in bins) / max(total, 1), bins)


def bin_predictions(predicted: np.ndarray) -> np.ndarray:
    """Return the number of the quantile bin of each prediction; a number may be unused."""
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, BINS + 1)[1:-1])) if len(predicted) else np.zeros(0)
    return np.searchsorted(edges, predicted, side="left")


def _summarise_bin(predicted: np.ndarray, observed: np.ndarray) -> CalibrationBin:
    rows = len(predicted)
    return CalibrationBin(rows, float(predicted.mean()), float(observed.mean()), float(observed.std() / np.sqrt(rows)))
