"""Summarise the scores of many cases: their mean with an interval, and how many are missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.llm_evaluation.agreement import CONFIDENCE, Rate
from mlops_assets.compute.llm_evaluation.comparison import bootstrap_mean_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

WILSON, BOOTSTRAP, NO_INTERVAL = "Wilson", "bootstrap", ""


@dataclass(frozen=True)
class ScoreSummary:
    """The mean of the scores of some cases.

    Parameters
    ----------
    n : int
        The number of cases with a score; mean and interval are computed on these cases.
    missing : int
        The number of cases without a score.
    mean : float or None
        The mean; None without scores.
    low, high : float or None
        The 95 % interval; None where there is none.
    method : str
        ``Wilson`` for scores that are all 0 or 1, otherwise ``bootstrap``; empty without an interval.
    """

    n: int
    missing: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    method: str = NO_INTERVAL

    @property
    def interval(self) -> str:
        """The interval as text; empty without one."""
        return "" if self.low is None or self.high is None else f"{self.low:.3f} to {self.high:.3f} ({self.method})"


def summarise_scores(scores: Sequence[float | None], *, seed: str) -> ScoreSummary:
    """Return the mean of scores with its 95 % interval.

    Scores that are all 0 or 1 have Wilson's interval, whose width is above 0 even if all scores are equal. Other scores have the
    percentile bootstrap of :mod:`mlops_assets.compute.llm_evaluation.comparison`, which needs two scores.

    Parameters
    ----------
    scores : Sequence of (float or None)
        The score of each case; None where there is none.
    seed : str
        The seed of the bootstrap.

    Returns
    -------
    ScoreSummary
        Mean, interval and counts.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.score_summary import summarise_scores
    >>> summary = summarise_scores([1.0, 1.0, 0.0, None], seed="v1")
    >>> summary.n, summary.missing, round(summary.mean, 3), summary.interval
    (3, 1, 0.667, '0.208 to 0.939 (Wilson)')
    """
    values = np.array([score for score in scores if score is not None], dtype=float)
    n, missing = len(values), len(scores) - len(values)
    if not n:
        return ScoreSummary(0, missing)
    mean = float(values.mean())
    if np.isin(values, (0.0, 1.0)).all():
        rate = Rate(int(values.sum()), n)
        return ScoreSummary(n, missing, mean, rate.low, rate.high, WILSON)
    if n == 1:
        return ScoreSummary(n, missing, mean)
    low, high = bootstrap_mean_interval(values, seed, CONFIDENCE)
    return ScoreSummary(n, missing, mean, max(0.0, low), min(1.0, high), BOOTSTRAP)
