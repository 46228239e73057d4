"""A calibration map fitted on a holdout by isotonic regression: from predicted probabilities to observed shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, eq=False)
class CalibrationMap:
    """For one class, a non-decreasing function from the predicted probability to the share of rows of the class in the holdout.

    Parameters
    ----------
    predicted, observed
        The corners of the function, ascending; it is linear between them and constant outside.
    """

    predicted: np.ndarray
    observed: np.ndarray

    def __call__(self, predicted: np.ndarray) -> np.ndarray:
        """Return the calibrated probabilities."""
        return np.interp(predicted, self.predicted, self.observed)  # type: ignore[no-any-return]

    def as_json(self) -> dict[str, list[float]]:
        """Return the map as a dict of JSON values."""
        return {"predicted": self.predicted.tolist(), "observed": self.observed.tolist()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> CalibrationMap:
        """Return the map that :meth:`as_json` returned."""
        return cls(np.asarray(stored["predicted"], dtype=float), np.asarray(stored["observed"], dtype=float))


def fit_calibration(predicted: np.ndarray, observed: np.ndarray) -> CalibrationMap:
    """Fit a calibration map by isotonic regression.

    Parameters
    ----------
    predicted
        Probabilities of a class, shape (rows,).
    observed
        1 for rows of the class, else 0, shape (rows,).
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(predicted, observed)
    return CalibrationMap(np.asarray(fitted.X_thresholds_, dtype=float), np.asarray(fitted.y_thresholds_, dtype=float))


def calibrate_classes(maps: tuple[CalibrationMap, ...], probabilities: np.ndarray) -> np.ndarray:
    """Return the calibrated probabilities of all classes, which sum to 1 in each row.

    Parameters
    ----------
    maps
        The map of each class; for two classes, that of the second only.
    probabilities
        Predicted probabilities, shape (rows, classes).
    """
    if len(maps) == 1:
        second = maps[0](probabilities[:, 1])
        return np.column_stack([1 - second, second])
    shares = np.column_stack([one(probabilities[:, number]) for number, one in enumerate(maps)])
    total = shares.sum(axis=1, keepdims=True)
    return np.where(total > 0, shares / np.where(total > 0, total, 1.0), probabilities)
