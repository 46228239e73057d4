"""The range of a scikit-learn metric; confidence intervals are clipped to it."""

from __future__ import annotations

import math

_UNIT_INTERVAL = (
    "accuracy",
    "adjusted_mutual_info_score",
    "average_precision",
    "balanced_accuracy",
    "completeness_score",
    "f1",
    "fowlkes_mallows_score",
    "homogeneity_score",
    "jaccard",
    "normalized_mutual_info_score",
    "precision",
    "rand_score",
    "recall",
    "roc_auc",
    "top_k_accuracy",
    "v_measure_score",
)
_MAX_ONE = ("r2", "explained_variance", "d2_", "adjusted_")
_AVERAGES = ("_ovo_weighted", "_ovr_weighted", "_ovo", "_ovr", "_macro", "_micro", "_samples", "_weighted")  # the longer ones first


def metric_range(metric: str) -> tuple[float, float]:
    """Return minimum and maximum of a scikit-learn scorer; infinite where the scorer is unbounded or the limit is unknown.

    Parameters
    ----------
    metric
        The scorer's name.
    """
    if metric == "matthews_corrcoef":
        return -1.0, 1.0
    if metric.startswith(_MAX_ONE):
        return -math.inf, 1.0
    if metric.startswith("neg_"):
        return (-2.0, 0.0) if metric == "neg_brier_score" else (-math.inf, 0.0)
    bare = next((metric.removesuffix(average) for average in _AVERAGES if metric.endswith(average)), metric)
    if bare in _UNIT_INTERVAL:
        return 0.0, 1.0
    return (0.0, math.inf) if metric in ("mutual_info_score", "positive_likelihood_ratio") else (-math.inf, math.inf)


def clip_interval(metric: str, low: float, high: float, *, is_difference: bool = False) -> tuple[float, float]:
    """Return an interval clipped to the range of a metric.

    Parameters
    ----------
    metric
        The scorer's name.
    low, high
        The ends; both are returned unchanged when one is NaN.
    is_difference
        Whether the interval is of the difference of two values.
    """
    minimum, maximum = metric_range(metric)
    if is_difference:
        minimum, maximum = (
            (minimum - maximum, maximum - minimum) if math.isfinite(minimum) and math.isfinite(maximum) else (-math.inf, math.inf)
        )
    return (low, high) if math.isnan(low) or math.isnan(high) else (min(max(low, minimum), maximum), max(min(high, maximum), minimum))
