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
        How many.
    predicted, observed
        Mean prediction, and share that came true (mean label of a number).
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
        Expected calibration error: the mean over all rows of the distance between the mean prediction of their range and what was observed in it; a
        share for probabilities, in units of the label for numbers.
    bins
        Ranges of equally many predictions, ascending.
    """

    error: float
    bins: tuple[CalibrationBin, ...]


def calibrate(predicted: np.ndarray, happened: np.ndarray) -> CalibrationCurve:
    """Return the calibration curve of predictions, in ten quantile bins.

    Parameters
    ----------
    predicted
        Probabilities or numbers, shape (rows,).
    happened
        0 and 1, or numbers; shape (rows,).

    References
    ----------
    Naeini, Cooper and Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian binning. Ranges hold equally many rows rather than
    being equally wide, as in Nguyen and O'Connor (2015): none is empty.
    """
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, BINS + 1)[1:-1])) if len(predicted) else np.zeros(0)
    place = np.searchsorted(edges, predicted, side="left")
    bins = tuple(_summarize_bin(predicted[place == b], happened[place == b]) for b in np.unique(place))
    total = sum(one.rows for one in bins)
    return CalibrationCurve(sum(one.rows * abs(one.predicted - one.observed) for one in bins) / max(total, 1), bins)


def _summarize_bin(predicted: np.ndarray, happened: np.ndarray) -> CalibrationBin:
    rows = len(predicted)
    return CalibrationBin(rows, float(predicted.mean()), float(happened.mean()), float(happened.std() / np.sqrt(rows)))
