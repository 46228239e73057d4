"""Calibrate an LLM judge: compare its verdicts with human labels, with repeated verdicts, and with a constant predictor.

A failed verdict (an error, a timeout, an unparsable reply) agrees with no label. It counts as a disagreement everywhere, and the
error rate includes it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.llm_evaluation.agreement import CONFIDENCE, Rate, measure_kappa
from mlops_assets.compute.llm_evaluation.verdicts import check_distinct_cases, check_known
from mlops_assets.errors import DefinitionError
from mlops_assets.values.evaluation import GateResult
from mlops_assets.values.llm.judge import ERROR, FAILURES, check_verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_CASES = 30  # labelled cases that a judge needs before it may gate
MIN_CASES_PER_LABEL = 5
MAX_ERROR_RATE = 0.05


@dataclass(frozen=True)
class JudgedCase:
    """A labelled case and the verdicts of the judge on it.

    Parameters
    ----------
    case : str
        The identifier of the case.
    label : str
        The human label.
    verdicts : tuple of str
        The verdict of each repeat, failures included. The first counts for agreement, the others for the flip rate. A case without
        a verdict counts as an error.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.calibration import JudgedCase
    >>> JudgedCase("delay-7", "supported", ("supported", "timeout")).verdict
    'supported'
    """

    case: str
    label: str
    verdicts: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The first verdict, which counts for agreement; ``error`` without a verdict."""
        return self.verdicts[0] if self.verdicts else ERROR


@dataclass(frozen=True)
class JudgeCalibration:
    """The agreement of a judge with human labels.

    Parameters
    ----------
    labels : tuple of (str, int)
        Each verdict that the judge may give, with the number of cases that have this label, which may be 0.
    positive : str
        The verdict that counts as positive; every other verdict counts as negative.
    kappa : float or None
        Cohen's kappa; None where it is undefined, because only one verdict occurs.
    low, high : float or None
        The interval of kappa.
    agreement : Rate
        The share of cases whose verdict is the label.
    true_positive, true_negative : Rate
        Sensitivity and specificity. A failure is neither a true positive nor a true negative.
    errors : Rate
        The share of calls without a verdict; repeats count as independent calls.
    flip_rate : float or None
        The probability that two repeats of a case differ, averaged over cases. A pair with a failure differs. None without repeats.
    baseline : JudgeCalibration or None
        The calibration of the constant predictor of the majority label; None for that predictor itself.

    See Also
    --------
    calibrate_judge : Computes the calibration.
    """

    labels: tuple[tuple[str, int], ...]
    positive: str
    kappa: float | None
    low: float | None
    high: float | None
    agreement: Rate
    true_positive: Rate
    true_negative: Rate
    errors: Rate
    flip_rate: float | None
    baseline: JudgeCalibration | None

    @property
    def cases(self) -> int:
        """The number of labelled cases."""
        return self.agreement.trials

    def may_gate(
        self,
        min_kappa: float,
        *,
        min_cases: int = MIN_CASES,
        min_cases_per_label: int = MIN_CASES_PER_LABEL,
        max_error_rate: float = MAX_ERROR_RATE,
    ) -> GateResult:
        """Return whether the judge may decide a gate; otherwise it may only report.

        The lower end of kappa's interval decides, not kappa itself. With 30 labels, the interval is about ±0.3, so a judge near
        chance can show a kappa of 0.3 by luck. A gate with such a judge would pass candidates at random. With the lower end, a judge
        with few labels does not pass, and a good judge passes with more labels.

        Parameters
        ----------
        min_kappa : float
            The minimum of the lower end, above 0, because a constant judge has kappa 0.
        min_cases, min_cases_per_label : int
            The minimum numbers of labelled cases, in all and of each verdict.
        max_error_rate : float
            The maximum share of calls without a verdict.

        Returns
        -------
        GateResult
            Passed when the lower end reaches ``min_kappa``. Not passed otherwise, and when there is too little evidence or kappa is
            undefined; the reason says which.

        Raises
        ------
        DefinitionError
            ``min_kappa`` is not above 0 and at most 1.

        Examples
        --------
        >>> from mlops_assets.compute.llm_evaluation.calibration import JudgedCase, calibrate_judge
        >>> labels = ["yes", "no"] * 20
        >>> judge = calibrate_judge([JudgedCase(str(n), label, ("yes",)) for n, label in enumerate(labels)], ["yes", "no"], positive="yes")
        >>> judge.may_gate(0.6).reason
        'kappa 0.00 (95 % CI -0.30 to 0.30): its lower end is below 0.6; the judge agrees on 50 % of cases, a constant one on 50 %'
        """
        if not 0 < min_kappa <= 1:
            raise DefinitionError(f"min_kappa={min_kappa} is invalid", hint="give a number above 0, the kappa of a constant judge, up to 1")
        if refusal := self._explain_refusal(min_cases, min_cases_per_label, max_error_rate):
            return GateResult(passed=False, reason=refusal, value=self.kappa, threshold=min_kappa, low=self.low, high=self.high)
        if self.kappa is None or self.low is None or self.high is None:
            return GateResult(passed=False, reason="kappa is undefined", threshold=min_kappa)
        passed = self.low >= min_kappa
        kappa = f"kappa {self.kappa:.2f} ({100 * self.agreement.confidence:g} % CI {self.low:.2f} to {self.high:.2f})"
        reason = f"{kappa}: its lower end {'reaches' if passed else 'is below'} {min_kappa:g}{self._compare_with_baseline()}"
        return GateResult(passed=passed, reason=reason, value=self.kappa, threshold=min_kappa, low=self.low, high=self.high)

    def _explain_refusal(self, min_cases: int, min_cases_per_label: int, max_error_rate: float) -> str:
        """Return why there is too little evidence for any kappa; empty if there is enough."""
        if self.cases < max(min_cases, 1):
            return f"{self.cases} labelled cases are too few: {min_cases} are needed"
        scarce = [f"{count} of '{label}'" for label, count in self.labels if count < max(min_cases_per_label, 1)]
        if scarce:
            return f"too few cases of some verdicts: {', '.join(scarce)}; {max(min_cases_per_label, 1)} of each are needed"
        if self.errors.value is None or not self.errors.value <= max_error_rate:
            return f"{self.errors.count} of {self.errors.trials} calls gave no verdict; at most {100 * max_error_rate:g} % may give none"
        return ""

    def _compare_with_baseline(self) -> str:
        if self.baseline is None:
            return ""
        constant, judge = self.baseline.agreement.value or 0.0, self.agreement.value or 0.0
        return f"; the judge agrees on {100 * judge:.0f} % of cases, a constant one on {100 * constant:.0f} %"


def calibrate_judge(
    cases: Sequence[JudgedCase],
    allowed: Sequence[str],
    *,
    positive: str,
    unlabelled: Sequence[str] = (),
    confidence: float = CONFIDENCE,
) -> JudgeCalibration:
    """Measure how a judge agrees with human labels on the same cases.

    Parameters
    ----------
    cases : Sequence[JudgedCase]
        All labelled cases, including cases on which the judge failed.
    allowed : Sequence[str]
        The verdicts that the judge may give.
    positive : str
        The verdict that counts as positive for the true-positive rate.
    unlabelled : Sequence[str]
        Verdicts that no label has, such as ``inconsistent``. They agree with no label, as failures do, but do not count as errors.
    confidence : float
        The confidence of all intervals.

    Returns
    -------
    JudgeCalibration
        With the constant predictor on the same cases as its baseline.

    Raises
    ------
    DefinitionError
        The allowed verdicts are ambiguous, or ``positive`` is none of them.
    DataError
        A label or verdict is not allowed, or a case occurs twice.

    See Also
    --------
    measure_position_bias : For a judge that compares two answers.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.calibration import JudgedCase, calibrate_judge
    >>> verdicts = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    >>> cases = [JudgedCase(str(n), label, (verdict,)) for n, (label, verdict) in enumerate(verdicts)]
    >>> judge = calibrate_judge(cases, ["yes", "no"], positive="yes")
    >>> round(judge.kappa, 2), judge.true_positive.value, judge.true_negative.value, judge.baseline.kappa
    (0.4, 0.8, 0.6, 0.0)
    """
    allowed = check_verdicts(allowed)
    if positive not in allowed:
        raise DefinitionError(f"the positive verdict '{positive}' is none of the judge's", hint=f"name one of {', '.join(allowed)}")
    _check_labels(cases, allowed, (*FAILURES, *unlabelled))
    counts = Counter(case.label for case in cases)
    majority = max(allowed, key=lambda label: counts[label])
    constant = [JudgedCase(case.case, case.label, (majority,)) for case in cases]
    return _measure(cases, allowed, positive, confidence, _measure(constant, allowed, positive, confidence, None))


def _check_labels(cases: Sequence[JudgedCase], allowed: tuple[str, ...], unlabelled: tuple[str, ...]) -> None:
    check_distinct_cases([case.case for case in cases])
    for case in cases:
        check_known(case.case, case.label, allowed)
        for verdict in case.verdicts:
            check_known(case.case, verdict, (*allowed, *unlabelled))


def _measure(
    cases: Sequence[JudgedCase], allowed: tuple[str, ...], positive: str, confidence: float, baseline: JudgeCalibration | None
) -> JudgeCalibration:
    counts = Counter(case.label for case in cases)
    table = _count_pairs(cases, allowed)
    kappa, low, high = measure_kappa(table, confidence)
    positives = [case for case in cases if case.label == positive]
    negatives = [case for case in cases if case.label != positive]
    calls = [verdict for case in cases for verdict in (case.verdicts or (ERROR,))]
    repeats = [measure_flip_rate(case.verdicts) for case in cases if len(case.verdicts) > 1]
    return JudgeCalibration(
        labels=tuple((label, counts[label]) for label in allowed),
        positive=positive,
        kappa=kappa,
        low=low,
        high=high,
        agreement=Rate(int(np.trace(table)), len(cases), confidence),
        true_positive=Rate(sum(case.verdict == positive for case in positives), len(positives), confidence),
        true_negative=Rate(sum(case.verdict in allowed and case.verdict != positive for case in negatives), len(negatives), confidence),
        errors=Rate(sum(verdict in FAILURES for verdict in calls), len(calls), confidence),
        flip_rate=fmean(repeats) if repeats else None,
        baseline=baseline,
    )


def _count_pairs(cases: Sequence[JudgedCase], allowed: tuple[str, ...]) -> np.ndarray:
    """Return the square table of labels × verdicts; its last column counts verdicts that no label has, and its last row is zero."""
    position = {verdict: number for number, verdict in enumerate(allowed)}
    table = np.zeros((len(allowed) + 1, len(allowed) + 1), dtype=np.int64)
    for case in cases:
        table[position[case.label], position.get(case.verdict, len(allowed))] += 1
    return table


def measure_flip_rate(verdicts: Sequence[str]) -> float:
    """Return the share of pairs of repeats that differ; a pair with a failure differs.

    Parameters
    ----------
    verdicts : Sequence[str]
        The verdicts of two or more repeats.

    Returns
    -------
    float
        From 0 to 1.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.calibration import measure_flip_rate
    >>> measure_flip_rate(["yes", "yes", "no"]), measure_flip_rate(["timeout", "timeout"])
    (0.6666666666666666, 1.0)
    """
    return fmean(one != other or one in FAILURES for one, other in combinations(verdicts, 2))
