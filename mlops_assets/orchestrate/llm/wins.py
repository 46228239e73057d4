"""The wins of a prompt over the version in production, by pairwise judges, and the gates on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from mlops_assets.compute.llm_evaluation.comparison import MIN_PAIRS
from mlops_assets.compute.llm_evaluation.position_bias import MIN_CONSISTENCY
from mlops_assets.compute.training.gates import judge as judge_gate
from mlops_assets.orchestrate.llm.measurement import list_gate_slices, select_cases
from mlops_assets.orchestrate.llm.pairwise import JudgedPair, compare_answers, measure_bias
from mlops_assets.orchestrate.llm.progress import CallProgress
from mlops_assets.values.evaluation import GateResult
from mlops_assets.values.llm.pairwise_judge import INCONSISTENT, WIN_POINTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.orchestrate.core.step_context import StepContext
    from mlops_assets.orchestrate.llm.evaluation_results import EvaluationResults, ScoredCase
    from mlops_assets.values.evaluation import Candidate
    from mlops_assets.values.gates.gate import Gate
    from mlops_assets.values.llm.pairwise_judge import PairwiseJudge


def compare_with_production(step: StepContext, results: EvaluationResults, production: EvaluationResults) -> EvaluationResults:
    """Return an evaluation with the scores of its pairwise judges; a case without an answer on one side is not compared.

    Parameters
    ----------
    step
        The step of the evaluation.
    results, production
        The evaluations of the prompt and of production, on the same cases in the same order.
    """
    scored = list(results.scored)
    for judge in results.evaluation.pairwise_judges:
        for number, found in _compare_cases(step, results, production, judge).items():
            one = scored[number]
            scored[number] = replace(one, scores={**one.scores, judge.name: found.score_win()}, judged={**one.judged, judge.name: found})
    return replace(results, scored=scored)


def _compare_cases(
    step: StepContext, results: EvaluationResults, production: EvaluationResults, judge: PairwiseJudge
) -> dict[int, JudgedPair]:
    """Return position of the case → verdicts, with the sides named."""
    pairs = {
        number: (own, other, one.case.row)
        for number, (one, opponent) in enumerate(zip(results.scored, production.scored, strict=True))
        if (own := _read_answer(one)) is not None and (other := _read_answer(opponent)) is not None
    }
    log = step.context.log
    progress = CallProgress(f"{results.evaluation.key}, judge '{judge.name}'", 0, log.info, "verdicts", results.prices)
    found = compare_answers(judge, list(pairs.values()), cache=step.stores.responses, warn=log.warning, progress=progress)
    return {number: each.name_sides() for number, each in zip(pairs, found, strict=True)}


def _read_answer(scored: ScoredCase) -> str | None:
    """Return a valid answer; None when the call failed."""
    call = scored.call
    return None if call.completion is None or call.error else call.completion.text


def evaluate_win_gate(gate: Gate, candidate: Candidate, results: EvaluationResults) -> GateResult:
    """Evaluate a gate on the win rate against the production version.

    Parameters
    ----------
    gate, candidate, results
        The gate, the prompt as a candidate, and its evaluation with the wins.
    """
    for within in list_gate_slices(gate, results):
        scored = select_cases(results, within)
        if reason := _explain_too_few(gate, scored, results.evaluation.max_error_rate) or _explain_inconsistency(gate, scored):
            where = "" if within is None else f"{within[0]} {within[1]}: "
            return GateResult(passed=False, reason=where + reason, threshold=gate.threshold)
    return judge_gate(gate, candidate)


def _explain_too_few(gate: Gate, scored: Sequence[ScoredCase], maximum: float) -> str:
    """Return why the verdicts on some cases do not suffice for a gate; empty when they do."""
    missing = [one.case.label for one in scored if one.value(gate.metric) is None]
    if len(missing) > maximum * len(scored):
        return f"{len(missing)} of {len(scored)} cases have no verdict on both answers, e.g. case {missing[0]}; the maximum is {100 * maximum:g} %"
    compared = len(scored) - len(missing)
    if gate.confidence is not None and compared < MIN_PAIRS:
        return f"{compared} cases have a verdict on both answers; {MIN_PAIRS} are needed for an interval"
    return ""


def _explain_inconsistency(gate: Gate, scored: Sequence[ScoredCase]) -> str:
    """Return why the position of an answer decides the verdicts on some cases; empty when it does not.

    An inconsistent verdict scores half, so a judge that decides by position alone would reach a win rate of 0.5. With few cases, the
    interval is too wide to decide, so the counts of verdicts are compared; equal answers count as ties.
    """
    judged = [found for one in scored if (found := one.judged.get(gate.metric)) is not None]
    consistency = measure_bias([getattr(found, "orders", ()) for found in judged]).consistency
    if consistency.value is not None and consistency.high < MIN_CONSISTENCY:
        return f"the judge '{gate.metric}' decides by position here: {consistency.count} of {consistency.trials} pairs are consistent"
    verdicts = Counter(found.verdict.value for found in judged)
    if verdicts[INCONSISTENT] > sum(verdicts[name] for name in WIN_POINTS if name != INCONSISTENT):
        return f"the judge '{gate.metric}' decides by position here: {verdicts[INCONSISTENT]} of {len(judged)} verdicts are inconsistent"
    return ""
