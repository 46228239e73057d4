"""Test whether a ROC AUC is significantly below 0.5: a jackknife alone is overconfident on few rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mlops_assets.compute.monitoring.labels import LabelledPredictions

SIGNIFICANCE = 0.001  # the share of windows of a useless model whose labels look inverted
MIN_CLASS_ROWS = 10  # of each class


def look_inverted(labelled: LabelledPredictions) -> bool:
    """Return whether rows of the second class score significantly lower, by a Mann–Whitney test; False with few rows of a class."""
    if labelled.probabilities is None or labelled.classes is None or len(labelled.classes) != 2:
        return False
    second = labelled.y == labelled.classes[1]
    if min(int(second.sum()), int((~second).sum())) < MIN_CLASS_ROWS:
        return False
    return compute_low_score_p_value(labelled.probabilities[:, 1], second) < SIGNIFICANCE


def compute_low_score_p_value(scores: np.ndarray, chosen: np.ndarray) -> float:
    """Return the p-value of the chosen rows having scores this low by chance (normal approximation with ties).

    Parameters
    ----------
    scores
        Finite numbers, shape (rows,).
    chosen
        Whether a row is chosen, shape (rows,).
    """
    from scipy import special  # type: ignore[import-untyped]  # it has no stubs

    _, codes, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[codes]
    rows, hits = len(scores), int(chosen.sum())
    pairs = hits * (rows - hits)
    larger = float(ranks[chosen].sum()) - hits * (hits + 1) / 2
    ties = float((counts.astype(float) ** 3 - counts).sum()) / (rows * (rows - 1))
    variance = pairs / 12 * (rows + 1 - ties)
    return float(special.ndtr((larger + 0.5 - pairs / 2) / math.sqrt(variance))) if variance > 0 else 1.0
