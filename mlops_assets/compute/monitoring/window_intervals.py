"""Confidence intervals of a window's metrics by a delete-a-group jackknife over up to 40 groups of rows."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.training.evaluate import make_scorer
from mlops_assets.compute.training.metric_range import clip_interval
from mlops_assets.compute.training.resampling import find_verified_form

if TYPE_CHECKING:
    from mlops_assets.compute.training.responses import CachedPredictor
    from mlops_assets.compute.training.time_blocks import TimeBlocks

MAX_GROUPS = 40
MAX_ROWS = 20_000  # the maximum number of sampled rows on which an interval is measured
MAX_SCORED_SETS = 20  # sets of rows for which a metric without a vectorised form gets an interval: each costs 40 calls of its scorer
CERTAIN = 0.999  # the confidence at which labels count as inverted: a useless model must not look so in one of many windows

Interval = tuple[float | None, float | None]
UNKNOWN: Interval = (None, None)


class WindowJackknife:
    """Standard errors of metrics over all rows of a window, and over subsets of them.

    Parameters
    ----------
    model
        The cached predictions, with classes encoded for metrics; see :class:`mlops_assets.compute.training.classes.TwoClasses`.
    y
        The labels, shape (rows,).
    blocks
        Blocks of time, whose rows are left out together; None when rows are independent.
    """

    def __init__(self, model: CachedPredictor, y: np.ndarray, blocks: TimeBlocks | None = None) -> None:
        self._model, self._y, self._blocked = model, y, blocks is not None
        self._rank = np.random.default_rng(0).permutation(len(y))
        self.groups = min(MAX_GROUPS, len(y) if blocks is None else blocks.count)
        self._group = self._rank % max(self.groups, 1) if blocks is None else blocks.ids * self.groups // blocks.count
        self._scored: dict[str, int] = {}
        self._whole: dict[str, np.ndarray | None] = {}

    @property
    def group(self) -> np.ndarray:
        """The number of the group of each row, shape (rows,)."""
        return self._group

    def replicate(self, metric: str, rows: np.ndarray | None = None) -> np.ndarray | None:
        """Return the deviations of a metric when each group is left out in turn, scaled so that their length is the standard error.

        Parameters
        ----------
        metric
            A scikit-learn scorer name.
        rows
            The numbers of the rows; all rows when None.

        Returns
        -------
        array or None
            Shape (groups,); None with fewer than two groups, or when the metric would need too many calls of a slow scorer.
        """
        if rows is None:
            if metric not in self._whole:
                self._whole[metric] = self.replicate(metric, np.arange(len(self._y)))
            return self._whole[metric]
        if self.groups < 2:
            return None
        chosen = rows if len(rows) <= MAX_ROWS else rows[np.argpartition(self._rank[rows], MAX_ROWS)[:MAX_ROWS]]
        keep = (self._group[chosen] != np.arange(self.groups)[:, None]).astype(float)
        values = self._measure(metric, chosen, keep)
        if values is None:
            return None
        # A sample of independent rows makes the interval too wide, by the square root of all rows per sampled row. Sampling keeps the number
        # of blocks, so their interval needs no correction.
        share = 1.0 if self._blocked else len(chosen) / len(rows)
        return (values - values.mean()) * math.sqrt(share * (self.groups - 1) / self.groups)  # type: ignore[no-any-return]

    def _measure(self, metric: str, chosen: np.ndarray, keep: np.ndarray) -> np.ndarray | None:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # a metric that is undefined without a group has no interval
            y = self._y[chosen]
            scorer = make_scorer(metric, getattr(self._model, "classes_", None))

            def score(kept: np.ndarray) -> float:
                try:
                    return float(scorer(self._model, chosen[kept], y[kept]))
                except (ValueError, TypeError, AttributeError):
                    return math.nan

            if (form := find_verified_form(metric, self._model, chosen, y, score(np.arange(len(y))))) is not None:
                return form(keep)
            self._scored[metric] = self._scored.get(metric, 0) + 1
            return None if self._scored[metric] > MAX_SCORED_SETS else np.array([score(np.flatnonzero(kept)) for kept in keep])

    def estimate_interval(self, metric: str, value: float, deviations: np.ndarray | None, confidence: float) -> Interval:
        """Return the confidence interval of a metric, clipped to its range; both ends are None where it is undefined."""
        if deviations is None:
            return UNKNOWN
        error = self.compute_margin_of_error(deviations, confidence)
        return clip_interval(metric, value - error, value + error) if math.isfinite(value) and math.isfinite(error) else UNKNOWN

    def compute_margin_of_error(self, deviations: np.ndarray, confidence: float) -> float:
        """Return half of the width of the confidence interval with these deviations."""
        from scipy import special  # type: ignore[import-untyped]  # it has no stubs

        return float(special.stdtrit(self.groups - 1, (1 + confidence) / 2) * np.sqrt((deviations**2).sum()))
