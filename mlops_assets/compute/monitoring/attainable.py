"""The largest distance that a window can have from the reference: no threshold may lie above it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.monitoring.cells import NUMERIC
from mlops_assets.compute.monitoring.distances import compute_jensen_shannon

if TYPE_CHECKING:
    from mlops_assets.compute.monitoring.cells import Binning, Counts

_MISSING = 2  # the last bins hold null and infinite values


def attainable_distances(layout: Binning, reference: Counts) -> np.ndarray:
    """Return the largest attainable distance for each statistic, shape (statistics,).

    Parameters
    ----------
    layout
        Where the column is cut.
    reference
        Its counts.

    Notes
    -----
    The statistics are those of :data:`mlops_assets.compute.monitoring.thresholds.STATISTICS`. Kolmogorov–Smirnov: 1, of a window beyond the reference.
    Wasserstein: unbounded. Jensen–Shannon: of a window with all rows in one bin. Null rate: of a window with no null or with nothing else.
    """
    ks = 1.0 if layout.kind == NUMERIC and len(layout.points) else math.inf
    null_rate = float(reference.nulls[0] / max(reference.rows[0], 1))
    return np.array([ks, math.inf, _jensen_shannon(layout, reference), max(null_rate, 1 - null_rate)])


def _jensen_shannon(layout: Binning, reference: Counts) -> float:
    counts = layout.bins(reference)
    bins = counts.shape[1] - _MISSING
    if not counts.sum() or bins < 1:
        return math.inf
    windows = np.eye(bins, counts.shape[1])
    return float(compute_jensen_shannon(windows, counts / counts.sum()).max())
