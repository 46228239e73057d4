"""Compare the answers of a version with those of the version before it, so that a part of bad answers is found without a bound."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.llm_evaluation.agreement import Rate
from mlops_assets.compute.monitoring.answer_quality import QualityVerdict
from mlops_assets.values.llm.quality_monitor import BETTER_WHEN_HIGH
from mlops_assets.values.monitoring import BREACH, CANNOT, GOOD, NOT_ENOUGH

if TYPE_CHECKING:
    from mlops_assets.compute.monitoring.answer_quality import MeasuredValues
    from mlops_assets.values.llm.quality_monitor import QualityExpectation


def compare_measures(expectation: QualityExpectation, current: MeasuredValues, before: MeasuredValues) -> QualityVerdict:
    """Return the judgement of a measure against that of the version before: a breach only if the whole interval exceeds the margin.

    Parameters
    ----------
    expectation
        The expectation, with ``no_worse_than_before_by``.
    current, before
        The values of the version, and of the version before it.
    """
    name, n, m = expectation.measure, len(current.values), len(before.values)
    if problem := current.problem or before.problem:
        return QualityVerdict(expectation, CANNOT, f"{name} cannot be compared: {problem}")
    if min(n, m) < expectation.min_answers:
        text = f"{n} measured answers, and {m} of the version before in its last days; {expectation.min_answers} of each are needed"
        return QualityVerdict(expectation, NOT_ENOUGH, text)
    sign = -1.0 if name in BETTER_WHEN_HIGH else 1.0
    low, high = sorted(sign * end for end in find_difference_interval(current, before, expectation.confidence))
    worse = sign * (float(np.mean(current.values)) - float(np.mean(before.values)))
    text = (
        f"{name} {current.value:.4g}, {before.value:.4g} of the version before: worse by {worse:.4g} "
        f"({100 * expectation.confidence:g} % CI {low:.4g} to {high:.4g}, {n} and {m} answers); expected at most {expectation.threshold:g}"
    )
    return QualityVerdict(expectation, BREACH if low > expectation.threshold else GOOD, text)


def find_difference_interval(current: MeasuredValues, before: MeasuredValues, confidence: float) -> tuple[float, float]:
    """Return the interval of the difference of two means: Newcombe's hybrid score interval for shares, Welch's for other values.

    Parameters
    ----------
    current, before
        The values, at least two of each.
    confidence
        The confidence level.
    """
    from scipy import stats  # type: ignore[import-untyped]  # it has no stubs

    one, other = np.asarray(current.values), np.asarray(before.values)
    difference = float(one.mean() - other.mean())
    if current.measures_share:
        rates = [Rate(round(float(values.sum())), len(values), confidence) for values in (one, other)]
        (p, p_low, p_high), (q, q_low, q_high) = (
            (float(values.mean()), rate.low, rate.high) for values, rate in zip((one, other), rates, strict=True)
        )
        return difference - math.hypot(p - p_low, q_high - q), difference + math.hypot(p_high - p, q - q_low)
    parts = [float(values.var(ddof=1)) / len(values) for values in (one, other)]
    error = math.sqrt(sum(parts))
    if not error:
        return difference, difference
    freedom = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (one, other), strict=True))
    width = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    return difference - width, difference + width
