"""Compare the answers of a version with the answers of the previous version, which finds degradation without a fixed bound."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.monitoring.answer_quality import QualityVerdict
from mlops_assets.values.llm.quality_monitor import BETTER_WHEN_HIGH, FEEDBACK, GROUNDEDNESS
from mlops_assets.values.monitoring import BREACH, CANNOT, GOOD, NOT_ENOUGH

if TYPE_CHECKING:
    from mlops_assets.compute.monitoring.answer_quality import MeasuredValues
    from mlops_assets.values.llm.quality_monitor import QualityExpectation

_SCORES = (GROUNDEDNESS, FEEDBACK)  # from 0 to 1


def compare_measures(expectation: QualityExpectation, current: MeasuredValues, before: MeasuredValues) -> QualityVerdict:
    """Return the verdict on a measure compared with the previous version: a breach only if the whole interval exceeds the margin.

    Parameters
    ----------
    expectation
        The expectation, with ``no_worse_than_before_by``.
    current, before
        The values of the version, and of the previous version.
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
    notes = (f"; {when}{values.note}" for when, values in (("", current), ("before, ", before)) if values.note)
    text = (
        f"{name} {current.value:.4g}, {before.value:.4g} of the version before: worse by {worse:.4g} "
        f"({100 * expectation.confidence:g} % CI {low:.4g} to {high:.4g}, {n} and {m} answers{''.join(notes)}); expected at most {expectation.threshold:g}"
    )
    return QualityVerdict(expectation, BREACH if low > expectation.threshold else GOOD, text)


def find_difference_interval(current: MeasuredValues, before: MeasuredValues, confidence: float) -> tuple[float, float]:
    """Return the confidence interval of the difference of two means: Newcombe's for shares, Welch's for other values.

    Newcombe's interval combines the intervals of both shares. These are Clopper and Pearson's: with Wilson's, a rare event alarms too often
    when one version has few answers. Scores that are all 0 or 1, such as thumbs, are shares. A few values that are equal by chance have no
    variance, although their mean varies: in Welch's interval, the variance of a version is at least the pooled variance.

    Parameters
    ----------
    current, before
        The values, at least two of each.
    confidence
        The confidence level.
    """
    from scipy import stats  # type: ignore[import-untyped]  # it has no stubs

    one, other = np.asarray(current.values), np.asarray(before.values)
    if current.measures_share or (current.measure in _SCORES and np.isin(np.concatenate([one, other]), (0, 1)).all()):
        p, q = float(one.mean()), float(other.mean())
        (p_low, p_high), (q_low, q_high) = (replace(values, is_share=True).find_interval(confidence) for values in (current, before))
        return p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)
    one, other = one - other[0], other - other[0]  # equal values differ by zero, not by a rounding error
    difference = float(one.mean() - other.mean())
    variances = [float(values.var(ddof=1)) for values in (one, other)]
    pooled = float(np.average(variances, weights=[len(one) - 1, len(other) - 1]))
    parts = [max(variance, pooled) / len(values) for variance, values in zip(variances, (one, other), strict=True)]
    error = math.sqrt(sum(parts))
    if not error:
        return difference, difference
    freedom = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (one, other), strict=True))
    width = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    return difference - width, difference + width
