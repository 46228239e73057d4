"""Calibrate predicted probabilities by isotonic regression on a holdout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, eq=False)
class CalibrationMap:
    """A non-decreasing function from the predicted probability of a class to the observed share of the class in the holdout.

    Parameters
    ----------
    predicted, observed
        The points of the function, ascending; the function is linear between points and constant outside.
    rows
        The number of holdout rows that determine the share at each point. Neighbouring points with one share come from the same rows.
    """

    predicted: np.ndarray
    observed: np.ndarray
    rows: np.ndarray

    def __call__(self, predicted: np.ndarray) -> np.ndarray:
        """Return the calibrated probabilities."""
        return np.interp(predicted, self.predicted, self.observed)  # type: ignore[no-any-return]

    def sample(self, random: np.random.Generator) -> CalibrationMap:
        """Return a map sampled from the uncertainty of the holdout: each share is drawn from a beta distribution."""
        starts = np.concatenate([[True], np.diff(self.observed) > 0])
        shares = random.beta(self.observed * self.rows, (1 - self.observed) * self.rows)[starts]
        return CalibrationMap(self.predicted, shares[np.cumsum(starts) - 1], self.rows)

    def as_json(self) -> dict[str, list[float]]:
        """Return the map as a dict of JSON values."""
        return {"predicted": self.predicted.tolist(), "observed": self.observed.tolist(), "rows": self.rows.tolist()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> CalibrationMap:
        """Rebuild the map from the result of :meth:`as_json`."""
        return cls(*(np.asarray(stored[name], dtype=float) for name in ("predicted", "observed", "rows")))


def fit_calibration(predicted: np.ndarray, observed: np.ndarray) -> CalibrationMap:
    """Fit a calibration map by isotonic regression.

    Parameters
    ----------
    predicted
        Probabilities of a class, shape (rows,).
    observed
        1 for rows of the class, else 0, shape (rows,).

    Notes
    -----
    Half a row of each class is added to each block of rows with equal shares. So no share is exactly 0 or 1: a few rows cannot prove that.
    """
    from sklearn.isotonic import IsotonicRegression

    shares = IsotonicRegression(y_min=0.0, y_max=1.0).fit(predicted, observed).predict(predicted)
    _, block = np.unique(shares, return_inverse=True)
    rows = np.bincount(block) + 1.0
    smoothed = (np.bincount(block, observed) + 0.5) / rows
    # A small block moves more than its neighbours, so the order is restored.
    smoothed = IsotonicRegression().fit_transform(np.arange(len(rows)), smoothed, sample_weight=rows)
    _, merged = np.unique(smoothed, return_inverse=True)
    block, rows = merged[block], np.bincount(merged, rows).astype(float)
    share = np.bincount(merged, smoothed) / np.bincount(merged)
    corners = (
        pl.DataFrame({"block": block, "predicted": predicted}).group_by("block").agg(low=pl.min("predicted"), high=pl.max("predicted"))
    )
    ends = corners.sort("block").select("low", "high").to_numpy()
    kept = np.column_stack([np.ones(len(ends), dtype=bool), ends[:, 1] > ends[:, 0]])
    return CalibrationMap(ends[kept], np.repeat(share, 2)[kept.ravel()], np.repeat(rows, 2)[kept.ravel()])


def calibrate_classes(maps: tuple[CalibrationMap, ...], probabilities: np.ndarray) -> np.ndarray:
    """Return the calibrated probabilities of all classes, which sum to 1 in each row.

    Parameters
    ----------
    maps
        The map of each class; for two classes, only the map of the second class.
    probabilities
        Predicted probabilities, shape (rows, classes).
    """
    if len(maps) == 1:
        second = maps[0](probabilities[:, 1])
        return np.column_stack([1 - second, second])
    shares = np.column_stack([one(probabilities[:, number]) for number, one in enumerate(maps)])
    total = shares.sum(axis=1, keepdims=True)
    return np.where(total > 0, shares / np.where(total > 0, total, 1.0), probabilities)
