"""A gate on the confidence interval of the difference between a candidate and the champion, which a retraining declares."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.evaluation import GateResult

if TYPE_CHECKING:
    from mlops_assets.values.evaluation import Candidate

Rule = Literal["not_worse", "better"]
NOT_WORSE, BETTER = "not_worse", "better"
RULES = (NOT_WORSE, BETTER)
CONFIDENCE = 0.9  # of the two-sided interval: each end has 95 % one-sided confidence


@check_constructor
@dataclass(frozen=True)
class ChampionGate:
    """A gate that compares a candidate with the champion by a confidence interval. Made from ``promote_if`` of :class:`mlops_assets.Retrain`.

    Parameters
    ----------
    metric
        A scikit-learn scorer name; greater is better.
    rule
        ``not_worse`` passes unless the candidate is significantly worse than the champion, at 95 % one-sided confidence. ``better`` passes only
        if it is significantly better.

    See Also
    --------
    mlops_assets.Retrain : Declares it.
    """

    metric: str
    rule: Rule
    relative: ClassVar[bool] = True
    repeatable: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Metric and rule: the name of the asset check."""
        return f"{self.metric}_not_significantly_worse" if self.rule == NOT_WORSE else f"{self.metric}_significantly_better"

    @property
    def text(self) -> str:
        """The rule in words."""
        rule = "not significantly worse" if self.rule == NOT_WORSE else "significantly better"
        return f"{self.metric} {rule} than the champion's, at 0.95 one-sided confidence"

    @property
    def definition(self) -> str:
        """A hash of everything the gate requires."""
        return hashlib.sha256(json.dumps([self.metric, self.rule, CONFIDENCE]).encode()).hexdigest()

    def judge(self, candidate: Candidate) -> GateResult:
        """Judge a candidate. Without a champion it passes; without an interval, the metrics themselves are compared.

        Parameters
        ----------
        candidate
            The candidate, with the champion's evaluation on the same rows when there is a champion.

        Returns
        -------
        GateResult
            Not passed when the candidate's metric is undefined; ``better`` also requires the champion's.
        """
        value = candidate.evaluation.metric(self.metric)
        if candidate.champion is None:
            return GateResult(math.isfinite(value), f"no champion yet to compare with; {self.metric} is {value:.5g}", value)
        champion_value = candidate.champion.metric(self.metric)
        if self.rule == NOT_WORSE and math.isfinite(value) and not math.isfinite(champion_value):
            return GateResult(passed=True, reason=f"{self.metric} {value:.5g}: the champion's is undefined on the same rows", value=value)
        if not (math.isfinite(value) and math.isfinite(champion_value)):
            return GateResult(
                passed=False, reason=f"{self.metric} is undefined: {value} of the candidate, {champion_value} of the champion"
            )
        low, high = candidate.intervals.difference(self.metric, CONFIDENCE) if candidate.intervals else (math.nan, math.nan)
        interval, degree = f"90 % interval of the difference {low:.3g} to {high:.3g}", "significantly "
        if math.isnan(low):
            low = high = value - champion_value
            interval, degree = "no interval of the difference", ""
        passed = high >= 0 if self.rule == NOT_WORSE else low > 0
        compared = f"{value:.5g} against the champion's {champion_value:.5g} on the same rows; {interval}"
        word = "worse" if self.rule == NOT_WORSE else "better"
        reason = f"{'' if passed is (self.rule == BETTER) else 'not '}{degree}{word} ({compared})"
        return GateResult(passed, reason, value, champion_value, low, high)
