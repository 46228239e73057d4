"""The measurements by which gates judge a prompt: metrics of all cases and of slices, and intervals paired with production."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mlops_assets.compute.llm_evaluation.agreement import Rate
from mlops_assets.compute.llm_evaluation.comparison import PairedComparison, bootstrap_mean_interval, compare_scores
from mlops_assets.compute.llm_evaluation.operational import find_percentile_interval, measure_percentile
from mlops_assets.values.evaluation import Evaluation, SliceMetrics
from mlops_assets.values.llm.prompt_evaluation import LATENCY_METRICS, OPERATIONAL_METRICS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from mlops_assets.orchestrate.llm.evaluation_results import EvaluationResults, ScoredCase
    from mlops_assets.values.gates.gate import Gate

ERROR_RATE, COST_PER_REQUEST = "error_rate", "cost_per_request"
_UNKNOWN = (math.nan, math.nan)
Slice = tuple[str, str]


def measure_evaluation(results: EvaluationResults) -> Evaluation:
    """Return the metrics of an evaluation, of all cases and of each slice; a metric without a score is NaN.

    Parameters
    ----------
    results
        The scored cases.
    """
    slices = [
        SliceMetrics(column, value, len(cases), tuple(_measure(results, cases).items()))
        for column in results.evaluation.slices
        for value, cases in results.group_cases(column).items()
    ]
    metrics = _measure(results, results.scored)
    problems = tuple((name, _explain_missing(results, name)) for name, value in metrics.items() if math.isnan(value))
    return Evaluation(len(results.scored), tuple(metrics.items()), slices=tuple(slices), problems=problems)


def pair_results(own: EvaluationResults, production: EvaluationResults) -> tuple[EvaluationResults, EvaluationResults]:
    """Return two evaluations with only the scores that both have for a case, so that their means compare the same cases.

    Parameters
    ----------
    own, production
        The evaluations of two prompts on the same cases, in the same order.
    """
    sides: tuple[list[ScoredCase], list[ScoredCase]] = ([], [])
    for pair in zip(own.scored, production.scored, strict=True):
        both = {name for name in pair[0].scores if all(one.value(name) is not None for one in pair)}
        for side, one in zip(sides, pair, strict=True):
            side.append(replace(one, scores={name: score for name, score in one.scores.items() if name in both}))
    return replace(own, scored=sides[0]), replace(production, scored=sides[1])


def withhold_metrics(evaluation: Evaluation, reasons: Mapping[str, str]) -> Evaluation:
    """Return an evaluation with NaN in place of some metrics, in all cases and in each slice.

    Parameters
    ----------
    evaluation
        The evaluation.
    reasons
        Metric → why it is withheld.
    """

    def withhold(metrics: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
        return tuple((name, math.nan if name in reasons else value) for name, value in metrics)

    slices = tuple(replace(part, metrics=withhold(part.metrics)) for part in evaluation.slices)
    problems = (*(pair for pair in evaluation.problems if pair[0] not in reasons), *reasons.items())
    return replace(evaluation, metrics=withhold(evaluation.metrics), slices=slices, problems=problems)


def _measure(results: EvaluationResults, scored: Sequence[ScoredCase]) -> dict[str, float]:
    """Return metric → value for some cases."""
    names = [scorer.name for scorer in results.evaluation.scorers]
    values = {name: [value for one in scored if (value := one.value(name)) is not None] for name in names}
    return {
        **{name: sum(found) / len(found) if found else math.nan for name, found in values.items()},
        ERROR_RATE: sum(bool(one.error) for one in scored) / len(scored) if scored else math.nan,
        **{name: measure_latency(name, scored) for name in LATENCY_METRICS},
        COST_PER_REQUEST: results.mean_cost(scored),
    }


def measure_latency(metric: str, scored: Sequence[ScoredCase]) -> float:
    """Return a percentile of durations; NaN when a duration is unknown, or when so many calls failed that the percentile has no upper bound.

    Parameters
    ----------
    metric, scored
        One of the metrics of latency, and the cases.
    """
    measurement, share = LATENCY_METRICS[metric]
    value = measure_percentile(_list_durations(measurement, scored), share)
    return value if math.isfinite(value) else math.nan


def _list_durations(measurement: str, scored: Sequence[ScoredCase]) -> list[float]:
    """Return the duration of each call: infinite when it failed, so that no percentile improves by failures, and NaN when it is unknown.

    A cached answer has the duration of the request that produced it.
    """
    completions = [one.call.completion for one in scored]
    seconds = [math.inf if found is None else getattr(found, measurement) for found in completions]
    return [math.nan if one is None else one for one in seconds]


def _explain_missing(results: EvaluationResults, name: str) -> str:
    if name == COST_PER_REQUEST:
        return "the cost of a call is unknown"
    if name in LATENCY_METRICS:
        return _explain_missing_latency(name, results.scored)
    failed = sum(bool(one.error) for one in results.scored)
    return f"no case has it: {failed} of {len(results.scored)} cases have an error"


def _explain_missing_latency(name: str, scored: Sequence[ScoredCase]) -> str:
    measurement, share = LATENCY_METRICS[name]
    durations = _list_durations(measurement, scored)
    if unknown := sum(map(math.isnan, durations)):
        reason = "come from the cache of another endpoint" if measurement == "seconds" else "did not arrive as a stream of this endpoint"
        return f"{unknown} of {len(scored)} answers {reason}"
    failed = [one.call.seconds or 0.0 for one in scored if one.call.completion is None]
    return (
        f"{len(failed)} of {len(scored)} calls failed, after {max(failed, default=0.0):.3g} s at most, and count as slower than all others; "
        f"the percentile leaves out the slowest {1 - share:.0%}"
    )


@dataclass(frozen=True)
class PromptIntervals:
    """The uncertainty of a prompt's metrics; implements :class:`mlops_assets.types.Intervals`.

    Parameters
    ----------
    own
        The evaluation of the prompt.
    production
        The evaluation of the production version on the same cases; None when there is none.
    withheld
        Metrics that have no interval.
    """

    own: EvaluationResults
    production: EvaluationResults | None = None
    withheld: Collection[str] = ()
    method: str = field(default="independent cases", init=False)

    def value(self, metric: str, confidence: float = 0.95, within: Slice | None = None) -> tuple[float, float]:
        """Return the interval ``(low, high)`` of a metric in all cases, or in a slice; NaN for fewer than two cases with a value."""
        scored = select_cases(self.own, within)
        if metric == ERROR_RATE:
            rate = Rate(sum(bool(one.error) for one in scored), len(scored), confidence)
            return rate.low, rate.high
        if metric in LATENCY_METRICS:
            measurement, share = LATENCY_METRICS[metric]
            return find_percentile_interval(_list_durations(measurement, scored), share, confidence)
        if metric == COST_PER_REQUEST or metric in self.withheld:
            return _UNKNOWN
        return _resample(
            [value for one in scored if (value := one.value(metric)) is not None], self._build_seed(metric, within), confidence
        )

    def difference(self, metric: str, confidence: float = 0.95, within: Slice | None = None) -> tuple[float, float]:
        """Return the interval ``(low, high)`` of the prompt's metric minus production's, over the cases that have both scores."""
        compared = self.compare(metric, confidence, within)
        if compared is None or compared.low is None or compared.high is None:
            return _UNKNOWN
        return compared.low, compared.high

    def compare(self, metric: str, confidence: float = 0.95, within: Slice | None = None) -> PairedComparison | None:
        """Return the comparison of a score with production's, case by case; None without a production version, or if the metric is not a score.

        Parameters
        ----------
        metric
            The name of the scorer.
        confidence
            The confidence of the interval.
        within
            The slice; None for all cases.
        """
        if self.production is None or metric in (*OPERATIONAL_METRICS, *self.withheld):
            return None
        own, production = (
            {one.case.label: one.find_score(metric) for one in select_cases(results, within)} for results in (self.own, self.production)
        )
        return compare_scores(list(own), own, production, seed=self._build_seed(metric, within), confidence=confidence)

    def _build_seed(self, metric: str, within: Slice | None) -> str:
        """Return the seed of the bootstrap as text: equal evaluations have equal intervals."""
        return f"{self.own.evaluation.key} {self.own.version} {metric} {within or ''}"


def list_gate_slices(gate: Gate, results: EvaluationResults) -> list[Slice | None]:
    """Return the slices that a gate judges, each by itself; None stands for all cases.

    Parameters
    ----------
    gate, results
        The gate and the evaluation.
    """
    if not isinstance(gate.slice, str):
        return [gate.slice]
    return [(gate.slice, value) for value, cases in results.group_cases(gate.slice).items() if len(cases) >= gate.min_rows]


def select_cases(results: EvaluationResults, within: Slice | None) -> Sequence[ScoredCase]:
    """Return the cases of a slice; all of them when None.

    Parameters
    ----------
    results, within
        The evaluation and the slice.
    """
    return results.scored if within is None else results.group_cases(within[0]).get(within[1], [])


def _resample(values: Sequence[float], seed: str, confidence: float) -> tuple[float, float]:
    """Return the interval of a mean: Wilson's for scores that are all 0 or 1, else the bootstrap's; NaN for fewer than two scores."""
    import numpy as np

    if len(values) < 2:
        return _UNKNOWN
    if all(value in (0.0, 1.0) for value in values):
        rate = Rate(int(sum(values)), len(values), confidence)
        return rate.low, rate.high
    return bootstrap_mean_interval(np.array(values), seed, confidence)
