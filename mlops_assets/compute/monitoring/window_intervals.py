"""Confidence intervals of a window's metrics by a delete-a-group jackknife over up to 40 groups of rows."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.training.evaluate import evaluate
from mlops_assets.compute.training.metric_range import clip_interval
from mlops_assets.values.evaluation import Evaluation, Split

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlops_assets.compute.training.time_blocks import TimeBlocks

MAX_GROUPS = 40
MAX_ROWS = 20_000  # the maximum number of sampled rows on which intervals are measured

Interval = tuple[float | None, float | None]


def estimate_intervals(  # noqa: PLR0913  (what is measured, and how)
    estimator: Any,  # noqa: ANN401  (any estimator)
    split: Split,
    values: Mapping[str, float],
    confidence: float,
    blocks: TimeBlocks | None = None,
    *,
    measure: Callable[..., Evaluation] = evaluate,
) -> dict[str, Interval]:
    """Return the confidence interval of each metric, clipped to the metric's range.

    Both ends are None for an undefined metric, and for all metrics when fewer than two groups can be formed.

    Parameters
    ----------
    estimator, split
        The estimator that predicted, and the rows.
    values
        Metric → its value on all rows.
    confidence
        The confidence level.
    blocks
        Blocks of time, whose rows are left out together; None when rows are independent.
    measure
        Function that evaluates the metrics on some rows.
    """
    rows = len(split.y)
    chosen = np.random.default_rng(0).permutation(rows)[:MAX_ROWS]
    groups = min(MAX_GROUPS, len(chosen) if blocks is None else blocks.count)
    if groups < 2:
        return dict.fromkeys(values, (None, None))
    group = np.arange(len(chosen)) % groups if blocks is None else blocks.ids[chosen] * groups // blocks.count
    replicates = [dict(measure(estimator, _select_rows(split, chosen[group != number]), tuple(values)).metrics) for number in range(groups)]
    # A sample of independent rows makes the interval too wide, by the square root of all rows per sampled row. Sampling keeps the number
    # of blocks, so their interval needs no correction.
    share = len(chosen) / rows if blocks is None else 1.0
    factor = _student_quantile(confidence, groups - 1) * math.sqrt((groups - 1) * share)
    errors = {name: factor * float(np.std([replicate[name] for replicate in replicates])) for name in values}
    return {name: _clip_around(name, value, errors[name]) for name, value in values.items()}


def _clip_around(metric: str, value: float, error: float) -> Interval:
    return clip_interval(metric, value - error, value + error) if math.isfinite(value) and math.isfinite(error) else (None, None)


def _select_rows(split: Split, rows: np.ndarray) -> Split:
    return Split(split.X[rows], split.y[rows], split.rows[rows])


def _student_quantile(confidence: float, freedom: int) -> float:
    """Return the two-sided quantile of Student's t, by the first terms of its Cornish–Fisher expansion."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
